"""Question 3: batch norm, by autograd, by hand, and the module around that."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.check import Check
from grading.inputs import in_float32, mlp_input, norm_input

A, F, M = (f"CustomBatchNorm{name}" for name in ("Autograd", "ManualFunction", "ManualModule"))
MLP_32 = in_float32(mlp_input([5], 64)[1])
NORM, NORM_TWO = norm_input([6], 60), norm_input([6, 9], 61)
NORM_ZERO = norm_input([6], 62, gamma=[1.5, 0.0, -0.5, 0.0])
NORM_EPS = norm_input([6], 63, scale=0.1)  # of a variance beside which 1e-5 is seen
WRONG_SIZES, WRONG_DIMENSIONS = [[6, 5], [6, 1]], [[4], [6, 4, 4]]  # the course asks for a check, not for which
GRADIENT_CHECKS = {
    "dx": "bn_function.input_gradient",
    "dgamma": "bn_function.gamma_gradient",
    "dbeta": "bn_function.beta_gradient",
}


def _norm_parameters(name):
    def run(g):
        called = f"{name}(4), its parameters"
        outcome = g.compare(
            called, "norm_parameters", {"name": name, "n_neurons": 4}, {}, ["gamma", "beta", "trainable"]
        )
        if outcome.got.startswith("trainable"):
            outcome.hint = "gamma and beta have to be nn.Parameter that want a gradient"
        return outcome

    return run


def _norm(name, keys, arrays=NORM, eps=None, n_batches=1):
    def run(g):
        backward = any(key.startswith("d") for key in keys)
        params = {"name": name, "eps": eps, "n_batches": n_batches, "backward": backward}
        made = f"{name}(4)" if eps is None else f"{name}(4, eps={eps})"
        called = f"{made}(x){', backward(dout)' if backward else ''}, batch of {6 if n_batches == 1 else '6, then 9'}"
        return g.compare(called, "norm_module", params, arrays, keys)

    return run


def _norm_gradients(name, arrays, eps_check=None):
    """Gradients with the default eps, and with a large one where it is known what becomes of it forward."""

    def run(g):
        keys = ["dx0", "dgamma0", "dbeta0"]
        if name == M:  # of the function's gradients, those that have not been found wrong
            keys = [f"{key}0" for key, own in GRADIENT_CHECKS.items() if own not in g.unexplained] or keys
        outcome = _norm(name, keys, arrays)(g)
        if outcome.passed and eps_check not in g.unexplained:
            outcome = _norm(name, keys, NORM_EPS, eps=0.5)(g)
        return outcome

    return run


def _norm_wrong_shape(name):
    def run(g):
        called = f"{name}(4) on inputs of shapes {', '.join(str(tuple(s)) for s in WRONG_SIZES)}"
        params = {"name": name, "refused": WRONG_SIZES, "refused_too": WRONG_DIMENSIONS}
        # What it makes of a right input has to be right, or refusing everything would do.
        keys = ["refused"] if g.check.name.replace("wrong_shape", "forward") in g.unexplained else ["out", "refused"]
        outcome = g.compare(called, "norm_wrong_shape", params, NORM, keys)
        if outcome.got.startswith("refused"):
            outcome.expected = "an error that the module raises itself for each (1; 0.5: PyTorch's own, 0: none)"
            outcome.hint = "the number of neurons has to be checked: with assert, or by raising any error"
        accepted = g.ask("norm_wrong_shape", params, NORM).arrays.get("refused_too", np.ones(0)) == 0
        if outcome.passed and accepted.any():
            shapes = [str(tuple(s)) for s, is_accepted in zip(WRONG_DIMENSIONS, accepted, strict=False) if is_accepted]
            outcome.hint = f"accepted as well: {', '.join(shapes)}; that costs nothing"
        return outcome

    return run


def _norm_float32(name):
    called = f"an MLP with {name} in it, as it trains: forward and backward in float32"

    def run(g):
        known = g.reference("norm_float32", {"name": name}, MLP_32, g.carried)
        keys = [key for key in ("out", "is_finite") if key in known]  # a gradient's shape may end the backward pass
        return g.compare(called, "norm_float32", {"name": name}, MLP_32, keys or ["out"])

    return run


def _function(keys, arrays=NORM, eps=1e-5, how="class", needs=(True, True, True)):
    def run(g):
        params = {"eps": eps, "how": how, "backward": how == "class", "needs": list(needs)}
        return g.compare(_called(params), "norm_function", params, arrays, keys)

    return run


def _called(params):
    made = "CustomBatchNormManualFunction" + ("(4)" if params["how"] == "instance" else "")
    return f"{made}.apply(x, gamma, beta, {params['eps']}){', backward(dout)' if params['backward'] else ''}"


def _function_eps(g):
    keys = ["out", *(k for k in ("dx", "dgamma") if GRADIENT_CHECKS[k] not in g.unexplained)]
    return _function(keys, NORM_EPS, eps=0.5)(g)


def _needs_input_grad(g):
    for needs in ([False, True, False], [False, False, True], [True, False, False]):
        known = [name for name, check in GRADIENT_CHECKS.items() if check not in g.unexplained]
        asked = [name for name, need in zip(GRADIENT_CHECKS, needs, strict=True) if need]
        keys = [*(name for name in asked if name in known), "returned"]
        outcome = _function(keys, needs=needs)(g)
        if not outcome.passed:
            names = ", ".join(n for n, need in zip(("x", "gamma", "beta"), needs, strict=True) if need)
            outcome.called += f", where only {names} asks for a gradient"
            if outcome.got.startswith("returned"):
                outcome.expected = f"{outcome.expected} (1: a gradient, 0: None, for x, gamma, beta)"
            return outcome
    return outcome


def _checks_of(question):
    return lambda name, points, title, run: Check(name, question, points, title, ("custom_batchnorm.py",), run)


q31, q32b, q32c = _checks_of("3.1"), _checks_of("3.2b"), _checks_of("3.2c")
CHECKS = [
    q31("bn_autograd.parameters", 1.5, "gamma of 1, beta of 0, trainable", _norm_parameters(A)),
    q31("bn_autograd.forward", 3, "the batch normalised", _norm(A, ["out0"])),
    q31("bn_autograd.eps", 1, "eps inside the root, as asked for", _norm(A, ["out0"], NORM_EPS, eps=0.5)),
    q31("bn_autograd.gradients", 2.5, "gradients of x, gamma (0, too) and beta", _norm_gradients(A, NORM_ZERO, "bn_autograd.eps")),
    q31("bn_autograd.second_batch", 0.75, "nothing is left of the batch before", _norm(A, ["out1"], NORM_TWO, n_batches=2)),
    q31("bn_autograd.wrong_shape", 0.75, "a wrong number of neurons is refused", _norm_wrong_shape(A)),
    q31("bn_autograd.float32", 0.5, "float32 within an MLP", _norm_float32(A)),
    q32b("bn_function.forward", 0.25, "the batch normalised", _function(["out"])),
    q32b("bn_function.input_gradient", 0.5, "gradient of x", _function(["dx"])),
    q32b("bn_function.gamma_gradient", 0.5, "gradient of gamma", _function(["dgamma"])),
    q32b("bn_function.beta_gradient", 0.5, "gradient of beta", _function(["dbeta"])),
    q32b("bn_function.gamma_of_zero", 0.25, "gradient of x where gamma is 0", _function(["dx"], NORM_ZERO)),
    q32b("bn_function.eps", 0.25, "eps inside the root, as asked for, forward and backward", _function_eps),
    q32b("bn_function.needs_input_grad", 0.25, "None for gradients nobody asks for", _needs_input_grad),
    q32b("bn_function.instance", 0.25, "apply on an instance", _function(["out"], how="instance")),
    q32b("bn_function.float32", 0.25, "float32 within an MLP", _norm_float32(F)),
    q32c("bn_module.parameters", 0.125, "gamma of 1, beta of 0, trainable", _norm_parameters(M)),
    q32c("bn_module.forward", 0.25, "the batch normalised with the module's eps", _norm(M, ["out0"], NORM_EPS, eps=0.5)),
    q32c("bn_module.gradients", 0.25, "gradients of x, gamma and beta", _norm_gradients(M, NORM)),
    q32c("bn_module.wrong_shape", 0.25, "a wrong number of neurons is refused", _norm_wrong_shape(M)),
    q32c("bn_module.float32", 0.125, "float32 within an MLP", _norm_float32(M)),
]  # fmt: skip
