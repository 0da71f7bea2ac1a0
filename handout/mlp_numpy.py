"""The MLP in NumPy (question 1.2)."""

from modules import LeakyReLUModule, LinearModule, SoftMaxModule


class MLP:
    """Linear modules with a leaky ReLU between each two, and a softmax after the last.

    Args:
        n_inputs: size of an input row.
        n_hidden: list of the sizes of the hidden layers; an empty list connects the inputs to the outputs directly.
        n_classes: size of an output row.
        neg_slope: slope of the leaky ReLUs for negative inputs.

    Attributes:
        layers: list of the linear modules, first to last. The training script and the checkpoints need it.
    """

    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        raise NotImplementedError

    def forward(self, x):
        """Return probabilities, shape (n_batch, n_classes), for x of shape (n_batch, n_inputs)."""
        raise NotImplementedError

    def backward(self, dout):
        """Set the `grads` of all linear modules.

        `dout`: gradient of the loss with respect to the probabilities, shape (n_batch, n_classes).
        """
        raise NotImplementedError

    # The rest is complete: it saves and loads the parameters.

    def state_dict(self):
        """Return the parameters of all linear modules, `{'0.weight': array, '0.bias': array, '1.weight': ...}`."""
        return {f"{i}.{name}": p for i, layer in enumerate(self.layers) for name, p in layer.params.items()}

    def load_state_dict(self, state):
        """Replace the parameters by those from `state_dict`."""
        for i, layer in enumerate(self.layers):
            layer.params = {name: state[f"{i}.{name}"] for name in layer.params}
