"""Run directories: their files, no overwriting, and which ones cannot be resumed."""

import json
import os
import shutil
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import torch
from runs import CONVNET, DEVICE, MLP, NUMPY, SMALL, assert_same_run, contents, run

import train_mlp_numpy
from cifar10_utils import get_cifar10
from training.engine import TorchRun
from training.files import fcntl, read_metrics, write_atomically
from training.metadata import git_commit
from training.run import Run, run_script

FILES = {"config.json", "metrics.jsonl", "accuracy.png", "loss.png", "summary.json"}
TORCH_FILES = FILES | {"checkpoint.pt", "confusion_matrix.png", "first_layer.png", "worst_mistakes.png"}
needs_locks = pytest.mark.skipif(fcntl is None, reason="file locks need fcntl, which Windows lacks")
slow_convnet = pytest.param(CONVNET, marks=pytest.mark.slow)

# ---- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def drawn(reference):
    """Call with a script's name to get the directory of a small run with all figures."""
    return lambda script: reference(script, *["--pictures"] * (script != NUMPY), "--eval_freq=20", draw=True)


@pytest.mark.parametrize("script", [NUMPY, MLP, slow_convnet])
def test_run_directory_has_all_files_and_no_blank_figure(drawn, script):
    expected = FILES | {"checkpoint.npz"} if script == NUMPY else TORCH_FILES
    assert {path.name for path in drawn(script).iterdir()} == expected
    for path in drawn(script).glob("*.png"):
        assert matplotlib.image.imread(path).std() > 0.05, f"{path.name} is blank"


def test_metrics_have_one_line_per_evaluation(drawn):
    metrics = read_metrics(drawn(NUMPY))
    keys = ["step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "images_seen", "seconds"]
    assert list(metrics[0]) == keys
    assert [(m["step"], m["images_seen"]) for m in metrics] == [(0, 0), (20, 600), (40, 1200)]
    assert {"validation_loss", "validation_accuracy"} <= read_metrics(drawn(MLP))[0].keys()


GUESS = (torch.tensor(2.3), np.float32(0.1))


@pytest.mark.parametrize(
    ("logged", "is_returned", "message"),
    [
        ({"train": GUESS, "test": GUESS}, True, ""),
        ({"train": GUESS, "test": (0.1, 2.3)}, True, "log: got test=(0.1, 2.3), expected loss and accuracy"),
        ({}, True, "finish: there is no evaluation"),
        ({"train": GUESS, "test": GUESS}, False, "end it with: return run"),
    ],
)
def test_mistake_in_a_students_loop_is_one_line(synthetic_flags, tmp_path, capsys, logged, is_returned, message):
    def train(args):
        data = get_cifar10("none", dataset="synthetic", synthetic_size=500)
        run = Run(args, data, {"batches": data["train"]})
        for step in run.steps():
            if logged and run.is_evaluation_step(step):
                run.log(**logged)
            if step == args.max_steps:
                break
        run.finish()
        return run if is_returned else None

    flags = [*synthetic_flags, "--max_steps=2", f"--out_dir={tmp_path / 'run'}", "--quiet"]
    assert run_script(train, train_mlp_numpy.make_flags(), flags) == bool(message)
    assert message in capsys.readouterr().err


def test_config_describes_the_run(drawn):
    config = json.loads((drawn(MLP) / "config.json").read_text())
    assert config["flags"]["dnn_hidden_units"] == [20, 10]
    assert config["dataset"]["is_synthetic"] is True
    assert len(config["dataset"]["fingerprint"]) == 32
    assert (config["seed"], config["device"].split()[0], config["precision"]) == (42, DEVICE, "fp32")
    assert set(config["versions"]) >= {"python", "numpy", "torch"}


def test_summary_has_last_and_best_values(drawn):
    metrics, summary = read_metrics(drawn(NUMPY)), json.loads((drawn(NUMPY) / "summary.json").read_text())
    assert summary["last"] == metrics[-1]
    assert summary["best"]["test_accuracy"]["value"] == max(m["test_accuracy"] for m in metrics)
    assert summary["best"]["test_loss"]["value"] == min(m["test_loss"] for m in metrics)
    assert summary["images_per_second"] > 0
    assert summary["peak_memory_mb"] is None or summary["peak_memory_mb"] > 0


def test_synthetic_run_prints_a_banner(synthetic_flags, tmp_path):
    done = run(NUMPY, *synthetic_flags, "--max_steps=1", "--quiet", "--out_dir", tmp_path / "run")
    assert done.err.splitlines() == ["*** SYNTHETIC IMAGES: these numbers are not CIFAR-10 results ***"] * 2


def test_write_atomically_keeps_the_old_file_on_error(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new, incomplete")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match=r"checkpoint.npz could not be written: No space left"):
        write_atomically(path, write)
    assert contents(tmp_path) == {"checkpoint.npz": b"old"}


def test_git_commit_is_dirty_if_tracked_code_was_changed(tmp_path, monkeypatch):
    def git(*command):
        settings = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *settings, *command], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr("training.metadata.ROOT", tmp_path)
    assert git_commit() is None
    git("init")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("x = 1\n")
    (tmp_path / "numbers.tex").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git_commit()
    assert len(commit) == 40
    (tmp_path / "numbers.tex").write_text("2\n")
    assert git_commit() == commit
    (tmp_path / "package" / "code.py").write_text("x = 2\n")
    assert git_commit() == f"{commit}-dirty"


# ---- No run overwrites another -------------------------------------------------------------------


def test_runs_of_one_second_get_their_own_directories(synthetic_flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    for _ in range(3):
        assert run(NUMPY, *synthetic_flags, "--max_steps=1").status == 0
    directories = list((tmp_path / "results" / NUMPY).iterdir())
    assert len(directories) == 3
    assert all((directory / "summary.json").exists() for directory in directories)


def test_run_does_not_overwrite_one_that_just_started(synthetic_flags, tmp_path, monkeypatch):
    get_cifar10 = train_mlp_numpy.get_cifar10

    def get_cifar10_while_another_run_starts(*args, **kwargs):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("another run's")
        return get_cifar10(*args, **kwargs)

    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", get_cifar10_while_another_run_starts)
    done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", tmp_path / "run")
    assert done.status == 1
    assert "already has a config.json; name another directory" in done.error
    assert contents(tmp_path / "run") == {"config.json": b"another run's"}


# ---- Resuming ------------------------------------------------------------------------------------


@pytest.fixture
def stopped(reference, tmp_path):
    """Call with a script's name to get the directory of a run without summary.json, which can be resumed."""
    without_summary = shutil.ignore_patterns("summary.json")
    return lambda script: shutil.copytree(reference(script), tmp_path / script, ignore=without_summary)


def resume_error(script, directory):
    """Return the error on resuming a run, one line, and assert that nothing was written."""
    before = contents(directory)
    done = run(script, "--resume", directory)
    assert done.status == 1
    assert contents(directory) == before
    return done.error


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def replace(path, part, name, value):
    """Replace an entry of a checkpoint; None removes it."""
    kind = TorchRun if path.suffix == ".pt" else Run
    state = kind.read_state(None, path)
    state[part][name] = value
    if value is None:
        del state[part][name]
    kind.write_state(None, path, state)


WEIGHT = {".npz": ("mlp", "linear2.weight"), ".pt": ("network", "layers.0.weight")}
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "missing": lambda path: path.unlink(),
    "of another run": lambda path: replace(path, "run", "id", "another"),
    "of another network": lambda path: replace(path, *WEIGHT[path.suffix], torch.zeros(3, 3)),
    "incomplete": lambda path: replace(path, "batches", "position", None),
    "with code": lambda path: replace(path, *WEIGHT[path.suffix], Payload(path.with_name("ran"))),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("script", [NUMPY, MLP])
def test_resume_rejects_invalid_checkpoint(stopped, script, damage):
    directory = stopped(script)
    path = directory / ("checkpoint.npz" if script == NUMPY else "checkpoint.pt")
    DAMAGES[damage](path)
    line = resume_error(script, directory)
    assert f"error: {path} is not a valid checkpoint (" in line
    assert line.endswith("; start a new run")
    assert not (directory / "ran").exists(), "code in the checkpoint was run"


@pytest.mark.parametrize("content", ["[1]\n", '{"a": 1}\n', "\xff\n", "no json\n"])
def test_resume_rejects_invalid_metrics(stopped, content):
    directory = stopped(NUMPY)
    (directory / "metrics.jsonl").write_text(content, encoding="latin-1")
    assert "metrics.jsonl is not a valid metrics file" in resume_error(NUMPY, directory)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset", {"name": "CIFAR-10", "fingerprint": "0"}, "--data_dir"),
        ("processes", 2, "was started with 2 processes, got 1"),
    ],
)
def test_resume_rejects_other_data_or_processes(stopped, key, value, message):
    directory = stopped(NUMPY)
    config = json.loads((directory / "config.json").read_text())
    value = config[key] | value if isinstance(value, dict) else value
    (directory / "config.json").write_text(json.dumps(config | {key: value}))
    assert message in resume_error(NUMPY, directory)


@needs_locks
def test_resume_rejects_run_in_use(stopped):
    directory = stopped(NUMPY)
    lock = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", lock, directory / "config.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert "is in use by another training process" in resume_error(NUMPY, directory)
        other.communicate(b"\n")
    assert run(NUMPY, "--resume", directory).status == 0


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_resume_of_complete_run_writes_nothing(reference, tmp_path, with_checkpoint):
    directory = shutil.copytree(reference(NUMPY), tmp_path / "complete")
    if not with_checkpoint:  # as if deleted to save space
        (directory / "checkpoint.npz").unlink()
    before = contents(directory)
    done = run(NUMPY, "--resume", directory)
    assert (done.status, "already complete" in done.out) == (0, True)
    assert contents(directory) == before


def test_resume_repeats_evaluation_without_checkpoint(synthetic_flags, reference, tmp_path):
    directory = tmp_path / "run"
    assert run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--max_steps=3", "--out_dir", directory).status == 0
    (directory / "summary.json").unlink()
    text = (directory / "config.json").read_text().replace('"max_steps": 3,', '"max_steps": 40,')
    (directory / "config.json").write_text(text)
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "test_loss": 0}\n{"step": 9, "test_lo')
    assert run(NUMPY, "--resume", directory).status == 0
    assert_same_run(directory, reference(NUMPY))


def test_resume_without_first_checkpoint_starts_at_step_0(stopped, reference):
    directory = stopped(NUMPY)
    (directory / "checkpoint.npz").unlink()
    (directory / "metrics.jsonl").write_text(json.dumps(read_metrics(directory)[0]) + "\n")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"id": "copy"}))
    assert run(NUMPY, "--resume", directory).status == 0
    assert_same_run(directory, reference(NUMPY))
