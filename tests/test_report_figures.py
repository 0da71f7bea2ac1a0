"""The report's figures show the recorded runs and the claims, can be read, and are the committed files."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import ROOT

from report import draw, five_layers, records, tables
from report.claims import CLAIMS

REPORT = (ROOT / "report" / "report.tex").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn():
    return dict(draw.figures())


def test_all_fourteen_figures_and_the_studies_are_drawn_and_committed(drawn):
    assert sorted(name[:5] for name in drawn if name.startswith("fig")) == [f"fig{n:02d}" for n in range(1, 15)]
    for name in drawn:
        assert {(ROOT / "report" / "figures" / f"{name}.{ext}").exists() for ext in ("png", "pdf")} == {True}
    used = set(re.findall(r"figures/(study_\w+)\.pdf", REPORT))
    used |= {name for pair in re.findall(r"\\(?:run|seed)figures\{(\w+)\}\{(\w+)\}", REPORT) for name in pair}
    assert used == {name.removesuffix("_accuracy").removesuffix("_loss") for name in drawn}


def lines_of(figure):
    """Return the lines of a figure that have a name, `{name: line}`."""
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize(
    ("number", "name"), [(CLAIMS[name][0].figure, name) for name in tables.RUNS if "fig11" not in name]
)
@pytest.mark.parametrize("quantity", ["accuracy", "loss"])
def test_figure_shows_the_recorded_curves_each_seed_and_the_claims(drawn, number, name, quantity):
    figure = drawn[f"fig{number + (quantity == 'loss'):02d}_{name.split('_', 1)[1]}_{quantity}"]
    axes, lines, runs = figure.axes[0], lines_of(figure), records.read_records(name)
    steps = [m["step"] for m in runs[0].metrics]
    thin = [line for line in axes.lines if line.get_label().startswith("_")]
    assert len(thin) == 2 * len(runs)
    for split in ("train", "test"):
        seeds = np.array([[m[f"{split}_{quantity}"] for m in run.metrics] for run in runs])
        np.testing.assert_allclose(lines[split].get_ydata(), seeds.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(lines[split].get_xdata(), steps)
        for values in seeds:
            assert any(np.array_equal(line.get_xydata().T, (steps, values)) for line in thin)
    assert axes.get_xlabel() == "training step"
    assert axes.get_ylabel() == {"accuracy": "accuracy", "loss": "cross-entropy loss"}[quantity]

    numbers = {claim.quantity: claim.number for claim in CLAIMS[name] if claim.relation == "about"}
    expected = {"test, original report": numbers.get(f"test_{quantity}")}
    if name == "fig07_five_layers":  # here the original report gives no number
        expected = {"chance level": {"accuracy": 0.1, "loss": np.log(10)}[quantity]}
    claims = [line for label, line in lines.items() if label not in ("train", "test")]
    assert {line.get_label().split(":")[0]: line.get_ydata()[0] for line in claims} == {
        whose: value for whose, value in expected.items() if value is not None
    }
    # A claim has a dashed grey line without markers, whose label quotes it, and no other line is grey.
    for line in claims:
        assert (line.get_linestyle(), line.get_marker(), line.get_color()) == ("--", "None", draw.GREY)
        assert float(line.get_label().split(": ")[1]) == pytest.approx(line.get_ydata()[0], rel=2e-3)
    # Clear in grey: the splits differ in line style and in markers, which stand on different evaluations.
    styles = [(lines[split].get_linestyle(), lines[split].get_marker()) for split in ("train", "test")]
    assert all(a != b for a, b in zip(*styles, strict=True))
    marked = [
        set(range(len(steps))[slice(lines[split].get_markevery()[0], None, lines[split].get_markevery()[1])])
        for split in ("train", "test")
    ]
    assert not marked[0] & marked[1]
    assert all(4 <= len(places) <= 12 for places in marked)


@pytest.mark.parametrize(("figure", "quantity"), [(11, "accuracy"), (12, "loss")])
def test_figures_11_and_12_have_a_panel_for_each_run_with_its_own_curves(drawn, figure, quantity):
    axes = drawn[f"fig{figure}_five_layers_adam_long_{quantity}"].axes
    names = ("fig11_five_layers_adam_long", "precision_five_layers")
    runs = [run for name in names for run in records.read_records(name)]
    titles = [f"seed {seed},\nbfloat16" for seed in (42, 43, 44)]
    titles += [f"seed {seed},\nfloat32" for seed in range(42, 47)]
    assert [panel.get_title() for panel in axes] == titles
    for panel, run in zip(axes, runs, strict=True):
        lines = {line.get_label(): line for line in panel.lines}
        for split in ("train", "test"):
            np.testing.assert_array_equal(lines[split].get_xdata(), [m["step"] / 1000 for m in run.metrics])
            np.testing.assert_array_equal(lines[split].get_ydata(), [m[f"{split}_{quantity}"] for m in run.metrics])
        claims = {label: line.get_ydata()[0] for label, line in lines.items() if "original report" in label}
        assert list(claims.values()) == ([0.95] if quantity == "accuracy" else [])
        bands = {band.get_label(): band.get_path().get_extents(band.get_transform()) for band in panel.patches}
        assert list(bands) == ["test, original report: 0.53 to 0.54"] * (quantity == "accuracy")
        for band in bands.values():
            ends = panel.transData.inverted().transform([(band.x0, band.y0), (band.x1, band.y1)])
            assert ends[:, 1] == pytest.approx([0.53, 0.54])


N_ENTRIES = {
    "weight": [3072 * 900, 900 * 500, 500 * 350, 350 * 150, 150 * 50, 50 * 10],
    "bias": [900, 500, 350, 150, 50, 10],
}


def sizes(run, kind, layer):
    """Return the root mean square of a gradient's entries at each evaluation but the first."""
    return np.array([m[f"{kind}_{layer}_gradient"] for m in run.metrics[1:]]) / N_ENTRIES[kind][layer - 1] ** 0.5


def test_study_of_gradients_shows_each_layer_and_the_last_bias(drawn):
    panels = iter(drawn["study_gradients"].axes)
    for optimizer in ("sgd", "adam"):
        for init in records.INITS:
            (run,) = records.read_records(f"gradients_{init}_{optimizer}")
            lines = {line.get_label(): line.get_ydata() for line in next(panels).lines}
            for layer in range(1, 7):
                np.testing.assert_allclose(lines[f"layer {layer}"], sizes(run, "weight", layer), rtol=1e-12)
            np.testing.assert_allclose(lines["last layer's bias"], sizes(run, "bias", 6), rtol=1e-12)
            assert ("Adam's ε" in lines) == (optimizer == "adam")


def test_study_of_waking_shows_weights_biases_and_epsilon(drawn):
    for axes, eps in zip(drawn["study_wake"].axes, records.ADAM_EPS, strict=True):
        (run,) = records.read_records(f"wake_eps_{eps}")
        lines = {line.get_label(): line for line in axes.lines}
        assert lines["ε"].get_ydata()[0] == float(eps) == run.config["flags"]["adam_eps"]
        for layer in range(1, 7):
            for kind, name in (("weight", "weights"), ("bias", "bias")):
                line = lines[f"{name} {layer}"]
                np.testing.assert_array_equal(line.get_xdata(), range(1, 101))
                np.testing.assert_allclose(line.get_ydata(), sizes(run, kind, layer), rtol=1e-12)


def test_study_of_collapses_shows_every_step_around_the_first_and_lengths_all_along(drawn):
    figure = drawn["study_collapses"]
    *close, whole = figure.axes
    runs = records.read_records("collapses_none")
    onsets = [five_layers.spike_steps(steps)[:1] for _, steps in five_layers.read_steps("collapses_none")]
    shown = [(run, onset) for run, first in zip(runs, onsets, strict=True) for onset in first]
    assert len(shown) == len(close) > 0
    for axes, (run, onset) in zip(close, shown, strict=True):
        assert (axes.get_title(), axes.get_xlabel()) == (f"seed {run.seed}", f"steps from {onset}")
        for line in axes.lines:
            key = {
                "loss of the batch": "batch_losses",
                "norm of the gradient": "gradient_norms",
                "length of the step": "step_lengths",
            }[line.get_label()]
            values = np.array([value for m in run.metrics[1:] for value in m[key]])
            np.testing.assert_array_equal(line.get_xdata(), range(-30, 61))
            before = np.median(values[onset - 101 : onset - 1])
            np.testing.assert_allclose(line.get_ydata(), values[onset - 31 : onset + 60] / before)
    for line, control in zip(whole.lines, ("none", "kaiming", "standardize"), strict=True):
        run = records.read_records(f"collapses_{control}")[0]
        np.testing.assert_allclose(line.get_ydata(), [np.median(m["step_lengths"]) for m in run.metrics[1:]])


def test_study_of_differences_marks_the_step_of_the_tests(drawn):
    lines = drawn["study_differences"].axes[0].lines
    marked = [line.get_xdata()[0] for line in lines if line.get_color() == draw.GREY]
    assert marked == pytest.approx([2 ** (-23 / 3), 2 ** (-52 / 3)])
    for line in (line for line in lines if line.get_label() in ("float32", "float64")):
        lowest = line.get_xdata()[np.argmin(line.get_ydata())]
        assert min(abs(np.log2(lowest / marked))) < 3, "the step is near the lowest error"


def last(name, quantity):
    """Return an experiment's last values of a quantity: mean, lowest, highest."""
    values = [run.metrics[-1][quantity] for run in records.read_records(name) if run.summary is not None]
    return np.mean(values), min(values), max(values)


RATES = {1e-5: "learning_rate_1e-5", 1e-4: "learning_rate_1e-4", 5e-4: "learning_rate_5e-4"}
RATES |= {1e-3: "learning_rate_1e-3", 2e-3: "fig03_mlp_pytorch"}  # the larger ones diverge
COURSE = {0: "depth_0_normal", 1: "depth_1_normal", 2: "depth_2_normal", 3: "depth_3_normal", 4: "depth_4_normal"}
HE = {n: f"depth_{n}_kaiming" for n in range(6)}


@pytest.mark.parametrize(
    ("study", "label", "points", "quantity"),
    [
        ("learning_rate", "train", RATES, "train_accuracy"),
        ("learning_rate", "test", RATES, "test_accuracy"),
        ("depth", "weights from N(0, 0.0001²)", COURSE | {5: "fig07_five_layers"}, "test_accuracy"),
        ("depth", "He et al.'s weights", HE, "test_accuracy"),
        ("depth", "PyTorch's own weights", {n: f"depth_{n}_pytorch" for n in range(6)}, "test_accuracy"),
    ],
)
def test_study_shows_the_recorded_runs(drawn, study, label, points, quantity):
    axes = drawn[f"study_{study}"].axes[0]
    (container,) = (container for container in axes.containers if container.get_label() == label)
    line, _, (bars,) = container.lines
    x, y = np.array(line.get_data(), dtype=float)
    means, lows, highs = zip(*(last(name, quantity) for name in points.values()), strict=True)
    np.testing.assert_allclose(
        x,
        list(points),
    )
    np.testing.assert_allclose(y, means, rtol=1e-12)
    ends = np.array(bars.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends, np.transpose([lows, highs]), rtol=1e-12)


def test_study_of_learning_rates_marks_those_that_diverge(drawn):
    rates = [name for name in records.EXPERIMENTS if name.startswith("learning_rate_")]
    diverged = [name for name in rates if any(run.summary is None for run in records.read_records(name))]
    marked = lines_of(drawn["study_learning_rate"])["diverged"].get_xdata()
    assert [f"learning_rate_{rate:.0e}".replace("e-0", "e-") for rate in marked] == diverged


def test_table_of_the_ladder_has_its_rungs_in_their_order():
    rows = re.findall(r"(?m)^ *(\d) & .+? & \\pmresult\{ladder_(\w+?)\.validation", REPORT)
    assert rows == [(str(n), rung) for n, rung in enumerate(records.LADDER, start=1)]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("right", "fig01_mlp_numpy"),
        ("bias averaged", "wrong_bias_averaged"),
        ("slope of wrong sign", "wrong_slope_of_wrong_sign"),
        ("cross terms lost: diverges", "wrong_cross_terms_lost"),
    ],
)
def test_study_of_wrong_gradients_shows_the_recorded_curves(drawn, label, name):
    figure, runs = drawn["study_wrong"], records.read_records(name)
    n = min(len(run.metrics) for run in runs)
    seeds = np.array([[m["test_accuracy"] for m in run.metrics[:n]] for run in runs])
    line = lines_of(figure)[label]
    np.testing.assert_array_equal(line.get_xdata(), [m["step"] for m in runs[0].metrics[:n]])
    np.testing.assert_allclose(line.get_ydata(), seeds.mean(axis=0), rtol=1e-12)
    bands = [band.get_paths()[0].vertices[:, 1] for band in figure.axes[0].collections]
    assert any({*seeds.min(axis=0), *seeds.max(axis=0)} == set(band) for band in bands)


def test_figures_whose_runs_are_not_recorded_are_left_out(monkeypatch):
    def unless_figure(name):
        return [] if name.startswith("fig") else records.read_records(name)

    monkeypatch.setattr(draw, "read_records", unless_figure)
    # The others show a figure's runs as well.
    expected = ["study_gradients", "study_wake", "study_collapses", "study_answers", "study_differences"]
    assert [name for name, _ in draw.figures()] == expected


def test_curves_end_where_the_shortest_run_does(monkeypatch):
    runs = records.read_records("fig01_mlp_numpy")
    runs[1] = runs[1]._replace(metrics=runs[1].metrics[:5], summary=None)
    monkeypatch.setattr(draw, "read_records", lambda name: runs)
    line = lines_of(draw.draw_run("fig01_mlp_numpy", "loss", "one diverges"))["test"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 100, 200, 300, 400])
    np.testing.assert_allclose(line.get_ydata()[4], np.mean([run.metrics[4]["test_loss"] for run in runs]))


def shown_width(name):
    """Return how wide the report shows a figure, in inches."""
    (margin,) = re.findall(r"\[margin=(\d)cm\]\{geometry\}", REPORT)
    text_width = (21 - 2 * int(margin)) / 2.54  # of A4
    share = r"([\d.]*)\\textwidth(?:(?!textwidth)[\s\S])*?figures/"
    studies = {study: width for width, study in re.findall(share + r"(study_\w+)\.pdf", REPORT)}
    run, seeds = re.findall(share + r"#1_accuracy\.pdf", REPORT)
    return text_width * float(studies.get(name, seeds if name[:5] in ("fig11", "fig12") else run) or 1)


@pytest.mark.slow
def test_figures_can_be_read_where_the_report_shows_them(drawn):
    from matplotlib.text import Text

    for name, figure in drawn.items():
        figure.draw_without_rendering()
        scale = shown_width(name) / figure.get_figwidth()
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(sizes) * scale >= 7, name
        assert max(sizes) * scale <= 8.5, name
        (left, bottom), (right, top) = figure.get_tightbbox().get_points()
        assert min(left, bottom, figure.get_figwidth() - right, figure.get_figheight() - top) >= 0, f"{name} is cut off"
        if name == "study_answers":  # pictures, which need no legend
            continue
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0, f"{name}'s legend hides curves"
    _, matrix = drawn["study_answers"].axes
    cell = np.ptp(matrix.transData.transform([(0, 0), (1, 0)])[:, 0])
    counts = [text.get_window_extent().width for text in matrix.texts]
    assert len(counts) == 100
    assert max(counts) < cell, "no count reaches into the next cell"


def test_figure_that_shows_anything_else_has_another_fingerprint():
    def changed(change=lambda figure: None):
        figure = draw.draw_run("fig01_mlp_numpy", "accuracy", "title")
        change(figure)
        return draw.fingerprint(figure)

    def scale(factor):
        def change(figure):
            line = lines_of(figure)["test"]
            line.set_ydata(line.get_ydata() * factor)

        return change

    before = changed()
    assert changed(scale(1 + 1e-12)) == before, "another processor rounds differently"
    assert changed(scale(1 + 1e-4)) != before
    assert changed(lambda figure: figure.axes[0].set_title("another")) != before
    assert changed(lambda figure: figure.axes[0].set_xlabel("another")) != before
    assert changed(lambda figure: lines_of(figure)["test"].set_label("another")) != before


def test_committed_figures_are_the_ones_that_are_drawn(drawn):
    for name, figure in drawn.items():
        expected, path = draw.fingerprint(figure), ROOT / "report" / "figures" / name
        old = f"{name} is old; draw it: python report/reproduce.py --figures"
        assert Image.open(f"{path}.png").info.get("Drawn") == expected, old
        assert expected.encode() in Path(f"{path}.pdf").read_bytes(), old
