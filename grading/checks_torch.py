"""Questions 2, 3 and 4: the PyTorch MLP, batch norm, and the ConvNet, all but their training."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.check import Check, Outcome
from grading.checks_numpy import N_STEPS, draw, mlp_input
from grading.mistakes_torch import MLP_MISTAKES
from grading.reference import difference

MLP_FILES, NORM_FILES, CONVNET_FILES = ("mlp_pytorch.py",), ("custom_batchnorm.py",), ("convnet_pytorch.py",)
# ReLU's and pooling's choices fall the same way in float32; sums over 4,608 products do not: some 1e-5 of the
# largest, and a gradient goes through nine of them. Mistakes change these numbers by a tenth and more.
CONVNET_ALLOWANCE = 2e-3
TABLE_1 = [(64, 3), (128, 64), (256, 128), (256, 256), (512, 256), (512, 512), (512, 512), (512, 512)]
N_PARAMETERS, N_CONV_BIASES = 9_231_114, 2752


# ---- Question 2 --------------------------------------------------------------------------------

MLPS = {tuple(h): mlp_input(h, 40 + len(h)) for h in ((), (5,), (9, 7, 5))}
STEPS = {tuple(h): mlp_input(h, 50 + len(h), n_batch=16, n_steps=N_STEPS) for h in ((), (9,), (12, 9, 7))}


def _mlp_parameters(g):
    for n_hidden in ((5,), (), (9, 7, 5)):
        params = {"n_inputs": 6, "n_hidden": list(n_hidden), "n_classes": 4, "neg_slope": 0.25}
        called = f"MLP(6, {list(n_hidden)}, 4, 0.25).parameters()"
        names = ["shapes", "trainable"]
        outcome = g.compare("mlp_pytorch.parameters", called, "mlp_parameters", params, {}, names)
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


def comparable(g, configurations):
    """Return those hidden layers whose networks can be compared: one, where others fail in an unknown way."""
    is_known = "mlp_pytorch.depth" not in g.unexplained
    return [n_hidden for n_hidden in configurations if is_known or len(n_hidden) == 1]


def _mlp(check, configurations, backward=False, slopes=(0.25,)):
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
                outcome = g.compare(check, called, "mlp_pytorch", params, arrays, keys)
                if not outcome.passed:
                    return outcome
        return outcome

    return run


def _mlp_forward(g):
    # With the default slope, and what a slope that is not handed on gives: that loses `mlp_pytorch.slope` alone.
    outcome = _mlp("mlp_pytorch.forward", [(5,)], slopes=[0.02])(g)
    if outcome.passed:
        return outcome
    params, arrays = MLPS[(5,)]
    params = params | {"backward": False, "neg_slope": 0.02}
    answer = g.ask("mlp_pytorch", params, arrays)
    for mistake in MLP_MISTAKES:
        if mistake.check == "mlp_pytorch.slope":
            expected = g.reference("mlp_pytorch", params, arrays, (mistake,))
            if difference(answer.arrays, expected, ["out"]) is None:
                return Outcome(True)
    return outcome


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
        outcome = g.compare("mlp_pytorch.steps", called, "steps_pytorch", params, arrays, keys, allowance)
        if not outcome.passed:
            return outcome
    return outcome


# ---- Question 3 --------------------------------------------------------------------------------


def norm_input(sizes, seed, gamma=None, scale=1.5):
    rng = np.random.default_rng(seed)
    arrays = {"gamma": draw(rng, 4) if gamma is None else np.array(gamma), "beta": draw(rng, 4)}
    for i, n in enumerate(sizes):
        arrays |= {f"x{i}": draw(rng, n, 4, scale=scale) + 0.5, f"dout{i}": draw(rng, n, 4)}
    return arrays


NORM, NORM_TWO = norm_input([6], 60), norm_input([6, 9], 61)
NORM_ZERO = norm_input([6], 62, gamma=[1.5, 0.0, -0.5, 0.0])
NORM_EPS = norm_input([6], 63, scale=0.1)  # of a variance beside which 1e-5 is seen
WRONG_SHAPES = [[6, 5], [4], [6, 4, 2]]


GRADIENT_CHECKS = {
    "dx": "bn_function.input_gradient",
    "dgamma": "bn_function.gamma_gradient",
    "dbeta": "bn_function.beta_gradient",
}


def _function_input(arrays):
    return {name.rstrip("0"): array for name, array in arrays.items()}


FUNCTION, FUNCTION_ZERO, FUNCTION_EPS = map(_function_input, (NORM, NORM_ZERO, NORM_EPS))


def _norm_parameters(check, name):
    def run(g):
        called = f"{name}(4), its parameters"
        outcome = g.compare(
            check, called, "norm_parameters", {"name": name, "n_neurons": 4}, {}, ["gamma", "beta", "trainable"]
        )
        if outcome.got.startswith("trainable"):
            outcome.hint = "gamma and beta have to be nn.Parameter that want a gradient"
        return outcome

    return run


def _norm(check, name, keys, arrays=NORM, eps=None, n_batches=1):
    def run(g):
        backward = any(key.startswith("d") for key in keys)
        params = {"name": name, "eps": eps, "n_batches": n_batches, "backward": backward}
        made = f"{name}(4)" if eps is None else f"{name}(4, eps={eps})"
        called = f"{made}(x){', backward(dout)' if backward else ''}, batch of {6 if n_batches == 1 else '6, then 9'}"
        return g.compare(check, called, "norm_module", params, arrays, keys)

    return run


def _norm_gradients(check, name, arrays, eps_check=None):
    """Gradients with the default eps, and with a large one where it is known what becomes of it forward."""

    def run(g):
        keys = ["dx0", "dgamma0", "dbeta0"]
        if name == M:  # of the function's gradients, those that have not been found wrong
            keys = [f"{key}0" for key, own in GRADIENT_CHECKS.items() if own not in g.unexplained] or keys
        outcome = _norm(check, name, keys, arrays)(g)
        if outcome.passed and eps_check not in g.unexplained:
            outcome = _norm(check, name, keys, NORM_EPS, eps=0.5)(g)
        return outcome

    return run


def _norm_wrong_shape(check, name):
    def run(g):
        called = f"{name}(4) on inputs of shapes {', '.join(str(tuple(s)) for s in WRONG_SHAPES)}"
        params, arrays = {"name": name, "shapes": WRONG_SHAPES}, {"x": NORM["x0"]}
        answer = g.ask("norm_wrong_shape", params, arrays)
        keys = ["refused"] if check.replace("wrong_shape", "forward") in g.unexplained else ["out", "refused"]
        for mistakes in ((), tuple(g.carried)):
            # What it makes of a right input has to be right, or refusing everything would do.
            found = difference(answer.arrays, g.reference("norm_wrong_shape", params, arrays, mistakes), keys)
            if found is None:
                return Outcome(True)
        outcome = g.failure(called, answer, found)
        if found.name == "refused":
            outcome.expected = "a ValueError for each (1; 0.5 is another error, 0 none)"
            outcome.hint = "inputs of any shape but (n_batch, n_neurons) have to raise ValueError"
        return outcome

    return run


def _function(check, keys, arrays=FUNCTION, eps=1e-5, how="class", needs=(True, True, True)):
    def run(g):
        params = {"eps": eps, "how": how, "backward": how == "class", "needs": list(needs)}
        return g.compare(check, _called(params), "norm_function", params, arrays, keys)

    return run


def _called(params):
    made = "CustomBatchNormManualFunction" + ("(4)" if params["how"] == "instance" else "")
    return f"{made}.apply(x, gamma, beta, {params['eps']}){', backward(dout)' if params['backward'] else ''}"


def _function_eps(g):
    keys = ["out", *(k for k in ("dx", "dgamma") if GRADIENT_CHECKS[k] not in g.unexplained)]
    return _function("bn_function.eps", keys, FUNCTION_EPS, eps=0.5)(g)


def _needs_input_grad(g):
    for needs in ([False, True, False], [False, False, True], [True, False, False]):
        known = [name for name, check in GRADIENT_CHECKS.items() if check not in g.unexplained]
        asked = [name for name, need in zip(GRADIENT_CHECKS, needs, strict=True) if need]
        keys = [*(name for name in asked if name in known), "returned"]
        outcome = _function("bn_function.needs_input_grad", keys, needs=needs)(g)
        if not outcome.passed:
            names = ", ".join(n for n, need in zip(("x", "gamma", "beta"), needs, strict=True) if need)
            outcome.called += f", where only {names} asks for a gradient"
            if outcome.got.startswith("returned"):
                outcome.expected = f"{outcome.expected} (1: a gradient, 0: None, for x, gamma, beta)"
            return outcome
    return outcome


# ---- Question 4 --------------------------------------------------------------------------------


def convnet_input(n, n_channels, n_classes, seed):
    rng = np.random.default_rng(seed)
    x, dout = rng.normal(size=(n, n_channels, 32, 32)), rng.normal(size=(n, n_classes))
    return {"x": x.astype(np.float32), "dout": dout.astype(np.float32)}


IMAGES, OTHER_IMAGES = convnet_input(8, 3, 10, 70), convnet_input(4, 1, 7, 71)


def _shapes(g):
    return g.ask("convnet_shapes", {"n_channels": 3, "n_classes": 10}, {})


def _convnet_shapes(g):
    answer = _shapes(g)
    expected = {
        "convolutions": np.array([(n, m, 3, 3) for n, m in TABLE_1], float),
        "norms": np.array([n for n, _ in TABLE_1], float),
        "linear": np.array([(10, 512)], float),
    }
    called = "ConvNet(3, 10), its convolutions, batch norms and linear layers"
    found = difference(answer.arrays, expected, ["convolutions", "norms", "linear"])
    if found:
        outcome = g.failure(called, answer, found)
        outcome.hint = (
            outcome.hint or "Table 1 has eight 3×3 convolutions, a batch norm behind each, and one linear layer"
        )
        return outcome
    count, biases = float(answer.arrays["count"]), float(answer.arrays["conv_biases"])
    wanted = N_PARAMETERS if biases else N_PARAMETERS - N_CONV_BIASES
    if count != wanted:
        return Outcome(
            False, called, f"{count:,.0f} parameters", f"{wanted:,}", "there are parameters besides Table 1's"
        )
    return Outcome(True)


def _convnet(check, keys, arrays=IMAGES, sizes=(3, 10), training=True, backward=False):
    def run(g):
        shapes = _shapes(g)
        has_biases = float(np.sum(shapes.arrays.get("conv_biases", 1))) > 0
        params = {
            "n_channels": sizes[0],
            "n_classes": sizes[1],
            "seed": 7,
            "conv_bias": has_biases,
            "training": training,
            "backward": backward,
        }
        right = g.reference("convnet", params, arrays)
        # Gradients of different lengths stand beside one another, so each is allowed a part of the largest.
        allowance = {key: CONVNET_ALLOWANCE * float(abs(right[key]).max()) for key in keys}
        mode = "training" if training else "evaluation"
        called = f"ConvNet{sizes} with given weights in {mode}, images {arrays['x'].shape}{', backward(dout)' if backward else ''}"
        return g.compare(check, called, "convnet", params, arrays, keys, allowance)

    return run


def _convnet_sizes(g):
    outcome = _convnet("convnet.sizes", ["out"], OTHER_IMAGES, (1, 7))(g)
    if not outcome.passed and not outcome.hint and not g.has_failed("convnet.forward"):
        outcome.hint = "a ConvNet(1, 7) takes images of 1 channel and gives 7 logits: both numbers have to be handed on"
    return outcome


A, F, M = "CustomBatchNormAutograd", "CustomBatchNormManualFunction", "CustomBatchNormManualModule"


def _q(question, files):
    return lambda name, points, title, run: Check(name, question, points, title, files, run)


q2, q31, q32b, q32c, q4 = (
    _q("2", MLP_FILES), _q("3.1", NORM_FILES), _q("3.2b", NORM_FILES), _q("3.2c", NORM_FILES), _q("4", CONVNET_FILES)
)  # fmt: skip
CHECKS = [
    q2("mlp_pytorch.parameters", 3, "all layers are registered and trainable", _mlp_parameters),
    q2("mlp_pytorch.forward", 4, "logits with one hidden layer", _mlp_forward),
    q2("mlp_pytorch.slope", 2, "neg_slope is handed on", _mlp("mlp_pytorch.slope", [(5,)], slopes=(0.25, 0.0))),
    q2("mlp_pytorch.depth", 2, "no hidden layer, and three", _mlp("mlp_pytorch.depth", [(), (9, 7, 5)], slopes=(0.25,))),
    q2("mlp_pytorch.gradients", 4, "gradients of all parameters and of the input", _mlp("mlp_pytorch.gradients", [(5,), (9, 7, 5)], backward=True)),
    q2("mlp_pytorch.steps", 3, f"its weights after {N_STEPS} steps are the reference's", _mlp_steps),
    q31("bn_autograd.parameters", 1.5, "gamma of 1, beta of 0, trainable", _norm_parameters("bn_autograd.parameters", A)),
    q31("bn_autograd.forward", 3, "the batch normalised", _norm("bn_autograd.forward", A, ["out0"])),
    q31("bn_autograd.eps", 1, "eps inside the root, as asked for", _norm("bn_autograd.eps", A, ["out0"], NORM_EPS, eps=0.5)),
    q31("bn_autograd.gradients", 2.5, "gradients of x, gamma (0, too) and beta",
        _norm_gradients("bn_autograd.gradients", A, NORM_ZERO, "bn_autograd.eps")),
    q31("bn_autograd.second_batch", 1, "nothing is left of the batch before",
        _norm("bn_autograd.second_batch", A, ["out1"], NORM_TWO, n_batches=2)),
    q31("bn_autograd.wrong_shape", 1, "other shapes are a ValueError", _norm_wrong_shape("bn_autograd.wrong_shape", A)),
    q32b("bn_function.forward", 0.25, "the batch normalised", _function("bn_function.forward", ["out"])),
    q32b("bn_function.input_gradient", 0.75, "gradient of x", _function("bn_function.input_gradient", ["dx"])),
    q32b("bn_function.gamma_gradient", 0.5, "gradient of gamma", _function("bn_function.gamma_gradient", ["dgamma"])),
    q32b("bn_function.beta_gradient", 0.5, "gradient of beta", _function("bn_function.beta_gradient", ["dbeta"])),
    q32b("bn_function.gamma_of_zero", 0.25, "gradient of x where gamma is 0", _function("bn_function.gamma_of_zero", ["dx"], FUNCTION_ZERO)),
    q32b("bn_function.eps", 0.25, "eps inside the root, as asked for, forward and backward", _function_eps),
    q32b("bn_function.needs_input_grad", 0.25, "None for gradients nobody asks for", _needs_input_grad),
    q32b("bn_function.instance", 0.25, "apply on an instance", _function("bn_function.instance", ["out"], how="instance")),
    q32c("bn_module.parameters", 0.25, "gamma of 1, beta of 0, trainable", _norm_parameters("bn_module.parameters", M)),
    q32c("bn_module.forward", 0.25, "the batch normalised with the module's eps", _norm("bn_module.forward", M, ["out0"], NORM_EPS, eps=0.5)),
    q32c("bn_module.gradients", 0.25, "gradients of x, gamma and beta", _norm_gradients("bn_module.gradients", M, NORM)),
    q32c("bn_module.wrong_shape", 0.25, "other shapes are a ValueError", _norm_wrong_shape("bn_module.wrong_shape", M)),
    q4("convnet.shapes", 2, "Table 1's layers, 9,231,114 parameters", _convnet_shapes),
    q4("convnet.forward", 2, "logits in training, with given weights", _convnet("convnet.forward", ["out"])),
    q4("convnet.gradients", 1, "gradients of input and parameters",
       _convnet("convnet.gradients", ["dx", "dconv", "dnorm", "dlinear"], backward=True)),
    q4("convnet.evaluation", 1, "running statistics in evaluation", _convnet("convnet.evaluation", ["out"], training=False)),
    q4("convnet.sizes", 1, "n_channels and n_classes are handed on", _convnet_sizes),
]  # fmt: skip
