"""Question 1.2: the MLP of those layers, its gradients and its training from given weights."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.check import Check
from grading.checks_layers import log_allowance
from grading.inputs import N_STEPS, mlp_input
from grading.mistakes_layers import LOG_CONSTANT_MISTAKE

MLPS = {tuple(h): mlp_input(h, 14 + len(h)) for h in ((), (5,), (9, 7, 5))}
STEPS = {tuple(h): mlp_input(h, 20 + len(h), n_batch=16, n_steps=N_STEPS) for h in ((), (9,), (12, 9, 7))}
MEAN_ARRAYS = {
    n_hidden: {name: array for name, array in arrays.items() if name != "dout"}
    for n_hidden, (_, arrays) in MLPS.items()
}
# What a network without hidden layers does not go through, forward and backward.
HIDDEN_FORWARD = {"leaky_relu.forward"}
HIDDEN_BACKWARD = HIDDEN_FORWARD | {"leaky_relu.backward", "linear.input_gradient", "mlp_numpy.backward"}


def comparable(g, configurations, through):
    """Yield those hidden layers, with what belongs to them, whose networks can be compared.

    Only none, where one of the checks `through`, of what a hidden layer adds, failed in an unknown way.
    """
    for n_hidden, value in configurations.items():
        if not (n_hidden and g.unexplained & through):
            yield n_hidden, value


def _mlp(check, names, backward):
    def run(g):
        for n_hidden, (params, arrays) in comparable(g, MLPS, HIDDEN_BACKWARD if backward else HIDDEN_FORWARD):
            keys = ["out"] if not backward else [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in names]
            called = f"MLP(6, {list(n_hidden)}, 4, 0.25).{'forward(x), backward(dout)' if backward else 'forward(x)'}"
            outcome = g.compare(check, called, "mlp_numpy", params | {"backward": backward}, arrays, keys)
            if not outcome.passed:
                if backward and n_hidden and not outcome.hint and not g.has_failed("mlp_numpy.forward"):
                    outcome.hint = (
                        "with fewer hidden layers, or none, it is right: backward has to go through all modules, "
                        "the last one first, each with what it saw forward"
                    )
                return outcome
        return outcome

    return run


def _batch_mean(g):
    n_hidden = () if g.unexplained & HIDDEN_BACKWARD else (5,)
    params, arrays = MLPS[n_hidden][0] | {"backward": True}, MEAN_ARRAYS[n_hidden]
    keys = [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in ("weight", "bias")]
    allowance = log_allowance(g, "mlp_numpy", params, arrays, keys)
    called = "MLP.forward, CrossEntropyModule.backward, MLP.backward: gradients of the mean loss over a batch of 7"
    mistakes = [m for m in g.carried if not m.is_harmless]
    if _is_idle(g.reference("mlp_numpy", params, arrays, tuple(mistakes)), arrays, keys):
        mistakes = []
    outcome = g.compare("numpy.batch_mean", called, "mlp_numpy", params, arrays, keys, allowance, mistakes)
    conventions = [m.sentence for m in g.carried if m.is_harmless and m != LOG_CONSTANT_MISTAKE]
    if not outcome.passed and not outcome.hint and conventions:
        outcome.hint = "the gradients are not those of the mean over the batch: " + "; ".join(conventions)
    return outcome


def steps_allowance(g, op, params, arrays, keys):
    """Return how far rounding to float32, and a constant inside the logarithm, may drive the weights."""
    right = g.reference(op, params, arrays)
    rounded = g.reference(op, params, arrays, dtype=np.float32)
    logged = g.reference(op, params, arrays, (LOG_CONSTANT_MISTAKE,))
    # Ten times the largest rounding of any weight: others sum in another order.
    rounding = 10 * max(float(abs(rounded[k] - right[k]).max()) for k in keys)
    return {k: rounding + 1.5 * abs(logged[k] - right[k]) for k in keys}


def _is_idle(expected, arrays, keys):
    """Return whether mistakes leave nothing to compute: gradients of 0, or the weights that were given."""
    return not any(k in expected and expected[k].any() and not np.array_equal(expected[k], arrays.get(k)) for k in keys)


def _steps(g):
    is_idle = True
    for n_hidden, (params, arrays) in comparable(g, STEPS, HIDDEN_BACKWARD):
        # Small enough that a wrong network does not run off to infinity, where nothing can be compared.
        params = params | {"learning_rate": 0.005 if len(n_hidden) > 1 else 0.05}
        keys = [f"{n}{l}" for l in range(len(n_hidden) + 1) for n in ("weight", "bias")]
        allowance = steps_allowance(g, "steps_numpy", params, arrays, keys)
        called = f"MLP(6, {list(n_hidden)}, 4, 0.25) trained for {N_STEPS} steps from given weights on given batches"
        outcome = g.compare("mlp_numpy.steps", called, "steps_numpy", params, arrays, keys, allowance)
        if not outcome.passed:
            return outcome
        is_idle &= _is_idle(g.reference("steps_numpy", params, arrays, tuple(g.carried)), arrays, keys)
    if is_idle:  # with the mistakes found no network learns, and neither does a stub
        return g.compare("mlp_numpy.steps", called, "steps_numpy", params, arrays, keys, allowance, ())
    return outcome


def _check(name, points, title, run):
    return Check(name, "1.2", points, title, ("mlp_numpy.py", "modules.py"), run)


CHECKS = [
    _check("mlp_numpy.forward", 0.75, "probabilities with no, one and three hidden layers", _mlp("mlp_numpy.forward", (), False)),
    _check("mlp_numpy.backward", 0.75, "gradients of all layers", _mlp("mlp_numpy.backward", ("weight", "bias"), True)),
    _check("numpy.batch_mean", 0.5, "the mean over the batch is taken once", _batch_mean),
    _check("mlp_numpy.steps", 1, f"its weights after {N_STEPS} steps are the reference's", _steps),
]  # fmt: skip
