# ruff: noqa
import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        super(MLP, self).__init__()
        self.slope = neg_slope
        sizes = [n_inputs] + list(n_hidden) + [n_classes]
        self.weights = nn.ParameterList(nn.Parameter(1e-4 * torch.randn(a, b)) for a, b in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(b)) for b in sizes[1:])

    def accuracy(self, x, y):
        return (self(x).argmax(1) == y).float().mean()

    def forward(self, x):
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if number:
                x = F.leaky_relu(x, self.slope)
            x = x @ weight + bias
        return x
