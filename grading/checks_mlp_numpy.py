"""Question 1.2: the MLP of those layers, its gradients and its training from given weights."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.check import Check
from grading.checks_layers import log_allowance
from grading.inputs import N_STEPS, in_float32, mlp_input
from grading.mistakes_layers import LOG_CONSTANT_MISTAKE, C

MLPS = {tuple(h): mlp_input(h, 14 + len(h)) for h in ((), (5,), (9, 7, 5))}
MLPS_32 = {n_hidden: (params, in_float32(arrays)) for n_hidden, (params, arrays) in MLPS.items()}
STEPS = {tuple(h): mlp_input(h, 20 + len(h), n_batch=16, n_steps=N_STEPS) for h in ((), (9,), (12, 9, 7))}
MEAN_ARRAYS = {
    n_hidden: {name: array for name, array in arrays.items() if name != "dout"}
    for n_hidden, (_, arrays) in MLPS.items()
}


def comparable(g, configurations):
    """Return the configurations whose networks can be compared: none with hidden layers, where the MLP fails with them."""
    is_known = not g.unexplained & {"mlp_numpy.forward", "mlp_numpy.backward"}
    return {n_hidden: value for n_hidden, value in configurations.items() if bool(n_hidden) == is_known}


def _mlp(names, backward, configurations=((5,), (9, 7, 5)), mlps=MLPS):
    def run(g):
        for n_hidden in configurations:
            params, arrays = mlps[n_hidden]
            keys = [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in names] or ["out"]
            called = f"MLP(6, {list(n_hidden)}, 4, 0.25).{'forward(x), backward(dout)' if backward else 'forward(x)'}"
            outcome = g.compare(called, "mlp_numpy", params | {"backward": backward}, arrays, keys)
            if not outcome.passed:
                if backward and n_hidden and not outcome.hint and "mlp_numpy.forward" not in g.failed:
                    outcome.hint = (
                        "backward has to go through all modules, the last one first, each with what it saw forward"
                    )
                return outcome
        return outcome

    return run


def _one_configuration(g):
    return next(iter(comparable(g, {(): None, (5,): None})))


def _float32(g):
    return _mlp(("weight", "bias"), True, [_one_configuration(g)], MLPS_32)(g)


def _batch_mean(g):
    n_hidden = _one_configuration(g)
    params, arrays = MLPS[n_hidden][0] | {"backward": True}, MEAN_ARRAYS[n_hidden]
    keys = [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in ("weight", "bias")]
    allowance = log_allowance(g, "mlp_numpy", params, arrays, keys)
    called = "MLP.forward, CrossEntropyModule.backward, MLP.backward: gradients of the mean loss over a batch of 7"
    conventions = [m for m in g.carried if m.is_harmless]
    # The loss does not divide, another class does: right together, also where a stand-in takes the place of one.
    is_taken_once = sum(1 if m.target == C else -1 for m in conventions) == 0
    mistakes = [m for m in g.carried if is_taken_once or not m.is_harmless]
    outcome = g.compare(called, "mlp_numpy", params, arrays, keys, allowance, mistakes)
    if not outcome.passed and not outcome.hint and conventions:
        sentences = "; ".join(m.sentence for m in conventions)
        outcome.hint = f"the gradients are not those of the mean over the batch: {sentences}"
    return outcome


def steps_allowance(g, op, params, arrays, keys):
    """Return how far rounding to float32, and a constant inside the logarithm, may drive the weights."""
    right = g.reference(op, params, arrays)
    rounded = g.reference(op, params, arrays, dtype=np.float32)
    logged = g.reference(op, params, arrays, (LOG_CONSTANT_MISTAKE,))
    # Ten times the largest rounding of any weight: others sum in another order.
    rounding = 10 * max(float(abs(rounded[k] - right[k]).max()) for k in keys)
    return {k: rounding + 1.5 * abs(logged[k] - right[k]) for k in keys}


def _steps(g):
    for n_hidden, (params, arrays) in comparable(g, STEPS).items():
        # Small enough that a wrong network does not run off to infinity, where nothing can be compared.
        rate = (0.005 if len(n_hidden) > 1 else 0.05) / (50 if g.faulty else 1)
        params = params | {"learning_rate": rate}
        keys = [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in ("weight", "bias")]
        allowance = steps_allowance(g, "steps_numpy", params, arrays, keys)
        called = f"MLP(6, {list(n_hidden)}, 4, 0.25) trained for {N_STEPS} steps from given weights on given batches"
        outcome = g.compare(called, "steps_numpy", params, arrays, keys, allowance)
        if not outcome.passed:
            return outcome
    return outcome


def _check(name, points, title, run):
    return Check(name, "1.2", points, title, ("mlp_numpy.py", "modules.py"), run)


CHECKS = [
    _check("mlp_numpy.forward", 0.5, "probabilities with one and three hidden layers", _mlp((), False)),
    _check("mlp_numpy.backward", 0.5, "gradients of all layers", _mlp(("weight", "bias"), True)),
    _check("mlp_numpy.no_hidden", 0.25, "an empty list of hidden layers, forward and backward", _mlp(("weight", "bias"), True, [()])),
    _check("mlp_numpy.float32", 0.25, "forward and backward in float32, as in training", _float32),
    _check("numpy.batch_mean", 0.5, "the mean over the batch is taken once", _batch_mean),
    _check("mlp_numpy.steps", 1, f"its weights after {N_STEPS} steps are the reference's", _steps),
]  # fmt: skip
