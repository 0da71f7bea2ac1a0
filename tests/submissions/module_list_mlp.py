# ruff: noqa
from torch import nn


class MLP(nn.Module):
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        super().__init__()
        self.hidden = nn.ModuleList()
        for width in n_hidden:
            self.hidden.append(nn.Linear(n_inputs, width))
            n_inputs = width
        self.act = nn.LeakyReLU(neg_slope, inplace=True)
        self.out = nn.Linear(n_inputs, n_classes)

    def forward(self, x):
        for layer in self.hidden:
            x = self.act(layer(x))
        return self.out(x)
