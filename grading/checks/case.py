"""Runs a class on fixed inputs and compares it with PyTorch, or with itself."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch

from grading.checks.check import PASSED, TOLERANCE, Result, difference, failure, is_close, is_varied, sentence
from grading.checks.mistakes import name_mistake

# Central differences have a step that suits a layer that computes in float32: rounding gives some 1e-4 of the largest.
STEP, DIFFERENCES_TOLERANCE = 1e-3, 2e-3
BATCHED = ("x", "y", "dout")  # arrays whose first axis is the batch
NEW_INSTANCE = "a new instance gives. Keep nothing between batches, and set gradients by =, not by +="
CONSTANT = "The output is the same for all inputs, not finite, or nothing that this class should return."


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """What is asked of one class.

    Attributes:
        target: the class, as 'modules.LinearModule'.
        expression: how it is made, as 'LinearModule(5, 3)'.
        params: what its operation takes: `args`, and more.
        arrays: x, weights, and dout or, for a loss, y.
        function: the same by PyTorch, of tensors by the names of `arrays`.
        bounds: `{name: how much more than rounding a result may be off}`.
        is_comparable: takes Grading and Case; whether it may be compared with itself: a constant may not.
        name_mistake: takes Case, name of a result and its value; returns a sentence, or an empty one.
        step: of finite differences.
        also_right: takes Case and its own results; returns further gradients that count as right.
    """

    target: str
    expression: str
    params: dict
    arrays: dict
    function: Callable
    bounds: dict = dataclasses.field(default_factory=dict)
    is_comparable: Callable = lambda grading, case: is_varied(case.got(grading, "out"))
    name_mistake: Callable = name_mistake
    also_right: Callable = lambda case, own: {}
    step: float = STEP

    def replace(self, arrays=None, **params):
        """Return the case with other arrays or parameters."""
        return dataclasses.replace(self, arrays=self.arrays | (arrays or {}), params=self.params | params)

    def rows(self, index):
        """Return the case for some examples of its batch."""
        return self.replace({name: self.arrays[name][index] for name in BATCHED if name in self.arrays})

    def called(self, backward=True):
        n, is_loss = len(self.arrays["x"]), "y" in self.arrays
        what = "forward(x, y)" if is_loss else "forward(x)"
        what += (", backward(x, y)" if is_loss else ", backward(dout)") * backward
        return f"{self.expression}: {what}, for {f'a batch of {n}' if n > 1 else 'one example'}"

    def label(self, name):
        """Return 'gradient of the weight of layer 1' for 'dweight0'."""
        is_loss, kind = "y" in self.arrays, name.removeprefix("d").rstrip("0123456789")
        if name == "out":
            return "loss" if is_loss else "output"
        kind = {"x": "probabilities" if is_loss else "input", "weight": "weight", "bias": "bias"}.get(kind, kind)
        layer = f" of layer {int(name[-1]) + 1}" if "weight1" in self.arrays and name[-1].isdigit() else ""
        return f"gradient of {'the ' * (kind not in ('gamma', 'beta'))}{kind}{layer}"

    def ask(self, grading, backward=True):
        return grading.ask("run", self.target, self.params | {"backward": backward}, self.arrays)

    def got(self, grading, name):
        return self.ask(grading, backward=name != "out").arrays.get(name)

    @functools.cached_property
    def expected(self):
        """Return the output and all gradients by PyTorch, as `{'out', 'dx', …}`."""
        tensors = {
            name: torch.tensor(array, dtype=torch.float64, requires_grad=name != "y")
            for name, array in self.arrays.items()
            if name != "dout"
        }
        out = self.function(**tensors)
        names = [name for name in tensors if name != "y"]
        dout = torch.tensor(self.arrays.get("dout", 1.0), dtype=torch.float64).reshape(out.shape)
        grads = torch.autograd.grad(out, [tensors[name] for name in names], dout, allow_unused=True)
        found = {f"d{name}": grad for name, grad in zip(names, grads, strict=True) if grad is not None}
        return {name: value.detach().numpy() for name, value in {"out": out, **found}.items()}

    def own(self, grading):
        """Return finite differences of the submission's forward pass, as `{'dx', …}`; {} if it fails."""
        names = [name for name in self.arrays if name not in ("y", "dout")]
        n_cases = 2 * sum(self.arrays[name].size for name in names)
        stacked = {n: np.repeat(a[None].astype(float), n_cases, axis=0) for n, a in self.arrays.items() if n != "dout"}
        row = 0
        for name in names:
            flat = stacked[name].reshape(n_cases, -1)
            for i in range(flat.shape[1]):
                flat[row, i] += self.step
                flat[row + 1, i] -= self.step
                row += 2
        values = grading.ask("cases", self.target, self.params, stacked).arrays.get("out")
        dout = self.arrays.get("dout", 1.0)
        if values is None or values.shape != (n_cases, *np.shape(dout)) or not np.isfinite(values).all():
            return {}
        sums = (values * dout).reshape(n_cases, -1).sum(axis=1)
        slopes = (sums[::2] - sums[1::2]) / (2 * self.step)
        ends = np.cumsum([self.arrays[name].size for name in names])[:-1]
        return {
            f"d{name}": part.reshape(self.arrays[name].shape)
            for name, part in zip(names, np.split(slopes, ends), strict=True)
        }

    def wrong(self, grading, name, expected=None, tolerance=TOLERANCE):
        """Return a sentence on how a result differs from PyTorch's, or from `expected`; None if it does not."""
        expected = self.expected[name] if expected is None else expected
        return difference(self.label(name), self.got(grading, name), expected, self.bounds.get(name, 0.0), tolerance)

    def scale(self, grading, name, scales=(1.0,)):
        """Return the factor of `scales` by which a gradient differs from the right one, or None.

        The right one is PyTorch's, or, unless it is zero, that of the submission's forward pass.
        """
        got = self.got(grading, name)
        if got is None:
            return None
        for s in scales:
            if is_close(got, s * self.expected[name], s * self.bounds.get(name, 0.0)):
                return s
        own = [(self.also_right(self, self.ask(grading).arrays), 1e-4)]
        own += [(self.own(grading), DIFFERENCES_TOLERANCE)] if self.is_comparable(grading, self) else []
        for gradients, tolerance in own:
            right = gradients.get(name)
            if right is None or abs(right).max() < 1e-6:
                continue
            for s in scales:
                if is_close(got, s * right, tolerance=tolerance):
                    return s
        return None


def first_failed(results):
    return next((result for result in results if not result.passed), PASSED)


def forward(grading, case):
    answer, found = case.ask(grading, backward=False), case.wrong(grading, "out")
    if problem := answer.text("problem"):
        return Result("failed", case.called(False), sentence(problem))
    if found is None:
        return PASSED
    return failure(answer, case.called(False), found, case.name_mistake(case, "out", case.got(grading, "out")))


def gradient(grading, case, name, scales=(1.0,)):
    """Return the `Result` of one gradient."""
    if case.scale(grading, name, scales) is not None:
        return PASSED
    found = case.wrong(grading, name) or "It is not the gradient of this output."
    return failure(case.ask(grading), case.called(), found, case.name_mistake(case, name, case.got(grading, name)))


def same(grading, case, expected, source, tolerance=TOLERANCE, backward=True):
    """Return the `Result` of a case that has to give what the submission itself has given otherwise."""
    answer = case.ask(grading, backward)
    for name, array in expected.items():
        is_result = name == "out" or name.startswith("d")
        if not is_result or not array.size or not np.isfinite(array).all():
            continue
        found = difference(case.label(name), answer.arrays.get(name), array, tolerance=tolerance)
        if found:
            return failure(answer, case.called(backward), found, f"It should equal what {source}")
    return PASSED


def second_batch(grading, case, before):
    """Another batch, of another size, and another instance that runs it, change nothing."""
    if not case.is_comparable(grading, case):
        return constant_output(grading, case)
    expected = case.ask(grading).arrays
    after = case.replace({f"before_{name}": array for name, array in before.items()})
    for is_twin, when in ((False, "after another batch"), (True, "a second instance runs before its backward")):
        result = same(grading, after.replace(is_twin=is_twin), expected, NEW_INSTANCE)
        if not result.passed:
            return dataclasses.replace(result, called=f"{result.called}; {when}")
    return PASSED


def constant_output(grading, case):
    return failure(case.ask(grading), case.called(), CONSTANT)


def float32(grading, case, needs_float32=True):
    """Inputs, and parameters in PyTorch, in float32 give what float64 gives."""
    arrays = {name: case.arrays[name].astype(np.float32) for name in BATCHED if name in case.arrays}
    single = dataclasses.replace(case.replace(arrays, float32=True), expression=f"In float32, {case.expression}")
    out = single.got(grading, "out")
    if out is None or not case.is_comparable(grading, case):
        return constant_output(grading, single)
    if needs_float32 and out.dtype != np.float32:
        return Result("failed", single.called(), f"The output is in {out.dtype}, expected float32.")
    return same(grading, single, case.ask(grading).arrays, "float64 gives")


def steps(grading, case):
    """Training one network gives the weights that a new network at each step gives: nothing is kept between steps."""
    cases = [case.replace(is_fresh=is_fresh) for is_fresh in (False, True)]
    one, fresh = (grading.ask("steps", case.target, case.params, case.arrays) for case in cases)
    called, moves = f"{case.expression}, {len(case.arrays['x'])} steps of gradient descent from given weights", False
    for name in [name for name in case.arrays if name not in BATCHED]:
        got, expected = one.arrays.get(name), fresh.arrays.get(name)
        if name.startswith("bias") and not one.error and got is None and expected is None:
            continue  # a network without biases
        if got is None or expected is None or not np.isfinite(expected).all():
            return failure(one if one.error else fresh, called, "Weights are missing or infinite.")
        label = case.label(f"d{name}").removeprefix("gradient of the ")
        found = difference(label, got, expected, tolerance=1e-4)
        if found:
            return failure(one, called, found, "The weights should equal those of a new network at each step")
        moves |= name.startswith("weight") and not is_close(expected, case.arrays[name], tolerance=1e-6)
    return PASSED if moves else Result("failed", called, "No weight changes.")
