"""The gradient checks find every mistake in `report/wrong_layers.py`, and none in right layers."""

from types import SimpleNamespace

import pytest
from gradient_checks import CHECKS

import modules
from report.wrong_layers import WRONG_LAYERS, layers_with


def first_failure(layers):
    """Return the message of the first check that fails, or None if all pass."""
    for name, check in CHECKS.items():
        try:
            check(layers)
        except Exception as error:
            return f"{name}: {type(error).__name__}: {error}"
    return None


class CourseLinear(modules.LinearModule):
    """A student's linear layer, without the arguments that this project adds."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)

    def backward(self, dout):
        return super().backward(dout)


class CourseMLP:
    """A student's MLP, with all modules in one list and a backward that returns nothing."""

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


def test_right_layers_pass():
    assert first_failure(layers_with(type("Same", (modules.LinearModule,), {}))) is None


def test_layers_with_the_course_api_pass():
    layers = SimpleNamespace(**{**vars(modules), "LinearModule": CourseLinear, "MLP": CourseMLP})
    assert first_failure(layers) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # wrong layers overflow and divide by zero
@pytest.mark.parametrize("name", WRONG_LAYERS)
def test_wrong_layer_is_found(name):
    assert first_failure(layers_with(WRONG_LAYERS[name])), WRONG_LAYERS[name].__doc__
