"""report.reproduce runs what is not recorded, resumes what was stopped, and records what has ended."""

import os
import signal
import sys
import threading
import time

import pytest

from report import records, reproduce
from report.runs import Experiment
from training.files import RunError

SMALL = "--dnn_hidden_units 10 --max_steps 6 --eval_freq 2 --train_eval_size 1000"


@pytest.fixture
def small(monkeypatch, tmp_path, official_folder):
    """Let there be three small experiments, recorded in `tmp_path`."""
    flags = f"--data_dir {official_folder} {SMALL}"
    experiments = {
        "small": Experiment("train_mlp_numpy", 2, flags),
        "steep": Experiment("train_mlp_numpy", 1, f"{flags} --learning_rate 1e9", is_long=True),
        "wrong": Experiment("train_mlp_numpy", 1, "--data_dir nowhere"),
    }
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(reproduce, "EXPERIMENTS", experiments)
    monkeypatch.setattr(reproduce, "git_commit", lambda: None)
    monkeypatch.setattr(reproduce, "write_figures", lambda: None)
    monkeypatch.setattr(reproduce, "write_numbers", lambda: None)
    sigterm = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, sigterm)


@pytest.mark.slow
def test_reproduce_runs_missing_seeds_only(small, capsys):
    assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
    assert reproduce.main(["--only", "small"]) == 0
    assert capsys.readouterr().out.count("+ python -m train_mlp_numpy") == 2
    assert [(run.seed, run.config["flags"]["dnn_hidden_units"]) for run in records.read_records("small")] == [
        (42, [10]), (43, [10]),
    ]  # fmt: skip
    assert [path.name for path in (small / "runs" / "small").iterdir() if path.name != ".lock"] == []


@pytest.mark.slow
def test_reproduce_records_a_diverged_run_as_a_result(small):
    assert reproduce.main(["--only", "steep"]) == 0
    (run,) = records.read_records("steep")
    assert "loss is" in run.diverged
    assert len(run.metrics) < 4


def test_reproduce_does_not_record_a_failed_run(small, capsys):
    assert reproduce.main(["--only", "wrong"]) == 1
    assert "reproduce.py: error: wrong, seed 42, ended with status" in capsys.readouterr().err.splitlines()[-1]
    assert records.read_records("wrong") == []


@pytest.mark.slow
def test_reproduce_resumes_a_run_after_sigterm(small):
    """The run is left with a checkpoint, and later recorded with the metrics of an uninterrupted run."""
    command, directory = ["--only", "small", "--seeds", "1"], small / "runs" / "small" / "seed42"

    def terminate_once_begun():
        while not (directory / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate_once_begun, daemon=True).start()
    assert reproduce.main(command) == 130
    assert (directory / "checkpoint.npz").exists()
    assert reproduce.main(command) == 0
    (resumed,) = records.read_records("small")
    records.record_file("small").unlink()
    assert reproduce.main(command) == 0
    (whole,) = records.read_records("small")
    assert [m | {"seconds": 0} for m in resumed.metrics] == [m | {"seconds": 0} for m in whole.metrics]


def test_reproduce_begins_a_run_again_that_was_killed_at_once(small, monkeypatch):
    directory, began = small / "runs" / "small" / "seed42", []
    monkeypatch.setattr(reproduce.subprocess, "Popen", lambda command, **_: began.append(command) or sys.exit())
    directory.mkdir(parents=True)
    (directory / "config.json").touch()
    with pytest.raises(SystemExit):
        reproduce.main(["--only", "small"])
    assert "--resume" not in began[0]
    assert not directory.exists()


def test_reproduce_records_a_run_that_was_complete(small):
    directory = small / "runs" / "small" / "seed42"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"flags": {}, "seed": 42}')
    (directory / "metrics.jsonl").write_text('{"step": 6}\n')
    (directory / "summary.json").write_text('{"seconds": 1}')
    assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
    assert (len(records.read_records("small")), directory.exists()) == (1, False)


def test_reproduce_runs_long_experiments_by_name_only(monkeypatch, small):
    ran = []
    monkeypatch.setattr(reproduce, "run", lambda name, seed: ran.append(name))
    assert reproduce.main([]) == 0
    assert reproduce.main(["--only", "steep"]) == 0
    assert ran == ["small", "wrong", "small", "steep"]


def test_reproduce_runs_committed_code_only(small, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "git_commit", lambda: "0123abc-dirty")
    assert reproduce.main(["--only", "small"]) == 1
    assert "commit them first" in capsys.readouterr().err
    assert records.read_records("small") == []


def test_reproduce_lists_what_is_recorded(capsys):
    assert reproduce.main(["--list", "--only", "fig01*"]) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert line.split()[:-1] == ["fig01_mlp_numpy", "train_mlp_numpy", "15", "of", "15"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "fig99*"], "no experiment matches 'fig99*'; --list shows them"),
        (["--pdf", "--seeds", "2"], "omit --only and --seeds"),
    ],
)
def test_reproduce_exits_with_2_for_wrong_flags(capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(flags)
    assert message in capsys.readouterr().err


def test_reproduce_names_experiments_without_a_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert reproduce.main(["--figures"]) == 1
    assert "no run is recorded of fig01_mlp_numpy, fig03_mlp_pytorch" in capsys.readouterr().err


def test_reproduce_names_latexmk_if_it_is_missing(monkeypatch):
    monkeypatch.setattr(reproduce.shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="latexmk is not installed"):
        reproduce.write_pdf()
