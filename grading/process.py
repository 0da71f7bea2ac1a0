"""One process of a submission: starts it, counts what it takes, and leaves nothing of it behind."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from multiprocessing.connection import Connection

import psutil

from grading.walls import FOLDER_MB, SandboxError

MEMORY_MB, TORCH_MB = 4096, 1000  # a submission's, and PyTorch's own
MIN_FREE_MB = 500  # of the machine: what is counted for no process, such as files in memory, ends here
MAX_PROCESSES = 40
WATCH_SECONDS = 0.2
MARK = "GRADED_AS"  # a variable that tells each submission's processes from all others


class Worker:
    """A submission's process, and all that it starts.

    Args:
        sandbox: a `walls.Sandbox`, which says how it is started.
        cpu_seconds: of processor time, for each process.
        has_torch: import PyTorch before memory is limited.

    Attributes:
        channel: the `multiprocessing.connection.Connection` on which it answers.
        reason: how it ended, once it has.
        said: what it complained of before it ran a line of the submission, once it has ended.

    Raises:
        SandboxError: the sandbox has been stopped.
    """

    def __init__(self, sandbox, cpu_seconds, has_torch):
        self.reason, self.said, self._sandbox = None, "", sandbox
        self._mark = f"{os.getpid()}-{os.urandom(8).hex()}"
        limits = {"memory_mb": MEMORY_MB, "cpu_seconds": cpu_seconds, "file_mb": FOLDER_MB // 2}
        limits |= {"tasks": MAX_PROCESSES, "has_own_user": sandbox.has_own_user, "has_torch": has_torch}
        how = sandbox.popen(f"from child import worker; worker.main({limits!r})", {MARK: self._mark})
        self._scratch, self._uid = None, how.get("user", -1)
        if not sandbox.has_walls:
            self._scratch = tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True)
            os.chown(self._scratch.name, how.get("user", -1), how.get("group", -1))
            how["cwd"], how["env"]["HOME"], how["env"]["TMPDIR"] = [self._scratch.name] * 3
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, as long as the process
        self._socket, theirs = socket.socketpair()
        self.channel = Connection(os.dup(self._socket.fileno()))
        with theirs:
            self._process = subprocess.Popen(
                **how, stdin=theirs, stdout=self._log, stderr=self._log, start_new_session=True
            )
        self._root, self._family = psutil.Process(self._process.pid), set()
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        sandbox.workers.add(self)
        if sandbox.is_stopped:  # asked now: who stops it sees this process, or this process that it is stopped
            self.close()
            raise SandboxError("no process is started any more")

    def _watch(self):
        try:
            while self._process.poll() is None and not self._is_over.wait(WATCH_SECONDS):
                if reason := self._too_much():
                    self.kill(reason)
            self._end_family()  # what it has started may keep the channel open
        except Exception as error:
            self.kill(f"it could not be watched: {error}")

    def _too_much(self):
        """Return what there is too much of, or None."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= set(self._root.children(recursive=True))
        self._family = set(filter(is_alive, self._family))
        if len(self._family) > MAX_PROCESSES:
            return f"it started more than {MAX_PROCESSES} processes"
        n_bytes = 0
        for process in (self._root, *self._family):
            with contextlib.suppress(psutil.Error):
                n_bytes += process.memory_info().rss
        if n_bytes >> 20 > MEMORY_MB + TORCH_MB:
            return f"it took more than {MEMORY_MB} MB of memory"
        is_little = psutil.virtual_memory().available >> 20 < MIN_FREE_MB
        return f"it left less than {MIN_FREE_MB} MB of this machine's memory free" if is_little else None

    def _end_family(self):
        """Kill what it has started, also what has lost its parents. Behind walls, most of it has ended by itself."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            left = set(filter(is_alive, self._family | marked(self._mark, self._uid)))
            if not left:
                return
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.005)

    def kill(self, reason="it was stopped by the grader"):
        """End it, from any thread; `close` waits for that."""
        self.reason = self.reason or reason
        self._process.kill()
        with contextlib.suppress(OSError):  # who waits for an answer waits no longer
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, grace=0):
        """End it where it does not do so itself within `grace` seconds. Nothing of it is left afterwards."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        if self._process.returncode is None:
            self.kill()
        code = self._process.wait()
        self._is_over.set()
        self._watcher.join()
        self._sandbox.workers.discard(self)
        number = -code if code < 0 else code - 128  # as a shell has it, and bubblewrap
        is_signal = number in list(signal.Signals)
        how = f"signal {signal.Signals(number).name}" if is_signal else f"exit status {code}"
        self.reason = self.reason or f"its process ended with {how}"
        self.channel.close()
        self._socket.close()
        self._log.seek(0)
        self.said = self._log.read(1 << 16).decode(errors="replace")
        self._log.close()
        if self._scratch:
            self._scratch.cleanup()


def is_alive(process):
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def marked(mark, uid):
    """Return the processes that bear a submission's mark, or are of its user."""
    found = psutil.process_iter(["environ", "uids"])
    return {p for p in found if (p.info["environ"] or {}).get(MARK) == mark or (p.info["uids"] or [None])[0] == uid}
