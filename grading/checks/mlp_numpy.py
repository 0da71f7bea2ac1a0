"""Question 1.2: the MLP of those layers.

It is run with substitutes for the layers, so that only the MLP itself counts; or, if it does not use them or does not
run with them, with the submission's own layers.
"""

import dataclasses

import numpy as np
import torch.nn.functional as F

from grading.checks.case import Case, constant, first_failed, float32, forward, gradient, steps
from grading.checks.check import Check, is_varied
from grading.checks.inputs import mlp_input
from grading.checks.layers import doubled

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


def name_mistake(case, name, got):
    """Return the common mistake that gives an output of substitutes; of gradients, what has to be done."""
    if name != "out":
        return "backward has to go through all layers, the last one first, each with what it has seen forward"
    known = {f"The activations have slope {s}: neg_slope is not passed on": {"slope": s} for s in (0, 0.01, 0.02, 0.1)}
    known["neg_slope is passed on with the wrong sign"] = {"slope": -SLOPE}
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
                name_mistake=name_mistake)  # fmt: skip
    return case.but(substitutes="modules."), dataclasses.replace(case, function=plain)


NETWORKS = {n_hidden: networks(n_hidden) for n_hidden in ((), (5,), (9, 7, 5))}
TRAINED = [case.but(learning_rate=LEARNING_RATE) for case in networks((9,), N_STEPS)]


def with_either(check, *sizes):
    """Return a check that networks of each size have to pass, with substitutes or with their own layers."""

    def run(g):
        return first_failed(_one_of(check(g, case) for case in NETWORKS[n_hidden]) for n_hidden in sizes)

    return run


def _one_of(results):
    """Return the first result that passed, else the one whose numbers are those of the student's own layers."""
    first, *others = results
    if first.passed:
        return first
    last = others[0]
    return last if last.passed else dataclasses.replace(last, note=first.note or last.note)


def _gradients(g, case):
    scales = (1, 1 / len(case.arrays["x"]))  # it may divide by the batch
    names = [f"d{name}" for name in case.arrays if name.startswith(("weight", "bias"))]
    return first_failed(gradient(g, case, name, scales) for name in names)


def divides(g):
    """Return whether the backward pass of the MLP divides by the batch."""
    return not g.broken("mlp_numpy.py") and doubled(g, NETWORKS[(5,)][0], "dweight1") == 1


def _runs(g, case):
    """Return whether a network gives an output and some gradient."""
    return is_varied(case.got(g, "out")) and any(is_varied(case.got(g, f"d{name}")) for name in case.arrays)


def _float32(g):
    """With the first network that runs: one that does not has checks of its own."""
    results = []
    for i in range(2):
        case = next((NETWORKS[h][i] for h in ((5,), (), (9, 7, 5)) if _runs(g, NETWORKS[h][i])), NETWORKS[(5,)][i])
        results.append(float32(g, case, needs_float32=False) if _runs(g, case) else constant(g, case))
    return _one_of(results)


def _check(name, points, title, run):
    return Check(name, "1.2", points, title, ("mlp_numpy.py",), run)


CHECKS = [
    _check("mlp_numpy.forward", 0.5, "probabilities with one and three hidden layers",
           with_either(forward, (5,), (9, 7, 5))),
    _check("mlp_numpy.backward", 0.5, "gradients of all layers", with_either(_gradients, (5,), (9, 7, 5))),
    _check("mlp_numpy.no_hidden", 0.25, "an empty list of hidden layers", with_either(_gradients, ())),
    _check("mlp_numpy.float32", 0.25, "forward and backward in float32, as in training", _float32),
    _check("mlp_numpy.steps", 1, f"{N_STEPS} steps of training, nothing kept between them",
           lambda g: _one_of(steps(g, case) for case in TRAINED)),
]  # fmt: skip
