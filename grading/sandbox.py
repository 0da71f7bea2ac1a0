"""The grader's side of a submission's process: start it, ask it, give up on it in time, start it anew."""

import contextlib
import json
import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from grading.child import frames, old_numpy

ROOT = Path(__file__).resolve().parents[1]
# The course hands these out: a submission may import them without handing them in.
COURSE_FILES = ("cifar10_utils.py", "cifar10_files.py", "cifar10_download.py", "synthetic_data.py")
MEMORY_MB = 4096
MAX_PROCESSES = 40
MAX_REPLY_BYTES = 64 << 20
# Of users that are nobody's: each sandbox of a root grader has one of its own; rootless containers have no high ones.
FIRST_UIDS = (1_900_000_000, 50_000)
START_SECONDS = 60
CHECK_SECONDS = 30  # for what takes a tenth of one where nothing else runs


class SandboxError(Exception):
    """Submissions cannot be graded here; the message says what to do."""


class Server:
    """The process from which all submissions' processes are forked. Use it as a context.

    Args:
        namespaces: try Linux's; False is what other systems have, for tests.

    Raises:
        SandboxError: this system cannot fork.
    """

    def __init__(self, namespaces=True):
        if not hasattr(os, "fork") or not hasattr(socket, "send_fds"):
            raise SandboxError(
                f"submissions cannot be graded on {sys.platform}, which has neither fork nor limits: "
                "grade them under WSL or in a container (grading/README.md); a run folder can be graded here"
            )
        self.namespaces = namespaces
        self._lock, self._n_started = threading.Lock(), 0
        self._folder = Path(tempfile.mkdtemp(prefix="grade-"))
        self._folder.chmod(0o755)
        (self._folder / "root").mkdir()
        shutil.copytree(
            ROOT / "grading" / "child", self._folder / "child", ignore=shutil.ignore_patterns("__pycache__")
        )
        self.control, theirs = socket.socketpair()
        code = f"import sys; sys.dont_write_bytecode = True; sys.path[:0] = {[str(self._folder)]!r}; "
        code += f"sys.path += {self._sys_path()!r}; from child import server; "
        code += f"server.main({theirs.fileno()}, {str(self._folder / 'root')!r})"
        environment = {
            "PATH": "/usr/bin:/bin", "HOME": "/grade-work",
            "TMPDIR": "/grade-work" if namespaces else tempfile.gettempdir(),
            "LANG": "C.UTF-8", "USER": "student", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait: a third of the speed on a busy machine
        }  # fmt: skip
        environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self._log = open(self._folder / "log", "w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", code], pass_fds=[theirs.fileno()], env=environment, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._log,
        )  # fmt: skip
        theirs.close()

    @staticmethod
    def _sys_path():
        """Return the folders of `sys.path` that belong to the installation: none of PYTHONPATH's, nor the project."""
        installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        installed += [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
        roots = [Path(path).resolve() for path in installed]
        found = [p for p in sys.path if p and Path(p).exists()]
        return [p for p in found if any(Path(p).resolve().is_relative_to(root) for root in roots)]

    def start(self, cpu_seconds):
        """Return two sockets: to the worker of a new sandbox, and the one whose closing ends it."""
        with self._lock:
            self._n_started += 1
            number = os.getpid() % 100 * 100 + self._n_started % 100
            uids = [first + number for first in FIRST_UIDS] if os.geteuid() == 0 else []
            channel, their_channel = socket.socketpair()
            lifeline, their_lifeline = socket.socketpair()
            paths = self._sys_path()
            job = {
                "namespaces": self.namespaces, "uids": uids, "memory_mb": MEMORY_MB, "cpu_seconds": cpu_seconds,
                "processes": MAX_PROCESSES, "sys_path": paths, "hidden": [str(ROOT)],
                "visible": [*paths, *{sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))}],
            }  # fmt: skip
            with their_channel, their_lifeline:
                fds = [their_channel.fileno(), their_lifeline.fileno()]
                try:
                    socket.send_fds(self.control, [json.dumps(job).encode()], fds)
                except OSError as error:
                    raise SandboxError(f"the sandbox's server ended: {self.last_words() or error}") from error
            return channel, lifeline

    def kill(self):
        """End the server, which may still be importing PyTorch. Sandboxes end as their lifelines are closed."""
        self._process.kill()

    def last_words(self):
        """Return the last line that the server, or one of its own forks, has complained with."""
        self._log.seek(0)
        lines = self._log.read().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Answer:
    """What came back to one request.

    Attributes:
        arrays: `{name: array}`, also where an error came after them.
        error: None, or one sentence on what went wrong.
        kind: None, or 'error' (raised by the submission), 'timeout', 'died' or 'protocol'.
        detail: the error as `{'type', 'message', 'where'}`, for kind 'error'.
        seconds: until the answer was there.
    """

    def __init__(self, arrays=None, error=None, kind=None, detail=None, seconds=0.0):
        self.arrays, self.error, self.kind = arrays or {}, error, kind
        self.detail, self.seconds = detail or {}, seconds


class Session:
    """A submission's process, started when something is asked and started anew after it died. Use it as a context.

    Args:
        server: a `Server`.
        files: `{path in the folder: bytes}`.
        folders: those of them in which Python looks for modules, the first being the working directory.
        lenient: bring back names that NumPy has dropped.
        total_seconds: for all requests together, of which one that is answered counts a quarter: what hangs stops
            the grader, what is slow may be so because the machine is. Past them, each gets `least_seconds`.
        cpu_seconds: of processor time that each process of the submission may take.

    Attributes:
        protection: what holds the process, as it said before it ran a line of the submission.
        old_names: of NumPy, which it used, where `lenient`.
        printed: the first of what it printed, when last it ended.
    """

    def __init__(self, server, files, folders, lenient=False, total_seconds=300, cpu_seconds=1200, least_seconds=2):
        self.server, self.files, self.folders, self.lenient = server, files, folders, lenient
        self.cpu_seconds, self.total_seconds = cpu_seconds, total_seconds
        self.least_seconds = least_seconds
        self.protection, self.old_names, self.printed = {}, set(), ""
        self._channel, self._spent = None, 0.0

    @property
    def is_running(self):
        """Whether there is a process to ask."""
        return self._channel is not None

    def ask(self, op, params, arrays=None, seconds=CHECK_SECONDS):
        """Return the `Answer` to one operation, within `seconds`."""
        seconds = min(seconds, max(self.total_seconds - self._spent, self.least_seconds))
        began = time.monotonic()
        if not self.is_running:
            self._start()
        answer = self._exchange({"op": op, "params": params}, arrays or {}, seconds)
        is_answered = answer.kind in (None, "error")
        self._spent += (time.monotonic() - began) / (4 if is_answered else 1)
        return answer

    def _start(self):
        self._channel, self._lifeline = self.server.start(self.cpu_seconds)
        self._read, self._write = self._channel.makefile("rb"), self._channel.makefile("wb")
        alarm = threading.Timer(START_SECONDS, self.hang_up)
        alarm.start()
        try:
            header, _ = frames.read(self._read, 0)
            self.protection = header["protection"]
        except (EOFError, OSError, frames.FrameError, KeyError) as error:
            reason = self.close()
            why = self.printed.strip().split("\n")[-1][:300] or self.server.last_words() or reason or error
            raise SandboxError(f"no process could be started for the submission: {why}") from error
        finally:
            alarm.cancel()
        if not self.protection["python"]:
            self.close()
            raise SandboxError(
                "root has to become another user to run a submission, and that user cannot read this Python "
                f"({sys.prefix}): run grade.py as an ordinary user, or in a container (grading/README.md)"
            )
        files = {name: np.frombuffer(raw, np.uint8) for name, raw in self.files.items()}
        course = {name: (ROOT / name).read_text() for name in COURSE_FILES}
        request = {"op": "files", "folders": self.folders, "lenient": self.lenient, "course": course}
        self._exchange(request, files, START_SECONDS)

    def _exchange(self, request, arrays, seconds):
        number = os.urandom(8).hex()
        is_late = threading.Event()

        def give_up():
            is_late.set()
            self.hang_up()

        alarm = threading.Timer(seconds, give_up)
        began = time.monotonic()
        alarm.start()
        try:
            frames.write(self._write, request | {"id": number}, arrays)
            header, results = frames.read(self._read, MAX_REPLY_BYTES)
            elapsed = time.monotonic() - began
            if header.get("id") != number:
                raise frames.FrameError("an answer to another question")
            detail = _checked_error(header.get("error"))
            old = header.get("old")
            if self.lenient and isinstance(old, list):  # the submission may have written into it
                self.old_names |= {name for name in old_numpy.NAMES if name in old}
        except (EOFError, OSError, frames.FrameError, ValueError) as error:
            reason = self.close()
            if is_late.is_set():
                return Answer(error=f"it did not end within {seconds:.3g} s and was stopped", kind="timeout")
            if isinstance(error, frames.FrameError):
                return Answer(error=f"it broke the grader's protocol ({error})", kind="protocol")
            return Answer(error=reason or "its process ended", kind="died")
        finally:
            alarm.cancel()
            alarm.join()  # it may be hanging up right now, and a process started meanwhile is not meant
        if is_late.is_set():  # it hung up as the answer came: the next question needs a new process
            self.close()
        if detail is None:
            return Answer(results, seconds=elapsed)
        text = f"{detail['type']}: {detail['message']}".rstrip(": ")
        return Answer(results, f"{text} ({detail['where']})" if detail["where"] else text, "error", detail, elapsed)

    def hang_up(self):
        """Have the process ended, from any thread; `close` waits for that."""
        # It may not have begun, or have ended meanwhile.
        with contextlib.suppress(OSError, AttributeError):
            self._lifeline.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError, AttributeError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End the process and all that it started; return how it had ended. Nothing of it is left afterwards."""
        if not self.is_running:
            return None
        said = b""
        with contextlib.suppress(OSError):
            self._lifeline.settimeout(0.5)  # its own end is a better reason than being hung up on
            said = self._lifeline.recv(1 << 16)
        self.hang_up()
        with contextlib.suppress(OSError):
            self._lifeline.settimeout(40)
            while more := self._lifeline.recv(1 << 16):
                said += more
        for file in (self._read, self._write, self._channel, self._lifeline):
            with contextlib.suppress(OSError, ValueError):
                file.close()
        self._channel = None
        try:
            told = json.loads(said)
            self.printed = told["printed"]
            return told["reason"]
        except (ValueError, KeyError):
            return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hang_up()
        self.close()


def _checked_error(detail):
    """Return an error's description with three short printable texts, or None."""
    if detail is None:
        return None
    get = detail.get if isinstance(detail, dict) else lambda *_: ""
    texts = {name: str(get(name, ""))[:500] for name in ("type", "message", "where")}
    return {name: "".join(c if c.isprintable() else " " for c in text) for name, text in texts.items()}
