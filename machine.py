"""What a record says of where a run was made: date, versions, machine, commit, memory."""

import contextlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path


def describe_setup():
    """Return date, versions, machine and commit of this process, for config.json."""
    modules = ("numpy", "torch", "torchvision")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in modules if name in sys.modules},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "git_commit": git_commit(Path(__file__).parent),
    }


def git_commit(folder):
    """Return the commit that `folder` has checked out, with '-dirty' where Python files differ, or None without one.

    Other files, such as a report's numbers, change with each run that is recorded, and do not change what it computes.
    """

    def git(*command):
        done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor():
    """Return the processor's name, on which the last digits of a run depend."""
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].split("\n")[0].strip()
    return platform.processor()


def peak_memory_mb():
    """Return the process's peak resident memory in MB (10⁶ bytes), or None on Windows."""
    # Linux, where getrusage's figure includes the process that started this one.
    with contextlib.suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
