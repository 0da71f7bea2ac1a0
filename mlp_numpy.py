"""Multi-layer perceptron made of the modules in `modules.py`."""

from itertools import pairwise

import numpy as np

from modules import LeakyReLUModule, LinearModule, SoftMaxModule


class MLP:
    """Linear layers with leaky ReLUs between them and a softmax after the last.

    Args:
        n_inputs: number of input features.
        n_hidden: sizes of the hidden layers; an empty sequence gives multinomial logistic regression.
        n_classes: number of classes.
        neg_slope: slope of the leaky ReLUs for negative inputs.
        dtype: parameter dtype. Activations have it too if the inputs do.
        rng: `numpy.random.Generator` for the weights. The default is NumPy's global generator.

    Attributes:
        linear, activation, output: module classes; a subclass may replace them.
        modules: all modules, in forward order.
        layers: the linear modules, in forward order.
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
        """Return class probabilities, shape (n_batch, n_classes), for `x` of shape (n_batch, n_inputs)."""
        for module in self.modules:
            x = module.forward(x)
        return x

    def backward(self, dout, needs_input_grad=False):
        """Set `grads` of all layers, and return the gradient with respect to the input, or None.

        Args:
            dout: gradient of the loss with respect to the probabilities, shape (n_batch, n_classes).
            needs_input_grad: whether to return the input gradient, shape (n_batch, n_inputs).
                Training does not need it.
        """
        for module in reversed(self.modules[1:]):
            dout = module.backward(dout)
        return self.modules[0].backward(dout, needs_input_grad)

    def state_dict(self):
        """Return references to the parameters: `{'linear1.weight': array, 'linear1.bias': array, …}`."""
        return {f"linear{l}.{name}": p for l, layer in enumerate(self.layers, 1) for name, p in layer.params.items()}

    def load_state_dict(self, state):
        """Copy the parameters from a `state_dict`.

        Raises:
            KeyError: a parameter is missing.
            ValueError: a parameter has a different shape.
        """
        for name, param in self.state_dict().items():
            if state[name].shape != param.shape:
                raise ValueError(f"{name} has shape {state[name].shape}, expected {param.shape}")
            param[...] = state[name]
