"""Runs a submission in its own process, behind bubblewrap if there is one, and asks it for arrays."""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from grading.checks.check import Answer
from grading.scheme import ROOT
from grading.worker import frames
from training.files import RunError

# What a Python process reads of the system; the rest of the disk is not visible.
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives"]
HOME = "/home/student"
WRITABLE = (HOME, "/tmp", "/dev/shm")  # file systems in memory
WRITABLE_BYTES = 128 << 20  # each
NOBODY = 65534  # user and group of submissions if the grader is root
# The course provides these: a submission may import them without handing them in.
COURSE_FILES = ("cifar10_utils.py", *(f"training/{path.name}" for path in sorted((ROOT / "training").glob("*.py"))))
ENVIRONMENT = {
    "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": HOME, "TMPDIR": "/tmp", "USER": "student", "LOGNAME": "student",
    "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow down everything else
    "MALLOC_ARENA_MAX": "4",  # by default, each thread reserves memory
    "TORCHDYNAMO_DISABLE": "1",  # torch.compile takes longer to start a compiler than a check may take
}  # fmt: skip
BWRAP = shutil.which("bwrap")
MARK = "GRADE_WORKER"  # a variable in the environment of all processes that a submission starts
CHECK_SECONDS = 30  # for what takes a tenth of one on an idle machine
TOTAL_SECONDS = 300  # of all checks of a submission together, without training
SECONDS_AFTER_TIMEOUT = 5  # per request without a limit of its own, also once `TOTAL_SECONDS` are spent
MAX_UNANSWERED = 5  # requests to a class without an answer, after which it is not called again
START_SECONDS = 60
MAX_REPLY_BYTES = 64 << 20


class SandboxError(RunError):
    """Submissions cannot be graded here; the message says what to do."""


class Sandbox(contextlib.AbstractContextManager):
    """Starts workers. Use it as a context manager.

    Args:
        hidden: paths that no submission may see, besides the project's directory.
        limits_only: do not use bubblewrap; root then runs submissions as user nobody.

    Attributes:
        has_bubblewrap: whether workers run behind it; otherwise limits alone protect this machine.
        why_not: what forbids it.

    Raises:
        SandboxError: submissions cannot be run here, or not safely.
    """

    def __init__(self, hidden=(), limits_only=False):
        if sys.platform == "win32":
            raise SandboxError("submissions cannot be graded on Windows: use WSL or a container (grading/README.md)")
        self.is_stopped, self.why_not, self._workers = False, "", []
        self._hidden = {os.path.realpath(path) for path in (ROOT, *hidden)}
        usable = (path for path in sys.path if path and os.path.exists(path))
        self._sys_path = [os.path.abspath(path) for path in usable if os.path.realpath(path) not in self._hidden]
        self._directory = tempfile.TemporaryDirectory(prefix="grade-")
        shutil.copytree(ROOT / "grading" / "worker", Path(self._directory.name, "__grader__"))
        subprocess.run(["chmod", "-R", "a+rX", self._directory.name], check=True)  # another user reads it
        self.has_bubblewrap = BWRAP is not None and not limits_only
        problem = self._problem() if BWRAP or limits_only else "bubblewrap is not installed"
        if problem and not limits_only and os.geteuid() != 0:
            self.has_bubblewrap, self.why_not = False, problem
            problem = self._problem()
        if problem:
            self._directory.cleanup()
            remedy = "apt-get install bubblewrap, grade as an ordinary user, or use a container that allows bubblewrap"
            if "Permission denied" in problem:
                remedy = "let all users read and run this Python and the directories above it"
            raise SandboxError(f"submissions cannot be run here ({problem}): {remedy}")

    def _problem(self):
        """Return why no worker starts, or an empty text."""
        try:
            with self.worker({}, ["."]) as worker:
                worker.start()
        except SandboxError as error:
            return str(error)
        return ""

    @property
    def protection(self):
        """How submissions are run, as a sentence."""
        if self.has_bubblewrap:
            return "Submissions run in a sandbox, without internet access."
        return "Submissions run without a sandbox, under limits only" + f" ({self.why_not})" * bool(self.why_not) + "."

    @functools.cached_property
    def _mounts(self):
        """Return bubblewrap's arguments for what is visible; outer directories come before inner ones."""
        shown = [*SYSTEM, sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))]
        shown += [*self._sys_path, self._directory.name]
        shown = {form(path) for path in shown for form in (os.path.abspath, os.path.realpath)}
        hidden = {path for path in self._hidden if any(Path(path).is_relative_to(outer) for outer in shown)}
        hidden = set(filter(os.path.isdir, hidden))
        mounts = []
        for path in sorted({*shown, *hidden, *WRITABLE}):
            if path in WRITABLE:
                mounts += ["--perms", "1777", "--size", str(WRITABLE_BYTES), "--tmpfs", path]
            elif path in hidden:
                mounts += ["--tmpfs", path]
            else:  # without --dir, bubblewrap closes the directories above to other users
                mounts += ["--dir", os.path.dirname(path), "--ro-bind-try", path, path]
        for path in (*hidden, "/dev", "/"):
            mounts += ["--remount-ro", path]
        return mounts

    def command(self, code, directory):
        """Return the arguments of `subprocess.Popen` that run Python code, in `directory` if there is no bubblewrap."""
        code = f"import sys; sys.path[:] = {[self._directory.name, *self._sys_path]!r}; {code}"
        python = [os.path.abspath(sys.executable), "-I", "-X", "utf8", "-c", code]
        is_root = os.geteuid() == 0
        if not self.has_bubblewrap:
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if is_root else {}
            environment = ENVIRONMENT | {"HOME": directory, "TMPDIR": directory}
            return {"args": python, "env": environment, "cwd": directory} | user
        args = [BWRAP, "--die-with-parent", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        args += ["--unshare-cgroup-try", "--proc", "/proc", "--dev", "/dev", *self._mounts, "--chdir", HOME]
        args += ["--cap-drop", "ALL"]
        if is_root:  # mount what only root may read, then become another user
            args += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
            args += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
            args += [BWRAP, "--dev-bind", "/", "/", "--cap-drop", "ALL"]
        args += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        args += ["--disable-userns"] if can_disable_namespaces() else []
        return {"args": args + python, "env": ENVIRONMENT}

    def worker(self, files, folders):
        """Return a `Worker` for a submission."""
        self._workers.append(Worker(self, files, folders))
        return self._workers[-1]

    def stop(self):
        """End all workers, from any thread: `Worker.ask` raises `SandboxError`."""
        self.is_stopped = True
        for worker in self._workers:
            worker.interrupt()

    def __exit__(self, *_):
        self._directory.cleanup()


class Worker(contextlib.AbstractContextManager):
    """A submission's process, started by the first `ask` and again if it has ended. Use it as a context manager.

    Args:
        sandbox: a `Sandbox`.
        files: `{path in the submission: bytes}`.
        folders: those directories in which Python looks for modules, the first being the working directory.

    Attributes:
        unanswered: number of requests without an answer, by target.
    """

    def __init__(self, sandbox, files, folders):
        self.sandbox, self.files, self.folders, self.unanswered = sandbox, files, folders, Counter()
        self._process, self._seconds_left = None, TOTAL_SECONDS

    def ask(self, op, target, params, arrays, seconds=None):
        """Return the `Answer` to an operation on a class or module of the submission.

        A class that often gave no answer is not called again, nor are the classes of a module that gave none.

        Raises:
            SandboxError: no process can be started, or the sandbox was stopped.
        """
        for name in (target, target.split(".")[0]):
            if self.unanswered[name] >= MAX_UNANSWERED:
                error = f"Earlier calls of {name} did not return, so it was not called again."
                return Answer(error=error, kind="timeout")
        if self._process is None:
            self.start()
        if (limit := seconds) is None:
            limit = CHECK_SECONDS if self._seconds_left > 0 else SECONDS_AFTER_TIMEOUT
        answer = self._exchange({"op": op, "target": target, "params": params}, arrays, limit)
        if answer.kind == "timeout":
            self._seconds_left = 0
        elif seconds is None:
            self._seconds_left -= answer.seconds
        if self._process is None:
            self.unanswered[target] += MAX_UNANSWERED if op == "import" else 1
        return answer

    def start(self):
        """Start the process and send it the files.

        Raises:
            SandboxError: it does not start, or the sandbox was stopped.
        """
        if self.sandbox.is_stopped:
            raise SandboxError("the grader was stopped")
        files = {f"submission/{name}": data for name, data in self.files.items()}
        files |= {f"course/{name}": (ROOT / name).read_bytes() for name in COURSE_FILES}
        files = {name: np.frombuffer(data, np.uint8) for name, data in files.items()}
        has_torch = any(b"torch" in data for data in self.files.values())  # it takes a second to import
        self._mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._scratch = tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True)
        how = self.sandbox.command(f"from __grader__.main import main; main({has_torch})", self._scratch.name)
        how["env"] = how["env"] | {MARK: self._mark}
        self._socket, theirs = socket.socketpair()
        output = {"stdin": theirs, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        try:
            if "user" in how:
                os.chown(self._scratch.name, NOBODY, NOBODY)
            with theirs:  # a new session: Ctrl-C in a terminal is the grader's alone
                self._process = subprocess.Popen(**how, **output, start_new_session=True)
        except OSError as error:
            self._scratch.cleanup()
            raise SandboxError(str(error)) from error
        with self._process.stderr as errors:
            answer = self._exchange({"folders": self.folders}, files, START_SECONDS)
            if answer.error:
                said = errors.read().decode(errors="replace").strip().split("\n")[-1]
                raise SandboxError(said[:300] or answer.error)

    def _exchange(self, request, arrays, seconds):
        number, began = secrets.token_hex(8), time.monotonic()
        self._deadline = began + seconds
        try:
            for buffer in frames.encode(request | {"id": number}, arrays):
                self._set_timeout()
                self._socket.sendall(buffer)
            header, results = frames.decode(self._read, MAX_REPLY_BYTES)
            if header.get("id") != number:
                raise frames.FrameError("an answer to another request")
        except TimeoutError:
            self.close()
            return Answer(error=f"It did not finish within {seconds:.3g} s and was stopped.", kind="timeout")
        except (EOFError, OSError):
            answer = Answer(error=self.close(grace=1), kind="died")
            if self.sandbox.is_stopped:
                raise SandboxError("the grader was stopped") from None
            return answer
        except frames.FrameError as error:
            self.close()
            return Answer(error=f"It broke the grader's protocol ({error}).", kind="protocol")
        answer = Answer(results, seconds=time.monotonic() - began)
        if error := header.get("error"):
            kind, message, answer.where = (_text(error, name) for name in ("kind", "message", "where"))
            answer.kind = "missing" if kind == "missing" else "error"
            answer.error = message or "an error without a message"
        return answer

    def _read(self, n_bytes):
        data = bytearray(n_bytes)
        rest = memoryview(data)
        while rest:
            self._set_timeout()
            n_read = self._socket.recv_into(rest)
            if n_read == 0:
                raise EOFError
            rest = rest[n_read:]
        return data

    def _set_timeout(self):
        """Let the next call on the socket raise `TimeoutError` at the request's deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def interrupt(self):
        """End the request that another thread waits for."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, grace=0):
        """End the process and all that it started. Return how it had ended, if it did within `grace` seconds."""
        if self._process is None:
            return ""
        process, self._process = self._process, None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        code = process.returncode
        process.kill()  # behind bubblewrap, its PID namespace ends with it
        if not self.sandbox.has_bubblewrap:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            deadline, n_empty = time.monotonic() + 10, 0
            while n_empty < 2 and time.monotonic() < deadline:  # one scan can miss the child of a process that exits
                left = marked_processes(self._mark)
                n_empty = 0 if left else n_empty + 1
                for pid in left:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
        process.wait()
        self._socket.close()
        self._scratch.cleanup()
        if code is None:
            return "It closed its connection to the grader."
        number = -code if code < 0 else code - 128  # as bubblewrap and a shell have it
        is_signal = number in list(signal.Signals)
        how = f"signal {signal.Signals(number).name}" if is_signal else f"exit status {code}"
        return f"Its process ended with {how}."

    def __exit__(self, *_):
        self.close()


def marked_processes(mark):
    """Return the ids of the processes that have `mark` in their environment; none on systems without /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@functools.cache
def can_disable_namespaces():
    """Return whether bubblewrap is new enough to forbid the creation of namespaces."""
    return "--disable-userns" in subprocess.run([BWRAP, "--help"], capture_output=True, text=True).stdout


def _text(error, name):
    """Return a short printable text from a worker's description of an error."""
    text = str(error.get(name, "") if isinstance(error, dict) else "")[:500]
    return "".join(c if c.isprintable() else " " for c in text)
