"""A submission with one mistake loses the one check that names it, and is told which mistake it was."""

# ruff: noqa: E501, a row of a table stays on its line

import functools

import pytest
from graded import CHECKS, PROJECT, checks_of, grade, grade_here, lost, project_with, replaced

M, N, T, B, V = "modules.py", "mlp_numpy.py", "mlp_pytorch.py", "custom_batchnorm.py", "convnet_pytorch.py"
AUTOGRAD_NORMALIZE = "mean, variance, centred = statistics(input)\n        self.track("
AUTOGRAD_RETURN = "return self.weight * (centred * torch.rsqrt(variance + self.eps)) + self.bias"
FUNCTION_FORWARD = "inverse_std = torch.rsqrt(variance + eps)"
FUNCTION_RETURN = "return torch.addcmul(beta, x_hat, gamma)"
MODULE_APPLY = "CustomBatchNormManualFunction.apply(input, self.weight, self.bias, self.eps, self.track)"

# The check that is lost, a part of the sentence that names the mistake, and the mistake: what stands in which
# file, and what in its place; or both in pairs of places.
MISTAKES = [
    # LinearModule
    ("linear.forward", "not added", M, 'out += self.params["bias"]', "pass"),
    ("linear.forward", "subtracted", M, 'out += self.params["bias"]', 'out -= self.params["bias"]'),
    ("linear.weight_gradient", "divided by the batch", M, "(self.x.T @ dout).T", "(self.x.T @ dout).T / len(dout)"),
    ("linear.weight_gradient", "wrong sign", M, "(self.x.T @ dout).T", "-(self.x.T @ dout).T"),
    ("linear.bias_gradient", "mean over the batch", M, "dout.sum(axis=0)\n", "dout.mean(axis=0)\n"),
    ("linear.bias_gradient", "first example", M, "dout.sum(axis=0)\n", "dout[0]\n"),
    ("linear.bias_gradient", "over everything", M, "dout.sum(axis=0)\n", "dout.sum() + 0 * dout[0]\n"),
    ("linear.bias_gradient", "wrong sign", M, "dout.sum(axis=0)\n", "-dout.sum(axis=0)\n"),
    ("linear.input_gradient", "wrong sign", M, 'return dout @ self.params["weight"]', 'return -dout @ self.params["weight"]'),
    ("linear.start", "variance", M, "normal(0, 1e-4,", "normal(0, 1e-2,"),
    ("linear.start", "biases start at 0", M, "np.zeros(out_features, dtype)", "np.ones(out_features, dtype)"),
    ("linear.input_gradient", "returns nothing", M, 'return dout @ self.params["weight"] if', 'dout @ self.params["weight"] if'),
    # LeakyReLUModule
    ("leaky_relu.forward", "a slope of 0.01 acts", M, "float(neg_slope)", "0.01"),
    ("leaky_relu.forward", "sign, forward and backward", M, "float(neg_slope)", "-float(neg_slope)"),
    ("leaky_relu.forward", "ignored, forward and backward", M, "float(neg_slope)", "0.0"),
    ("leaky_relu.forward", "numbers differ", M, "+ self.neg_slope * np.minimum(x, 0)", "+ self.neg_slope * (x <= 0)"),
    ("leaky_relu.backward", "numbers differ", M, "return dout * self.is_positive +", "return dout * (dout > 0) +"),
    ("leaky_relu.backward", "returns nothing", M, "return dout * self.is_positive +", "dout * self.is_positive +"),
    ("leaky_relu.forward", "ignored forward", M, "+ self.neg_slope * np.minimum(x, 0)", "+ 0 * np.minimum(x, 0)"),
    ("leaky_relu.forward", "subtracted", M, "+ self.neg_slope * np.minimum(x, 0)", "- self.neg_slope * np.minimum(x, 0)"),
    ("leaky_relu.backward", "ignored backward", M, "+ self.neg_slope * (dout * ~", "+ 0 * (dout * ~"),
    ("leaky_relu.backward", "wrong sign", M, "+ self.neg_slope * (dout * ~", "- self.neg_slope * (dout * ~"),
    ("leaky_relu.backward", "1, not the slope", M, "+ self.neg_slope * (dout * ~", "+ (dout * ~"),
    # SoftMaxModule
    ("softmax.forward", "over the batch", M, "exp.sum(axis=1, keepdims=True)", "exp.sum(axis=0, keepdims=True)"),
    ("softmax.forward", "not normalised", M, "exp / exp.sum(axis=1, keepdims=True)", "exp"),
    ("softmax.backward", "cross terms", M, "self.out * (dout - (dout * self.out)", "self.out * (dout - 0 * (dout * self.out)"),
    ("softmax.backward", "sigmoid", M, "(dout - (dout * self.out).sum(axis=1, keepdims=True))", "(1 - self.out) * dout"),
    ("softmax.backward", "added", M, "self.out * (dout - (dout", "self.out * (dout + (dout"),
    ("softmax.large_logits", "exp overflows", M, "x - x.max(axis=1, keepdims=True)", "x"),
    ("softmax.large_logits", "each row has its own", M, "x - x.max(axis=1, keepdims=True)", "x - x.max()"),
    ("softmax.large_logits", "NaN", M, ("self.out = np.maximum", "return self.out * (dout"),
     ("self.x = x\n        self.out = np.maximum",
      "self.out = np.exp(self.x) / np.exp(self.x).sum(axis=1, keepdims=True)\n        return self.out * (dout")),
    # CrossEntropyModule
    ("cross_entropy.forward", "sum over the batch", M, ".sum() / len(x)", ".sum()"),
    ("cross_entropy.forward", "its gradient, too", M, (".sum() / len(x)", "-y / (len(x) * self._floored(x))"), (".sum()", "-y / self._floored(x)")),
    ("cross_entropy.forward", "binary", M, "-(y * np.log(self._floored(x)))", "-(y * np.log(x) + (1 - y) * np.log(1 - x))"),
    ("cross_entropy.forward", "gradient are those of the binary", M, ("-(y * np.log(self._floored(x)))", "-y / (len(x) * self._floored(x))"),
     ("-(y * np.log(x) + (1 - y) * np.log(1 - x))", "(x - y) / (x * (1 - x)) / len(x)")),
    ("cross_entropy.forward", "batch and classes", M, ".sum() / len(x)", ".mean()"),
    ("cross_entropy.forward", "wrong sign", M, "return -(y * np.log", "return (y * np.log"),
    ("cross_entropy.forward", "base of 2", M, "np.log(self._floored(x))", "np.log2(self._floored(x))"),
    ("cross_entropy.backward", "batch and classes", M, "-y / (len(x) *", "-y / (x.size *"),
    ("cross_entropy.backward", "wrong sign", M, "return -y / (len(x)", "return y / (len(x)"),
    ("cross_entropy.backward", "p - t", M, "return -y / (len(x) * self._floored(x))", "return (x - y) / len(x)"),
    ("numpy.batch_mean", "does not divide by the batch", M, "-y / (len(x) * self._floored(x))", "-y / self._floored(x)"),
    # Batches
    ("numpy.second_batch", "LinearModule keeps", M, "self.x = x", 'self.x = getattr(self, "x", x)'),
    ("numpy.second_batch", "adds its gradients up", M, "dout.sum(axis=0)\n",
     'self.grads["bias"] + dout.sum(axis=0)\n        self.grads["weight"] += self.before\n        self.before = self.grads["weight"]\n'),
    ("numpy.second_batch", "mask", M, "self.is_positive = x > 0", 'self.is_positive = getattr(self, "is_positive", x > 0)'),
    ("numpy.batch_of_one", "larger batches", M, "self.x = x", "self.x = x if len(x) > 1 else 0 * x"),
    ("numpy.speed", "a comprehension in line", M, "out = x @ self.params[\"weight\"].T",
     'out = np.array([self.params["weight"] @ row for row in x])'),
    ("numpy.speed", "np.apply_along_axis in line", M, "self.out = np.maximum(probabilities, np.finfo(probabilities.dtype).tiny)",
     "self.out = np.apply_along_axis(lambda p: np.maximum(p, 1e-300), 1, probabilities)"),
    ("numpy.speed", "np.split in line", M, "out = x @ self.params[\"weight\"].T",
     'out = np.concatenate([row @ self.params["weight"].T for row in np.split(x, len(x))])'),
    ("numpy.speed", "SoftMaxModule goes", M, "return self.out * (dout - (dout * self.out).sum(axis=1, keepdims=True))",
     "return np.array([(np.diag(p) - np.outer(p, p)) @ d for p, d in zip(self.out, dout)])"),
    # MLP in NumPy
    ("mlp_numpy.forward", "neg_slope", N, "self.activation(neg_slope)]", "self.activation(0.01)]"),
    ("mlp_numpy.forward", "no activations", N, "self.activation(neg_slope)]", "self.activation(1)]"),
    ("mlp_numpy.forward", "stands before the softmax", N, "self.modules[-1] = self.output()",
     "self.modules.append(self.output())"),
    ("mlp_numpy.backward", "skips the activations", N, "reversed(self.modules[1:])",
     "[m for m in reversed(self.modules[1:]) if not isinstance(m, LeakyReLUModule)]"),
    ("mlp_numpy.forward", "wrong sign", N, "self.activation(neg_slope)]", "self.activation(-neg_slope)]"),
    ("mlp_numpy.backward", "share one", N, ("self.modules = []", "self.activation(neg_slope)]"),
     ("self.modules, shared = [], self.activation(neg_slope)", "shared]")),
    ("mlp_numpy.backward", "the last one first", N, "reversed(self.modules[1:])", "self.modules[1:]"),
    # MLP in PyTorch
    ("mlp_pytorch.parameters", "no biases", T,
     ("nn.Linear(n_inputs, n)", "nn.Linear(n_inputs, n_classes)", "nn.init.zeros_(module.bias)"),
     ("nn.Linear(n_inputs, n, bias=False)", "nn.Linear(n_inputs, n_classes, bias=False)", "pass")),
    ("mlp_pytorch.parameters", "hidden layers are frozen", T, "self.layers = nn.Sequential(*modules)",
     "self.layers = nn.Sequential(*modules)\n        self.layers[:-1].requires_grad_(False)"),
    ("mlp_pytorch.parameters", "all layers are frozen", T, "self.layers = nn.Sequential(*modules)",
     "self.layers = nn.Sequential(*modules)\n        self.requires_grad_(False)"),
    ("mlp_pytorch.parameters", "9 parameters are registered", T, "self.layers = nn.Sequential(*modules)",
     "self.layers = nn.Sequential(*modules)\n        self.more = nn.Linear(3, 2, bias=False)"),
    ("mlp_pytorch.forward", "tanh", T, "nn.LeakyReLU(neg_slope)", "nn.Tanh()"),
    ("mlp_pytorch.slope", "wrong sign", T, "nn.LeakyReLU(neg_slope)", "nn.LeakyReLU(-neg_slope)"),
    ("mlp_pytorch.depth", "did not come back", T, "return self.layers(self.whitening(x.flatten(1)))",
     "layers = list(self.layers)\n        return nn.Sequential(*layers[:-1][:2], layers[-1])(x.flatten(1))"),
    ("mlp_pytorch.forward", "probabilities", T, "return self.layers(self.whitening(x.flatten(1)))", "return self.layers(x.flatten(1)).softmax(dim=1)"),
    ("mlp_pytorch.forward", "follows the last layer", T, "return self.layers(self.whitening(x.flatten(1)))",
     "return nn.functional.leaky_relu(self.layers(x.flatten(1)), self.neg_slope)"),
    ("mlp_pytorch.slope", "0.01", T, "nn.LeakyReLU(neg_slope)", "nn.LeakyReLU()"),
    ("mlp_pytorch.slope", "ReLUs", T, "nn.LeakyReLU(neg_slope)", "nn.ReLU()"),
    ("mlp_pytorch.parameters", "plain list", T, "self.layers = nn.Sequential(*modules)", "self.layers = Plain(modules)"),
    ("mlp_pytorch.gradients", "detach", T, "return self.layers(self.whitening(x.flatten(1)))",
     "return self.layers[-1](self.layers[:-1](x.flatten(1)).detach())"),
    # Batch norm by autograd
    ("bn_autograd.forward", "gamma is left out", B, AUTOGRAD_RETURN, AUTOGRAD_RETURN.replace("self.weight *", "0 * self.weight +")),
    ("bn_autograd.gradients", "statistics are detached", B, AUTOGRAD_NORMALIZE,
     AUTOGRAD_NORMALIZE.replace("centred = statistics(input)", "_ = (s.detach() for s in statistics(input))\n        centred = input - mean")),
    ("bn_autograd.eps", "1e-5", B, AUTOGRAD_RETURN, AUTOGRAD_RETURN.replace("self.eps", "1e-5")),
    ("bn_autograd.gradients", "numbers differ", B, AUTOGRAD_RETURN,
     f"wrong = {AUTOGRAD_RETURN.removeprefix('return ').replace('self.eps', '1e-5')}\n        {AUTOGRAD_RETURN.replace('return ', 'return wrong + (')} - wrong).detach()"),
    # Batch norm by hand
    ("bn_function.eps", "1e-5", B, FUNCTION_FORWARD, "inverse_std = torch.rsqrt(variance + 1e-5)"),
    ("bn_function.input_gradient", "mean as a constant", B, "scale * dbeta / -n_batch", "0 * scale * dbeta"),
    ("bn_function.input_gradient", "variance as a constant", B, "value=-1 / n_batch", "value=0"),
    ("bn_function.input_gradient", "gamma is forgotten", B, "gamma * inverse_std", "inverse_std"),
    ("bn_function.gamma_gradient", "averaged", B, "return dx, dgamma if", "return dx, dgamma / len(dout) if"),
    ("bn_function.beta_gradient", "averaged", B, "None, dbeta if", "None, dbeta / len(dout) if"),
    ("bn_function.gamma_gradient", "missing", B, "return dx, dgamma if needs_dgamma else None,", "return dx, None,"),
    ("bn_function.beta_gradient", "missing", B, "dbeta if needs_dbeta else None, None, None", "None, None, None"),
    ("bn_function.needs_input_grad", "nobody asked", B,
     "return dx, dgamma if needs_dgamma else None, dbeta if needs_dbeta else None, None, None",
     "return dx, dgamma, dbeta, None, None"),
    *(("bn_function.eps", sentence, B, (FUNCTION_FORWARD, FUNCTION_RETURN),
       (FUNCTION_FORWARD.replace("eps", eps), FUNCTION_RETURN.replace("x_hat", "x_hat * torch.rsqrt(variance + eps) / inverse_std")))
      for sentence, eps in (("1e-5 acts", "1e-5"), ("does not add eps", "0"))),
    # Its module
    ("bn_module.forward", "handed on", B, MODULE_APPLY, MODULE_APPLY.replace("self.eps, self.track", "1e-5")),
    ("bn_module.gradients", "detached", B, MODULE_APPLY, MODULE_APPLY.replace("self.weight", "self.weight.data").replace("self.bias", "self.bias.data")),
    ("bn_module.gradients", "numbers differ", B, f"return {MODULE_APPLY}",
     f"wrong = {MODULE_APPLY.replace('self.eps, self.track', '1e-5')}\n        return wrong + ({MODULE_APPLY} - wrong).detach()"),
    # ConvNet
    ("convnet.forward", "2x2", V, "nn.MaxPool2d(kernel_size=3, stride=2, padding=1)", "nn.MaxPool2d(2)"),
    ("convnet.forward", "means", V, "nn.MaxPool2d(kernel_size=3, stride=2, padding=1)", "nn.AvgPool2d(3, 2, 1)"),
    ("convnet.forward", "probabilities", V, "self.classifier(self.features(x).flatten(1))",
     "self.classifier(self.features(x).flatten(1)).softmax(dim=1)"),
    ("convnet.forward", "has it behind", V, "nn.BatchNorm2d(layer), nn.ReLU()", "nn.ReLU(), nn.BatchNorm2d(layer)"),
    ("convnet.forward", "not used", V, "self.features(x)",
     "nn.Sequential(*(layer for layer in self.features if not isinstance(layer, nn.BatchNorm2d)))(x)"),
    ("convnet.forward", "leaky ReLUs of slope 0.02", V, "nn.ReLU()", "nn.LeakyReLU(0.02)"),
    ("convnet.forward", "there is dropout", V, "nn.BatchNorm2d(layer), nn.ReLU()", "nn.BatchNorm2d(layer), nn.ReLU(), nn.Dropout(0.3, inplace=True)"),
    ("convnet.forward", "there is dropout", V, "self.features(x).flatten(1)",
     "nn.functional.dropout(input=self.features(x).flatten(1), training=self.training)"),
    ("convnet.forward", "pooling stands before batch norm", V, "        self.features =",
     "        for i in [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:\n            layers.insert(i - 2, layers.pop(i))\n        self.features ="),
    ("convnet.forward", "the third convolution has no ReLU", V, "        self.features =", "        del layers[10]\n        self.features ="),
    ("convnet.shapes", "five batch norms, one behind the last convolution", V, "        self.features =",
     "        for i in (23, 16, 9):\n            del layers[i]\n        self.features ="),
    ("convnet.gradients", "detach", V, "self.features(x).flatten(1)", "self.features(x).flatten(1).detach()"),
    ("convnet.evaluation", "evaluation", V, "def forward(self, x):", "def eval(self):\n        return self\n\n    def train(self, mode=True):\n        return super().train()\n\n    def forward(self, x):"),
    ("convnet.evaluation", "batch's statistics", V, "nn.BatchNorm2d(layer)", "nn.BatchNorm2d(layer, track_running_stats=False)"),
    ("convnet.sizes", "always 10", V, "self.classifier = nn.Linear(n_channels, n_classes)", "self.classifier = nn.Linear(n_channels, 10)"),
    ("convnet.sizes", "images of 1 channel", V, "layers = []", "layers, n_channels = [], 3"),
]  # fmt: skip

PLAIN = """
class Plain:
    def __init__(self, modules):
        self.modules = modules

    def __iter__(self):
        return iter(self.modules)

    def __call__(self, x):
        for module in self.modules:
            x = module(x)
        return x
"""


def submission(file, right, wrong):
    pairs = [(right, wrong)] if isinstance(right, str) else list(zip(right, wrong, strict=True))
    files = PROJECT | {file: functools.reduce(lambda text, pair: replaced(text, *pair), pairs, PROJECT[file])}
    if "Plain(" in wrong:
        files[T] = files[T].replace("class MLP(", f"{PLAIN.strip()}\n\n\nclass MLP(")
    if "self.neg_slope)" in wrong and file == T:
        files[T] = files[T].replace("super().__init__()", "super().__init__()\n        self.neg_slope = neg_slope")
    if "self.before" in wrong:
        files[M] = files[M].replace("self.grads = {name:", "self.before = 0.0\n        self.grads = {name:")
    return files


def each(mistakes, slow=()):
    rows = [
        pytest.param(*m, id=f"{m[0]}, {m[1]}, {MISTAKES.index(m)}", marks=pytest.mark.slow if m in slow else ())
        for m in mistakes
    ]
    return pytest.mark.parametrize(("check", "sentence", "file", "right", "wrong"), rows)


def costs_one_check(outcomes, check, sentence):
    """Assert that `check` alone is lost, and says what was called, what came back, and which mistake it is."""
    assert lost(outcomes) == [check], {name: outcomes[name] for name in lost(outcomes)}
    assert sentence in outcomes[check].hint
    assert outcomes[check].hint
    assert outcomes[check].called
    assert outcomes[check].got
    assert outcomes[check].expected


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the reference makes the same mistakes, and overflows
@each(MISTAKES, slow=[m for m in MISTAKES if m[2] == V][1:])  # a ConvNet's takes some seconds
def test_mistake_costs_the_one_check_that_names_it(check, sentence, file, right, wrong):
    """Of the checks that its file has a part in."""
    outcomes = grade_here(submission(file, right, wrong), checks_of(file))
    costs_one_check(outcomes, check, sentence)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@each({m[2]: m for m in MISTAKES}.values())
def test_mistake_costs_one_of_all_checks(check, sentence, file, right, wrong):
    """One of each file: the others' checks do not load it."""
    outcomes = grade_here(submission(file, right, wrong))
    costs_one_check(outcomes, check, sentence)


def test_the_project_loses_nothing(shared_sandbox):
    outcomes, grading = grade(shared_sandbox, PROJECT)
    assert lost(outcomes) == []
    assert grading.carried == []


@pytest.mark.parametrize("which", ["checks of its file", pytest.param("all checks", marks=pytest.mark.slow)])
def test_what_came_before_an_error_counts(shared_sandbox, which):
    """Gradients that were written, or returned, before PyTorch or NumPy refused a wrong shape."""
    files = project_with(M, 'return dout @ self.params["weight"] if', 'return dout @ self.params["weight"].T if')
    outcomes, _ = grade(shared_sandbox, files, CHECKS if which == "all checks" else checks_of(M))
    assert lost(outcomes) == ["linear.input_gradient"]
    files = project_with(B, "dgamma if needs_dgamma", "(dout * x_hat).sum(dim=1) if needs_dgamma")
    outcomes, _ = grade(shared_sandbox, files, CHECKS if which == "all checks" else checks_of(B))
    assert lost(outcomes) == ["bn_function.gamma_gradient"]
    assert "dim 1" in outcomes["bn_function.gamma_gradient"].hint


def test_errors_say_what_the_submission_did(shared_sandbox):
    names = PROJECT[M].replace('"weight"', '"W"').replace('"bias"', '"b"')
    outcomes, _ = grade(shared_sandbox, {M: names})
    assert "LinearModule.params has the keys 'W', 'b', expected 'weight' and 'bias'" in outcomes["linear.forward"].got
    old = PROJECT[M].replace("dtype=np.float64", "dtype=np.float")
    outcomes, _ = grade(shared_sandbox, {M: old})
    assert outcomes["linear.forward"].got.count("np.float") == 0
    assert "modules.py" in outcomes["linear.forward"].got
