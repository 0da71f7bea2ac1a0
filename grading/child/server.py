"""Starts a process for each submission, keeps watch over it, and leaves none of what it started behind.

One server serves all submissions. It has imported NumPy and PyTorch, which takes 2 s, and forks; no line of
a submission runs in it. For each job:

    server ── warden ── first process of the sandbox ── worker, which runs the submission

The warden reads what is printed, counts processes and memory, and ends everything when the worker ends,
takes too much, or the grader hangs up, be it because it was killed.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import isolation

WATCH_SECONDS = 0.2
MAX_OUTPUT_BYTES = 4000
SCRATCH_MB = 128
MIN_FREE_MB = 500  # of the machine: what is not counted, such as the kernel's own buffers for pipes, ends here


def main(control_fd, base):
    """Serve jobs until the grader closes the socket `control_fd`; `base` is an empty folder to mount on."""
    control = socket.socket(fileno=control_fd)
    os.setsid()  # Ctrl-C is the grader's affair
    if isolation.IS_LINUX:  # elsewhere system libraries do not survive a fork
        import torch.fx.experimental.symbolic_shapes  # noqa: F401, which backward(dout) takes half a second to import

        from . import worker  # noqa: F401, PyTorch with it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # wardens are nobody's to wait for
    isolation.prctl(isolation.PR_SET_DUMPABLE, 0)  # nobody reads this process's memory or steps through it
    while True:
        try:
            raw, fds, *_ = socket.recv_fds(control, 1 << 16, 2)
        except InterruptedError:
            continue
        if not raw:  # the grader is done, or was killed and cannot clear up
            shutil.rmtree(Path(base).parent, ignore_errors=True)
            return
        if os.fork() == 0:
            control.close()
            try:
                warden(json.loads(raw), *fds, base)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)


def warden(job, channel, lifeline, base):
    """Run the worker on the socket `channel`, watch it, and say on the socket `lifeline` how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    isolation.prctl(isolation.PR_SET_CHILD_SUBREAPER, 1)  # whoever loses its parent becomes this process's child
    job["uid"] = isolation.first_possible(job["uids"])
    job["tasks"] = job["processes"]
    if job["uid"] == os.geteuid():
        # The kernel counts this user's other tasks, too, before Linux 5.14 also those outside, and they come and go.
        job["tasks"] += 1000 + isolation.n_tasks(job["uid"])
    output, output_end = os.pipe()
    protection, scratch = {"namespaces": True}, None
    try:
        if not job["namespaces"]:
            raise OSError("switched off")
        isolation.unshare()
    except OSError as error:
        protection = {"namespaces": False, "why": str(error)}
    protection["is_root"] = job["uid"] == 0
    if not protection["namespaces"]:
        scratch = tempfile.mkdtemp(prefix="grade-")
        if job["uid"] != os.geteuid():
            os.chown(scratch, job["uid"], job["uid"])
    first = os.fork()
    if first == 0:
        try:
            os.close(lifeline)
            os.close(output)
            os.dup2(output_end, 2)  # what goes wrong before the submission runs is reported like what it prints
            first_process(job, channel, output_end, base, scratch, protection)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(channel)
    os.close(output_end)
    try:
        reason, printed = watch(job, first, lifeline, output)
    finally:
        end_all(first)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(OSError):
        text = printed.decode(errors="replace")
        os.write(lifeline, json.dumps({"reason": reason, "printed": text}).encode())
    os._exit(0)


def first_process(job, channel, output, base, scratch, protection):
    """Close the sandbox around this process, fork the worker into it, and bury what it leaves."""
    os.setsid()
    isolation.prctl(isolation.PR_SET_PDEATHSIG, signal.SIGKILL)  # without its warden nobody watches
    isolation.offer_to_oom_killer()
    if scratch is None:
        isolation.enter_root(base, job["visible"], job["hidden"], SCRATCH_MB)
    else:
        os.chdir(scratch)
    worker = os.fork()
    if worker:
        os.close(channel)
        os.close(output)
        status = None
        while status is None:
            pid, exit_status = os.wait()
            if pid == worker:
                status = exit_status
        os._exit(min(os.waitstatus_to_exitcode(status) % 256, 255))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(channel, 3)
    os.closerange(4, 4096)
    isolation.limit(job["memory_mb"], job["cpu_seconds"], job["tasks"], SCRATCH_MB // 2)
    isolation.drop_privileges(job["uid"])
    isolation.forbid_files_in_memory()
    sys.stdout.reconfigure(line_buffering=True)
    sys.path[:] = job["sys_path"]
    protection["python"] = all(os.access(p, os.R_OK) for p in sys.path)
    job.clear()
    from . import worker as submission

    submission.serve(socket.socket(fileno=3), protection)
    os._exit(0)


def watch(job, first, lifeline, output):
    """Wait for the end, and return why it came, and the first of what was printed."""
    printed, reason, next_count = b"", None, time.monotonic() + WATCH_SECONDS
    sources = [lifeline, output]
    while reason is None:
        ready, *_ = select.select(sources, [], [], WATCH_SECONDS)
        if output in ready:
            more = os.read(output, 1 << 16)
            printed += more[: MAX_OUTPUT_BYTES - len(printed)]
            if not more:
                sources.remove(output)
        if lifeline in ready:
            reason = "stopped by the grader"
        pid, status = os.waitpid(first, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            killed = signal.Signals(256 - code).name if 256 - code in list(signal.Signals) else None
            reason = f"its process ended with {f'signal {killed}' if killed else f'exit status {code}'}"
        elif time.monotonic() > next_count:
            reason = too_much(job)
            next_count = time.monotonic() + WATCH_SECONDS
    return reason, printed


def too_much(job):
    """Return what there is too much of, or None."""
    if not isolation.IS_LINUX:
        return None
    pids = descendants()
    if len(pids) > job["processes"]:
        return f"it started more than {job['processes']} processes"
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            kilobytes += sum(int(lines.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem"))
    if kilobytes > 1024 * (job["memory_mb"] + 1000):  # PyTorch's own, before the submission's
        return f"it took more than {job['memory_mb']} MB of memory"
    free = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) // 1024
    return f"it left less than {MIN_FREE_MB} MB of this machine's memory free" if free < MIN_FREE_MB else None


def descendants():
    """Return the process ids of everything that this process started, directly or not."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def end_all(first):
    """Kill everything that was started, until nothing is left."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if isolation.IS_LINUX:
            for pid in [first, *descendants()]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(first, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)
