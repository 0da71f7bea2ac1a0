"""Training scripts run as their users run them, in processes of their own; runs compared, killed and resumed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from run_folder import read_metrics

ROOT = Path(__file__).parents[1]
CIFAR10 = ROOT / "cifar10" / "cifar-10-batches-py"


def run(script, *flags, **kwargs):
    """Run a script and return the finished process."""
    command = [sys.executable, ROOT / f"{script}.py", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def start(script, flags, folder):
    """Start a run in the background and return it once its folder has a config."""
    command = [sys.executable, ROOT / f"{script}.py", *flags, "--out_dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
        command = [sys.executable, ROOT / f"{script}.py", "--resume", str(folder)]
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
