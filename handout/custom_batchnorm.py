"""Batch normalisation, three times (question 3).

For each neuron, over the examples of the batch:

    y = gamma * (x - mean) / sqrt(variance + eps) + beta

The variance divides by n_batch (`unbiased=False`). Training and evaluation use the statistics of the given batch.
"""

import torch
from torch import nn


class CustomBatchNormAutograd(nn.Module):
    """Batch norm with the backward pass left to autograd (question 3.1).

    Attributes:
        gamma, beta: parameters of shape (n_neurons,); gamma starts at 1, beta at 0.
    """

    def __init__(self, n_neurons, eps=1e-5):
        raise NotImplementedError

    def forward(self, input):
        """Return y, of the shape of `input`, (n_batch, n_neurons).

        Raises:
            ValueError: `input` has another shape; the message has both shapes.
        """
        raise NotImplementedError


class CustomBatchNormManualFunction(torch.autograd.Function):
    """Batch norm with your own backward pass (question 3.2 b).

    Check it with `torch.autograd.gradcheck` in float64.
    """

    @staticmethod
    def forward(ctx, input, gamma, beta, eps=1e-5):
        """Return y, of the shape of `input`, (n_batch, n_neurons). `gamma` and `beta` have shape (n_neurons,).

        Store only what `backward` needs: tensors with `ctx.save_for_backward`, other values as attributes of `ctx`.
        """
        raise NotImplementedError

    @staticmethod
    def backward(ctx, dout):
        """Return the gradients of `input`, `gamma` and `beta`, and None for `eps`.

        `dout`: gradient of the loss with respect to y, shape (n_batch, n_neurons). `ctx.needs_input_grad` says which
        gradients are needed; return None for the others without computing them.
        """
        raise NotImplementedError


class CustomBatchNormManualModule(nn.Module):
    """`CustomBatchNormAutograd` with `CustomBatchNormManualFunction` (question 3.2 c). The same attributes."""

    def __init__(self, n_neurons, eps=1e-5):
        raise NotImplementedError

    def forward(self, input):
        """Return y. Shapes and errors as for `CustomBatchNormAutograd`."""
        raise NotImplementedError
