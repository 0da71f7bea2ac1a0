"""What a run is resumed from: damaged, foreign or hostile files are named, and nothing is written."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import CONVNET, MLP, NUMPY, ROOT, SMALL, assert_same_run, checkpoint, contents, run, run_process

import run_folder
import train_mlp_numpy
from run_folder import read_metrics


@pytest.fixture(scope="module")
def stopped_run(synthetic_flags, tmp_path_factory):
    """A run folder that stopped between evaluations, by a signal."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"

    def stop_in_step_8(mlp, learning_rate):
        sgd_step(mlp, learning_rate)
        steps.append(mlp)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        sgd_step, steps = train_mlp_numpy.sgd_step, []
        patch.setattr(train_mlp_numpy, "sgd_step", stop_in_step_8)
        done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", folder)
    assert done.status == 128 + signal.SIGTERM
    return folder


@pytest.fixture
def half_run(stopped_run, tmp_path):
    """A copy of that folder, for a test to damage."""
    return shutil.copytree(stopped_run, tmp_path / "half")


def refusal_to_resume(folder, script=NUMPY):
    """Return the one line with which a run is not resumed, and assert that nothing was written."""
    before = contents(folder)
    done = run(script, "--resume", folder)
    assert done.status == 1
    assert contents(folder) == before
    return done.error


def test_script_that_restores_nothing_does_not_go_on_from_other_weights(half_run, monkeypatch):
    monkeypatch.setattr(train_mlp_numpy.Run, "restore", lambda self, load: None)
    assert "checkpoint.npz was not loaded: Run.restore(load) has to come before Run.steps" in refusal_to_resume(
        half_run
    )


@pytest.mark.skipif(run_folder.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_run_that_another_process_is_training_is_refused(half_run):
    lock = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", lock, half_run / "config.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        before = contents(half_run)
        refused = run(NUMPY, "--resume", half_run)
        other.communicate(b"\n")
    assert refused.status == 1
    assert "is in use by a process that trains in it" in refused.err
    assert contents(half_run) == before
    assert run(NUMPY, "--resume", half_run).status == 0


def test_resume_repeats_an_evaluation_whose_checkpoint_was_not_written(half_run, reference):
    step = int(checkpoint(half_run)["step"])
    with open(half_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step + 3, "test_loss": 0}) + "\n" + '{"step": 99, "test_lo')
    assert run(NUMPY, "--resume", half_run).status == 0
    assert_same_run(half_run, reference(NUMPY))


def test_run_killed_before_its_first_checkpoint_begins_at_step_0(half_run, reference):
    (half_run / "checkpoint.npz").unlink()
    (half_run / "metrics.jsonl").write_text(json.dumps(read_metrics(half_run)[0]) + "\n")
    assert run(NUMPY, "--resume", half_run).status == 0
    assert_same_run(half_run, reference(NUMPY))


def test_run_that_has_lost_its_checkpoint_is_left_as_it_is(half_run):
    (half_run / "checkpoint.npz").unlink()
    with open(half_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 3, "test_loss": 0}) + "\n")
    assert "checkpoint.npz is missing" in refusal_to_resume(half_run)


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_resuming_a_complete_run_writes_nothing(reference, tmp_path, with_checkpoint):
    folder = shutil.copytree(reference(NUMPY), tmp_path / "complete")
    if not with_checkpoint:  # as somebody keeps it who needs the space
        (folder / "checkpoint.npz").unlink()
    before = contents(folder)
    done = run(NUMPY, "--resume", folder)
    assert done.status == 0, done.err
    assert "complete already" in done.out
    assert contents(folder) == before


def test_flags_may_be_repeated_on_resume_but_not_changed(half_run):
    done = run(NUMPY, "--resume", half_run, "--seed", 42, "--learning_rate", 0.01)
    assert done.status == 2
    assert "argument --learning_rate: got 0.01, but" in done.err
    assert "was started with 0.002" in done.err
    assert run(NUMPY, "--resume", half_run, "--seed", 42, "--quiet").status == 0


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "foreign", "cut off"])
def test_damaged_checkpoint_is_named(half_run, content):
    path = half_run / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert "checkpoint.npz is damaged or no checkpoint" in refusal_to_resume(half_run)


def test_checkpoint_beyond_the_end_is_named(half_run):
    np.savez(half_run / "checkpoint.npz", **checkpoint(half_run) | {"step": 41, "seconds": 0.0, "step_seconds": 0.0})
    assert "damaged or no checkpoint (it is of step 41 of 40)" in refusal_to_resume(half_run)


@pytest.mark.parametrize("content", ["", "[1]\n", '{"a": 1}\n', "\xff\n", "no json\n"])
def test_damaged_metrics_are_named(half_run, content):
    (half_run / "metrics.jsonl").write_text(content, encoding="latin-1")
    line = refusal_to_resume(half_run)
    assert "metrics.jsonl is damaged" in line or "metrics.jsonl lacks evaluations" in line


def test_checkpoint_of_another_run_is_named(half_run, reference):
    shutil.copy(reference(NUMPY) / "checkpoint.npz", half_run)
    assert "damaged or no checkpoint (it is of another run)" in refusal_to_resume(half_run)


def test_checkpoint_of_another_network_is_named(half_run):
    state = checkpoint(half_run) | {"seconds": 0.0, "step_seconds": 0.0, "linear2.weight": np.zeros((3, 3))}
    np.savez(half_run / "checkpoint.npz", **state)
    line = refusal_to_resume(half_run)
    assert "is not of this run: linear2.weight has shape (3, 3), expected (10, 20)" in line


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_checkpoint_that_would_run_code_does_not(half_run, tmp_path):
    payload = np.array([Payload(tmp_path / "ran")])
    np.savez(
        half_run / "checkpoint.npz",
        **checkpoint(half_run) | {"seconds": 0.0, "step_seconds": 0.0, "linear1.bias": payload},
    )
    refusal_to_resume(half_run)
    assert not (tmp_path / "ran").exists()


def test_resume_on_other_data_is_refused(half_run):
    config = json.loads((half_run / "config.json").read_text())
    config["dataset"]["fingerprint"] = "0" * 32
    (half_run / "config.json").write_text(json.dumps(config))
    assert "was trained on" in refusal_to_resume(half_run)


def test_run_of_another_script_is_refused(half_run):
    config = json.loads((half_run / "config.json").read_text())
    config["flags"]["script"] = CONVNET
    (half_run / "config.json").write_text(json.dumps(config))
    done = run_process("python", ROOT / f"{NUMPY}.py", "--resume", half_run)
    assert done.status == 2
    assert "is a run of train_convnet_pytorch.py" in done.err


# ---- Resuming PyTorch's runs -------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_torch_run(synthetic_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    assert run(MLP, *synthetic_flags, *SMALL[MLP], "--max_steps=3", "--out_dir", folder).status == 0
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture
def half_torch_run(stopped_torch_run, tmp_path):
    """A run folder that has a checkpoint but no end, for a test to damage."""
    return shutil.copytree(stopped_torch_run, tmp_path / "half")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "foreign", "cut off"])
def test_damaged_pytorch_checkpoint_is_named(half_torch_run, content):
    path = half_torch_run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert "checkpoint.pt is damaged or no checkpoint" in refusal_to_resume(half_torch_run, MLP)


def save_state(folder, state):
    """Write a checkpoint that says that it is of the run in `folder`."""
    run_id = json.loads((folder / "config.json").read_text())["id"]
    own = {"run": run_id, "step": 3, "seconds": 1.0, "step_seconds": 1.0}
    torch.save(own | state if isinstance(state, dict) else state, folder / "checkpoint.pt")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1, 2], "holds a list"),
        ({"run": "another", "network": {}}, "it is of another run"),
        ({"step": None}, "damaged or no checkpoint"),
        ({"network": {}}, "is not of this run: Error(s) in loading state_dict for MLP"),
        ({"network": torch.ones(3)}, "is not of this run"),
        ({}, "is not of this run: 'network'"),
    ],
    ids=["a list", "another run", "no step", "another network", "no state", "no network"],
)
def test_foreign_pytorch_checkpoint_is_named(half_torch_run, state, message):
    save_state(half_torch_run, state)
    assert message in refusal_to_resume(half_torch_run, MLP)


def test_pytorch_checkpoint_that_would_run_code_does_not(half_torch_run, tmp_path):
    save_state(half_torch_run, {"network": Payload(tmp_path / "ran")})
    assert "damaged or no checkpoint" in refusal_to_resume(half_torch_run, MLP)
    assert not (tmp_path / "ran").exists()


def test_run_is_resumed_by_as_many_processes_as_began_it(half_torch_run):
    config = json.loads((half_torch_run / "config.json").read_text())
    assert config["processes"] == 1
    (half_torch_run / "config.json").write_text(json.dumps(config | {"processes": 2}))
    line = refusal_to_resume(half_torch_run, MLP)
    assert "was begun by 2 processes, got 1: resume it by torchrun with 2" in line
