"""The report's records, numbers and figures: each run is what it says, and nobody quotes a number that none gave."""

import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import draw
import numpy as np
import pytest
import records
import reproduce
from runs import ROOT, wait_for

REPORT = (ROOT / "report" / "report.tex").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS_TEX = (ROOT / "report" / "results.tex").read_text(encoding="utf-8")
# What a run is told that changes nothing of what it computes, or that its seed and folder say.
NOT_OF_THE_EXPERIMENT = {"seed", "out_dir", "data_dir", "dataset", "resume", "quiet"}

# Seeds recorded so far, where there are to be more; `reproduce.py` runs the others.
SEEDS_SO_FAR = {f"ladder_{rung}": 2 for rung in records.LADDER} | {"best_mlp": 1}


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
    assert len(found) >= SEEDS_SO_FAR.get(name, n_seeds)
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
        last = record.metrics[-1]["step"]
        assert last < config["flags"]["max_steps"] if record.summary is None else last == config["flags"]["max_steps"]


@pytest.mark.parametrize("name", [f"wrong_{mistake}" for mistake in records.WRONG_GRADIENTS])
def test_run_by_a_wrong_gradient_is_another_than_by_the_right_one(name):
    for wrong, right in zip(records.read_records(name), records.read_records("fig01_mlp_numpy"), strict=True):
        # They begin from the same weights, on processors that round alike to seven digits.
        assert wrong.metrics[0]["test_loss"] == pytest.approx(right.metrics[0]["test_loss"], rel=1e-6)
        assert abs(wrong.metrics[1]["test_loss"] - right.metrics[1]["test_loss"]) > 1e-6


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


@pytest.mark.parametrize(("number", "name"), [(number, name) for number, name, _ in draw.RUNS])
@pytest.mark.parametrize("quantity", ["accuracy", "loss"])
def test_figure_shows_the_recorded_curves_and_the_claim(drawn, number, name, quantity):
    figure = drawn[f"fig{number + (quantity == 'loss'):02d}_{name.split('_', 1)[1]}_{quantity}"]
    runs = records.read_records(name)
    for split in ("train", "test"):
        line = next(line for line in figure.axes[0].lines if line.get_label() == split)
        values = np.mean([[m[f"{split}_{quantity}"] for m in run.metrics] for run in runs], axis=0)
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
        np.testing.assert_array_equal(line.get_xdata(), [m["step"] for m in runs[0].metrics])
    claims = records.CLAIMS.get(name, {})
    expected = [claims[key] for key in (f"test_{quantity}", f"best_test_{quantity}") if key in claims]
    dashed = [line for line in figure.axes[0].lines if "original report" in line.get_label()]
    assert [line.get_ydata()[0] for line in dashed] == expected
    # Clear in grey: the splits differ in line style, not in colour alone.
    assert len({line.get_linestyle() for line in figure.axes[0].lines if line.get_label() in ("train", "test")}) == 2


# ---- reproduce.py --------------------------------------------------------------------------------

SMALL = "--data_dir {data_dir}\n--dnn_hidden_units 10\n--max_steps 6\n--eval_freq 2\n--train_eval_size 1000\n"


@pytest.fixture
def small(monkeypatch, tmp_path, official_folder):
    """Make `reproduce` know one small experiment, `small`, and write into `tmp_path`; return its folder of results."""
    flags = SMALL.format(data_dir=official_folder)
    (tmp_path / "small.args").write_text(flags)
    (tmp_path / "steep.args").write_text(flags + "--learning_rate 1e9\n")
    (tmp_path / "wrong.args").write_text("--data_dir nowhere\n")
    for module in (records, reproduce):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
        names = ("small", "steep", "wrong")
        monkeypatch.setattr(module, "EXPERIMENTS", {name: ("train_mlp_numpy", 2) for name in names})
    monkeypatch.setattr(reproduce, "FLAG_FILES", tmp_path)
    return tmp_path / "results"


def files_in(folder):
    return {path.name for path in folder.iterdir()}


def test_run_that_is_missing_is_run_and_recorded_as_text(small):
    assert reproduce.missing_runs(["small"], None) == [("small", 42), ("small", 43)]
    reproduce.run("small", 42)
    assert files_in(small / "small" / "seed42") == {"config.json", "metrics.jsonl", "summary.json"}
    assert reproduce.missing_runs(["small"], None) == [("small", 43)]


def test_run_that_was_killed_is_gone_on_with(small, monkeypatch):
    folder = small / "small" / "seed42"
    (small.parent / "small.args").write_text((small.parent / "small.args").read_text() + "--max_steps 100000\n")
    flags = [f"@{small.parent / 'small.args'}", "--dataset", "cifar10", "--seed", "42", "--out_dir", str(folder)]
    process = subprocess.Popen([sys.executable, ROOT / "train_mlp_numpy.py", *flags], stderr=subprocess.DEVNULL)
    wait_for(folder / "checkpoint.npz", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The rest of those steps would take minutes.
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["max_steps"] = 6 + 2 * len((folder / "metrics.jsonl").read_text().splitlines())
    (folder / "config.json").write_text(json.dumps(config))
    reproduce.run("small", 42)
    assert files_in(folder) == {"config.json", "metrics.jsonl", "summary.json"}
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
    reproduce.run("small", 42)
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
