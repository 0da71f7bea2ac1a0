"""Question 2: the MLP in PyTorch, all but its training on CIFAR-10.

Some hand in the network that worked best, with batch norm, dropout or another activation. What holds for any network is
checked; what can only be compared with the plain one is then decided by hand.
"""

import itertools
import re

import numpy as np
import torch.nn.functional as F

from grading.checks.case import CONSTANT, Case, first_failed, float32, gradient, steps
from grading.checks.check import PASSED, Check, Result, difference, failure, is_close, is_varied, sentence
from grading.checks.inputs import mlp_input
from grading.checks.mlp_numpy import LEARNING_RATE, N_STEPS, SLOPE, linears

# Functions of PyTorch that the plain network does not call.
OTHER = re.compile(
    r".*norm|.*dropout|bernoulli|[cgs]?elu|glu|silu|mish|[pr]relu|relu6|(hard)?tanh|(hard|log_?)?sigmoid|log_softmax|"
    r"hardswish|soft(plus|sign)|(soft|hard|tanh)shrink|sin|cos"
)


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
# One hidden layer of positive outputs, then two layers that add 25 to them, which the last layer subtracts.
DEEP_AS_ONE = network((5, 5, 5)).replace(
    {name: ONE.arrays[name] for name in ("x", "dout", "weight0", "bias0")}
    | {name: np.eye(5) for name in ("weight1", "weight2")}
    | {name: np.full(5, 25.0) for name in ("bias1", "bias2")}
    | {"weight3": ONE.arrays["weight1"], "bias3": ONE.arrays["bias1"] - 50 * ONE.arrays["weight1"].sum(axis=1)}
)
TRAINED = network((9,), n_steps=N_STEPS).replace(learning_rate=LEARNING_RATE, evaluation=False)

# ---- Networks of another kind ------------------------------------------------------------------


def other_functions(grading, case):
    """Return which functions by which the output comes are not those of the plain network."""
    answer = grading.ask("calls", case.target, {"args": case.params["args"]}, {"x": case.arrays["x"]})
    return sorted({name for name in answer.text("calls").split() if OTHER.fullmatch(name)})


def if_plain(check, case):
    """Return a check that is not decided if it fails and the network is of another kind than the plain one."""

    def run(grading):
        result = check(grading)
        found = result.status == "failed" and is_varied(case.got(grading, "out")) and other_functions(grading, case)
        if not found:
            return result
        note = f"The network uses {', '.join(found)} and cannot be compared with the plain one: it is decided by hand"
        return Result("not decided", result.called, result.problem, note)

    return run


# ---- Values ------------------------------------------------------------------------------------


def expected(grading, n_hidden, acts):
    """Return the logits by PyTorch, without biases if the network has none, which `parameters` finds."""
    case, got = network(n_hidden, acts=acts), network(n_hidden).ask(grading).arrays
    layers = [l for l in range(len(n_hidden) + 1) if f"dweight{l}" in got and f"dbias{l}" not in got]
    return case.replace({f"bias{l}": 0 * case.arrays[f"bias{l}"] for l in layers}).expected["out"]


def own_slope(grading, case=ONE):
    """Return the slope with which one hidden layer works, whatever it was asked to have; None for anything else.

    With one hidden layer the logits are an affine function of the slope.
    """
    out, zero, one = case.got(grading, "out"), expected(grading, (5,), 0.0), expected(grading, (5,), 1.0)
    if not is_varied(out) or out.shape != zero.shape:
        return None
    slope = float(np.vdot(out - zero, one - zero) / np.vdot(one - zero, one - zero))
    return slope if is_close(out, zero + slope * (one - zero), tolerance=1e-4) else None


def _forward(grading):
    answer, slope = ONE.ask(grading, False), own_slope(grading)
    out, asked = ONE.got(grading, "out"), ONE.expected["out"]
    if problem := answer.text("problem"):
        return Result("failed", ONE.called(False), sentence(problem))
    if slope is not None and abs(slope) < 0.9 and is_close(out, expected(grading, (5,), slope)):
        return PASSED
    probabilities = np.exp(asked) / np.exp(asked).sum(axis=1, keepdims=True)
    known = {
        "The MLP returns probabilities; return logits, since F.cross_entropy applies the softmax": probabilities,
        "There is an activation after the last layer": np.where(asked > 0, asked, SLOPE * asked),
        "There are no activations between the linear layers": network((5,), acts=1.0).expected["out"],
    }
    note = next((text for text, values in known.items() if out is not None and is_close(out, values)), "")
    return failure(answer, ONE.called(False), ONE.wrong(grading, "out") or "", note)


def _slope(grading):
    cases = [network((5,), asked) for asked in (SLOPE, 0.0)]
    slopes, outs = [own_slope(grading, case) for case in cases], [case.got(grading, "out") for case in cases]
    if None in slopes:  # other mistakes are left to `forward`
        runs = all(map(is_varied, outs))
        if runs and not np.array_equal(*outs):
            return PASSED
        problem = "The output does not depend on neg_slope." if runs else CONSTANT
        return failure(cases[0].ask(grading, False), cases[0].called(False), problem)
    for case, slope in zip(cases, slopes, strict=True):
        if abs(slope - case.params["args"][3]) > 1e-3:
            note = f"The slope is {slope:.3g}: the argument neg_slope is not used"
            return failure(case.ask(grading, False), case.called(False), case.wrong(grading, "out") or "", note)
    return PASSED


def _depth(grading):
    """With the slope that one hidden layer has; if that is otherwise wrong, compared with itself."""
    out, own, slope = THREE.got(grading, "out"), ONE.got(grading, "out"), own_slope(grading)
    if any(is_close(out, expected(grading, (9, 7, 5), acts)) for acts in (SLOPE, slope) if acts is not None):
        return PASSED
    if slope is None and is_varied(own):
        found = difference("output", DEEP_AS_ONE.got(grading, "out"), own)
        note = "Layers 2 and 3 have weights of 1 on the diagonal: it should equal what one hidden layer gives"
        return failure(DEEP_AS_ONE.ask(grading), DEEP_AS_ONE.called(False), found, note) if found else PASSED
    return failure(THREE.ask(grading, False), THREE.called(False), THREE.wrong(grading, "out") or "")


# ---- What holds for any network ----------------------------------------------------------------


def _parameters(grading):
    n_checked = 0
    for case in (ONE, THREE, network((5, 5, 5))):
        sizes = (6, *case.params["args"][1], 4)
        answer = grading.ask("parameters", case.target, {"args": case.params["args"]})
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
        if shapes != expected and not (all(pair in shapes for pair in weights) and other_functions(grading, case)):
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


def _is_network(grading, case):
    """Return whether classes are different functions of the input: nonsense has a right gradient by autograd, too."""
    out = case.got(grading, "out")
    if not is_varied(out) or out.ndim != 2:
        return False
    return np.ptp(out - out.mean(axis=0), axis=1).max() > 1e-6 * abs(out).max()


def for_running(check, *cases):
    """Return a check of those networks that run; one that does not has its own checks.

    Args:
        check: takes `Grading` and the cases that run, returns a `Result`.
    """

    def run(grading):
        running = [case for case in cases if _is_network(grading, case)]
        if not running:
            problem = "The output is constant, or all classes are the same function of the input."
            return failure(cases[0].ask(grading), cases[0].called(), problem)
        return check(grading, running)

    return run


def _gradients(grading, cases):
    results = []
    for case in cases:
        got = case.ask(grading).arrays  # a network without biases has no gradients of them
        names = [n for n in case.arrays if n.startswith("weight") or (n.startswith("bias") and f"d{n}" in got)]
        results += [gradient(grading, case, f"d{name}") for name in names]
    return first_failed(results)


def _check(name, points, title, run):
    return Check(name, "2", points, title, ("mlp_pytorch.py",), run)


CHECKS = [
    _check("mlp_pytorch.parameters", 3, "all layers are registered, trainable and initialised at random", _parameters),
    _check("mlp_pytorch.forward", 3.5, "logits with one hidden layer", if_plain(_forward, ONE)),
    _check("mlp_pytorch.slope", 2, "neg_slope is used", if_plain(_slope, ONE)),
    _check("mlp_pytorch.depth", 1.5, "three hidden layers", if_plain(_depth, THREE)),
    _check("mlp_pytorch.gradients", 4, "gradients of all parameters", for_running(_gradients, ONE, THREE)),
    _check("mlp_pytorch.no_hidden", 0.5, "an empty list of hidden layers", for_running(_gradients, NONE)),
    _check("mlp_pytorch.float32", 0.5, "forward and backward in float32, as in training",
           for_running(lambda grading, cases: float32(grading, cases[0]), ONE, NONE, THREE)),
    _check("mlp_pytorch.steps", 3, f"{N_STEPS} steps of training, no state kept between them",
           for_running(lambda grading, _: steps(grading, TRAINED), ONE, NONE, THREE)),
]  # fmt: skip
