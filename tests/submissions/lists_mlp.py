# ruff: noqa
from modules import *


class MLP:
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        self.network = []
        for n in list(n_hidden):
            self.network.append((LinearModule(n_inputs, n), LeakyReLUModule(neg_slope)))
            n_inputs = n
        self.network.append((LinearModule(n_inputs, n_classes), SoftMaxModule()))

    def forward(self, x):
        for linear, activation in self.network:
            x = activation.forward(linear.forward(x))
        return x

    def backward(self, dout):
        for linear, activation in self.network[::-1]:
            dout = linear.backward(activation.backward(dout))
        return dout
