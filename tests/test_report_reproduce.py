"""report.reproduce runs what is not recorded, resumes what was stopped, and records what has ended."""

import json
import os
import signal
import subprocess
import sys

import pytest
from runs import ROOT, wait_for

from report import records, reproduce
from report.runs import Experiment

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
    assert capsys.readouterr().out.count("+ python train_mlp_numpy.py") == 2
    assert [(run.seed, run.config["flags"]["dnn_hidden_units"]) for run in records.read_records("small")] == [
        (42, [10]), (43, [10]),
    ]  # fmt: skip
    assert [path.name for path in (small / "runs" / "small").iterdir() if path.name != ".lock"] == []


@pytest.mark.slow
def test_reproduce_records_a_diverged_run_as_a_result(small):
    assert reproduce.main(["--only", "steep"]) == 0
    (run,) = records.read_records("steep")
    assert run.diverged.startswith(("test loss is", "train loss is"))
    assert len(run.metrics) < 4


def test_reproduce_does_not_record_a_failed_run(small, capsys):
    assert reproduce.main(["--only", "wrong"]) == 1
    assert "reproduce.py: error: wrong, seed 42, ended with status" in capsys.readouterr().err.splitlines()[-1]
    assert records.read_records("wrong") == []


@pytest.mark.parametrize("left", ["summary.json", "config.json", "empty config.json"])
def test_reproduce_handles_what_a_killed_run_left(small, left, monkeypatch):
    """A summary: the run is recorded. A config.json: it is resumed; an empty one: it begins again."""
    directory = small / "runs" / "small" / "seed42"
    directory.mkdir(parents=True)
    config = {"script": "s", "flags": {}, "seed": 42, "dataset": {"is_synthetic": False}}
    (directory / "config.json").write_text("" if left == "empty config.json" else json.dumps(config))
    began = []
    monkeypatch.setattr(reproduce.subprocess, "Popen", lambda command, **_: began.append(command) or sys.exit())
    if left == "summary.json":
        (directory / "metrics.jsonl").write_text('{"step": 6}\n')
        (directory / "summary.json").write_text('{"seconds": 1}')
        assert reproduce.main(["--only", "small", "--seeds", "1"]) == 0
        assert (len(records.read_records("small")), began, directory.exists()) == (1, [], False)
    else:
        with pytest.raises(SystemExit):
            reproduce.main(["--only", "small", "--seeds", "1"])
        assert ("--resume" in began[0]) == directory.exists() == (left == "config.json")


@pytest.mark.slow
def test_reproduce_passes_sigterm_to_the_run(small):
    """The run is left with a checkpoint, and the status is that of an interrupted command."""
    script = (
        "import sys; from pathlib import Path; from report import records, reproduce;"
        "from report.runs import Experiment; reproduce.git_commit = lambda: None;"
        f"records.RESULTS, reproduce.RUNS = Path({str(small / 'results')!r}), Path({str(small / 'runs')!r});"
        f"reproduce.EXPERIMENTS = {{'long': Experiment('train_mlp_numpy', 1, "
        f"{reproduce.EXPERIMENTS['small'].flags + ' --max_steps 100000'!r})}};"
        "sys.exit(reproduce.main(['--only', 'long']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    directory = small / "runs" / "long" / "seed42"
    wait_for(lambda: (directory / "metrics.jsonl").exists(), process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate()[1].endswith("interrupted; the same command continues\n")
    assert process.returncode == 130
    assert (directory / "checkpoint.npz").exists()


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
        (["--figures", "--only", "fig05*"], "leave out --only and --seeds"),
        (["--pdf", "--seeds", "2"], "leave out --only and --seeds"),
    ],
)
def test_reproduce_exits_with_2_for_wrong_flags(capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_reproduce_names_experiments_without_a_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert reproduce.main(["--figures"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "left as they are: no run is recorded of fig01_mlp_numpy, fig03_mlp_pytorch" in line
