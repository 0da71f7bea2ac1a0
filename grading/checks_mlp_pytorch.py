"""Question 2: the MLP in PyTorch, all but its training on CIFAR-10."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.check import Check, Outcome
from grading.inputs import N_STEPS, mlp_input
from grading.kinds import differences, has_layers, undecided
from grading.mistakes_mlp_pytorch import MISTAKES
from grading.reference import difference

MLPS = {tuple(h): mlp_input(h, 40 + len(h)) for h in ((), (5,), (9, 7, 5))}
STEPS = {tuple(h): mlp_input(h, 50 + len(h), n_batch=16, n_steps=N_STEPS) for h in ((9,), (12, 9, 7))}


def _mlp_parameters(g):
    for n_hidden in ((9, 7, 5), (5,)):
        params = {"n_inputs": 6, "n_hidden": list(n_hidden), "n_classes": 4, "neg_slope": 0.25}
        called = f"MLP(6, {list(n_hidden)}, 4, 0.25).parameters()"
        names = ["shapes", "trainable"]
        outcome = g.compare(called, "mlp_parameters", params, {}, names)
        if not outcome.passed:
            shapes = g.ask("mlp_parameters", params, {}).arrays.get("shapes", ())
            n_right = 2 * len(n_hidden) + 2
            if not outcome.hint and outcome.got.startswith("trainable"):
                outcome.hint = "every layer's weight and bias has to want a gradient (1: it does, 0: it does not)"
            elif not outcome.hint and len(shapes) and len(shapes) != n_right:
                outcome.hint = (
                    f"{len(shapes)} parameters are registered; a weight and a bias of each layer are {n_right}"
                )
            return outcome
    return outcome


def for_any_kind(check, n_hidden=(5,), holds=None):
    """Return a check that is not decided where it fails and the network is of another kind than the plain one.

    Args:
        check: takes the `Grading`, returns an `Outcome`.
        n_hidden: of the network whose kind is looked at.
        holds: takes the `Grading` and returns the `Outcome` of what holds for a network of any kind that has the
            layers asked for; None where nothing does but that its sizes are handed on, and that it gives no
            probabilities.
    """

    def run(g):
        outcome = check(g)
        if outcome.passed:
            return outcome
        answer = g.ask("mlp_kind", *MLPS[n_hidden])
        found = differences(answer, len(n_hidden) + 1)
        if not found:
            return outcome
        if holds and has_layers(answer, (6, *n_hidden, 4)):
            outcome = holds(g)
            if outcome.passed:
                outcome.hint = f"checked as a network of another kind: it has {', '.join(found)}"
            return outcome
        called, out = f"MLP(6, {list(n_hidden)}, 4, 0.25)(x)", answer.arrays.get("out", np.zeros(0))
        if out.shape != (7, 4) or not np.isfinite(out).all():
            return Outcome(False, called, answer.error or f"shape {out.shape}", "finite numbers of shape (7, 4)")
        if (out >= 0).all() and np.allclose(out.sum(axis=1), 1, atol=1e-4):
            return Outcome(False, called, "probabilities", "logits", "cross-entropy takes the softmax itself")
        return undecided(outcome, found)

    return run


def _registered(g):
    for n_hidden in ((5,), (9, 7, 5)):
        answer = g.ask("mlp_kind", *MLPS[n_hidden])
        called = f"MLP(6, {list(n_hidden)}, 4, 0.25).parameters()"
        if not answer.arrays.get("is_registered", 0):
            got = answer.error or "some that PyTorch does not know, or that want no gradient"
            return Outcome(False, called, got, "each parameter of each layer, trainable")
    return Outcome(True)


def _finite_differences(g):
    params, arrays = MLPS[(5,)]
    called = "MLP(6, [5], 4, 0.25), gradients in evaluation mode and float64"
    answer = g.ask("mlp_finite_differences", params | {"seed": 48}, arrays)
    is_right = bool(answer.arrays.get("is_right", np.zeros(1)).any())
    return Outcome(is_right, called, answer.error or "other gradients", "those that finite differences give")


def _runs_in_float32(g):
    params, arrays = MLPS[(5,)]
    answer = g.ask("mlp_float32", params | {"any_kind": True}, arrays)
    out = answer.arrays.get("out", np.zeros(0))
    is_right = out.shape == (7, 4) and out.dtype == np.float32 and bool(answer.arrays.get("is_finite", 0))
    called = "MLP(6, [5], 4, 0.25) as it trains: forward and backward in float32"
    return Outcome(is_right, called, answer.error or "numbers that are not finite, or not float32", "finite ones")


def comparable(g, configurations):
    """Return those hidden layers whose networks can be compared: one or none, where several fail in an unknown way."""
    is_known = "mlp_pytorch.depth" not in g.unexplained
    return [n_hidden for n_hidden in configurations if is_known or len(n_hidden) < 2]


def _mlp(configurations, backward=False, slopes=(0.25,)):
    def run(g):
        for n_hidden in comparable(g, configurations):
            for slope in slopes:
                params, arrays = MLPS[n_hidden]
                params = params | {"backward": backward, "neg_slope": slope}
                layers = range(len(n_hidden) + 1)
                keys = ["dx", *(f"{n}{l}" for l in layers for n in ("weight", "bias"))] if backward else ["out"]
                then = ", cross_entropy(logits, y).backward()" if backward else ""
                called = f"MLP(6, {list(n_hidden)}, 4, {slope})(x){then}"
                # The reference goes through the slopes that the grader asked for before; a mistake of one is carried.
                outcome = g.compare(called, "mlp_pytorch", params, arrays, keys)
                if not outcome.passed:
                    return outcome
        return outcome

    return run


def _mlp_forward(g):
    # With the default slope, and what a slope that is not handed on gives: that loses `mlp_pytorch.slope` alone.
    outcome = _mlp([(5,)], slopes=[0.02])(g)
    if outcome.passed:
        return outcome
    params, arrays = MLPS[(5,)]
    params = params | {"backward": False, "neg_slope": 0.02}
    answer = g.ask("mlp_pytorch", params, arrays)
    for mistake in MISTAKES:
        if mistake.check == "mlp_pytorch.slope":
            expected = g.reference("mlp_pytorch", params, arrays, (mistake,))
            if difference(answer.arrays, expected, ["out"]) is None:
                return Outcome(True)
    return outcome


def _mlp_float32(g):
    params, arrays = MLPS[(5,)]
    called = "MLP(6, [5], 4, 0.25) as it trains: forward and backward in float32"
    return g.compare(called, "mlp_float32", params, arrays, ["out", "is_finite"])


def _mlp_steps(g):
    for n_hidden in comparable(g, STEPS):
        params, arrays = STEPS[n_hidden]
        params = params | {"learning_rate": 0.005 if len(n_hidden) > 1 else 0.05}
        keys = [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in ("weight", "bias")]
        right = g.reference("steps_pytorch", params, arrays)
        exact = g.reference("steps_pytorch", params | {"float64": True}, arrays)
        rounding = 10 * max(float(abs(right[k] - exact[k]).max()) for k in keys)
        called = f"MLP(6, {list(n_hidden)}, 4, 0.25) trained for {N_STEPS} steps from given weights on given batches"
        allowance = dict.fromkeys(keys, rounding)
        outcome = g.compare(called, "steps_pytorch", params, arrays, keys, allowance)
        if not outcome.passed:
            return outcome
    return outcome


def _check(name, points, title, run):
    return Check(name, "2", points, title, ("mlp_pytorch.py",), run)


CHECKS = [
    _check("mlp_pytorch.parameters", 3, "all layers are registered and trainable", for_any_kind(_mlp_parameters, holds=_registered)),
    _check("mlp_pytorch.forward", 3.5, "logits with one hidden layer", for_any_kind(_mlp_forward)),
    _check("mlp_pytorch.slope", 2, "neg_slope is handed on", for_any_kind(_mlp([(5,)], slopes=(0.25, 0.0)))),
    _check("mlp_pytorch.depth", 1.5, "three hidden layers", for_any_kind(_mlp([(9, 7, 5)]), (9, 7, 5))),
    _check("mlp_pytorch.gradients", 4, "gradients of all parameters and of the input",
           for_any_kind(_mlp([(5,), (9, 7, 5)], backward=True), holds=_finite_differences)),
    _check("mlp_pytorch.no_hidden", 0.5, "an empty list of hidden layers, forward and backward",
           for_any_kind(_mlp([()], backward=True), ())),
    _check("mlp_pytorch.float32", 0.5, "forward and backward in float32, as in training", for_any_kind(_mlp_float32, holds=_runs_in_float32)),
    _check("mlp_pytorch.steps", 3, f"its weights after {N_STEPS} steps are the reference's", for_any_kind(_mlp_steps)),
]  # fmt: skip
