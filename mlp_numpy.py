"""A multi-layer perceptron built from the modules of `modules.py`."""

from itertools import pairwise

import numpy as np

from modules import LeakyReLUModule, LinearModule, SoftMaxModule


class MLP:
    """Linear layers with leaky ReLUs between them and a softmax behind the last.

    Args:
        n_inputs: size of an input row.
        n_hidden: sizes of the hidden layers, an empty sequence for multinomial logistic regression.
        n_classes: size of an output row.
        neg_slope: slope of the leaky ReLUs left of 0.
        dtype: of the parameters; inputs of that dtype keep the whole computation in it.
        rng: `numpy.random.Generator` to draw the weights from; None takes NumPy's global one.

    Attributes:
        modules: all modules, in the order in which data flows.
        layers: those of them that have parameters.
    """

    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope, *, dtype=np.float64, rng=None):
        sizes = [n_inputs, *n_hidden, n_classes]
        self.layers = [LinearModule(*pair, dtype=dtype, rng=rng) for pair in pairwise(sizes)]
        self.modules = []
        for layer in self.layers:
            self.modules += [layer, LeakyReLUModule(neg_slope)]
        self.modules[-1] = SoftMaxModule()

    def forward(self, x):
        """Return class probabilities, shape (n_batch, n_classes), for x of shape (n_batch, n_inputs)."""
        for module in self.modules:
            x = module.forward(x)
        return x

    def backward(self, dout, needs_input_grad=False):
        """Set every layer's `grads` by the chain rule, last module first.

        Args:
            dout: gradient of the loss with respect to the probabilities, shape (n_batch, n_classes).
            needs_input_grad: also compute and return the gradient with respect to the input, shape
                (n_batch, n_inputs). Training has no use for it.
        """
        for module in reversed(self.modules[1:]):
            dout = module.backward(dout)
        return self.modules[0].backward(dout, needs_input_grad)

    def state_dict(self):
        """Return the parameters, not copied, as `{'linear1.weight': array, 'linear1.bias': array, …}`."""
        return {f"linear{l}.{name}": p for l, layer in enumerate(self.layers, 1) for name, p in layer.params.items()}

    def load_state_dict(self, state):
        """Copy parameters in from a mapping as `state_dict` returns it.

        Raises:
            KeyError: a parameter is missing.
            ValueError: one has another shape.
        """
        for name, param in self.state_dict().items():
            if state[name].shape != param.shape:
                raise ValueError(f"{name} has shape {state[name].shape}, expected {param.shape}")
            param[...] = state[name]
