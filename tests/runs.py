"""Training scripts run as their users run them, in this process or in one of their own; runs killed and compared."""

import contextlib
import importlib
import io
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch

from run_folder import read_metrics
from train_utils import Run

ROOT = Path(__file__).parents[1]
CIFAR10 = ROOT / "cifar10" / "cifar-10-batches-py"
NUMPY, MLP, CONVNET = SCRIPTS = ("train_mlp_numpy", "train_mlp_pytorch", "train_convnet_pytorch")
# Small enough for a test, with evaluations so often that a kill may fall into one; PyTorch's with everything in them
# that a checkpoint has to carry.
SMALL = {
    NUMPY: ["--dnn_hidden_units=20,10", "--batch_size=30", "--max_steps=40", "--eval_freq=3"],
    MLP: [
        "--dnn_hidden_units=20,10", "--batch_size=30", "--max_steps=24", "--eval_freq=3", "--init=kaiming",
        "--batch_norm=manual", "--dropout=0.2", "--momentum=0.9", "--lr_schedule=onecycle", "--augment=flip_crop",
        "--validation_size=100", "--label_smoothing=0.1", "--learning_rate=0.01", "--device=cpu", "--alternate",
    ],
    CONVNET: [
        "--batch_size=4", "--max_steps=6", "--eval_freq=1", "--train_eval_size=50", "--augment=flip",
        "--optimizer=muon", "--momentum=0.6", "--lr_schedule=triangle", "--preprocess=standardize", "--device=cpu",
    ],
}  # fmt: skip
FILES = {"config.json", "metrics.jsonl", "accuracy.png", "loss.png", "summary.json"}  # and a checkpoint
FOLDER_FILES = {NUMPY: FILES | {"checkpoint.npz"}}
FOLDER_FILES |= dict.fromkeys((MLP, CONVNET), FILES | {"checkpoint.pt", "confusion_matrix.png"})


slow_convnet = pytest.param(CONVNET, marks=pytest.mark.slow)  # eight convolutions and 50 MB of checkpoint


class Finished(NamedTuple):
    """What came of a script: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def error(self):
        """The one line on standard error, but for the banner of synthetic images."""
        (line,) = [line for line in self.err.splitlines() if not line.startswith("***")]
        return line


def run(script, *flags, draw=False):
    """Run a script in this process, by its `main`, and return what came of it.

    Its curves are drawn only where a test is about them: they take nine tenths of the time of so small a run.
    """
    main = importlib.import_module(script).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        if not draw:
            stack.enter_context(mock.patch.object(Run, "_draw_curves"))
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as stopped:
            status = stopped.code
    return Finished(status, out.getvalue(), err.getvalue())


def this_python(command):
    """Return a command with `python` replaced by the one that runs this."""
    return [sys.executable if word == "python" else str(word) for word in command]


def run_process(*command, **kwargs):
    """Run a command, `python` being this one, and return what came of it."""
    done = subprocess.run(this_python(command), capture_output=True, text=True, **kwargs)
    return Finished(done.returncode, done.stdout, done.stderr)


def torchrun(script, *flags):
    """Return the command that runs a script in two processes."""
    launcher = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [*launcher, ROOT / f"{script}.py", *flags]


@contextlib.contextmanager
def handling(number, handler):
    """Handle a signal so, where tests that run as a shell's background job ignore Ctrl-C, as would what they start."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def start(script, flags, folder):
    """Start a run in the background and return it once its folder has a config."""
    command = ["python", ROOT / f"{script}.py", *flags, "--out_dir", folder]
    with handling(signal.SIGINT, signal.SIG_DFL):
        process = subprocess.Popen(this_python(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "config.json", process)
    return process


def wait_for(path, process):
    """Wait until a file is there; end the process, which may train for hours, where it does not come."""
    deadline = time.monotonic() + 300  # of a machine with much else to do
    while not path.exists():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.terminate()  # which torchrun hands on
            raise AssertionError(f"{path} did not appear within five minutes: {process.communicate()}")
        time.sleep(0.005)


def kill_and_resume(script, flags, folder, n_kills):
    """Run a script into `folder`, kill it `n_kills` times at random moments, and let the last run end.

    Each kill comes after one or two more checkpoints, so that each resumes at a later step.
    """
    rng = random.Random(0)
    path = "checkpoint.npz" if "numpy" in script else "checkpoint.pt"
    process = start(script, flags, folder)
    steps = []
    for _ in range(n_kills):
        for _ in range(rng.randint(1, 2) + (not steps)):  # the first checkpoint is of step 0
            before = modified(folder / path)
            while process.poll() is None and modified(folder / path) == before:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        read_metrics(folder)  # readable, whatever the moment
        steps.append(int(checkpoint(folder)["step"]))
        command = this_python(["python", ROOT / f"{script}.py", "--resume", folder])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert len(set(steps) - {0}) >= 2, f"killed at steps {steps}: too few to say anything of resuming"


def modified(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def metrics_without_seconds(folder):
    return [{k: v for k, v in m.items() if k != "seconds"} for m in read_metrics(folder)]


def checkpoint(folder):
    """Return what the checkpoint holds, nested dicts flattened, but for the clock."""
    if (folder / "checkpoint.npz").exists():
        with np.load(folder / "checkpoint.npz", allow_pickle=False) as arrays:
            state = dict(arrays)
    else:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
    flat = {}

    def flatten(name, value):
        if isinstance(value, dict | list):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                flatten(f"{name}.{key}" if name else str(key), part)
        elif "seconds" not in name:
            flat[name] = np.asarray(value)

    flatten("", state)
    return flat


def assert_same_run(folder, reference):
    """Assert that two runs have the same metrics to the last digit, and the same checkpoint to the bit."""
    assert metrics_without_seconds(folder) == metrics_without_seconds(reference)
    ours, theirs = checkpoint(folder), checkpoint(reference)
    assert ours.pop("run") != theirs.pop("run"), "this compares a run with itself"
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        same = array == theirs[name] if array.dtype == object else array.tobytes() == theirs[name].tobytes()
        assert same, f"{name} differs"
