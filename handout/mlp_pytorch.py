"""The MLP in PyTorch (question 2)."""

from torch import nn


class MLP(nn.Module):
    """`nn.Linear` layers with a leaky ReLU between each two. No softmax: the loss, `F.cross_entropy`, contains it.

    Arguments as for the NumPy MLP. If you try other layers or initial weights, add arguments with defaults at the end.
    """

    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        raise NotImplementedError

    def forward(self, x):
        """Return logits, shape (n_batch, n_classes), for x of shape (n_batch, n_inputs).

        Flatten x first, `x.flatten(1)`, so that images of shape (n_batch, 3, 32, 32) are accepted, too.
        """
        raise NotImplementedError
