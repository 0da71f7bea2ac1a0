"""Mistakes that students make, one at a time: the gradient checks must catch every one of them."""

import inspect
from types import SimpleNamespace

import pytest
from gradient_checks import CHECKS

import mlp_numpy
import modules

MODULES, MLP = inspect.getsource(modules), inspect.getsource(mlp_numpy)

# What is wrong, the file's line or part of it that is right, and what stands there instead.
MISTAKES = [
    # LinearModule
    ("bias not added", 'out += self.params["bias"]', "pass"),
    ("bias subtracted", 'out += self.params["bias"]', 'out -= self.params["bias"]'),
    ("weight not transposed", 'x @ self.params["weight"].T', 'x @ self.params["weight"]'),
    ("input kept from the first batch only", "self.x = x", 'self.x = getattr(self, "x", x)'),
    ("weight gradient transposed", "(self.x.T @ dout).T", "self.x.T @ dout"),
    ("weight gradient divided by the batch once more", "(self.x.T @ dout).T", "(self.x.T @ dout).T / len(dout)"),
    ("weight gradient of the wrong sign", "(self.x.T @ dout).T", "-(self.x.T @ dout).T"),
    ("weight gradient added up over batches", "(self.x.T @ dout).T", 'self.grads["weight"] + (self.x.T @ dout).T'),
    ("weight gradient missing", 'self.grads["weight"] = (', 'self.grads["w"] = ('),
    ("bias gradient missing", 'self.grads["bias"] = dout', 'self.grads["b"] = dout'),
    (
        "bias gradient summed over units",
        'self.grads["bias"] = dout.sum(axis=0)',
        'self.grads["bias"] = dout.sum(axis=1)',
    ),
    ("bias gradient of the first example only", "dout.sum(axis=0)\n", "dout[0]\n"),
    ("bias gradient averaged over the batch", "dout.sum(axis=0)\n", "dout.mean(axis=0)\n"),
    ("bias gradient not summed", "dout.sum(axis=0)\n", "dout\n"),
    ("bias gradient a matrix of one row", "dout.sum(axis=0)\n", "dout.sum(axis=0, keepdims=True)\n"),
    ("bias gradient summed over everything", "dout.sum(axis=0)\n", "dout.sum() + 0 * dout[0]\n"),
    ("bias gradient added up over batches", "dout.sum(axis=0)\n", 'self.grads["bias"] + dout.sum(axis=0)\n'),
    (
        "bias gradient by ones for the first batch",
        "dout.sum(axis=0)\n",
        'self.__dict__.setdefault("ones", np.ones(len(dout))) @ dout\n',
    ),
    (
        "output written over the last batch's",
        'out = x @ self.params["weight"].T\n',
        'out = self.__dict__.setdefault("out", np.empty((len(x), len(self.params["bias"]))))\n'
        '        np.matmul(x, self.params["weight"].T, out=out)\n',
    ),
    ("input gradient with the weight transposed", 'dout @ self.params["weight"]', 'dout @ self.params["weight"].T'),
    ("input gradient of the wrong sign", 'return dout @ self.params["weight"]', 'return -dout @ self.params["weight"]'),
    ("input gradient not computed", "if needs_input_grad else None", "if not needs_input_grad else None"),
    # LeakyReLUModule
    ("slope ignored forward", "+ self.neg_slope * np.minimum(x, 0)", "+ 0 * np.minimum(x, 0)"),
    ("slope subtracted forward", "+ self.neg_slope * np.minimum(x, 0)", "- self.neg_slope * np.minimum(x, 0)"),
    ("slope ignored backward", "+ self.neg_slope * (dout * ~", "+ 0 * (dout * ~"),
    ("slope of the wrong sign backward", "+ self.neg_slope * (dout * ~", "- self.neg_slope * (dout * ~"),
    ("slope on both sides backward", "dout * self.is_positive + self", "dout + self"),
    ("mask the wrong way round", "self.is_positive = x > 0", "self.is_positive = x < 0"),
    ("mask true at 0", "self.is_positive = x > 0", "self.is_positive = x >= 0"),
    ("mask from the output", "x > 0", "np.maximum(x, 0) + self.neg_slope * np.minimum(x, 0) > 0"),
    (
        "mask from the first batch only",
        "self.is_positive = x > 0",
        'self.is_positive = getattr(self, "is_positive", x > 0)',
    ),
    (
        "activation in place of its derivative",
        "return dout * self.is_positive +",
        "return dout**2 * self.is_positive +",
    ),
    # SoftMaxModule
    ("largest logit not taken off", "x - x.max(axis=1, keepdims=True)", "x"),
    ("largest logit of the batch taken off", "x.max(axis=1, keepdims=True)", "x.max()"),
    ("normalised over the batch", "exp.sum(axis=1, keepdims=True)", "exp.sum(axis=0, keepdims=True)"),
    ("probabilities allowed to be 0", "np.maximum(probabilities, np.finfo(probabilities.dtype).tiny)", "probabilities"),
    (
        "softmax without the cross terms",
        "self.out * (dout - (dout * self.out)",
        "self.out * (dout - 0 * (dout * self.out)",
    ),
    (
        "softmax as if it were a sigmoid",
        "(dout - (dout * self.out).sum(axis=1, keepdims=True))",
        "(1 - self.out) * dout",
    ),
    (
        "cross terms summed over the batch",
        "(dout * self.out).sum(axis=1, keepdims=True)",
        "(dout * self.out).sum(axis=0)",
    ),
    ("cross terms summed over everything", "(dout * self.out).sum(axis=1, keepdims=True)", "(dout * self.out).sum()"),
    ("cross terms without the probabilities", "(dout * self.out).sum(axis=1", "dout.sum(axis=1"),
    ("cross terms added", "self.out * (dout - (dout", "self.out * (dout + (dout"),
    (
        "softmax subtracting in its caller's array",
        "return self.out * (dout - (dout * self.out).sum(axis=1, keepdims=True))",
        "dout -= (dout * self.out).sum(axis=1, keepdims=True)\n        return self.out * dout",
    ),
    # CrossEntropyModule
    ("loss divided by the first batch", ".sum() / len(x)", '.sum() / self.__dict__.setdefault("n", len(x))'),
    ("loss gradient divided by the first batch", "-y / (len(x) *", '-y / (self.__dict__.setdefault("n", len(x)) *'),
    ("loss not divided by the batch", ".sum() / len(x)", ".sum()"),
    ("loss divided by batch and classes", ".sum() / len(x)", ".mean()"),
    ("loss divided by the classes", ".sum() / len(x)", ".sum() / x.shape[1]"),
    ("loss of the wrong sign", "return -(y * np.log", "return (y * np.log"),
    ("log to the base of 2", "np.log(self._floored(x))", "np.log2(self._floored(x))"),
    ("log without the floor", "np.log(self._floored(x))", "np.log(x)"),
    ("loss gradient without the floor", "(len(x) * self._floored(x))", "(len(x) * x)"),
    ("loss gradient not divided by the batch", "-y / (len(x) * self._floored(x))", "-y / self._floored(x)"),
    ("loss gradient divided by batch and classes", "-y / (len(x) *", "-y / (x.size *"),
    ("loss gradient of the wrong sign", "return -y / (len(x)", "return y / (len(x)"),
    ("loss gradient as if softmax were in it", "return -y / (len(x) * self._floored(x))", "return (x - y) / len(x)"),
    ("loss gradient for every class", "return -y / (len(x)", "return -np.ones_like(y) / (len(x)"),
    # MLP
    (
        "one activation shared by all layers",
        "LeakyReLUModule(neg_slope)]",
        'self.__dict__.setdefault("a", LeakyReLUModule(neg_slope))]',
    ),
    ("slope not handed on", "LeakyReLUModule(neg_slope)]", "LeakyReLUModule(0.01)]"),
    ("no softmax at the end", "self.modules[-1] = SoftMaxModule()", "self.modules.pop()"),
    ("activation before the softmax", "self.modules[-1] = SoftMaxModule()", "self.modules.append(SoftMaxModule())"),
    (
        "no activations",
        "self.modules += [layer, LeakyReLUModule(neg_slope)]",
        "self.modules += [layer, LeakyReLUModule(1)]",
    ),
    ("backward in forward's order", "reversed(self.modules[1:])", "self.modules[1:]"),
    (
        "activations skipped backward",
        "reversed(self.modules[1:])",
        "[m for m in reversed(self.modules[1:]) if not isinstance(m, LeakyReLUModule)]",
    ),
    (
        "first layer forgotten backward",
        "return self.modules[0].backward(dout, needs_input_grad)",
        "return dout @ self.layers[0].params['weight']",
    ),
]


def layers_with(right, wrong):
    """Return the project's layers, built from source in which `right` reads `wrong`."""
    assert (MODULES + MLP).count(right) == 1, f"{right!r} should stand once in modules.py and mlp_numpy.py"
    # `inspect` cannot read the source of what `exec` makes, so the import line goes: one namespace holds all.
    source = MODULES + MLP.replace("from modules import LeakyReLUModule, LinearModule, SoftMaxModule\n", "")
    namespace = {}
    exec(compile(source.replace(right, wrong), "<layers with a mistake>", "exec"), namespace)
    return SimpleNamespace(**namespace)


def first_failure(layers):
    """Return what the first failing check says, or None where all pass."""
    for name, check in CHECKS.items():
        try:
            check(layers)
        except Exception as error:
            return f"{name}: {type(error).__name__}: {error}"
    return None


def test_layers_without_a_mistake_pass():
    """Without this, a slip in `layers_with` would fail every check and prove nothing."""
    assert first_failure(layers_with("self.x = x", "self.x = x")) is None


class CourseLinear(modules.LinearModule):
    """A student's, without the arguments that this project adds."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)

    def backward(self, dout):
        return super().backward(dout)


class CourseMLP:
    """A student's, which keeps all modules in one list and returns nothing from backward."""

    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        self.layers = []
        for n in n_hidden:
            self.layers += [CourseLinear(n_inputs, n), modules.LeakyReLUModule(neg_slope)]
            n_inputs = n
        self.layers += [CourseLinear(n_inputs, n_classes), modules.SoftMaxModule()]

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dout):
        for layer in self.layers[::-1]:
            dout = layer.backward(dout)


def test_layers_with_no_more_than_the_courses_arguments_pass():
    layers = SimpleNamespace(**{**vars(modules), "LinearModule": CourseLinear, "MLP": CourseMLP})
    assert first_failure(layers) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # wrong layers overflow and divide by zero
@pytest.mark.parametrize(("right", "wrong"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistake_is_caught(right, wrong):
    assert first_failure(layers_with(right, wrong)), "no gradient check noticed"
