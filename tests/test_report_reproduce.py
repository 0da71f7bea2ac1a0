"""reproduce.py runs what is not recorded, goes on with what was cut off, and records what has come to its end."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from runs import ROOT, wait_for

import training.files
from report import records, reproduce, tables

SMALL = "--data_dir {data_dir}\n--dnn_hidden_units 10\n--max_steps 6\n--eval_freq 2\n--train_eval_size 1000\n"

# A whole run.
CIFAR10 = {"name": "CIFAR-10", "is_synthetic": False}
CONFIG = {"script": "quick", "flags": {}, "dataset": CIFAR10, "seed": 42, "date": "2026-11-27T03:00:00Z"}
METRICS = {"step": 6, "train_loss": 1.5, "train_accuracy": 0.5, "test_loss": 1.6, "test_accuracy": 0.4}
WHOLE = {"config.json": CONFIG, "metrics.jsonl": METRICS, "summary.json": {"seconds": 60.0}}

# A script that takes no time: it warns, and leaves what a whole run does.
QUICK = f"""
import json, sys
from pathlib import Path
flags = dict(zip(sys.argv, sys.argv[1:]))
folder = Path(flags.get("--resume") or flags["--out_dir"])
folder.mkdir(parents=True, exist_ok="--resume" in flags)
for file, content in {WHOLE!r}.items():
    if "--seed" in flags and file == "config.json":
        content["seed"] = int(flags["--seed"])
    (folder / file).write_text(json.dumps(content))
print("quick.py: warning: first", "quick.py: warning: second", sep="\\n", file=sys.stderr)
"""


def write_files(folder, **changes):
    """Write the files of a whole run into a folder, but for `changes`: texts, or None for a file that is missing."""
    folder.mkdir(parents=True)
    texts = {file: json.dumps(content) for file, content in WHOLE.items()}
    for file, text in (texts | changes).items():
        if text is not None:
            (folder / file).write_text(text)


@pytest.fixture
def small(monkeypatch, tmp_path, official_folder):
    """Make `reproduce` know four small experiments, and write into `tmp_path`, results/ and runs/; give that."""
    flags = SMALL.format(data_dir=official_folder)
    (tmp_path / "small.args").write_text(flags)
    (tmp_path / "steep.args").write_text(flags + "--learning_rate 1e9\n")
    (tmp_path / "wrong.args").write_text("--data_dir nowhere\n")
    (tmp_path / "quick.py").write_text(QUICK)
    experiments = {name: ("train_mlp_numpy", 2) for name in ("small", "steep", "wrong")}
    experiments["quick"] = (os.path.relpath(tmp_path / "quick", ROOT), 1)
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(reproduce, "EXPERIMENTS", experiments)
    monkeypatch.setattr(reproduce, "FLAG_FILES", tmp_path)
    sigterm = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, sigterm)


def files_in(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}  # the lock of an experiment


@pytest.mark.slow
def test_run_that_is_missing_is_run_and_recorded_as_text_and_no_other(small, capsys):
    assert reproduce.missing_runs(["small"], None) == [("small", 42), ("small", 43)]
    assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
    assert "run 1 of 1: small, seed 42\n" in capsys.readouterr().out
    assert files_in(small / "results") == {"small.jsonl"}
    assert files_in(small / "runs" / "small") == set()
    (record,) = records.read_records("small")
    assert record.seed == 42
    assert record.config["flags"]["dnn_hidden_units"] == [10]
    assert [m["step"] for m in record.metrics] == [0, 2, 4, 6]
    assert set(record.summary) == {"seconds", "images_per_second", "peak_memory_mb"}
    assert reproduce.missing_runs(["small"], None) == [("small", 43)]
    assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
    assert "run 1" not in capsys.readouterr().out


@pytest.mark.slow
def test_seeds_that_are_not_recorded_are_run_and_added(small, capsys):
    for n_seeds, n_runs in ((2, 2), (3, 1), (2, 0), (3, 0)):
        assert reproduce.main(["--only", "quick", "--seeds", str(n_seeds)]) == 0
        assert capsys.readouterr().out.count("\n+ python ") == n_runs
    assert [record.seed for record in records.read_records("quick")] == [42, 43, 44]


@pytest.mark.parametrize("killed", ["before it was recorded", "as it was recorded", "as its folder was removed"])
def test_leftovers_of_a_run_that_was_killed_as_it_was_recorded_are_removed(small, killed):
    leftovers = {"checkpoint.npz": "", "accuracy.png": "", "loss.png.tmp": ""}
    for name in ("quick", "small"):
        write_files(small / "runs" / name / "seed42", **leftovers)
    if killed != "before it was recorded":
        records.add_run("quick", small / "runs" / "quick" / "seed42")
    if killed == "as its folder was removed":
        (small / "runs" / "quick" / "seed42" / "summary.json").unlink()
    assert reproduce.main(["--only", "quick"]) == 0
    assert files_in(small / "runs" / "quick") == set()
    assert files_in(small / "results") == {"quick.jsonl"}
    assert records.read_records("quick") == [records.Record(42, CONFIG, [METRICS], {"seconds": 60.0}, None)]
    assert len(files_in(small / "runs" / "small" / "seed42")) == 6, "not of the chosen experiments"


@pytest.mark.parametrize("config", [None, "", '{"id": ', "[]"])
def test_run_that_was_killed_as_its_folder_was_made_begins_anew(small, capsys, config):
    write_files(small / "runs" / "quick" / "seed42", **dict.fromkeys(WHOLE) | {"config.json": config})
    reproduce.run("quick", 42)
    assert "--resume" not in capsys.readouterr().out
    assert records.read_records("quick")[0].config == CONFIG


def test_run_that_was_cut_off_is_resumed(small, capsys):
    write_files(small / "runs" / "quick" / "seed42", **{"summary.json": None})
    assert reproduce.main(["--only", "quick"]) == 0
    assert re.search(r"(?m)^\+ python \S+quick.py --resume \S+runs/quick/seed42$", capsys.readouterr().out)
    assert records.is_recorded("quick", 42)
    assert files_in(small / "runs" / "quick") == set()


def test_warnings_of_a_run_that_succeeds_are_passed_on(small, capsys):
    reproduce.run("quick", 42)
    assert capsys.readouterr().err == "quick.py: warning: first\nquick.py: warning: second\n"


# Calls `reproduce.main` with one small experiment; its flag file, runs and records are in the folder that comes first.
REPRODUCE_SMALL = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from report import records, reproduce
folder = Path(sys.argv[1])
records.RESULTS = folder / "results"
reproduce.RUNS = folder / "runs"
reproduce.EXPERIMENTS = {{"small": ("train_mlp_numpy", 2)}}
reproduce.FLAG_FILES = folder
sys.exit(reproduce.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_sigterm_ends_the_run_as_well_and_the_same_call_goes_on_with_it(small):
    (small / "small.args").write_text((small / "small.args").read_text() + "--max_steps 1000\n")
    command = [sys.executable, "-c", REPRODUCE_SMALL, small, "--only", "small", "--seeds", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    folder = small / "runs" / "small" / "seed42"
    process = subprocess.Popen(command, **pipes)
    wait_for((folder / "checkpoint.npz").exists, process)
    process.terminate()
    _, errors = process.communicate(timeout=300)  # the run has the same standard output: this waits for its end
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert {"config.json", "metrics.jsonl", "checkpoint.npz"} <= files_in(folder)
    assert "summary.json" not in files_in(folder)
    assert not records.is_recorded("small", 42)
    config = shorten(folder)
    done = subprocess.run(command, **pipes)
    assert done.returncode == 0, done.stderr
    assert not folder.exists()
    assert records.read_records("small")[0].config["id"] == config["id"]


def shorten(folder):
    """Let a run that was ended have few steps to go on with; return its config."""
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["max_steps"] = 6 + 2 * len((folder / "metrics.jsonl").read_text().splitlines())
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.slow
def test_run_that_was_killed_is_gone_on_with(small):
    folder = small / "runs" / "small" / "seed42"
    (small / "small.args").write_text((small / "small.args").read_text() + "--max_steps 100000\n")
    flags = [f"@{small / 'small.args'}", "--dataset", "cifar10", "--seed", "42", "--out_dir", str(folder)]
    process = subprocess.Popen([sys.executable, ROOT / "train_mlp_numpy.py", *flags], stderr=subprocess.DEVNULL)
    wait_for((folder / "checkpoint.npz").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = shorten(folder)
    reproduce.run("small", 42)
    assert not folder.exists()
    assert records.read_records("small")[0].config["id"] == config["id"]


@pytest.mark.slow
def test_run_that_diverges_is_a_result(small):
    reproduce.run("steep", 42)
    assert files_in(small / "runs" / "steep") == set()
    (record,) = records.read_records("steep")
    assert record.summary is None
    assert "at step" in record.diverged
    assert tables.numbers("steep") == {"n": 1, "n_diverged": 1, "first_seed": 42, "last_seed": 42}
    assert ("steep", 42) not in reproduce.missing_runs(["steep"], None)


def test_run_that_fails_is_no_result(small):
    with pytest.raises(reproduce.ReproduceError, match=r"train_mlp_numpy.py ended with status 1: .*nowhere"):
        reproduce.run("wrong", 42)
    assert not (small / "results").exists()


def test_run_on_synthetic_images_is_not_reported(small):
    folder, config = small / "runs" / "small" / "seed42", CONFIG | {"dataset": CIFAR10 | {"is_synthetic": True}}
    write_files(folder, **{"config.json": json.dumps(config)})
    with pytest.raises(ValueError, match="synthetic images"):
        records.add_run("small", folder)
    assert not (small / "results").exists()
    (small / "results").mkdir()
    text = records.record_file("fig05_adam").name
    text = (ROOT / "report" / "results" / text).read_text().replace('"is_synthetic": false', '"is_synthetic": true')
    (small / "results" / "small.jsonl").write_text(text)
    with pytest.raises(ValueError, match="synthetic images"):
        records.read_records("small")


def test_long_experiments_run_only_by_name(small, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "LONG_EXPERIMENTS", {"quick"})
    monkeypatch.setattr(reproduce, "write_figures", lambda: None)
    asked = []
    monkeypatch.setattr(reproduce, "missing_runs", lambda names, n_seeds: asked.append(names) or [])
    for flags in ([], ["--only", "q*"]):
        assert reproduce.main(flags) == 0
    assert asked == [["small", "steep", "wrong"], ["quick"]]
    assert reproduce.main(["--list"]) == 0
    assert "quick" in capsys.readouterr().out


def test_list_shows_what_is_recorded(capsys):
    assert reproduce.main(["--list", "--only", "fig0[13]*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["experiment", "fig01_mlp_numpy", "fig03_mlp_pytorch"]
    assert re.search(r"15 of 15 +0\.\d$", lines[1])


def test_list_shows_the_minutes_of_the_latest_run(monkeypatch, tmp_path, capsys):
    changed = []
    for record in records.read_records("fig05_adam"):
        date, seconds = {43: ("2031-01-01T00:00:00Z", 600), 44: ("2030-12-31T23:59:59Z", 1200)}.get(
            record.seed, (record.config["date"], record.summary["seconds"])
        )
        config, summary = record.config | {"date": date}, record.summary | {"seconds": seconds}
        changed.append(record._replace(config=config, summary=summary))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.write_records("fig05_adam", changed)
    assert reproduce.main(["--list", "--only", "fig05_adam"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.endswith("minutes, last")
    assert line.endswith(" 10.0")


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        (1, 86, ""),
        (1, 1, ""),
        (1, 1, '{"seed": 42}\n'),
        (1, 1, '{"experiment": "fig05_adam", "scr\n'),
        (1, 1, '{"experiment": "fig05_adam", "script": "x", "flags": {}, "dataset": null}\n'),
        (1, 1, '{"experiment": "fig05_adam", "script": "x", "flags": {}, "dataset": {}}\n'),
        (1, 1, '{"experiment": "fig05_adam", "script": "x", "flags": [], "dataset": {}}\n'),
        (19, 19, '{"seed": 42, "date": "2026-11-24T09:01:47Z", "summary": {"seconds": 1}}\n'),  # a second time
        (19, 19, '{"seed": 43, "date": "2026-11-24T09:01:47Z", "summary": {"seconds": 1}, "flags": []}\n'),
        (20, 20, '{"step": "0", "train_loss": 2, "train_accuracy": 0, "test_loss": 2, "test_accuracy": 0}\n'),
        (20, 20, '{"step": 0, "train_loss": null, "train_accuracy": 0, "test_loss": 2, "test_accuracy": 0}\n'),
        (18, 19, ""),  # of seed 43: it follows the 16 evaluations of seed 42
        (19, 19, '{"seed": 43}\n'),
        (19, 19, '{"seed": 43, "date": "2026-11-24T09:01:47Z", "summary": []}\n'),
        (19, 19, '{"seed": 43, "date": "2026-11-24T09:01:47Z"}\n'),
        (20, 35, ""),
        (20, 20, '{"step": 0, "train_lo\n'),
        (20, 20, '{"step": 0}\n'),
        (20, 20, "[]\n"),
        (20, 20, "5\n"),
        (20, 20, "\n"),
        (86, 86, '{"step": 1500, "train_lo'),
    ],
)
def test_damaged_record_ends_with_one_line_that_names_the_file(monkeypatch, tmp_path, capsys, first, last, text):
    lines = records.record_file("fig05_adam").read_text().splitlines(keepends=True)
    assert len(lines) == 86
    damaged = tmp_path / "fig05_adam.jsonl"
    damaged.write_text("".join([*lines[: first - 1], text, *lines[last:]]))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert reproduce.main(["--list", "--only", "fig05_adam"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert str(damaged) in line
    assert "damaged" in line
    assert damaged.read_text() == "".join([*lines[: first - 1], text, *lines[last:]])


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
def test_damaged_run_is_not_recorded_and_ends_with_one_line_that_names_the_file(small, capsys, file, text):
    folder = small / "runs" / "quick" / "seed42"
    write_files(folder, **{file: text})
    assert reproduce.main(["--only", "quick"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert str(folder / file) in line
    assert not (small / "results").exists()


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


# ---- Two at once, and Ctrl-C -----------------------------------------------------------------------


@pytest.mark.skipif(training.files.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_second_reproduce_says_that_the_first_is_there(small, capsys):
    with training.files.only_process_in(reproduce.RUNS / "small"):
        assert reproduce.main(["--only", "small"]) == 1
        assert reproduce.main(["--list", "--only", "small"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("small ")
        assert reproduce.main(["--only", "quick"]) == 0, "it has nothing to do with the first"
        assert reproduce.main(["--only", "small"]) == 1
    error = (
        f"reproduce.py: error: {reproduce.RUNS / 'small'} is in use by process {os.getpid()}; wait for it, or stop it\n"
    )
    assert capsys.readouterr().err.endswith(error)
    assert files_in(small / "results") == {"quick.jsonl"}
