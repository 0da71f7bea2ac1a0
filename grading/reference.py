"""What should come back: the operations of `child/`, run here on the project's own classes, right or with mistakes."""

import functools
import importlib
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from grading.child import operations, operations_torch

EPS32 = float(np.finfo(np.float32).eps)
# Sums of some hundred terms in float32 differ by less, and every mistake of the tests by a hundred times more.
TOLERANCE = 200 * EPS32


class Reference:
    """Computes what is expected, and remembers it: all submissions are asked the same."""

    def __init__(self):
        self._known = {}

    def __call__(self, op, params, arrays, mistakes=(), dtype=np.float64):
        """Return `{name: array}` of an operation on the project's classes, each of `mistakes` put into them.

        Mistakes in classes that the operation does not go through are left out. What a mistake makes impossible is
        missing, as are gradients that it keeps from coming.
        """
        through = self.through(op, params, arrays)
        return self._run(op, params, arrays, tuple(m for m in mistakes if m.target in through), dtype)[0]

    def through(self, op, params, arrays):
        """Return the classes that an operation goes through, as `modules.LinearModule`: first the one that it asks."""
        return self._run(op, params, arrays, (), np.float64)[1]

    def _run(self, op, params, arrays, mistakes, dtype):
        key = op, repr(sorted(params.items())), id(arrays) if arrays else 0, mistakes, np.dtype(dtype).name
        if key not in self._known:
            out, classes = {}, Classes(mistakes, dtype)
            try:
                run_here(op, classes, params, arrays, out)
            except Exception:
                if not mistakes:
                    raise
            self._known[key] = out, tuple(classes.made), arrays  # kept, so that their id stays theirs
        return self._known[key]


def run_here(op, load, params, arrays, out):
    """Run an operation, made for a submission's process, in this one, which keeps its number of threads.

    Args:
        op: its name, in `operations` or `operations_torch`.
        load, params, arrays, out: what it takes; `arrays` stay as they are.
    """
    operation = getattr(operations, op, None) or getattr(operations_torch, op)
    n_threads = torch.get_num_threads()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            operation(load, params, {name: array.copy() for name, array in arrays.items()}, out)
        finally:
            torch.set_num_threads(n_threads)


class Classes:
    """Loads the project's classes as `operations` asks for them, with mistakes put in.

    Attributes:
        made: `{module.name: class}` of all that were loaded, or that those go through.
    """

    def __init__(self, mistakes, dtype):
        self.mistakes, self.dtype, self.made = mistakes, dtype, {}

    def __call__(self, module, name):
        target = f"{module}.{name}"
        if target not in self.made:
            self.made[target] = None  # what it goes through comes after it
            found = getattr(importlib.import_module(module), name)
            if name == "CustomBatchNormManualModule":
                found = _with_function(found, self(module, "CustomBatchNormManualFunction"))
            for mistake in self.mistakes:
                if mistake.target == target:
                    found = mistake.put_into(found)
            if module == "mlp_numpy":
                found = _with_layers(found, self)
            more = {}
            if name == "LinearModule" or module == "mlp_numpy":
                more["__init__"] = functools.partialmethod(found.__init__, dtype=self.dtype)
            self.made[target] = type(name, (found,), more)
        return self.made[target]


def _with_layers(mlp_class, classes):
    """Return the NumPy MLP with each of its modules turned into what `classes` holds for it."""

    class Assembled(mlp_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for module in self.modules:
                module.__class__ = classes("modules", type(module).__name__)  # its attributes stay

    return Assembled


def _with_function(module_class, function):
    """Return the manual batch-norm module around another function."""

    class Assembled(module_class):
        def normalize(self, input):
            return function.apply(input, self.weight, self.bias, self.eps)

    return Assembled


def difference(got, expected, names, allowance=None, missing_alike=False):
    """Return where `got` first parts from `expected`, a `Difference`, or None where it does not.

    Args:
        got, expected: `{name: array}`.
        names: those to compare.
        allowance: `{name: array or number}`, how much more than rounding an entry may be off.
        missing_alike: whether an array that is in neither counts as equal, for a diagnosis; never for a point.
    """
    for name in names:
        if name not in expected and missing_alike and name not in got:
            continue
        if name not in expected:
            return Difference(name, "an array", "nothing that could be compared", f"{name} cannot be compared")
        if name not in got:
            return Difference(name, "nothing", f"shape {expected[name].shape}", f"{name} did not come back")
        if got[name].shape != expected[name].shape:
            shape = f"shape {got[name].shape}" if got[name].size else "nothing"
            return Difference(name, shape, f"shape {expected[name].shape}", f"{name} has another shape")
        mine, right = got[name].astype(np.float64), expected[name].astype(np.float64)
        finite = np.isfinite(right)
        if not (finite.all() or missing_alike):
            return Difference(name, "an array", "numbers too large to compare", f"{name} cannot be compared")
        bound = TOLERANCE * np.abs(right[finite]).max(initial=0.0) + np.zeros(right.shape)
        if allowance is not None:
            extra = np.asarray(allowance.get(name, 0.0))  # of the right array, whose shape a mistake's may not have
            bound = bound + (extra if extra.shape in ((), right.shape) else extra.max())
        with np.errstate(invalid="ignore"):
            error = np.abs(mine - right)
        bad = np.where(
            finite & np.isfinite(mine), error > bound, ~((mine == right) | (np.isnan(mine) & np.isnan(right)))
        )
        if bad.any():
            order = np.where(bad, np.where(np.isfinite(error), error, np.inf), -1.0)
            index = tuple(int(i) for i in np.unravel_index(order.argmax(), order.shape))
            where = f" at index {index}" if index else ""
            is_whole = np.issubdtype(expected[name].dtype, np.integer)
            return Difference(
                name,
                f"{mine[index]:.7g}{where}",
                f"{right[index]:.7g}" + ("" if is_whole else f" (± {np.broadcast_to(bound, right.shape)[index]:.1g})"),
                _summary(name, mine, right, bad),
            )
    return None


def _summary(name, mine, right, bad):
    """Return how much of an array differs, and how, where that is simple to say."""
    text = f"{name}: {bad.sum()} of {bad.size} numbers differ" if bad.size > 1 else f"{name} differs"
    n_lost = int((~np.isfinite(mine)).sum())
    if n_lost:
        return f"{text}, {n_lost} being infinite or NaN"
    with np.errstate(all="ignore"):
        large = np.abs(right) > 1e-3 * np.abs(right).max()
        ratios = mine[large] / right[large]
        if ratios.size and np.ptp(ratios) < 1e-4 * np.abs(ratios).max() and abs(ratios.mean() - 1) > 1e-4:
            return f"{text}: what came back is {ratios.mean():.4g} times what is expected"
    return text


@dataclass
class Difference:
    """Where two results part: the array's name, what came back and what was expected, in words; a sentence on it."""

    name: str
    got: str
    expected: str
    sentence: str
