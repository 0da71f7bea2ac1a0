"""Question 2: the MLP in PyTorch, all but its training on CIFAR-10.

Some hand in the network that worked best, with batch norm, dropout or another activation. What holds for any network is
checked; what can only be compared with the plain one is then decided by hand.
"""

import itertools
import re

import numpy as np
import torch.nn.functional as F

from grading.checks.case import Case, constant_output, first_failed, float32, gradient, steps
from grading.checks.check import PASSED, Check, Result, failure, is_close, is_varied
from grading.checks.inputs import mlp_input
from grading.checks.mlp_numpy import LEARNING_RATE, N_STEPS, SLOPE, linears

# Kinds of other networks, by the functions of PyTorch by which their output comes.
KINDS = {
    "normalisation": r".*norm|normalize|mean|var|std|var_mean|std_mean",
    "dropout": r".*dropout\d?d?|bernoulli|rand.*",
    "another activation": r"[cgs]?elu|glu|silu|mish|[pr]relu|relu6|(hard)?tanh|(hard|log_?)?sigmoid|special_expit|"
    r"hardswish|soft(plus|sign)|(soft|hard|tanh)shrink|erf|sin|cos",
    "log-probabilities": r"log_softmax",
}
LINEAR = r"linear|matmul|mm|addmm|einsum"
PROBABILITIES = "The MLP returns probabilities; return logits, since F.cross_entropy applies the softmax itself"


def network(n_hidden, slope=SLOPE, acts=None, n_steps=None):
    """Return the case of an MLP; by PyTorch its slope is `acts`, if that is another than the one asked for."""
    acts = slope if acts is None else acts

    def logits(x, **weights):
        return linears(x, weights, F.linear, lambda x: F.leaky_relu(x, acts))

    params = {"args": [6, list(n_hidden), 4, slope], "evaluation": True}
    arrays = mlp_input(n_hidden, 40 + len(n_hidden), n_steps)
    made = f"MLP(6, {list(n_hidden)}, 4, {slope:g})"
    return Case("mlp_pytorch.MLP", made, params, arrays, logits, step=1e-6)  # activations have corners


ONE, THREE, NONE = (network(n_hidden) for n_hidden in ((5,), (9, 7, 5), ()))
TRAINED = network((9,), n_steps=N_STEPS).replace(learning_rate=LEARNING_RATE, evaluation=False)

# ---- Networks of another kind ------------------------------------------------------------------


def differences_in_kind(g, case):
    """Return what a network has that the plain one has not, in words: a list.

    What is called and thrown away does not count, and a result that differs says nothing.
    """
    answer = g.ask("kind", case.target, {"args": case.params["args"]}, {"x": case.arrays["x"]})
    used = bytes(answer.arrays.get("calls", np.zeros(0)).astype(np.uint8)).decode(errors="replace").split()
    found = [
        f"{kind} ({name})" for kind, names in KINDS.items() for name in sorted(set(used)) if re.fullmatch(names, name)
    ]
    out = answer.arrays.get("out", np.zeros((0, 0)))
    if "log_softmax" not in used and out.size and np.allclose(np.exp(out).sum(axis=-1), 1, atol=1e-4):
        found.append("log-probabilities")
    n_used, n_linear = sum(re.fullmatch(LINEAR, name) is not None for name in used), len(case.params["args"][1]) + 1
    if n_used > n_linear:
        found.append(f"{n_used} linear layers, not {n_linear}")
    return found


def if_plain(check, case):
    """Return a check that is not decided if it fails and the network is of another kind than the plain one."""

    def run(g):
        result = check(g)
        found = [] if result.passed or result.status == "not written" else differences_in_kind(g, case)
        if not found:
            return result
        out = g.ask("kind", case.target, {"args": case.params["args"]}, {"x": case.arrays["x"]}).arrays.get("out")
        if out is None or out.shape != (7, 4) or not np.isfinite(out).all():
            return result
        if (out >= 0).all() and np.allclose(out.sum(axis=1), 1, atol=1e-4):
            return Result("failed", case.called(False), "The output is probabilities, expected logits.", PROBABILITIES)
        note = f"The network has {', '.join(found)} and cannot be compared with the plain one: it is decided by hand"
        return Result("not decided", result.called, result.problem, note)

    return run


# ---- Values ------------------------------------------------------------------------------------


def comparable(out, *expected):
    """Return outputs in a form in which logits, probabilities and log-probabilities are alike; None if they cannot be.

    The latter two determine logits up to a constant in each row.
    """
    if out is None or out.shape != expected[0].shape or not np.isfinite(out).all():
        return None
    if (out > 0).all() and np.allclose(out.sum(axis=1), 1, atol=1e-4):
        out = np.log(out)
    if np.allclose(np.exp(np.minimum(out, 1)).sum(axis=1), 1, atol=1e-4):
        return [values - values.mean(axis=1, keepdims=True) for values in (out, *expected)]
    return [out, *expected]


def expected(g, n_hidden, acts):
    """Return the logits by PyTorch, without biases if the network has none: `parameters` has cost that."""
    case, got = network(n_hidden, acts=acts), network(n_hidden).ask(g).arrays
    layers = [l for l in range(len(n_hidden) + 1) if f"dweight{l}" in got and f"dbias{l}" not in got]
    return case.replace({f"bias{l}": 0 * case.arrays[f"bias{l}"] for l in layers}).expected["out"]


def own_slope(g, case=ONE):
    """Return the slope with which one hidden layer works, whatever it was asked to have; None for anything else.

    With one hidden layer the logits are an affine function of the slope. Only the positive ones count if an activation
    comes last.
    """
    found = comparable(case.got(g, "out"), *(expected(g, (5,), slope) for slope in (0.0, 1.0)))
    if found is None:
        return None
    out, zero, one = found
    for mask in (np.ones(out.shape, bool), (out > 0) & (zero > 0)):
        change = (one - zero)[mask]
        if mask.mean() > 0.2 and change.any():
            s = float((out - zero)[mask] @ change / (change @ change))
            if is_close(out[mask], (zero + s * (one - zero))[mask], tolerance=1e-4):
                return s
    return None


def _forward(g):
    slope, out, asked = own_slope(g), ONE.got(g, "out"), ONE.expected["out"]
    if slope is not None and abs(slope) < 0.9 and is_close(out, expected(g, (5,), slope)):
        return PASSED
    known = {
        PROBABILITIES: np.exp(asked) / np.exp(asked).sum(axis=1, keepdims=True),
        "There is an activation after the last layer": np.where(asked > 0, asked, SLOPE * asked),
        "There are no activations between the linear layers": network((5,), acts=1.0).expected["out"],
    }
    note = next((text for text, values in known.items() if out is not None and is_close(out, values)), "")
    return failure(ONE.ask(g, False), ONE.called(False), ONE.wrong(g, "out") or "", note)


def _slope(g):
    for asked in (SLOPE, 0.0):
        case = network((5,), asked)
        slope = own_slope(g, case)
        if slope is None and own_slope(g) is None and _changes_with_slope(g):
            continue  # what else is wrong is a matter of `forward`
        if slope is None or abs(slope - asked) > 1e-3:
            note = "" if slope is None else f"The slope is {slope:.3g}: the argument neg_slope is not used"
            return failure(case.ask(g, False), case.called(False), case.wrong(g, "out") or "", note)
    return PASSED


def _changes_with_slope(g):
    outs = [network((5,), asked).got(g, "out") for asked in (SLOPE, 0.0)]
    return all(map(is_varied, outs)) and not np.array_equal(*outs)


def _depth(g):
    """With the slope that one hidden layer has; if that is otherwise wrong, all layers have to take part."""
    if own_slope(g) is None and is_varied(THREE.got(g, "out")) and is_varied(ONE.got(g, "out")):
        grads = [THREE.got(g, f"dweight{l}") for l in range(4)]
        if all(grad is not None and grad.any() for grad in grads):
            return PASSED
    for acts in (SLOPE, own_slope(g)):
        found = acts is not None and comparable(THREE.got(g, "out"), expected(g, (9, 7, 5), acts))
        if found:
            positive = (found[0] > 0) & (found[1] > 0)
            if is_close(*found) or (positive.mean() > 0.2 and is_close(found[0][positive], found[1][positive])):
                return PASSED
    return failure(THREE.ask(g, False), THREE.called(False), THREE.wrong(g, "out") or "")


# ---- What holds for any network ----------------------------------------------------------------


def _parameters(g):
    n_checked = 0
    for case in (ONE, THREE, network((5, 5, 5))):
        sizes = (6, *case.params["args"][1], 4)
        answer = g.ask("parameters", case.target, {"args": case.params["args"]})
        if answer.error:
            continue
        n_checked += 1
        shapes, called = answer.arrays["shapes"].astype(int).tolist(), f"{case.expression}.parameters()"
        weights = [sorted(pair, reverse=True) for pair in itertools.pairwise(sizes)]
        expected = sorted(weights + [[n, 1] for n in sizes[1:]])
        problem = f"Parameters of shapes {shapes} are registered, expected {expected}."
        if not answer.arrays["is_registered"]:
            note = "Layers in a plain list are not registered and never trained: use nn.ModuleList or nn.Sequential"
            return Result("failed", called, problem, note)
        if shapes != expected and not (all(pair in shapes for pair in weights) and differences_in_kind(g, case)):
            n, n_expected = len(shapes), len(expected)
            note = f"{n} parameters; a weight and a bias of each layer are {n_expected}" * (n != n_expected)
            return Result("failed", called, problem, note)
        if not answer.arrays["trainable"].all():
            problem = f"{int((answer.arrays['trainable'] == 0).sum())} of {len(shapes)} parameters require no gradient."
            return Result("failed", called, problem, "Frozen layers are never trained")
        if any(spread == 0 and 1 not in shape for spread, shape in zip(answer.arrays["spread"], shapes, strict=True)):
            note = "Units that start equal stay equal: draw the weights at random"
            return Result("failed", called, "All entries of a weight are equal at the start.", note)
    return PASSED if n_checked else failure(answer, ONE.expression)


def _gradients(*cases):
    """Return a check of all gradients, of the networks that run; one that does not has checks of its own."""

    def run(g):
        running = [case for case in cases if is_varied(case.got(g, "out"))] or cases[:1]
        results = []
        for case in running:
            got = case.ask(g).arrays  # a network without biases has no gradients of them
            names = [n for n in case.arrays if n.startswith("weight") or (n.startswith("bias") and f"d{n}" in got)]
            results += [gradient(g, case, f"d{name}") for name in names]
        return first_failed(results)

    return run


def _float32(g):
    case = next((case for case in (ONE, NONE, THREE) if is_varied(case.got(g, "out"))), ONE)
    return float32(g, case) if is_varied(case.got(g, "out")) else constant_output(g, case)


def _steps(g):
    return steps(g, TRAINED)


def _check(name, points, title, run):
    return Check(name, "2", points, title, ("mlp_pytorch.py",), run)


CHECKS = [
    _check("mlp_pytorch.parameters", 3, "all layers are registered, trainable and initialised at random", _parameters),
    _check("mlp_pytorch.forward", 3.5, "logits with one hidden layer", if_plain(_forward, ONE)),
    _check("mlp_pytorch.slope", 2, "neg_slope is used", if_plain(_slope, ONE)),
    _check("mlp_pytorch.depth", 1.5, "three hidden layers", if_plain(_depth, THREE)),
    _check("mlp_pytorch.gradients", 4, "gradients of all parameters", _gradients(ONE, THREE)),
    _check("mlp_pytorch.no_hidden", 0.5, "an empty list of hidden layers", _gradients(NONE)),
    _check("mlp_pytorch.float32", 0.5, "forward and backward in float32, as in training", _float32),
    _check("mlp_pytorch.steps", 3, f"{N_STEPS} steps of training, no state kept between them", _steps),
]  # fmt: skip
