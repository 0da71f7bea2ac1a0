"""Helpers that run training scripts, in this process or in a subprocess, and compare runs."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

from training.files import read_metrics
from training.run import Run

ROOT = Path(__file__).parents[1]
CIFAR10 = ROOT / "cifar10" / "cifar-10-batches-py"
DEVICE = os.environ.get("DEVICE", "cpu")  # of small runs in PyTorch
NUMPY, MLP, CONVNET = SCRIPTS = ("train_mlp_numpy", "train_mlp_pytorch", "train_convnet_pytorch")
# Flags of small runs with frequent evaluations; for PyTorch with everything that a checkpoint contains.
SMALL = {
    NUMPY: ["--dnn_hidden_units=20,10", "--batch_size=30", "--max_steps=40", "--eval_freq=3"],
    MLP: [
        "--dnn_hidden_units=20,10", "--batch_size=30", "--max_steps=24", "--eval_freq=3", "--init=kaiming",
        "--batch_norm=manual", "--dropout=0.2", "--momentum=0.9", "--lr_schedule=onecycle", "--augment=flip_crop",
        "--validation_size=100", "--label_smoothing=0.1", "--learning_rate=0.01", f"--device={DEVICE}", "--alternate",
    ],
    CONVNET: [
        "--batch_size=4", "--max_steps=6", "--eval_freq=1", "--train_eval_size=50", "--augment=flip",
        "--optimizer=muon", "--momentum=0.6", "--lr_schedule=triangle", "--preprocess=standardize",
        f"--device={DEVICE}",
    ],
}  # fmt: skip


class Finished(NamedTuple):
    """The exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def error(self):
        """The only line on standard error, except for the banner of synthetic images."""
        (line,) = [line for line in self.err.splitlines() if not line.startswith("***")]
        return line


def run(script, *flags, draw=False):
    """Run a script in this process, by default without drawing curves, which takes most of the time."""
    main = importlib.import_module(script).main
    out, err = io.StringIO(), io.StringIO()
    without_curves = contextlib.nullcontext() if draw else mock.patch.object(Run, "_draw_curves")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), without_curves:
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as stopped:
            status = stopped.code
    return Finished(status, out.getvalue(), err.getvalue())


def this_python(command):
    """Return a command with `python` replaced by the interpreter of these tests."""
    return [sys.executable if word == "python" else str(word) for word in command]


def run_process(*command, **kwargs):
    """Run a command in a subprocess."""
    done = subprocess.run(this_python(command), capture_output=True, text=True, **kwargs)
    return Finished(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def handling(number, handler):
    """Install a signal handler in this block, also for subprocesses if the tests run with ignored signals."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def wait_for(is_there, process, log=None):
    """Wait until `is_there()`. Fail if the process ends first, or after five minutes."""
    deadline = time.monotonic() + 300
    while not is_there():
        assert process.poll() is None, log.read_text() if log else process.communicate()
        assert time.monotonic() < deadline, log.read_text() if log else "five minutes"
        time.sleep(0.002)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def checkpoint(directory):
    """Return the content of a checkpoint, `{name: array}`, without times."""
    if (directory / "checkpoint.npz").exists():
        with np.load(directory / "checkpoint.npz", allow_pickle=False) as arrays:
            return {name: array for name, array in arrays.items() if "seconds" not in name}
    flat = {}

    def flatten(name, value):
        if isinstance(value, dict | list):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                flatten(f"{name}.{key}" if name else str(key), part)
        elif "seconds" not in name:
            flat[name] = np.asarray(value)

    flatten("", torch.load(directory / "checkpoint.pt", weights_only=True))
    return flat


def step_of(directory):
    return int(checkpoint(directory)["run.step"])


def assert_same_run(directory, reference):
    """Assert that two runs have the same metrics, to the last digit, and the same checkpoint, bit for bit."""
    metrics, expected = ([{**m, "seconds": 0} for m in read_metrics(d)] for d in (directory, reference))
    assert metrics == expected
    ours, theirs = checkpoint(directory), checkpoint(reference)
    assert ours.pop("run.id") != theirs.pop("run.id"), "a run was compared with itself"
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        same = array == theirs[name] if array.dtype == object else array.tobytes() == theirs[name].tobytes()
        assert same, f"{name} differs"
