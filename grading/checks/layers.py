"""Question 1.2: the four layers in NumPy. A layer is compared with PyTorch, or with itself."""

import numpy as np
import torch.nn.functional as F

from grading.checks.case import BATCHED, Case, first_failed, float32, forward, gradient, second_batch
from grading.checks.check import EPS32, PASSED, Check, Result, difference, failure, is_close, is_varied
from grading.checks.inputs import activation_input, entropy_input, large_input, linear_input

LOG_CONSTANT = 1e-5  # the largest inside a logarithm that costs nothing
SHORT_BATCH, LONG_BATCH = 8, 64


def _has_two_slopes(grading, case):
    out, x = case.got(grading, "out"), case.arrays["x"]
    return is_varied(out) and out.shape == x.shape and len(np.unique((out / x).round(4))) == 2


def _are_probabilities(grading, case):
    out = case.got(grading, "out")
    return is_varied(out) and bool((out > 0).all()) and is_close(out.sum(axis=-1), np.ones(len(out)))


def _is_loss(grading, case):
    """Return whether an output depends on the targets, and is no linear function of the probabilities."""
    x, y = case.arrays["x"], case.arrays["y"]
    changes = ({}, {"y": np.roll(y, 1, axis=1)}, {"x": x[::-1].copy()}, {"x": (x + x[::-1]) / 2})
    outs = [case.replace(change).got(grading, "out") for change in changes]
    if any(out is None or out.shape or not np.isfinite(out) for out in outs):
        return False
    one, other_targets, reversed_x, mean_x = outs
    return one != other_targets and not is_close(mean_x, (one + reversed_x) / 2)


def linear(n, n_in=5, n_out=3, seed=11, **more):
    arrays, made = linear_input(n, n_in, n_out, seed), f"LinearModule({n_in}, {n_out})"
    return Case("modules.LinearModule", made, {"args": [n_in, n_out]} | more, arrays,
                lambda x, weight0, bias0: F.linear(x, weight0, bias0))  # fmt: skip


def leaky_relu(n, slope=0.25, seed=8):
    return Case("modules.LeakyReLUModule", f"LeakyReLUModule({slope})", {"args": [slope]}, activation_input(n, seed),
                lambda x: F.leaky_relu(x, slope), is_comparable=_has_two_slopes)  # fmt: skip


def softmax(arrays):
    return Case("modules.SoftMaxModule", "SoftMaxModule()", {"args": []}, arrays,
                lambda x: F.softmax(x, dim=1), is_comparable=_are_probabilities)  # fmt: skip


def cross_entropy(n, seed=1):
    """A small constant in the logarithm changes the loss by at most `bounds`, half as much again."""
    arrays = entropy_input(n, seed)
    x, y = arrays["x"], arrays["y"]
    bounds = {"out": 1.5 * abs((y * (np.log(x + LOG_CONSTANT) - np.log(x))).sum() / n),
              "dx": 1.5 * abs(y / (x + LOG_CONSTANT) - y / x) / n}  # fmt: skip
    return Case("modules.CrossEntropyModule", "CrossEntropyModule()", {"args": []}, arrays,
                lambda x, y: -(y * x.log()).sum(dim=1).mean(), bounds, _is_loss)  # fmt: skip


def layers(n, seed=0):
    return [
        linear(n, seed=11 + seed),
        leaky_relu(n, seed=8 + seed),
        softmax(activation_input(n, 4 + seed)),
        cross_entropy(n, 1 + seed),
    ]


LINEAR, LEAKY, SOFTMAX, ENTROPY = LAYERS = layers(7)  # a batch size that no layer has
LOSS_GRADIENT = ENTROPY.replace(backward_only=True)  # its backward pass needs no forward pass before it
SOFTMAX_LARGE = softmax(large_input(7))


def scales(case, name):
    """Return what a right gradient may be multiplied by: the mean over the batch may be taken anywhere, once."""
    n = len(case.arrays["x"])
    if case.target == ENTROPY.target:
        return 1, n
    return (1, 1 / n) if case.target == SOFTMAX.target or name != "dx" else (1,)


def working_layers(grading):
    """Return the layers whose results can be compared with themselves: forward and backward run on one batch."""
    return [
        case for case in LAYERS
        if not case.ask(grading).error and case.is_comparable(grading, case)
        and all(np.shape(case.got(grading, name)) == right.shape and np.isfinite(case.got(grading, name)).all()
                for name, right in case.expected.items())
    ]  # fmt: skip


# ---- One layer ---------------------------------------------------------------------------------


def _parameter_gradient(name):
    """A sum over the batch; or the mean, if the other one is a mean, too."""
    other = {"dweight0": "dbias0", "dbias0": "dweight0"}[name]

    def run(grading):
        factor, other_factor = (LINEAR.scale(grading, n, scales(LINEAR, n)) for n in (name, other))
        if factor is None:
            return gradient(grading, LINEAR, name)
        if other_factor == 1 and factor != 1:
            problem = LINEAR.wrong(grading, name)
            note = f"This is the mean over the batch, but the {LINEAR.label(other)} is a sum: use the sum in both"
            return Result("failed", LINEAR.called(), problem, note)
        # The shape of a square weight does not tell whether its gradient is transposed.
        square = linear(6, 4, 4, seed=18, is_out_in=bool(LINEAR.got(grading, "is_out_in")[0]))
        if square.wrong(grading, "out") or square.scale(grading, name, scales(square, name)) is not None:
            return PASSED
        return gradient(grading, square, name, scales(square, name))

    return run


def _linear_start(grading):
    called, answer = "LinearModule(400, 300).params", grading.ask("start", LINEAR.target, {"args": [400, 300]})
    if answer.error:
        return failure(answer, called)
    weight, bias = answer.arrays["weight"].astype(np.float64), answer.arrays["bias"]
    if sorted(weight.shape) != [300, 400] or bias.size != 300:
        problem = f"The shapes are {weight.shape} and {bias.shape}, expected (300, 400) or its transpose, and (300,)."
        return Result("failed", called, problem)
    # Of 120,000 draws, the mean is within 5 standard errors, and the deviation within 2 %, about 10 standard errors.
    if not abs(weight.mean()) < 5 * 1e-4 / np.sqrt(weight.size) or not abs(weight.std() / 1e-4 - 1) < 0.02:
        found = f"mean {weight.mean():.2g} and standard deviation {weight.std():.3g}"
        problem = f"The weights have {found}, expected 0 and 0.0001."
        note = "0.0001 is the standard deviation, not the variance" * bool(abs(weight.std() - 0.01) < 1e-3)
        return Result("failed", called, problem, note)
    if bias.any():
        return Result("failed", called, f"A bias starts at {bias[bias != 0][0]:.2g}, expected 0.")
    return PASSED


def _large_logits(grading):
    """Right, or what the layer itself gives for logits from which each row's maximum is subtracted."""
    x, tolerance = SOFTMAX_LARGE.arrays["x"], 4 * EPS32 * np.abs(SOFTMAX_LARGE.arrays["x"]).max()
    shifted = SOFTMAX_LARGE.replace({"x": x - x.max(axis=1, keepdims=True)})
    for name in ("out", "dx"):
        found, own = SOFTMAX_LARGE.wrong(grading, name, tolerance=tolerance), shifted.got(grading, name)
        if found and not (is_varied(own) and SOFTMAX_LARGE.wrong(grading, name, own, tolerance) is None):
            note = SOFTMAX_LARGE.name_mistake(SOFTMAX_LARGE, f"large {name}", SOFTMAX_LARGE.got(grading, name))
            return failure(
                SOFTMAX_LARGE.ask(grading), f"{SOFTMAX_LARGE.called()}, with logits of about 1000", found, note
            )
    return PASSED


# ---- All layers --------------------------------------------------------------------------------


def for_all(check):
    """Return a check that each layer that runs has to pass; one that is wrong or missing has its own checks.

    Args:
        check: takes `Grading` and `Case`, returns a `Result`.
    """

    def run(grading):
        cases = working_layers(grading)
        if not cases:
            answers = [case.ask(grading) for case in LAYERS]
            answer = next((a for a in answers if a.kind != "missing"), answers[0])
            return failure(answer, "all layers", "No layer runs forward and backward: see the checks above.")
        return first_failed(check(grading, case) for case in cases)

    return run


def _second_batch(grading, case):
    later = layers(8, seed=20)[LAYERS.index(case)]
    if "weight0" in case.arrays:
        later = later.replace({name: case.arrays[name] for name in ("weight0", "bias0")})
    return second_batch(grading, later, {name: case.arrays[name] for name in BATCHED if name in case.arrays})


def _batch_of_one(grading, case):
    """Each example alone gives its row of the batch, and gradients of parameters of the same shape."""
    whole, n = case.ask(grading).arrays, len(case.arrays["x"])
    ones = [case.rows(slice(i, i + 1)) for i in range(n)]
    for name in sorted(case.expected):
        is_row = name in ("out", "dx") and whole[name].shape
        shape = (1, *whole[name].shape[1:]) if is_row else whole[name].shape
        got = [one.got(grading, name) for one in ones]
        if got[0] is None or got[0].shape != shape:
            problem = f"The {case.label(name)} has shape {np.shape(got[0])}, expected {shape}."
            return failure(ones[0].ask(grading), ones[0].called(), problem, "Larger batches have the right shape")
        if name == "out" or (name == "dx" and case.scale(grading, name, scales(case, name))):
            got = np.concatenate(got) if is_row else sum(got)
            if not any(is_close(got, s * whole[name]) for s in (1, n)):
                found = difference(case.label(name), got, whole[name])
                return Result(
                    "failed", ones[0].called(), found, "It should equal what the same examples give in one batch"
                )
    return PASSED


def _loops(grading, case):
    """As many lines of Python run for a long batch as for a short one."""
    long = layers(LONG_BATCH, seed=40)[LAYERS.index(case)]
    answer = grading.ask("lines", case.target, case.params | {"sizes": [SHORT_BATCH, LONG_BATCH]}, long.arrays)
    called = f"{case.expression}: forward and backward of {SHORT_BATCH} and of {LONG_BATCH} examples"
    if answer.error:
        return failure(answer, called)
    few, many = answer.arrays["counts"]
    if many - few < LONG_BATCH - SHORT_BATCH:
        return PASSED
    place = answer.text("place")
    problem = f"{LONG_BATCH - SHORT_BATCH} more examples take {many - few:.0f} more lines of Python"
    problem += f", most of them in {place}." if place else "."
    return Result(
        "failed",
        called,
        problem,
        "Use array operations on the whole batch: no loop, np.apply_along_axis or np.vectorize",
    )


# ---- Divisions by the size of the batch --------------------------------------------------------


def ratio_if_doubled(grading, case, name):
    """Return by what a result is multiplied if each example is there twice: 0.5, 1 or 2; None for anything else."""
    one, two = (c.got(grading, name) for c in (case, case.rows(np.tile(np.arange(len(case.arrays["x"])), 2))))
    if one is None or two is None or one.ndim != two.ndim:
        return None
    two = two[: len(one)] if one.ndim else two
    return next((r for r in (0.5, 1, 2) if one.any() and is_close(two, r * one)), None)


def loss_divisions(grading):
    """Return how often loss and softmax divide the gradient by the batch size; 1 if it is unclear for the loss."""
    return (ratio_if_doubled(grading, LOSS_GRADIENT, "dx") != 1) + (ratio_if_doubled(grading, SOFTMAX, "dx") == 0.5)


def _check(name, points, title, run):
    return Check(name, "1.2", points, title, ("modules.py",), run)


def _forward(*cases):
    return lambda grading: first_failed(forward(grading, case) for case in cases)


def _backward(case):
    return lambda grading: gradient(grading, case, "dx", scales(case, "dx"))


CHECKS = [
    _check("linear.start", 0.5, "weights start from N(0, 0.0001²), biases at 0", _linear_start),
    _check("linear.forward", 1, "the affine map", _forward(LINEAR)),
    _check("linear.weight_gradient", 1, "gradient of the weight", _parameter_gradient("dweight0")),
    _check("linear.bias_gradient", 1, "gradient of the bias", _parameter_gradient("dbias0")),
    _check("linear.input_gradient", 1, "gradient of the input", _backward(LINEAR)),
    _check("leaky_relu.forward", 0.75, "the activation, slopes of 0.25 and 0", _forward(LEAKY, leaky_relu(7, 0.0))),
    _check("leaky_relu.backward", 0.75, "gradient of its input", _backward(LEAKY)),
    _check("softmax.forward", 0.75, "probabilities", _forward(SOFTMAX)),
    _check("softmax.backward", 1, "the whole Jacobian, cross terms too", _backward(SOFTMAX)),
    _check("softmax.large_logits", 0.5, "logits of 1000 do not overflow, forward or backward", _large_logits),
    _check("cross_entropy.forward", 0.75, "the loss, the mean over the batch", _forward(ENTROPY)),
    _check("cross_entropy.backward", 0.75, "gradient of the loss", _backward(LOSS_GRADIENT)),
    _check("layers.second_batch", 0.5, "independent of the batch before", for_all(_second_batch)),
    _check("layers.batch_of_one", 0.25, "a batch of one example", for_all(_batch_of_one)),
    _check("layers.float32", 0.25, "inputs and gradients in float32, as in training",
           for_all(lambda grading, case: float32(grading, case, needs_float32=False))),
    _check("layers.speed", 0.5, "array operations, no loops over the batch", for_all(_loops)),
]  # fmt: skip
