"""Faults at random places of a run, of each script by turns; each run is resumed and compared, to the bit.

    python -m tests.fault_run 100

Killed, told to stop, without a terminal, without a reader, without space: whatever it was, the run folder has to be
readable, and the run that is resumed from it has to end as one that was left alone. Takes about ten minutes.
"""

import contextlib
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

from run_folder import read_metrics
from tests.runs import ROOT, SCRIPTS, SMALL, assert_same_run, run

KINDS = ("SIGKILL", "SIGTERM", "SIGHUP", "terminal", "reader", "file size", "space")


def can_mount(folder):
    return (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True).returncode == 0
    )


def strike(kind, script, flags, folder, rng):
    """Run a script into `folder` with a fault in it; return its exit status and what it wrote to standard error."""
    command = [sys.executable, str(ROOT / f"{script}.py"), *flags, "--out_dir", str(folder)]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    master = slave = None
    if kind == "terminal":
        master, slave = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        streams["preexec_fn"] = lambda: (os.setsid(), ioctl(0, termios.TIOCSCTTY, 0))
    elif kind == "file size":
        most = rng.randrange(2_000, 120_000)
        streams["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    process = subprocess.Popen(command, **streams)
    if slave is not None:
        os.close(slave)
    # Mostly among the steps; now and then before the first of them, while PyTorch is still loading.
    first = folder / ("metrics.jsonl" if rng.random() < 0.8 else "config.json")
    while process.poll() is None and not (first.exists() and first.stat().st_size):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 1.5))
    if kind == "terminal":
        os.close(master)
        return process.wait(), ""
    if kind == "reader":
        process.stdout.close()
        error = process.stderr.read()
        return process.wait(), error.decode()
    if kind.startswith("SIG"):
        process.send_signal(getattr(signal, kind))
    error = process.communicate()[1].decode()
    return process.returncode, error


def fault(kind, script, flags, left_alone, folder, rng):
    """Have one fault, resume, compare. Raises `AssertionError` where anything is lost or changed."""
    status, error = strike(kind, script, flags, folder, rng)
    assert "Traceback" not in error, error
    has_ended = (folder / "summary.json").exists()
    assert (status == 0) == has_ended, (status, error)
    if kind != "SIGKILL":
        assert not list(folder.glob("*.tmp")), "a temporary file is left"
    read_metrics(folder)
    if kind == "space":
        subprocess.run(["mount", "-o", "remount,size=400m", folder.parent], check=True)
    done = run(script, "--resume", folder)
    assert done.status == 0, done.err
    assert_same_run(folder, left_alone)
    return status


def main(n_faults, seed=0):
    """Have `n_faults` faults, print a line for each, and return how many runs were lost or changed."""
    rng, n_lost = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        data = ["--dataset=synthetic", "--synthetic_size=500", f"--data_dir={root / 'data' / 'x'}"]
        left_alone = {script: root / script for script in SCRIPTS}
        for script, folder in left_alone.items():
            assert run(script, *data, *SMALL[script], "--out_dir", folder).status == 0
        for i in range(n_faults):
            script, kind = SCRIPTS[i % len(SCRIPTS)], KINDS[i % len(KINDS)]  # 3 and 7: all pairs come
            place = root / f"fault{i}"
            place.mkdir()
            if kind == "space" and not can_mount(place):
                kind = "file size"
            if kind == "space":  # some or all of the checkpoints fit, two of the ConvNet's take 110 MB
                size = rng.choice((100, 400, 700, 60_000, 120_000))
                subprocess.run(["mount", "-o", f"remount,size={size}k", place], check=True)
            try:
                status = fault(kind, script, [*data, *SMALL[script]], left_alone[script], place / "run", rng)
                print(f"fault {i + 1}: {script}, {kind}: exit status {status}, the same in the end", flush=True)
            except AssertionError as error:
                n_lost += 1
                print(f"fault {i + 1}: {script}, {kind}: LOST OR CHANGED: {error}", flush=True)
            if kind == "space":
                with contextlib.suppress(subprocess.CalledProcessError):
                    subprocess.run(["umount", place], check=True)
    print(f"{n_faults} faults, {n_lost} runs lost or changed")
    return n_lost


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100) > 0)
