"""The report's numbers, tables and figures: right on invented records, up to date with the recorded ones."""

import re

import pytest

from report import draw, numbers, records, reproduce
from report.claims import Claim, judge, measures
from report.records import Record
from report.runs import EXPERIMENTS, REPORT

TEX = re.sub(r"(?<!\\)%.*", "", (REPORT / "report.tex").read_text(encoding="utf-8"))
README = REPORT.parent / "README.md"


def evaluations(accuracies, losses=None, train=None):
    """Return evaluations at steps 0, 100, …"""
    losses, train = losses or [1.0] * len(accuracies), train or accuracies
    keys = ("step", "test_accuracy", "test_loss", "train_accuracy", "train_loss")
    rows = zip(range(0, 100 * len(accuracies), 100), accuracies, losses, train, losses, strict=True)
    return [dict(zip(keys, row, strict=True)) for row in rows]


@pytest.fixture
def record(monkeypatch, tmp_path):
    """A function that records invented runs of an experiment, each its evaluations or how it diverged."""
    monkeypatch.setattr(records, "RESULTS", tmp_path)

    def record(name, *runs):
        written = []
        for seed, run in enumerate(runs, 42):
            whole = ([], None, run) if isinstance(run, str) else (run, {"seconds": 60.0}, None)
            written.append(Record({"seed": seed, "flags": {}}, *whole))
        records.write_records(name, written)

    return record


# ---- Statistics ----------------------------------------------------------------------------------


def test_measures_of_a_run():
    found = measures(evaluations([0.1, 0.4, 0.38, 0.3], [2.3, 1.5, 1.6, 2.0], [0.1, 0.45, 0.5, 0.6]))
    expected = {
        "test_accuracy": 0.3, "train_accuracy": 0.6, "best_test_accuracy": 0.4, "best_step": 100,
        "best_train_accuracy": 0.6, "least_test_loss": 1.5, "first_train_loss": 2.3, "loss_change": 0.8,
        "off_chance": 0.2, "accuracy_gap": 0.3,
        "test_fall": 0.08, "train_fall": -0.05, "loss_gap": 0.0, "gap_from": 200, "flat_from": 100, "n_falls": 2,
        "n_jumps": 2, "n_collapses": 0,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_numbers_of_an_experiment(record):
    record("fig05_adam", evaluations([0.1, 0.3]), evaluations([0.1, 0.5]), "test loss is nan at step 300")
    found = numbers.numbers("fig05_adam")
    assert (found["n"], found["n_diverged"], found["n_with_collapse"]) == (3, 1, 0)
    assert found["test_accuracy"] == pytest.approx({"mean": 0.4, "sd": 0.02**0.5, "min": 0.3, "max": 0.5})


def test_change_is_taken_seed_by_seed(record):
    record("fig03_mlp_pytorch", evaluations([0.1, 0.3]), evaluations([0.1, 0.5]), evaluations([0.1, 0.9]))
    record("jpeg_50", evaluations([0.1, 0.4]), evaluations([0.1, 0.4]))
    expected = {"mean": 0, "sd": 0.02**0.5, "min": -0.1, "max": 0.1}
    assert numbers.change("jpeg_50", "fig03_mlp_pytorch") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("relation", "values", "verdict"),
    [
        ("about", [0.44, 0.44, 0.44, 0.44, 0.49], "reproduced"),  # the mean is 0.45
        ("about", [0.43] * 5, "not reproduced"),
        ("about", [0.46] * 4, "too few runs"),
        ("at least", [0.46, 0.5, 0.5, 0.5, 0.1], "reproduced"),
        ("at least", [0.46, 0.5, 0.5, 0.1, 0.1], "not reproduced"),
        ("at most", [0.46, 0.1, 0.1, 0.1, 0.5], "reproduced"),
    ],
)
def test_claims_are_judged_by_margin_and_share_of_seeds(relation, values, verdict):
    claim = Claim(1, "", "test_accuracy", relation, 0.46)
    assert judge(claim, [{"test_accuracy": value} for value in values]) == verdict


def test_claim_of_another_experiment_takes_its_mean(record):
    record("fig03_mlp_pytorch", evaluations([0.3]), evaluations([0.5]))
    assert Claim(9, "", "test_accuracy", "at most", "fig03_mlp_pytorch").bound == pytest.approx(0.4)


# ---- The report ----------------------------------------------------------------------------------


def test_results_and_readme_are_up_to_date():
    assert (REPORT / "results.tex").read_text(encoding="utf-8") == numbers.results_tex()
    assert numbers.results_markdown() in README.read_text(encoding="utf-8")


def test_pdf_is_up_to_date():
    remedy = "build it again: python -m report.reproduce --pdf"
    assert reproduce.sources_hash().encode() in (REPORT / "report.pdf").read_bytes(), remedy


def test_report_shows_every_figure_and_no_other():
    shown = set(re.findall(r"figures/(\w+)\.pdf", TEX))
    assert shown == set(draw.FIGURES) == {path.stem for path in (REPORT / "figures").glob("*.pdf")}


def test_report_types_no_number_of_a_run():
    text = TEX.split(r"\begin{document}")[1]
    text = re.sub(r"(?s)\\begin\{(tikzpicture|lstlisting)\}.*?\\end\{\1\}", "", text)
    text = re.sub(r"\\(?:setting|pmresult|rangeresult|result|subsection\*?|name|label|ref|code)\{.*?\}", "", text)
    text = re.sub(r"p\{\S+?cm\}|[{=]\S+\\(?:textwidth|linewidth)|\{\S+pt\}", "", text)
    assert re.findall(r"\d+\.\d+|\d+e-\d+", text) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", draw.FIGURES)
def test_figure_fits_its_page_and_can_be_read(name):
    from matplotlib.text import Text

    figure = draw.FIGURES[name]()
    figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    (left, bottom), (right, top) = figure.get_tightbbox().get_points()
    assert min(sizes) >= 7.5
    assert min(left, bottom, figure.get_figwidth() - right, figure.get_figheight() - top) >= -0.01
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)


def test_curves_end_with_the_shortest_run(record):
    record("fig05_adam", evaluations([0.1, 0.3, 0.5]), evaluations([0.1, 0.5]))
    steps, values = draw.curves("fig05_adam", "test_accuracy")
    assert (steps, values.tolist()) == ([0, 100], [[0.1, 0.3], [0.1, 0.5]])


# ---- Recorded runs -------------------------------------------------------------------------------


def test_every_record_file_belongs_to_an_experiment():
    assert {path.name for path in records.RESULTS.iterdir()} <= {f"{name}.jsonl" for name in EXPERIMENTS}


def test_experiments_that_run_by_default_are_recorded():
    assert reproduce.missing_runs([name for name in EXPERIMENTS if not EXPERIMENTS[name].is_long]) == []
