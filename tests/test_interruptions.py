"""Runs that are killed, stopped or diverge: nothing is lost, and what is resumed ends as what was left alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import (
    CONVNET,
    FOLDER_FILES,
    MLP,
    NUMPY,
    ROOT,
    SMALL,
    assert_same_run,
    checkpoint,
    contents,
    handling,
    kill_and_resume,
    run,
    run_process,
    start,
    this_python,
    torchrun,
    wait_for,
)

import torch_run
import train_mlp_numpy
from run_folder import read_metrics
from train_utils import Run

no_torchrun = pytest.mark.skipif(
    sys.platform == "win32", reason="torchrun needs libuv, which PyTorch's Windows builds lack"
)

# ---- Kills and signals -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("script", "n_kills"), [(NUMPY, 6), (MLP, 2), (CONVNET, 2)])
def test_run_killed_at_random_moments_and_resumed_ends_as_one_left_alone(
    synthetic_flags, reference, tmp_path, script, n_kills
):
    folder = tmp_path / "run"
    pictures = [] if script == NUMPY else ["--pictures"]
    kill_and_resume(script, [*synthetic_flags, *SMALL[script], *pictures], folder, n_kills)
    assert_same_run(folder, reference(script))
    if script == NUMPY:
        assert {path.name for path in folder.iterdir()} - {"checkpoint.npz.tmp"} <= FOLDER_FILES[script]
    else:
        assert len(checkpoint(folder)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_interrupted_run_ends_cleanly_and_the_command_that_it_prints_resumes_it(
    synthetic_flags, reference, tmp_path, stop
):
    folder = tmp_path / "run with a space"
    longer = ["--max_steps=2000", "--eval_freq=1000"]  # than a slow machine needs to send a signal
    process = start(NUMPY, [*synthetic_flags, *SMALL[NUMPY], *longer], folder)
    wait_for(folder / "checkpoint.npz", process)
    process.send_signal(stop)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + stop
    assert {path.name for path in folder.iterdir()} == FOLDER_FILES[NUMPY] - {"summary.json"}
    assert 0 <= int(checkpoint(folder)["step"]) < 2000
    (command,) = [line.split("to go on: ")[1] for line in err.splitlines() if "to go on: " in line]
    assert command.startswith("python ")
    done = run_process(*shlex.split(command))
    assert done.status == 0, done.err
    assert_same_run(folder, reference(NUMPY, *longer))


@pytest.mark.parametrize(
    ("script", "stop"),
    [
        (NUMPY, "SIGINT"),
        (NUMPY, "SIGTERM"),
        (NUMPY, "SIGHUP"),
        (MLP, "SIGINT"),
        (MLP, "SIGHUP"),
        pytest.param(CONVNET, "SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_signal_ends_a_run_after_its_step_with_a_checkpoint_from_which_it_ends_as_one_left_alone(
    synthetic_flags, reference, tmp_path, monkeypatch, script, stop
):
    """In this process: as the loss of step 5 is looked at, between two evaluations of the MLPs."""

    def signal_in_step_5(run, name, value):
        if name == "training loss" and run.step == 5 and run.args.resume is None:
            os.kill(os.getpid(), stop)

    if not hasattr(signal, stop):
        pytest.skip(f"there is no {stop} here")
    stop = getattr(signal, stop)
    folder, left_alone = tmp_path / "run", reference(script)
    monkeypatch.setattr(Run, "_check_finite", signal_in_step_5)
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    with handling(stop, signal.SIG_DFL):
        done = run(script, *synthetic_flags, *SMALL[script], "--out_dir", folder)
    assert done.status == 128 + stop
    assert "stopping after this step; once more to stop at once" in done.err
    assert f"stopped at step 5; to go on: python {script}.py --resume {folder}" in done.err
    assert int(checkpoint(folder)["step"]) == 5
    assert not (folder / "summary.json").exists()
    assert run(script, "--resume", folder).status == 0
    assert_same_run(folder, left_alone)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_run_goes_on_at_a_signal_that_its_process_ignores(ignored, synthetic_flags, reference, tmp_path, monkeypatch):
    """Under nohup that is the end of its terminal; a job in a shell's background ignores Ctrl-C."""
    folder, left_alone = tmp_path / "run", reference(NUMPY)
    monkeypatch.setattr(Run, "_check_finite", lambda *_: os.kill(os.getpid(), ignored))
    with handling(ignored, signal.SIG_IGN):
        assert run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", folder).status == 0
    assert_same_run(folder, left_alone)


@pytest.mark.parametrize(("n_processes", "ended"), [(1, 1), (2, 0)])
def test_signal_that_torchrun_hands_on_again_ends_no_process_before_its_checkpoint(n_processes, ended):
    """Where a scheduler signals all, a process gets its own and torchrun's; alone, the second ends it at once."""
    run, ends = Run.__new__(Run), []
    run.stopped_by, run.n_processes = None, n_processes
    with handling(signal.SIGTERM, lambda *_: ends.append("at once")), run._catch_signals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert run.stopped_by == signal.SIGTERM
    assert len(ends) == ended


# ---- Several processes -------------------------------------------------------------------------


@pytest.mark.slow
@no_torchrun
def test_two_processes_stop_together_and_the_run_can_be_resumed(synthetic_flags, tmp_path):
    folder = tmp_path / "run"
    small = [*synthetic_flags, *SMALL[MLP], "--max_steps=100000", "--eval_freq=100000"]
    process = subprocess.Popen(
        this_python(torchrun(MLP, *small, "--out_dir", folder)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(folder / "checkpoint.pt", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert b"to go on: torchrun --nproc_per_node=2" in err
    assert b"Traceback" not in err.split(b"to go on")[0]
    step = int(checkpoint(folder)["step"])
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["max_steps"] = step + 4
    (folder / "config.json").write_text(json.dumps(config))
    done = run_process(*torchrun(MLP, "--resume", folder))
    assert done.status == 0, done.err
    assert read_metrics(folder)[-1]["step"] == step + 4
    assert {path.name for path in folder.iterdir()} == FOLDER_FILES[MLP]


def test_signal_that_comes_while_processes_agree_counts_after_the_next_step(synthetic_flags, tmp_path, monkeypatch):
    """For the others have been told that nobody stops: a process that left now would leave them waiting."""
    told, total = [], torch_run.Processes.total

    def total_and_signal(processes, *numbers):
        totals = total(processes, *numbers)
        if isinstance(numbers[0], bool):  # whether to stop
            told.append(totals[0])
            if len(told) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return totals

    monkeypatch.setattr(torch_run.Processes, "total", total_and_signal)
    done = run(MLP, *synthetic_flags, *SMALL[MLP], "--out_dir", tmp_path / "run")
    assert done.status == 128 + signal.SIGTERM
    assert told == [False, False, False, True]
    assert int(checkpoint(tmp_path / "run")["step"]) == 3


# ---- Divergence and other ends -----------------------------------------------------------------


@pytest.mark.parametrize(("eval_freq", "seen_by"), [(1, "train loss"), (1000, "training loss")])
def test_diverging_run_stops_with_a_message_and_keeps_the_last_good_checkpoint(
    synthetic_flags, tmp_path, eval_freq, seen_by
):
    folder = tmp_path / "run"
    steep = [f"--eval_freq={eval_freq}", "--learning_rate=1e6", f"--out_dir={folder}"]
    done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], *steep)
    assert done.status == 1
    assert f"error: {seen_by} is nan at step " in done.error
    assert "--learning_rate below 1000000.0" in done.error
    assert str(folder / "checkpoint.npz") in done.error
    assert all(np.isfinite(array).all() for array in checkpoint(folder).values() if array.dtype.kind == "f")
    assert all(np.isfinite(list(m.values())).all() for m in read_metrics(folder))
    assert not (folder / "summary.json").exists()


def test_diverging_pytorch_run_stops_and_keeps_the_last_good_checkpoint(synthetic_flags, tmp_path):
    folder = tmp_path / "run"
    steep = ["--learning_rate=1e9", "--eval_freq=1", "--device=cpu", f"--out_dir={folder}"]
    done = run(MLP, *synthetic_flags, *steep)
    assert done.status == 1
    assert "the run has diverged; start anew with a --learning_rate below" in done.error
    assert all(np.isfinite(array).all() for array in checkpoint(folder).values() if array.dtype.kind == "f")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize(
    "script",
    [
        *(f"{script}.py" for script in (NUMPY, MLP, CONVNET, "report/reproduce", "report/search")),
        *(f"report/{script}.py" for script in ("gradient_flow", "convnet_answers", "wrong_gradients")),
    ],
)
def test_interrupt_while_a_script_is_imported_is_one_line_and_status_130(tmp_path, script):
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command, env = [sys.executable, ROOT / script, "--help"], os.environ | {"PYTHONPATH": str(tmp_path)}
    with handling(signal.SIGINT, signal.SIG_DFL):
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{Path(script).name}: interrupted\n")


def test_weights_that_the_last_step_has_ruined_do_not_replace_the_checkpoint(synthetic_flags, tmp_path, monkeypatch):
    """Ctrl-C in a step whose loss, that of the weights before it, was still finite."""

    def ruinous_step(mlp, _):
        mlp.layers[0].params["weight"][0, 0] = np.nan
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_mlp_numpy, "sgd_step", ruinous_step)
    assert run(NUMPY, *synthetic_flags, *SMALL[NUMPY], f"--out_dir={tmp_path / 'run'}").status == 1
    assert int(checkpoint(tmp_path / "run")["step"]) == 0
    assert all(np.isfinite(a).all() for a in checkpoint(tmp_path / "run").values() if a.dtype.kind == "f")


def test_network_that_overflows_untrained_is_not_blamed_on_the_learning_rate(synthetic_flags, tmp_path):
    done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--neg_slope", 1e300, "--out_dir", tmp_path / "run")
    assert done.status == 1
    assert "at step 0: the network overflows before it is trained" in done.error
    assert "learning_rate" not in done.error


def test_damaged_data_set_ends_with_one_line_and_status_1(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"x")
    done = run_process("python", ROOT / f"{NUMPY}.py", "--data_dir", tmp_path, "--out_dir", tmp_path / "run")
    assert done.status == 1
    assert done.err.startswith("train_mlp_numpy.py: error: ")
    assert done.err.count("\n") == 1
    assert contents(tmp_path).keys() == {"data_batch_1"}


def test_network_that_memory_cannot_hold_ends_with_one_line_and_status_1(monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 22.9 GiB")

    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", no_memory)
    done = run(NUMPY, "--quiet")
    assert done.status == 1
    assert done.err == (
        "train_mlp_numpy.py: error: out of memory (Unable to allocate 22.9 GiB): take a smaller network or batch\n"
    )


def test_pytorchs_lack_of_memory_ends_with_one_line_and_status_1(synthetic_flags, tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried …"
        )

    monkeypatch.setattr("train_mlp_pytorch.MLP", no_memory)
    done = run(MLP, *synthetic_flags, "--out_dir", tmp_path / "run")
    assert done.status == 1
    assert "error: out of memory ([enforce fail" in done.error
