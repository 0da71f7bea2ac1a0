"""Checks, their results, and how a submission is asked for what a check compares."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

EPS32 = float(np.finfo(np.float32).eps)
# Sums of some hundred terms in float32 differ by less, and every mistake of the tests by a hundred times more.
TOLERANCE = 200 * EPS32


@dataclass
class Answer:
    """The answer to one request.

    Attributes:
        arrays: `{name: array}`, also if an error came after them.
        error: one sentence, or empty.
        kind: '', 'error' (raised by the submission), 'missing' (not written yet), 'timeout', 'died' or 'protocol'.
        where: as 'modules.py, line 12, in forward', or empty.
        seconds: until the answer was there.
    """

    arrays: dict = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    where: str = ""
    seconds: float = 0.0

    def text(self, name):
        """Return the text that an operation has sent as an array."""
        return bytes(self.arrays.get(name, np.zeros(0)).astype(np.uint8)).decode(errors="replace")


@dataclass(frozen=True)
class Check:
    """A named part of a question and its points.

    Attributes:
        name: as in `linear.forward`.
        question: a key of `scheme.QUESTIONS`.
        points: what it is worth.
        title: what it asks for, in a few words.
        files: the course's files that it needs.
        run: takes the `Grading`, returns a `Result`.
    """

    name: str
    question: str
    points: float
    title: str
    files: tuple
    run: Callable


@dataclass
class Result:
    """What came of a check.

    Attributes:
        status: 'passed', 'failed', 'not written' (which is a failure, too), 'not decided' or 'not run'.
        called: what was called, as code.
        problem: what was returned and what was expected, in sentences.
        note: the known mistake that gives this, or another hint.
        is_error: whether an exception, a timeout or the like is the problem, not a value.
    """

    status: str
    called: str = ""
    problem: str = ""
    note: str = ""
    is_error: bool = False

    @property
    def passed(self):
        return self.status == "passed"


PASSED = Result("passed")


class Grading:
    """One submission and the answers that it has given; no check changes what another one sees.

    Args:
        ask: function of (operation, target, params, arrays, seconds) that returns an `Answer`.
        found: the course's files that were handed in.
        training: a `training.Training`; None leaves the training checks out.

    Attributes:
        notes: on statements of its files that failed, for staff.
    """

    def __init__(self, ask, found, training=None):
        self.send, self.found, self.training = ask, set(found), training
        self.notes, self._answers = set(), {}

    def ask(self, op, target, params=None, arrays=None, seconds=None):
        """Return the `Answer` to an operation on the class `target`; repeated requests are answered from a cache."""
        params, arrays = params or {}, arrays or {}
        content = tuple((name, array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items())
        key = op, target, repr(sorted(params.items())), hash(content)
        if key not in self._answers:
            self._answers[key] = self.send(op, target, params, arrays, seconds)
        return self._answers[key]

    def broken(self, file):
        """Return why a file of the course cannot be graded, as a `Result`, or None."""
        called = f"import {file.removesuffix('.py')}"
        if file not in self.found:
            return Result("not written", called, f"There is no {file}.")
        answer = self.ask("import", file.removesuffix(".py"), seconds=20)
        self.notes |= set(answer.text("failed").splitlines())
        return failure(answer, called) if answer.error else None

    def run(self, check):
        """Return the `Result` of a check, whatever happens in it."""
        if check.name.endswith(".training") and (self.training is None or self.training.data is None):
            return Result("not run", "training on CIFAR-10", self.training.why_not if self.training else "")
        result = next(filter(None, map(self.broken, check.files)), None)
        try:
            result = result or check.run(self)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"The result could not be compared ({type(error).__name__}: {error})."
            return Result("failed", check.title, problem)
        return dataclasses.replace(result, note=result.note and sentence(result.note))


def failure(answer, called, problem="", note=""):
    """Return the `Result` of an answer that is not as expected: its error, if there is one, else problem and note."""
    if answer.kind == "missing":
        return Result("not written", called, sentence(answer.error))
    if answer.error:
        problem, note = sentence(answer.error.rstrip(".") + (f" ({answer.where})" if answer.where else "")), ""
    return Result("failed", called, problem, note, bool(answer.error))


def sentence(text):
    return text if text.endswith((".", "!", "?")) else f"{text}."


# ---- Comparing arrays --------------------------------------------------------------------------


def difference(label, got, expected, bound=0.0, tolerance=TOLERANCE):
    """Return a sentence on how an array differs from what is expected, or None.

    Args:
        label: as 'gradient of the bias'.
        got: an array, or None.
        expected: an array of finite numbers.
        bound: how much more than rounding each entry may be off, a number or an array.
        tolerance: allowed error as a fraction of the largest expected entry.
    """
    expected = np.asarray(expected, np.float64)
    if got is None or (got.size == 0 and expected.size):
        return f"There is no {label}."
    if got.shape != expected.shape:
        return f"The {label} has shape {got.shape}, expected {expected.shape}."
    got = got.astype(np.float64)
    bound = np.broadcast_to(bound + tolerance * np.abs(expected).max(initial=0.0), expected.shape)
    with np.errstate(all="ignore"):
        error = np.where(np.isfinite(got), np.abs(got - expected), np.inf)
    wrong = error > bound
    if not wrong.any():
        return None
    index = np.unravel_index(np.where(wrong, error, -1).argmax(), error.shape)
    values = f"got {got[index]:.6g}, expected {expected[index]:.6g}"
    if not expected.shape:
        return f"The {label} is wrong: {values}."
    place = ", ".join(str(int(i)) for i in index)
    text = (
        f"The {label} is wrong in {wrong.sum()} of {wrong.size} entries. The largest error is at [{place}]: {values}."
    )
    with np.errstate(all="ignore"):
        large = np.abs(expected) > 1e-3 * np.abs(expected).max()
        ratios = got[large] / expected[large]
    is_factor = ratios.size and np.isfinite(ratios).all() and np.ptp(ratios) < 1e-4 * abs(ratios.mean())
    if is_factor and not wrong[~large].any():
        text += f" All entries are {ratios.mean():.4g} times what is expected."
    return text


def is_close(got, expected, bound=0.0, tolerance=TOLERANCE):
    return difference("", got, expected, bound, tolerance) is None


def is_varied(array):
    """Return whether an array exists, is finite, and has rows that differ. A constant output could match by chance."""
    return array is not None and array.size > 1 and bool(np.isfinite(array).all() and np.ptp(array, axis=0).any())
