"""Question 1.2: the MLP of those layers.

It is run with substitutes for the layers, so that only the MLP itself counts; or, if it does not use them or does not
run with them, with the submission's own layers.
"""

import dataclasses
import functools

import numpy as np
import torch.nn.functional as F

from grading.checks.case import Case, constant_output, first_failed, float32, forward, gradient, steps
from grading.checks.check import PASSED, Check, Result, failure, is_varied
from grading.checks.inputs import mlp_input
from grading.checks.layers import ENTROPY, LINEAR, LOSS_GRADIENT, loss_divisions, ratio_if_doubled, scales

N_STEPS, LEARNING_RATE, SLOPE = 50, 0.05, 0.25


def linears(x, weights, linear, activation):
    """Return the output of the last linear layer, before a softmax."""
    for l in range(len(weights) // 2):
        x = linear(activation(x) if l else x, weights[f"weight{l}"], weights[f"bias{l}"])
    return x


def substitutes(x, slope=SLOPE, last=lambda x: x.tanh(), **weights):
    """The MLP of `worker/substitutes.py`."""

    def linear(x, weight, bias):
        return (x[:, None, :] + weight).sin().sum(dim=2) * (1 + bias)

    return last(linears(x, weights, linear, lambda x: 0.5 * x.sin() + slope * x))


def plain(x, **weights):
    return F.softmax(linears(x, weights, F.linear, lambda x: F.leaky_relu(x, SLOPE)), dim=1)


def name_mlp_mistake(case, name, got):
    """Return the common mistake that gives an output of substitutes; of gradients, what has to be done."""
    if name != "out":
        return "Call backward of all modules, also of softmax and each leaky ReLU, the last one first"
    slopes = {"is always 0": 0, "is always 0.01": 0.01, "is always 0.02": 0.02, "has the wrong sign": -SLOPE}
    known = {f"The slope of the activations {what}: neg_slope is not used": {"slope": s} for what, s in slopes.items()}
    known["The softmax after the last layer is missing"] = {"last": lambda x: x}
    known["There is an activation before the softmax"] = {"last": lambda x: (0.5 * x.sin() + SLOPE * x).tanh()}
    for sentence, change in known.items():
        wrong = dataclasses.replace(case, function=functools.partial(substitutes, **change)).expected["out"]
        if got is not None and "substitutes" in case.params and np.allclose(got, wrong):
            return sentence
    return ""


def networks(n_hidden, n_steps=None):
    """Return the case with substitutes, and that with the submission's own layers."""
    made, params = f"MLP(6, {list(n_hidden)}, 4, {SLOPE})", {"args": [6, list(n_hidden), 4, SLOPE]}
    case = Case("mlp_numpy.MLP", made, params, mlp_input(n_hidden, 14 + len(n_hidden), n_steps), substitutes,
                name_mistake=name_mlp_mistake)  # fmt: skip
    return case.replace(substitutes="modules."), dataclasses.replace(case, function=plain)


NETWORKS = {n_hidden: networks(n_hidden) for n_hidden in ((), (5,), (9, 7, 5), (5, 5, 5))}
TRAINED = [case.replace(learning_rate=LEARNING_RATE) for case in networks((9,), N_STEPS)]


def with_either(check, *sizes):
    """Return a check that networks of each size have to pass, with substitutes or with their own layers."""

    def run(grading):
        return first_failed(_either(lambda case: check(grading, case), NETWORKS[n_hidden]) for n_hidden in sizes)

    return run


def _either(check, cases):
    """Return the first result that passes, else that with the student's own layers, with a note of the other one."""
    first = check(cases[0])
    if first.passed:
        return first
    last = check(cases[1])
    return last if last.passed else dataclasses.replace(last, note=first.note or last.note)


def _gradients(grading, case):
    scales = (1, 1 / len(case.arrays["x"]))  # it may divide by the batch
    names = [f"d{name}" for name in reversed(case.arrays) if name.startswith(("weight", "bias"))]
    return first_failed(gradient(grading, case, name, scales) for name in names)


def _batch_mean(grading):
    """All backward passes together divide by the size of the batch once."""
    called = "backward of CrossEntropyModule, SoftMaxModule and LinearModule, one after another"
    loss_gradient = LOSS_GRADIENT.got(grading, "dx")
    is_loss = ENTROPY.is_comparable(grading, ENTROPY) or LOSS_GRADIENT.scale(grading, "dx", scales(ENTROPY, "dx"))
    if loss_gradient is None or not loss_gradient.any() or not is_loss:
        return failure(
            LOSS_GRADIENT.ask(grading), called, "The loss has no gradient, or not that of any cross-entropy."
        )
    linear = all(ratio_if_doubled(grading, LINEAR, name) == 1 for name in ("dweight0", "dbias0"))
    mlp = not grading.broken("mlp_numpy.py") and ratio_if_doubled(grading, NETWORKS[(5,)][0], "dweight1") == 1
    n, is_mean = loss_divisions(grading) + linear + mlp, ratio_if_doubled(grading, ENTROPY, "out") != 2
    if n == 1 or n == int(is_mean):
        return PASSED
    times = {0: "do not divide by the size of the batch", 2: "divide by the size of the batch twice"}
    problem = f"They {times.get(n, f'divide by the size of the batch {n} times')}, expected once."
    return Result("failed", called, problem, "Take the mean once, for example in CrossEntropyModule.backward")


def _forward(grading):
    """Also for hidden layers of equal sizes, each of which needs its own weights."""
    result = with_either(forward, (5,), (9, 7, 5))(grading)
    if not result.passed:
        return result
    for case in NETWORKS[(5, 5, 5)]:
        answer = case.ask(grading, backward=False)
        if "out" in answer.arrays:
            return PASSED
    return failure(answer, case.called(False))


def _float32(grading):
    """With the first network that runs: one that does not has its own checks."""

    def check(cases):
        runs = [case for case in cases if any(is_varied(case.got(grading, f"d{name}")) for name in case.arrays)]
        return float32(grading, runs[0], needs_float32=False) if runs else constant_output(grading, cases[0])

    return _either(check, list(zip(*(NETWORKS[n_hidden] for n_hidden in ((5,), (), (9, 7, 5))), strict=True)))


def _steps(grading):
    def check(cases):
        trained, case = cases
        return steps(grading, trained) if is_varied(case.got(grading, "out")) else constant_output(grading, case)

    return _either(check, list(zip(TRAINED, NETWORKS[(5,)], strict=True)))


def _check(name, points, title, run, file="mlp_numpy.py"):
    return Check(name, "1.2", points, title, (file,), run)


CHECKS = [
    _check("layers.batch_mean", 0.5, "the mean over the batch is taken once", _batch_mean, "modules.py"),
    _check("mlp_numpy.forward", 0.5, "probabilities with one and three hidden layers", _forward),
    _check("mlp_numpy.backward", 0.5, "gradients of all layers", with_either(_gradients, (5,), (9, 7, 5))),
    _check("mlp_numpy.no_hidden", 0.25, "an empty list of hidden layers", with_either(_gradients, ())),
    _check("mlp_numpy.float32", 0.25, "forward and backward in float32, as in training", _float32),
    _check("mlp_numpy.steps", 1, f"{N_STEPS} steps of training, no state kept between them", _steps),
]  # fmt: skip
