"""The layers of the NumPy MLP (question 1.2).

A batch is an array with one example per row. `forward` stores what `backward` needs. `backward` takes `dout`, the
gradient of the loss with respect to the module's output, and returns the gradient with respect to its input. Use
array operations, without loops over the examples.
"""

import numpy as np


class LinearModule:
    """A linear map of each row, with a bias.

    Weights start from a normal distribution with mean 0 and standard deviation 0.0001, biases at 0.

    Attributes:
        params: `{'weight': array (out_features, in_features), 'bias': array (out_features,)}`.
        grads: gradients of the loss with respect to the parameters, with the same keys and shapes.
    """

    def __init__(self, in_features, out_features):
        raise NotImplementedError

    def forward(self, x):
        """Return the output, shape (n_batch, out_features), for x of shape (n_batch, in_features)."""
        raise NotImplementedError

    def backward(self, dout):
        """Set `grads` and return the gradient of the input, shape (n_batch, in_features).

        `dout` has shape (n_batch, out_features).
        """
        raise NotImplementedError


class LeakyReLUModule:
    """max(0, x) + neg_slope * min(0, x), for each element."""

    def __init__(self, neg_slope):
        raise NotImplementedError

    def forward(self, x):
        """Return the output, of the shape of x."""
        raise NotImplementedError

    def backward(self, dout):
        """Return the gradient of the input, of the shape of `dout`."""
        raise NotImplementedError


class SoftMaxModule:
    """exp(x_i) / sum_j exp(x_j), for each row. Large x must not overflow."""

    def forward(self, x):
        """Return probabilities, shape (n_batch, n_classes), for logits of the same shape."""
        raise NotImplementedError

    def backward(self, dout):
        """Return the gradient of the logits, of the shape of `dout`, (n_batch, n_classes)."""
        raise NotImplementedError


class CrossEntropyModule:
    """-sum_i y_i log(x_i) for each row, averaged over the batch.

    x: probabilities, shape (n_batch, n_classes). y: one-hot targets of the same shape.
    """

    def forward(self, x, y):
        """Return the loss, a scalar."""
        raise NotImplementedError

    def backward(self, x, y):
        """Return the gradient of the loss with respect to x, of the shape of x."""
        raise NotImplementedError
