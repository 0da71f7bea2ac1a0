"""Question 1.2: the MLP of those layers.

It is run with substitutes for the layers, so that only the MLP itself counts; or, if it does not use them or does not
run with them, with the submission's own layers.
"""

import dataclasses

import numpy as np
import torch.nn.functional as F

from grading.checks.case import Case, constant_output, first_failed, float32, forward, gradient, steps
from grading.checks.check import PASSED, Check, Result, failure, is_varied
from grading.checks.inputs import mlp_input
from grading.checks.layers import ENTROPY, LINEAR, LOSS_GRADIENT, loss_divisions, ratio_if_doubled

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
        return "Call backward of all layers, the last one first"
    known = {
        f"The activations have slope {s}: the argument neg_slope is not used": {"slope": s}
        for s in (0, 0.01, 0.02, 0.1)
    }
    known["The slope has the wrong sign"] = {"slope": -SLOPE}
    known["The softmax after the last layer is missing"] = {"last": lambda x: x}
    known["There is an activation before the softmax"] = {"last": lambda x: (0.5 * x.sin() + SLOPE * x).tanh()}
    for sentence, change in known.items():
        right = dataclasses.replace(case, function=lambda change=change, **tensors: substitutes(**tensors, **change))
        if got is not None and "substitutes" in case.params and np.allclose(got, right.expected["out"]):
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

    def run(g):
        return first_failed(_either(lambda case: check(g, case), NETWORKS[n_hidden]) for n_hidden in sizes)

    return run


def _either(check, cases):
    """Return the first result that passes, else that with the student's own layers, with a note of the other one."""
    first = check(cases[0])
    if first.passed:
        return first
    last = check(cases[1])
    return last if last.passed else dataclasses.replace(last, note=first.note or last.note)


def _gradients(g, case):
    scales = (1, 1 / len(case.arrays["x"]))  # it may divide by the batch
    names = [f"d{name}" for name in case.arrays if name.startswith(("weight", "bias"))]
    return first_failed(gradient(g, case, name, scales) for name in names)


def _batch_mean(g):
    """All backward passes together divide by the size of the batch once."""
    called, loss_gradient = "the gradient of the loss, by all backward passes", LOSS_GRADIENT.got(g, "dx")
    if loss_gradient is None or not loss_gradient.any():
        return failure(LOSS_GRADIENT.ask(g), called, "The loss has no gradient.")
    linear = all(ratio_if_doubled(g, LINEAR, name) == 1 for name in ("dweight0", "dbias0"))
    mlp = not g.broken("mlp_numpy.py") and ratio_if_doubled(g, NETWORKS[(5,)][0], "dweight1") == 1
    n, is_mean = loss_divisions(g) + linear + mlp, ratio_if_doubled(g, ENTROPY, "out") != 2
    if n == 1 or n == int(is_mean):
        return PASSED
    times = "never" if n == 0 else f"{n} times"
    problem = f"The gradient of the loss is {times} divided by the size of the batch, expected once."
    return Result("failed", called, problem, "Take the mean once, for example in CrossEntropyModule.backward")


def _forward(g):
    """Also for hidden layers of equal sizes, each of which needs weights of its own."""
    result = with_either(forward, (5,), (9, 7, 5))(g)
    answers = [case.ask(g, backward=False) for case in NETWORKS[(5, 5, 5)]]
    if not result.passed or any("out" in answer.arrays for answer in answers):
        return result
    return failure(answers[1], NETWORKS[(5, 5, 5)][1].called(False))


def _runs(g, case):
    """Return whether a network gives an output and some gradient."""
    return is_varied(case.got(g, "out")) and any(is_varied(case.got(g, f"d{name}")) for name in case.arrays)


def _float32(g):
    """With the first network that runs: one that does not has checks of its own."""

    def check(i):
        case = next((NETWORKS[h][i] for h in ((5,), (), (9, 7, 5)) if _runs(g, NETWORKS[h][i])), NETWORKS[(5,)][i])
        return float32(g, case, needs_float32=False) if _runs(g, case) else constant_output(g, case)

    return _either(check, (0, 1))


def _steps(g):
    return _either(lambda case: steps(g, case), TRAINED)


def _check(name, points, title, run, file="mlp_numpy.py"):
    return Check(name, "1.2", points, title, (file,), run)


CHECKS = [
    _check("numpy.batch_mean", 0.5, "the mean over the batch is taken once", _batch_mean, "modules.py"),
    _check("mlp_numpy.forward", 0.5, "probabilities with one and three hidden layers", _forward),
    _check("mlp_numpy.backward", 0.5, "gradients of all layers", with_either(_gradients, (5,), (9, 7, 5))),
    _check("mlp_numpy.no_hidden", 0.25, "an empty list of hidden layers", with_either(_gradients, ())),
    _check("mlp_numpy.float32", 0.25, "forward and backward in float32, as in training", _float32),
    _check("mlp_numpy.steps", 1, f"{N_STEPS} steps of training, no state kept between them", _steps),
]  # fmt: skip
