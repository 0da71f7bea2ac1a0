"""Metadata of a run: versions, machine, git commit, memory."""

import contextlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def describe_setup():
    """Return date, versions, machine and git commit, for config.json."""
    modules = ("numpy", "torch", "torchvision")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in modules if name in sys.modules},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "git_commit": git_commit(),
    }


def git_commit():
    """Return the repository's commit, with '-dirty' if tracked Python files were changed; None without git."""

    def git(*command):
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor():
    """Return the processor's name. The last digits of a run's metrics depend on the processor."""
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].split("\n")[0].strip()
    return platform.processor()


def peak_memory_mb():
    """Return this process's peak resident memory in MB (10⁶ bytes), or None on Windows."""
    with contextlib.suppress(OSError, IndexError):  # on Linux, whose getrusage includes the parent process
        return round(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
