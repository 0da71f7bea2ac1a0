"""Asks a submission's process, gives up on it in time, and starts it anew."""

import os
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from grading.child import frames, old_numpy
from grading.process import Worker
from grading.walls import ROOT, SandboxError

# The course hands these out: a submission may import them without handing them in.
COURSE_FILES = ("cifar10_utils.py", *(f"training/{path.name}" for path in sorted((ROOT / "training").glob("*.py"))))
MAX_REPLY_BYTES = 64 << 20
START_SECONDS = 60
CPU_RATIO = 4  # processor time of each process to `total_seconds`: of threads, and as answers count a quarter
CHECK_SECONDS = 30  # for what takes a tenth of one where nothing else runs


@dataclass
class Answer:
    """What came back to one request.

    Attributes:
        arrays: `{name: array}`, also where an error came after them.
        error: None, or one sentence on what went wrong.
        kind: None, or 'error' (raised by the submission), 'timeout', 'died' or 'protocol'.
        detail: the error as `{'type', 'message', 'where'}`, for kind 'error'.
        seconds: until the answer was there.
    """

    arrays: dict = field(default_factory=dict)
    error: str | None = None
    kind: str | None = None
    detail: dict = field(default_factory=dict)
    seconds: float = 0.0


class Session:
    """A submission's process, started when something is asked and started anew after it died. Use it as a context.

    Args:
        sandbox: a `walls.Sandbox`.
        files: `{path in the folder: bytes}`.
        folders: those of them in which Python looks for modules, the first being the working directory.
        lenient: bring back names that NumPy has dropped.
        total_seconds: for all requests together, of which one that is answered counts a quarter: what hangs stops
            the grader, what is slow may be so because the machine is. Past them, each gets `least_seconds`.

    Attributes:
        protection: a sentence on what held the process.
        old_names: of NumPy, which it used, where `lenient`.
        was_cut_off: whether a question was left without an answer.
    """

    def __init__(self, sandbox, files, folders, lenient=False, total_seconds=300, least_seconds=2):
        self.sandbox, self.files, self.folders, self.lenient = sandbox, files, folders, lenient
        self.total_seconds, self.least_seconds = total_seconds, least_seconds
        self.protection, self.old_names = "nothing of the submission was run", set()
        self.was_cut_off = False
        self._worker, self._spent = None, 0.0

    def ask(self, op, params, arrays=None, seconds=CHECK_SECONDS):
        """Return the `Answer` to one operation, within `seconds`.

        Raises:
            SandboxError: no process could be started, or the grader has been stopped.
        """
        seconds = min(seconds, max(self.total_seconds - self._spent, self.least_seconds))
        began = time.monotonic()
        if self._worker is None:
            self._start()
        answer = self._exchange({"op": op, "params": params}, arrays or {}, seconds)
        self.was_cut_off |= answer.kind in ("timeout", "died")
        self._spent += (time.monotonic() - began) / (4 if answer.kind in (None, "error") else 1)
        return answer

    def _start(self):
        # Without PyTorch, which takes a second, where nothing can ask for it.
        has_torch = any(b"torch" in raw for raw in self.files.values())
        worker = self._worker = Worker(self.sandbox, CPU_RATIO * self.total_seconds, has_torch)
        self.protection = self.sandbox.protection
        files = {name: np.frombuffer(raw, np.uint8) for name, raw in self.files.items()}
        course = {name: (ROOT / name).read_text(encoding="utf-8") for name in COURSE_FILES}
        request = {"op": "files", "folders": self.folders, "lenient": self.lenient, "course": course}
        answer = self._exchange(request, files, START_SECONDS)
        if answer.error:
            said = worker.said.strip().split("\n")[-1][:300]
            raise SandboxError(f"no process could be started for the submission: {said or answer.error}")

    def _exchange(self, request, arrays, seconds):
        number = os.urandom(8).hex()
        is_late, worker = threading.Event(), self._worker

        def give_up():
            is_late.set()
            worker.kill()

        alarm = threading.Timer(seconds, give_up)
        began = time.monotonic()
        alarm.start()
        try:
            frames.send(worker.channel, request | {"id": number}, arrays)
            header, results = frames.receive(worker.channel, MAX_REPLY_BYTES)
            elapsed = time.monotonic() - began
            if header.get("id") != number:
                raise frames.FrameError("an answer to another question")
            detail = _checked_error(header.get("error"))
            old = header.get("old")
            if self.lenient and isinstance(old, list):  # the submission may have written into it
                self.old_names |= {name for name in old_numpy.NAMES if name in old}
        except (EOFError, OSError, frames.FrameError, ValueError) as error:
            reason = self.close(grace=1)  # its own end is a better reason than being hung up on
            if self.sandbox.is_stopped:  # what was asked says nothing of the submission, and no more is written
                raise SandboxError("the grader has been stopped") from error
            if is_late.is_set():
                return Answer(error=f"it did not end within {seconds:.3g} s and was stopped", kind="timeout")
            if isinstance(error, frames.FrameError):
                return Answer(error=f"it broke the grader's protocol ({error})", kind="protocol")
            return Answer(error=reason, kind="died")
        finally:
            alarm.cancel()
            alarm.join()  # it may be hanging up right now: then it is late
        if is_late.is_set():  # it hung up as the answer came: the next question needs a new process
            self.close()
        if detail is None:
            return Answer(results, seconds=elapsed)
        text = f"{detail['type']}: {detail['message']}".rstrip(": ")
        return Answer(results, f"{text} ({detail['where']})" if detail["where"] else text, "error", detail, elapsed)

    def close(self, grace=0):
        """End the process and all that it started, and return how it had ended. Nothing of it is left afterwards."""
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        worker.close(grace)
        return worker.reason

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _checked_error(detail):
    """Return an error's description with three short printable texts, or None."""
    if detail is None:
        return None
    get = detail.get if isinstance(detail, dict) else lambda *_: ""
    texts = {name: str(get(name, ""))[:500] for name in ("type", "message", "where")}
    return {name: "".join(c if c.isprintable() else " " for c in text) for name, text in texts.items()}
