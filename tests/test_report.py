"""The report's records, numbers and figures: each run is what it says, and nobody quotes a number that none gave."""

import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import draw
import numpy as np
import pytest
import records
import reproduce
import wrong_gradients
from PIL import Image
from runs import ROOT, wait_for

REPORT = (ROOT / "report" / "report.tex").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS_TEX = (ROOT / "report" / "results.tex").read_text(encoding="utf-8")
# What a run is told that changes nothing of what it computes, or that its seed and folder say.
NOT_OF_THE_EXPERIMENT = {"seed", "out_dir", "data_dir", "dataset", "resume", "quiet"}


# ---- Records -------------------------------------------------------------------------------------


def test_every_flag_file_is_an_experiment_and_every_record_of_one():
    flag_files = {path.stem for path in records.FLAG_FILES.glob("*.args")}
    assert flag_files == set(records.EXPERIMENTS)
    assert {path.name for path in records.RESULTS.iterdir()} <= flag_files


def flags_of(name):
    """Return all flags of an experiment, its flag file's and its script's defaults."""
    script = importlib.import_module(Path(records.EXPERIMENTS[name][0]).name)
    return vars(script.make_flags().parse_args([f"@{records.FLAG_FILES / name}.args"]))


@pytest.mark.parametrize("name", records.EXPERIMENTS)
def test_records_are_of_real_images_and_of_the_flag_file(name):
    script, n_seeds = records.EXPERIMENTS[name]
    expected = flags_of(name)
    found = records.read_records(name)
    assert [record.seed for record in found] == list(range(42, 42 + len(found))), "a seed is left out"
    assert len(found) >= n_seeds
    for record in found:
        config = record.config
        assert config["script"] == Path(script).name
        assert config["dataset"]["name"] == "CIFAR-10"
        assert len(config["dataset"]["fingerprint"]) == 32
        assert {"versions", "machine", "date", "precision", "git_commit"} <= set(config)
        recorded = {flag: value for flag, value in config["flags"].items() if flag not in NOT_OF_THE_EXPERIMENT}
        if expected.get("precision") == "auto":  # what it found is recorded apart
            del recorded["precision"]
        assert recorded == {flag: expected[flag] for flag in recorded}
        max_steps, eval_freq = config["flags"]["max_steps"], config["flags"]["eval_freq"]
        due = sorted({*range(0, max_steps, eval_freq), max_steps})
        steps = [m["step"] for m in record.metrics]
        assert steps == due[: len(steps)]
        assert (len(steps) < len(due)) == (record.summary is None)
        for m in record.metrics:
            assert all(math.isfinite(value) for value in m.values())
            assert all(value >= 0 for quantity, value in m.items() if quantity.endswith("_loss"))
            assert all(0 <= value <= 1 for quantity, value in m.items() if quantity.endswith("_accuracy"))


def test_all_records_are_of_the_same_images():
    configs = [record.config for name in records.EXPERIMENTS for record in records.read_records(name)]
    assert len({config["dataset"]["fingerprint"] for config in configs}) == 1


@pytest.mark.parametrize("name", [f"wrong_{mistake}" for mistake in records.WRONG_GRADIENTS])
def test_run_by_a_wrong_gradient_is_another_than_by_the_right_one(name):
    for wrong, right in zip(records.read_records(name), records.read_records("fig01_mlp_numpy"), strict=True):
        # They begin from the same weights, on processors that round alike to seven digits.
        assert wrong.metrics[0]["test_loss"] == pytest.approx(right.metrics[0]["test_loss"], rel=1e-6)
        assert abs(wrong.metrics[1]["test_loss"] - right.metrics[1]["test_loss"]) > 1e-6


def test_wrong_gradients_demand_to_be_told_which(capsys):
    with pytest.raises(SystemExit) as stopped:
        wrong_gradients.main([])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--mistake: got none, expected one of bias_averaged, slope_of_wrong_sign, cross_terms_lost" in line


def test_run_by_a_wrong_gradient_is_resumed_by_the_same(monkeypatch):
    resumed = []
    monkeypatch.setattr(
        wrong_gradients, "train", lambda args: resumed.append(args) or SimpleNamespace(is_complete=True)
    )
    folder = records.RESULTS / "wrong_slope_of_wrong_sign" / "seed42"
    assert wrong_gradients.main(["--resume", str(folder)]) == 0
    assert resumed[0].mistake == "slope_of_wrong_sign"


def test_records_are_small_text():
    files = [path for path in records.RESULTS.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {"config.json", "metrics.jsonl", "summary.json", "diverged.json"}
    assert max(path.stat().st_size for path in files) < 50_000


# ---- Numbers -------------------------------------------------------------------------------------


def recomputed(key):
    """Return the text of a number, computed from the metrics by NumPy alone."""
    name, quantity, *statistic = key.rsplit(".", 2) if key.count(".") > 1 else key.rsplit(".", 1)
    if name not in records.EXPERIMENTS:  # a dot in the experiment's own name
        name, quantity, statistic = f"{name}.{quantity}", statistic[0], []
    folders = sorted((records.RESULTS / name).glob("seed*"))
    runs = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in folders]
    whole = [run for run, folder in zip(runs, folders, strict=True) if (folder / "summary.json").exists()]
    seeds = sorted(int(folder.name[4:]) for folder in folders)
    counts = {"n": len(runs), "n_diverged": len(runs) - len(whole), "first_seed": seeds[0], "last_seed": seeds[-1]}
    if quantity in counts:
        return str(counts[quantity])
    accuracy, loss = ([np.array([m[q] for m in run]) for run in whole] for q in ("test_accuracy", "test_loss"))
    values = {
        "best_test_accuracy": [a.max() for a in accuracy],
        "best_train_accuracy": [max(m["train_accuracy"] for m in run) for run in whole],
        "least_test_loss": [l.min() for l in loss],
        "loss_change": [abs(l - l[0]).max() for l in loss],
        "gap": [run[-1]["train_accuracy"] - run[-1]["test_accuracy"] for run in whole],
        "n_falls": [(np.diff(a) <= -0.02).sum() for a in accuracy],
        "n_jumps": [(np.diff(l) >= 0.1).sum() for l in loss],
        "best_step": [run[np.argmax(a)]["step"] for run, a in zip(whole, accuracy, strict=True)],
        "flat_from": [run[np.argmax(a >= 0.95 * a.max())]["step"] for run, a in zip(whole, accuracy, strict=True)],
        "minutes": [json.loads((f / "summary.json").read_text())["seconds"] / 60 for f in folders]
        if len(whole) == len(runs)
        else None,
    }.get(quantity) or [run[-1][quantity] for run in whole]
    number = {"mean": np.mean, "sd": lambda v: np.std(v, ddof=1), "min": np.min, "max": np.max}[statistic[0]](values)
    digits = {
        "loss_change": ".0e",
        "n_falls": ".1f",
        "n_jumps": ".1f",
        "flat_from": ".0f",
        "best_step": ".0f",
        "minutes": ".1f",
    }
    return format(float(number), digits.get(quantity, ".3f"))


def test_every_number_of_results_tex_is_recomputed_from_the_metrics():
    numbers = dict(re.findall(r"\\defineresult\{(.+?)\}\{(.+?)\}", RESULTS_TEX))
    assert len(numbers) > 500
    for key, text in numbers.items():
        if not key.startswith("claim."):
            assert text == recomputed(key), key


def test_results_tex_and_the_readmes_tables_are_what_reproduce_writes():
    assert records.results_tex() == RESULTS_TEX
    assert records.claims_markdown() in README
    assert records.results_markdown() in README


def test_every_number_that_the_report_quotes_is_in_results_tex():
    defined = set(re.findall(r"\\defineresult\{(.+?)\}", RESULTS_TEX))
    quoted = set(re.findall(r"\\result\{([^#]+?)\}", REPORT))
    quoted |= {f"claim.{name}" for name in re.findall(r"\\claimed\{([^#]+?)\}", REPORT)}
    quoted |= {f"{name}.mean" for name in re.findall(r"\\pmresult\{([^#]+?)\}", REPORT)}
    quoted |= {f"{name}.{end}" for name in re.findall(r"\\rangeresult\{([^#]+?)\}", REPORT) for end in ("min", "max")}
    assert len(quoted) > 80
    assert quoted - defined == set()


def test_pdf_is_built_from_this_text_and_these_numbers():
    pdf = (ROOT / "report" / "report.pdf").read_bytes()
    assert reproduce.sources_hash().encode() in pdf, "report.pdf is old; build it: python report/reproduce.py --pdf"


def test_every_reference_of_the_report_has_its_label_and_every_citation_its_entry():
    text = re.sub(r"(?<!\\)%.*", "", REPORT)
    labels = set(re.findall(r"\\label\{([^#{}]+)\}", text))
    labels |= {f"eq:{name}" for name in re.findall(r"\\name\{([^#{}]+)\}", text)}
    labels |= {f"fig:{name}" for pair in re.findall(r"\\runfigures\{(\w+)\}\{(\w+)\}", text) for name in pair}
    references = set(re.findall(r"\\(?:eq)?ref\{([^#{}]+)\}", text))
    assert len(references) > 20
    assert references - labels == set()
    entries = set(re.findall(r"(?m)^@\w+\{(\S+),", (ROOT / "report" / "references.bib").read_text(encoding="utf-8")))
    keys = {key.strip() for group in re.findall(r"\\cite\w*(?:\[.*?\])*\{(.+?)\}", text) for key in group.split(",")}
    assert len(keys) > 10
    assert keys - entries == set()


def decimals(text):
    """Return the decimal numbers and percentages of a text."""
    return re.findall(r"\d+\.\d+(?:e-?\d+)?|\d+e-\d+|\d+(?=\s*(?:%|\\%|per cent))", text)


def known_settings():
    """Return all numbers of the experiments' flags and of the scripts' defaults."""
    known = set()
    for name in records.EXPERIMENTS:
        known |= {value for value in flags_of(name).values() if isinstance(value, float)}
    return known | {0.0001, 0.02, 0.1, 0.01}  # of the initial weights; what counts as a fall, a jump, random


def test_report_quotes_no_number_but_recorded_ones():
    text = re.sub(r"(?<!\\)%.*", "", REPORT.split(r"\begin{document}")[1])
    assert {float(value) for value in re.findall(r"\\setting\{(.+?)\}", text)} <= known_settings()
    # Widths of columns and pictures, and the titles of the course's questions, are no results.
    text = re.sub(r"\\(?:setting|claimed|pmresult|rangeresult|result|subsection\*?|name|label|ref)\{.*?\}", "", text)
    text = re.sub(r"p\{\S+?cm\}|[{=]\S+\\textwidth|\{\S+pt\}", "", text)
    assert set(decimals(text)) == {"5"}, "5 per cent is the rule by which a curve counts as flat"


def test_readme_quotes_no_number_but_recorded_ones():
    text = README.replace(records.claims_markdown(), "")
    for not_of_runs in (
        r"(?m)^\| `train_.*?\|$",  # a table that test_readme.py holds to the records
        r"(?s)```.*?```|`[^`]*`",  # commands and versions
        r"(?s)\n## (?:Speed|Grade)\n.*?(?=\n## |\Z)",  # of the benchmarks that it names; points
        r"\b\d+\.\d+\.\d+\.\d+\b|Python 3\.10",
    ):
        text = re.sub(not_of_runs, "", text)
    assert {float(value) for value in decimals(text)} <= known_settings()


# ---- Figures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    return dict(draw.figures())


def test_all_fourteen_figures_and_the_studies_are_drawn_and_committed(drawn):
    assert sorted(name[:5] for name in drawn if name.startswith("fig")) == [f"fig{n:02d}" for n in range(1, 15)]
    for name in drawn:
        assert {(ROOT / "report" / "figures" / f"{name}.{ext}").exists() for ext in ("png", "pdf")} == {True}
    used = set(re.findall(r"figures/(study_\w+)\.pdf", REPORT))
    used |= {name for pair in re.findall(r"\\runfigures\{(\w+)\}\{(\w+)\}", REPORT) for name in pair}
    assert used == {name.removesuffix("_accuracy").removesuffix("_loss") for name in drawn}


def lines_of(figure):
    """Return the lines of a figure that have a name, `{name: line}`."""
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize(("number", "name"), [(number, name) for number, name, _ in draw.RUNS])
@pytest.mark.parametrize("quantity", ["accuracy", "loss"])
def test_figure_shows_the_recorded_curves_their_spread_and_the_claims(drawn, number, name, quantity):
    figure = drawn[f"fig{number + (quantity == 'loss'):02d}_{name.split('_', 1)[1]}_{quantity}"]
    axes, lines, runs = figure.axes[0], lines_of(figure), records.read_records(name)
    steps = [m["step"] for m in runs[0].metrics]
    bands = [{tuple(vertex) for vertex in band.get_paths()[0].vertices} for band in axes.collections]
    thin = [line for line in axes.lines if line.get_label().startswith("_")]
    assert len(bands) == 2
    assert len(thin) == 2 * len(runs)
    for split, band in zip(("train", "test"), bands, strict=True):
        seeds = np.array([[m[f"{split}_{quantity}"] for m in run.metrics] for run in runs])
        np.testing.assert_allclose(lines[split].get_ydata(), seeds.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(lines[split].get_xdata(), steps)
        assert band == {*zip(steps, seeds.min(axis=0), strict=True), *zip(steps, seeds.max(axis=0), strict=True)}
        for values in seeds:
            assert any(np.array_equal(line.get_xydata().T, (steps, values)) for line in thin)
    assert axes.get_xlabel() == "training step"
    assert axes.get_ylabel() == {"accuracy": "accuracy", "loss": "cross-entropy loss"}[quantity]

    expected = {
        f"{whose}, original report": records.CLAIMS.get(name, {}).get(claim)
        for whose, claim in {
            "test": f"test_{quantity}",
            "best test": f"best_test_{quantity}",
            "train": f"train_{quantity}",
        }.items()
    }
    if name == "fig07_five_layers":  # here the original report gives no number
        expected = {"guessing": {"accuracy": 0.1, "loss": np.log(10)}[quantity]}
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


def last(name, quantity):
    """Return an experiment's last values of a quantity: mean, lowest, highest."""
    values = [run.metrics[-1][quantity] for run in records.read_records(name) if run.summary is not None]
    return np.mean(values), min(values), max(values)


RATES = {1e-5: "learning_rate_1e-5", 1e-4: "learning_rate_1e-4", 5e-4: "learning_rate_5e-4"}
RATES |= {1e-3: "learning_rate_1e-3", 2e-3: "fig03_mlp_pytorch"}  # the larger ones diverge
COURSE = {0: "depth_0_normal", 1: "depth_1_normal", 2: "depth_2_normal", 3: "depth_3_normal", 4: "depth_4_normal"}
HE = {n: f"depth_{n}_kaiming" for n in range(6)}
RUNGS = dict(enumerate(f"ladder_{rung}" for rung in records.LADDER))


@pytest.mark.parametrize(
    ("study", "label", "points", "quantity"),
    [
        ("learning_rate", "train", RATES, "train_accuracy"),
        ("learning_rate", "test", RATES, "test_accuracy"),
        ("depth", "weights from N(0, 0.0001²)", COURSE | {5: "fig07_five_layers"}, "test_accuracy"),
        ("depth", "He et al.'s weights", HE, "test_accuracy"),
        ("ladder", "validation", RUNGS, "validation_accuracy"),
        ("ladder", "test", RUNGS, "test_accuracy"),
    ],
)
def test_study_shows_the_recorded_runs(drawn, study, label, points, quantity):
    axes = drawn[f"study_{study}"].axes[0]
    (container,) = (container for container in axes.containers if container.get_label() == label)
    line, _, (bars,) = container.lines
    x, y = np.array(line.get_data(), dtype=float)
    means, lows, highs = zip(*(last(name, quantity) for name in points.values()), strict=True)
    np.testing.assert_allclose(x, list(points), atol=0.1 if study == "ladder" else 0)
    np.testing.assert_allclose(y, means, rtol=1e-12)
    ends = np.array(bars.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends, np.transpose([lows, highs]), rtol=1e-12)


def test_study_of_learning_rates_marks_those_that_diverge(drawn):
    rates = [name for name in records.EXPERIMENTS if name.startswith("learning_rate_")]
    diverged = [name for name in rates if any(run.summary is None for run in records.read_records(name))]
    marked = lines_of(drawn["study_learning_rate"])["diverged"].get_xdata()
    assert [f"learning_rate_{rate:.0e}".replace("e-0", "e-") for rate in marked] == diverged


def test_study_of_the_ladder_calls_its_rungs_as_the_table_beside_it(drawn):
    table = REPORT.split("study_ladder.pdf")[1].split(r"\end{tabular}")[0]
    rows = re.findall(r"(?m)^ *(.+?) & \\pmresult\{ladder_(\w+?)\.validation", table)
    assert [rung for _, rung in rows] == list(records.LADDER)
    labels = [tick.get_text() for tick in drawn["study_ladder"].axes[0].get_xticklabels()]
    for (row, _), label in zip(rows, labels, strict=True):
        row = re.sub(r"Figure~\\ref\{.*?\}", "Figure 11", row).replace("$-$", "−")
        words = set(re.sub(r"\\\w+|[{}]", " ", row).replace(",", " ").split())
        assert set(label.replace(",", " ").split()) <= words, f"{label!r} for {row!r}"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("right", "fig01_mlp_numpy"),
        ("bias gradient averaged", "wrong_bias_averaged"),
        ("slope of the wrong sign", "wrong_slope_of_wrong_sign"),
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
    assert [name for name, _ in draw.figures()] == ["study_ladder"], "the others show a figure's runs as well"


def test_curves_end_where_the_shortest_run_does(monkeypatch):
    runs = records.read_records("fig01_mlp_numpy")
    runs[1] = runs[1]._replace(metrics=runs[1].metrics[:5], summary=None)
    monkeypatch.setattr(draw, "read_records", lambda name: runs)
    line = lines_of(draw.draw_run("fig01_mlp_numpy", "loss", "one diverges"))["test"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 100, 200, 300, 400])
    np.testing.assert_allclose(line.get_ydata()[4], np.mean([run.metrics[4]["test_loss"] for run in runs]))


def shown_width(name):
    """Return how wide the report shows a figure, in inches."""
    text_width = 16 / 2.54
    studies = re.findall(r"([\d.]+)\\textwidth(?:(?!textwidth)[\s\S])*?figures/(study_\w+)\.pdf", REPORT)
    (run,) = re.findall(r"([\d.]+)\\textwidth(?:(?!textwidth)[\s\S])*?figures/#1_accuracy\.pdf", REPORT)
    return text_width * float({study: share for share, study in studies}.get(name, run))


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
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0, f"{name}'s legend hides curves"


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


# ---- reproduce.py --------------------------------------------------------------------------------

SMALL = "--data_dir {data_dir}\n--dnn_hidden_units 10\n--max_steps 6\n--eval_freq 2\n--train_eval_size 1000\n"


# A script that takes no time: it warns, and leaves what a whole run does.
QUICK = """
import sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--out_dir") + 1])
folder.mkdir(parents=True)
(folder / "config.json").write_text("{}")
(folder / "summary.json").write_text("{}")
print("quick.py: warning: first", "quick.py: warning: second", sep="\\n", file=sys.stderr)
"""


@pytest.fixture
def small(monkeypatch, tmp_path, official_folder):
    """Make `reproduce` know four small experiments, and write into `tmp_path`; give its folder of results."""
    flags = SMALL.format(data_dir=official_folder)
    (tmp_path / "small.args").write_text(flags)
    (tmp_path / "steep.args").write_text(flags + "--learning_rate 1e9\n")
    (tmp_path / "wrong.args").write_text("--data_dir nowhere\n")
    (tmp_path / "quick.py").write_text(QUICK)
    experiments = {name: ("train_mlp_numpy", 2) for name in ("small", "steep", "wrong")}
    experiments["quick"] = (os.path.relpath(tmp_path / "quick", ROOT), 1)
    for module in (records, reproduce):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
        monkeypatch.setattr(module, "EXPERIMENTS", experiments)
    monkeypatch.setattr(reproduce, "FLAG_FILES", tmp_path)
    sigterm = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "results"
    signal.signal(signal.SIGTERM, sigterm)


def files_in(folder):
    return {path.name for path in folder.iterdir()}


WHOLE = {"config.json", "metrics.jsonl", "summary.json"}


def test_run_that_is_missing_is_run_and_recorded_as_text_and_no_other(small, capsys):
    assert reproduce.missing_runs(["small"], None) == [("small", 42), ("small", 43)]
    assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
    assert "run 1 of 1: small, seed 42\n" in capsys.readouterr().out
    assert files_in(small) == {"small"}
    assert files_in(small / "small") == {"seed42"}
    assert files_in(small / "small" / "seed42") == WHOLE
    assert reproduce.missing_runs(["small"], None) == [("small", 43)]
    assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
    assert "run 1" not in capsys.readouterr().out


def test_numbers_are_left_alone_where_one_that_they_need_is_not_recorded(small, capsys, monkeypatch):
    shutil.copytree(ROOT / "report" / "results" / "fig05_adam", small / "fig05_adam")
    for module in (records, reproduce):
        monkeypatch.setattr(
            module, "EXPERIMENTS", {name: ("unused", 1) for name in ("fig05_adam", "fig07_five_layers")}
        )
    monkeypatch.setattr(reproduce, "write_figures", lambda: None)
    message = (
        "results.tex and README.md are left as they are: no whole run of fig01_mlp_numpy, fig03_mlp_pytorch, "
        "precision_mlp, fig13_convnet, precision_convnet, best_mlp, best_convnet, fig07_five_layers is recorded; "
        "to run what is missing: python report/reproduce.py\n"
    )
    assert reproduce.main(["--figures"]) == 0
    assert capsys.readouterr() == (message, "")
    assert reproduce.main(["--pdf"]) == 1
    assert capsys.readouterr() == ("", f"reproduce.py: error: {message}")
    assert (ROOT / "report" / "results.tex").read_text(encoding="utf-8") == RESULTS_TEX
    assert (ROOT / "README.md").read_text(encoding="utf-8") == README


@pytest.mark.parametrize("unreadable", [records.results_tex, *reproduce.README_TABLES.values()])
def test_numbers_are_written_all_or_none(unreadable, monkeypatch, tmp_path):
    def fail():
        raise ValueError("damaged")

    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n<!-- claims -->\n<!-- /claims -->\n")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "REPORT", tmp_path)
    if unreadable is records.results_tex:
        monkeypatch.setattr(reproduce, "results_tex", fail)
    else:
        (name,) = (name for name, table in reproduce.README_TABLES.items() if table is unreadable)
        monkeypatch.setitem(reproduce.README_TABLES, name, fail)
    with pytest.raises(ValueError, match="damaged"):
        reproduce.write_numbers()
    assert files_in(tmp_path) == {"README.md"}


def test_leftovers_of_a_run_that_was_killed_as_it_was_recorded_are_removed(small):
    for name in ("quick", "small"):
        (small / name / "seed42").mkdir(parents=True)
        for file in (*WHOLE, "checkpoint.npz", "accuracy.png", "loss.png.tmp"):
            (small / name / "seed42" / file).write_text("{}")
    assert reproduce.main(["--only", "quick"]) == 0
    assert files_in(small / "quick" / "seed42") == WHOLE
    assert len(files_in(small / "small" / "seed42")) == 6, "not of the chosen experiments"


@pytest.mark.parametrize("config", [None, "", '{"id": ', "[]"])
def test_run_that_was_killed_as_its_folder_was_made_begins_anew(small, config):
    folder = small / "quick" / "seed42"
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(config)
    reproduce.run("quick", 42)
    assert (folder / "config.json").read_text() == "{}"


def test_warnings_of_a_run_that_succeeds_are_passed_on(small, capsys):
    reproduce.run("quick", 42)
    assert capsys.readouterr().err == "quick.py: warning: first\nquick.py: warning: second\n"


# Calls `reproduce.main` with one small experiment, its flag file and records in the folder that comes first.
REPRODUCE_SMALL = f"""
import sys
sys.path[:0] = [{str(ROOT / "report")!r}, {str(ROOT)!r}]
from pathlib import Path
import draw, records, reproduce
folder = Path(sys.argv[1])
for module in (records, reproduce):
    module.RESULTS = folder / "results"
    module.EXPERIMENTS = {{"small": ("train_mlp_numpy", 2)}}
reproduce.FLAG_FILES = folder
sys.exit(reproduce.main(sys.argv[2:]))
"""


def test_sigterm_ends_the_run_as_well_and_the_same_call_goes_on_with_it(small):
    (small.parent / "small.args").write_text((small.parent / "small.args").read_text() + "--max_steps 1000\n")
    command = [sys.executable, "-c", REPRODUCE_SMALL, small.parent, "--only", "small", "--seeds", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    folder = small / "small" / "seed42"
    process = subprocess.Popen(command, **pipes)
    wait_for(folder / "checkpoint.npz", process)
    process.terminate()
    _, errors = process.communicate(timeout=300)  # the run has the same standard output: this waits for its end
    assert process.returncode == 130
    assert "the same command goes on from here" in errors
    assert {"config.json", "metrics.jsonl", "checkpoint.npz"} <= files_in(folder)
    assert "summary.json" not in files_in(folder)
    config = shorten(folder)
    done = subprocess.run(command, **pipes)
    assert done.returncode == 0, done.stderr
    assert files_in(folder) == WHOLE
    assert json.loads((folder / "config.json").read_text())["id"] == config["id"]


def shorten(folder):
    """Let a run that was ended have few steps to go on with; return its config."""
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["max_steps"] = 6 + 2 * len((folder / "metrics.jsonl").read_text().splitlines())
    (folder / "config.json").write_text(json.dumps(config))
    return config


def test_run_that_was_killed_is_gone_on_with(small, monkeypatch):
    folder = small / "small" / "seed42"
    (small.parent / "small.args").write_text((small.parent / "small.args").read_text() + "--max_steps 100000\n")
    flags = [f"@{small.parent / 'small.args'}", "--dataset", "cifar10", "--seed", "42", "--out_dir", str(folder)]
    process = subprocess.Popen([sys.executable, ROOT / "train_mlp_numpy.py", *flags], stderr=subprocess.DEVNULL)
    wait_for(folder / "checkpoint.npz", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = shorten(folder)
    reproduce.run("small", 42)
    assert files_in(folder) == WHOLE
    assert json.loads((folder / "config.json").read_text())["id"] == config["id"]


def test_run_that_diverges_is_a_result(small):
    reproduce.run("steep", 42)
    folder = small / "steep" / "seed42"
    assert files_in(folder) == {"config.json", "metrics.jsonl", "diverged.json"}
    assert "at step" in json.loads((folder / "diverged.json").read_text())["error"]
    assert records.numbers("steep") == {"n": 1, "n_diverged": 1, "first_seed": 42, "last_seed": 42}
    assert ("steep", 42) not in reproduce.missing_runs(["steep"], None)


def test_run_that_fails_is_no_result(small):
    with pytest.raises(reproduce.ReproduceError, match=r"train_mlp_numpy.py ended with status 1: .*nowhere"):
        reproduce.run("wrong", 42)
    assert not (small / "wrong" / "seed42" / "diverged.json").exists()


def test_run_on_synthetic_images_is_not_reported(small):
    folder = small / "small" / "seed42"
    shutil.copytree(ROOT / "report" / "results" / "fig05_adam" / "seed42", folder)
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["is_synthetic"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="synthetic images"):
        records.read_records("small")


def test_list_shows_what_is_recorded(capsys):
    assert reproduce.main(["--list", "--only", "fig0[13]*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["experiment", "fig01_mlp_numpy", "fig03_mlp_pytorch"]
    assert re.search(r"5 of 5 +0\.\d$", lines[1])


def test_list_shows_the_minutes_of_the_latest_run(monkeypatch, tmp_path, capsys):
    shutil.copytree(records.RESULTS / "fig05_adam", tmp_path / "fig05_adam")
    for seed, (date, seconds) in {43: ("2031-01-01T00:00:00Z", 600), 44: ("2030-12-31T23:59:59Z", 1200)}.items():
        for file, change in (("config", {"date": date}), ("summary", {"seconds": seconds})):
            path = tmp_path / "fig05_adam" / f"seed{seed}" / f"{file}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert reproduce.main(["--list", "--only", "fig05_adam"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.endswith("minutes, last")
    assert line.endswith(" 10.0")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", ""),
        ("config.json", '{"seed": 42}'),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", '{"step": 0, "train_lo'),
        ("metrics.jsonl", None),
        ("summary.json", "[]"),
    ],
)
def test_damaged_record_ends_with_one_line_that_names_the_file(monkeypatch, tmp_path, capsys, file, text):
    shutil.copytree(records.RESULTS / "fig05_adam", tmp_path / "fig05_adam")
    damaged = tmp_path / "fig05_adam" / "seed43" / file
    damaged.unlink()
    if text is not None:
        damaged.write_text(text)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert reproduce.main(["--list", "--only", "fig05_adam"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert str(damaged) in line


@pytest.mark.parametrize("what", ["--figures", "--pdf"])
@pytest.mark.parametrize("which", [("--only", "fig05*"), ("--seeds", "2")])
def test_choice_of_runs_is_rejected_where_none_is_run(what, which, capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main([what, *which])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--figures and --pdf take all that is recorded: leave out --only and --seeds" in line


def test_unknown_experiment_ends_with_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["--only", "fig99*"])
    assert stopped.value.code == 2
    assert "no experiment matches 'fig99*'; --list shows them" in capsys.readouterr().err


def test_pdf_without_latex_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for name in ("write_figures", "write_numbers"):
        monkeypatch.setattr(reproduce, name, lambda: None)
    assert reproduce.main(["--pdf"]) == 1
    assert "apt-get install latexmk" in capsys.readouterr().err


LOG = """
LaTeX Warning: Reference `fig:fig15' on page 11 undefined on input line 604.

LaTeX Warning: Reference `fig:fig15' on page 12 undefined on input line 610.

Package natbib Warning: Citation `knuth1984' on page 11 undefined on input line 604.

LaTeX Font Warning: Font shape `T1/lmtt/bx/n' in size <10> not available
"""


def test_pdf_with_a_reference_to_nothing_replaces_none(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "REPORT", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    for name in ("report.tex", "results.tex", "references.bib"):
        (tmp_path / name).touch()
    build = tmp_path / "build"
    build.mkdir()
    (build / "report.pdf").write_text("new")
    (tmp_path / "report.pdf").write_text("old")
    (build / "report.log").write_text(LOG)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=""))
    with pytest.raises(reproduce.ReproduceError, match=r"not there, reference fig:fig15, citation knuth1984: give"):
        reproduce.write_pdf()
    assert (tmp_path / "report.pdf").read_text() == "old"
    (build / "report.log").write_text(LOG.replace("undefined", ""))
    reproduce.write_pdf()
    assert (tmp_path / "report.pdf").read_text() == "new"
