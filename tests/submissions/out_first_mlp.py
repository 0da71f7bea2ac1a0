# ruff: noqa
"""The output layer is made first and has a column of biases, the hidden ones rows; a linear layer of its own."""

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, o))
        self.weight = nn.Parameter(torch.randn(i, o) * 1e-4)

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class MLP(nn.Module):
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        super().__init__()
        self.slope = neg_slope
        sizes = [n_inputs] + n_hidden
        self.out_bias = nn.Parameter(torch.zeros(n_classes, 1))
        self.out_weight = nn.Parameter(torch.randn(n_classes, sizes[-1]) * 1e-4)
        self.hidden = nn.ModuleList([Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:])])

    def forward(self, x):
        for l in self.hidden:
            x = l(x)
            x = torch.where(x > 0, x, self.slope * x)
        return (self.out_weight @ x.T + self.out_bias).T
