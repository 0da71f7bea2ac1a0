"""Several processes, started by torchrun: same training as in one, signals, restarts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import MLP, ROOT, SMALL, assert_same_run, run_process, step_of, this_python, wait_for

from training import distributed
from training.files import read_metrics

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which Windows builds lack")


def torchrun(*flags, n=2, restarts=0):
    """Return the command that trains the PyTorch MLP in `n` processes."""
    launcher = ["python", "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
    return this_python([*launcher, f"--max_restarts={restarts}", ROOT / f"{MLP}.py", *flags])


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "1", "RANK": "1"}, {"WORLD_SIZE": "2"}], ids=str)
def test_incomplete_environment_is_a_single_process(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group():
        assert (distributed.size(), distributed.rank(), distributed.local_rank()) == (1, 0, 0)


@pytest.mark.slow
def test_two_processes_have_losses_of_one(synthetic_flags, tmp_path):
    # Without batch norm and dropout, which depend on a process's share of the batch.
    flags = [*synthetic_flags, "--dnn_hidden_units=20", "--init=kaiming", "--batch_size=30", "--max_steps=20"]
    flags += ["--eval_freq=5", "--augment=flip_crop", "--momentum=0.9", "--device=cpu", "--quiet"]
    flags += ["--preprocess=standardize", "--learning_rate=0.001"]
    losses = []
    for n in (1, 2):
        done = run_process(*torchrun(*flags, "--out_dir", tmp_path / str(n), n=n))
        assert done.status == 0, done.err
        losses.append([m["test_loss"] for m in read_metrics(tmp_path / str(n))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.slow
def test_processes_stop_together_and_resume(synthetic_flags, tmp_path):
    directory = tmp_path / "run"
    flags = [*synthetic_flags, *SMALL[MLP], "--max_steps=100000", "--eval_freq=100000", "--out_dir", directory]
    process = subprocess.Popen(torchrun(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for((directory / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert "to resume: torchrun --nproc_per_node=2" in err
    step = step_of(directory)
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace('"max_steps": 100000,', f'"max_steps": {step + 3},'))
    done = run_process(*torchrun("--resume", directory))
    assert done.status == 0, done.err
    assert step_of(directory) == step + 3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="without /proc this test cannot find a process to kill")
def test_restart_after_sigkill_matches_uninterrupted_run(synthetic_flags, tmp_path):
    flags = [*synthetic_flags, *SMALL[MLP], "--max_steps=60", "--eval_freq=10", "--out_dir"]
    uninterrupted, directory, log = tmp_path / "uninterrupted", tmp_path / "run", tmp_path / "log"
    assert run_process(*torchrun(*flags, uninterrupted)).status == 0
    with open(log, "w") as file:
        process = subprocess.Popen(torchrun(*flags, directory, restarts=1), stdout=file, stderr=file)
    wait_for(lambda: (directory / "checkpoint.pt").exists() and step_of(directory) >= 10, process, log)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    assert process.wait(timeout=300) == 0, log.read_text()
    assert_same_run(directory, uninterrupted)
