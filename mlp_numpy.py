"""A multi-layer perceptron built from the modules of `modules.py`."""

from itertools import pairwise

import numpy as np

from modules import LeakyReLUModule, LinearModule, SoftMaxModule


class MLP:
    """Linear layers with leaky ReLUs between them and a softmax after the last.

    Args:
        n_inputs: size of an input row.
        n_hidden: sizes of the hidden layers; an empty sequence gives multinomial logistic regression.
        n_classes: size of an output row.
        neg_slope: slope of the leaky ReLUs left of 0.
        dtype: parameter dtype. Inputs of the same dtype keep all activations in it.
        rng: `numpy.random.Generator` for the weights. None uses NumPy's global generator.

    Attributes:
        linear, activation, output: the modules' classes, which a subclass may replace.
        modules: all modules, in forward order.
        layers: the linear modules, which have parameters.
    """

    linear, activation, output = LinearModule, LeakyReLUModule, SoftMaxModule

    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope, *, dtype=np.float64, rng=None):
        sizes = [n_inputs, *n_hidden, n_classes]
        self.layers = [self.linear(*pair, dtype=dtype, rng=rng) for pair in pairwise(sizes)]
        self.modules = []
        for layer in self.layers:
            self.modules += [layer, self.activation(neg_slope)]
        self.modules[-1] = self.output()

    def forward(self, x):
        """Return class probabilities, shape (n_batch, n_classes), for x of shape (n_batch, n_inputs)."""
        for module in self.modules:
            x = module.forward(x)
        return x

    def backward(self, dout, needs_input_grad=False):
        """Set every layer's `grads` by the chain rule, last module first.

        Args:
            dout: gradient of the loss with respect to the probabilities, shape (n_batch, n_classes).
            needs_input_grad: return the gradient with respect to the input, shape (n_batch, n_inputs),
                which training does not need.
        """
        for module in reversed(self.modules[1:]):
            dout = module.backward(dout)
        return self.modules[0].backward(dout, needs_input_grad)

    def state_dict(self):
        """Return the parameters, without copying, as `{'linear1.weight': array, 'linear1.bias': array, …}`."""
        return {f"linear{l}.{name}": p for l, layer in enumerate(self.layers, 1) for name, p in layer.params.items()}

    def load_state_dict(self, state):
        """Copy the parameters from a mapping such as `state_dict` returns.

        Raises:
            KeyError: a parameter is missing.
            ValueError: a parameter has a different shape.
        """
        for name, param in self.state_dict().items():
            if state[name].shape != param.shape:
                raise ValueError(f"{name} has shape {state[name].shape}, expected {param.shape}")
            param[...] = state[name]
