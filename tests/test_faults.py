"""Signals, full disks, closed terminals and pipes: a resumed run matches an uninterrupted one.

FAULTS=100 python -m pytest -m slow tests/test_faults.py
"""

import errno
import io
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from runs import (
    CONVNET,
    MLP,
    NUMPY,
    ROOT,
    SCRIPTS,
    SMALL,
    assert_same_run,
    checkpoint,
    handling,
    run,
    run_process,
    step_of,
    this_python,
    wait_for,
)

import training.files
from training.engine import TorchRun
from training.files import read_metrics
from training.run import Run

SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# ---- In this process: signals, full disks, divergence ----------------------------------------------


@pytest.mark.parametrize(
    ("script", "name"),
    [*((s, n) for s in (NUMPY, MLP) for n in SIGNALS), pytest.param(CONVNET, "SIGTERM", marks=pytest.mark.slow)],
)
def test_resume_after_signal_matches_uninterrupted_run(synthetic_flags, reference, tmp_path, monkeypatch, script, name):
    number, directory, uninterrupted = getattr(signal, name), tmp_path / "run", reference(script)
    update = Run.update

    def signal_in_step_5(self, loss):
        update(self, loss)
        if self.step == 4 and self.args.resume is None:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "update", signal_in_step_5)
    with handling(number, signal.SIG_DFL):
        done = run(script, *synthetic_flags, *SMALL[script], "--out_dir", directory)
    assert done.status == 128 + number
    assert "stopped after 5 steps; to resume: " in done.error
    assert f"--resume {directory}" in done.error
    assert step_of(directory) == 5
    assert not (directory / "summary.json").exists()
    assert run(script, "--resume", directory).status == 0
    assert_same_run(directory, uninterrupted)


@pytest.mark.parametrize("name", SIGNALS)
def test_ignored_signal_does_not_stop_a_run(synthetic_flags, reference, tmp_path, monkeypatch, name):
    directory, uninterrupted, number = tmp_path / "run", reference(NUMPY), getattr(signal, name)
    monkeypatch.setattr(Run, "_check_finite", lambda *_: os.kill(os.getpid(), number))
    with handling(number, signal.SIG_IGN):  # as under nohup, or in a shell's background job
        assert run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", directory).status == 0
    assert_same_run(directory, uninterrupted)


@pytest.mark.parametrize(("n_processes", "n_ends"), [(1, 1), (2, 0)])
def test_second_signal_stops_a_single_process_at_once(n_processes, n_ends):
    run, ends = Run.__new__(Run), []
    run.stopped_by, run.n_processes = None, n_processes
    with handling(signal.SIGTERM, lambda *_: ends.append("at once")), run._catch_signals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert (run.stopped_by, len(ends)) == (signal.SIGTERM, n_ends)


@pytest.mark.parametrize("n_written", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("script", [NUMPY, MLP])
def test_resume_after_full_disk_matches_uninterrupted_run(
    synthetic_flags, reference, tmp_path, monkeypatch, script, n_written
):
    """The disk is full after `n_written` files: config, then metrics and checkpoint in turn."""
    directory, uninterrupted, fsync, flushed = tmp_path / "run", reference(script), os.fsync, []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) > n_written:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(training.files.os, "fsync", full)
    done = run(script, *synthetic_flags, *SMALL[script], "--out_dir", directory)
    monkeypatch.undo()
    file = ["config.json", "metrics.jsonl", "checkpoint"][min(n_written, 1 + (n_written + 1) % 2)]
    assert done.status == 1
    assert f"{directory / file}" in done.error
    assert "could not be written: No space left on device" in done.error
    if n_written == 0:
        assert "the run did not start" in done.error
        assert not directory.exists()
        return
    assert f"then resume: --resume {directory}" in done.error
    assert list(directory.glob("*.tmp")) == []
    assert run(script, "--resume", directory).status == 0
    assert_same_run(directory, uninterrupted)


def test_torch_checkpoint_reports_full_disk():
    class Full(io.BytesIO):
        def write(self, raw):
            if self.tell() + len(raw) > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(raw)

    with pytest.raises(OSError, match="No space left"):
        TorchRun.write_state(None, Full(), {"network": {"weight": torch.ones(100_000)}})


@pytest.mark.parametrize(
    ("script", "eval_freq", "seen_by"),
    [(NUMPY, 1, "train loss"), (NUMPY, 1000, "training loss"), (MLP, 1, "train loss")],
)
def test_divergence_keeps_the_last_checkpoint(synthetic_flags, tmp_path, script, eval_freq, seen_by):
    directory = tmp_path / "run"
    flags = [f"--eval_freq={eval_freq}", "--learning_rate=1e9", "--out_dir", directory]
    done = run(script, *synthetic_flags, *flags)
    assert done.status == 1
    assert f"error: {seen_by} is nan at step " in done.error
    assert "or start a new run with a --learning_rate below 1000000000.0" in done.error
    assert all(np.isfinite(array).all() for array in checkpoint(directory).values() if array.dtype.kind == "f")
    assert all(np.isfinite(list(m.values())).all() for m in read_metrics(directory))


@pytest.mark.parametrize(
    ("script", "function", "allocate"), [(NUMPY, "get_cifar10", np.empty), (MLP, "make_network", torch.empty)]
)
def test_out_of_memory_error_is_one_line(synthetic_flags, monkeypatch, script, function, allocate):
    monkeypatch.setattr(f"{script}.{function}", lambda *_, **__: allocate(1 << 57))
    done = run(script, *synthetic_flags, "--quiet")
    assert (done.status, "out of memory (" in done.error) == (1, True)
    assert done.error.endswith("; use a smaller network or batch")


# ---- In subprocesses: real signals and faults ------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_printed_command_resumes_a_run(synthetic_flags, reference, tmp_path, name):
    directory, longer = tmp_path / "run with a space", ["--max_steps=2000", "--eval_freq=1000"]
    command = this_python(["python", ROOT / f"{NUMPY}.py", *synthetic_flags, *SMALL[NUMPY], *longer])
    with handling(signal.SIGINT, signal.SIG_DFL):
        process = subprocess.Popen([*command, "--out_dir", directory], stderr=subprocess.PIPE, text=True)
    wait_for((directory / "checkpoint.npz").exists, process)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + getattr(signal, name)
    (command,) = [line.split("to resume: ")[1] for line in err.splitlines() if "to resume: " in line]
    done = run_process(*shlex.split(command))
    assert done.status == 0, done.err
    assert_same_run(directory, reference(NUMPY, *longer))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no sh")
@pytest.mark.parametrize("rest", ["| head -n 1", ">&-", "2>&-", ">&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_closed_output_does_not_stop_training(synthetic_flags, reference, tmp_path, rest):
    flags = " ".join([*synthetic_flags, *SMALL[NUMPY], "--eval_freq=20"])
    command = f"{{ '{sys.executable}' {ROOT / NUMPY}.py {flags} --out_dir '{tmp_path / 'run'}'; echo $? > status; }}"
    done = run_process("sh", "-c", f"{command} {rest}", cwd=tmp_path)
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err
    assert (tmp_path / "status").read_text() == "0\n"
    assert_same_run(tmp_path / "run", reference(NUMPY, "--eval_freq=20"))


KINDS = ("SIGKILL", "SIGTERM", "SIGHUP", "terminal", "file size")
N_FAULTS = int(os.environ.get("FAULTS", "5"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the faults need Linux")
@pytest.mark.parametrize("i", range(N_FAULTS))
def test_resume_after_random_fault_matches_uninterrupted_run(synthetic_flags, reference, tmp_path, i):
    """Scripts and kinds of fault take turns; the moment of the fault is random."""
    script, kind, rng = SCRIPTS[i % len(SCRIPTS)], KINDS[i % len(KINDS)], random.Random(i)
    directory = tmp_path / "run"
    status, err = run_with_fault(kind, script, [*synthetic_flags, *SMALL[script]], directory, rng)
    assert "Traceback" not in err, err
    assert (status == 0) == (directory / "summary.json").exists(), (status, err)
    if kind != "SIGKILL":
        assert not list(directory.glob("*.tmp")), "a temporary file is left"
    read_metrics(directory)
    done = run(script, "--resume", directory)
    assert done.status == 0, done.err
    assert_same_run(directory, reference(script))


def run_with_fault(kind, script, flags, directory, rng):
    """Run a script and cause a fault. Return its exit status and standard error."""
    import pty
    import resource
    import termios
    from fcntl import ioctl

    command = this_python(["python", ROOT / f"{script}.py", *flags, "--out_dir", directory])
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if kind == "terminal":
        master, slave = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        streams["preexec_fn"] = lambda: (os.setsid(), ioctl(0, termios.TIOCSCTTY, 0))
    elif kind == "file size":
        largest = rng.randrange(2_000, 120_000)
        streams["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    process = subprocess.Popen(command, **streams)
    # The fault usually occurs during training steps, sometimes before the first.
    first = directory / ("metrics.jsonl" if rng.random() < 0.8 else "config.json")
    while process.poll() is None and not (first.exists() and first.stat().st_size):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 1.5))
    if kind == "terminal":
        os.close(slave)
        os.close(master)
        return process.wait(), ""
    if kind.startswith("SIG"):
        process.send_signal(getattr(signal, kind))
    return process.wait(), process.communicate()[1].decode()
