# ruff: noqa
from modules import CrossEntropyModule, LeakyReLUModule, LinearModule, SoftMaxModule


class MLP(object):
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        self.output = LinearModule(([n_inputs] + list(n_hidden))[-1], n_classes)
        self.hidden = {}
        size = n_inputs
        for number, width in enumerate(n_hidden):
            self.hidden["linear%d" % number] = LinearModule(size, width)
            self.hidden["relu%d" % number] = LeakyReLUModule(neg_slope)
            size = width
        self.softmax = SoftMaxModule()
        self.loss = CrossEntropyModule()

    def forward(self, x):
        for layer in self.hidden.values():
            x = layer.forward(x)
        return self.softmax.forward(self.output.forward(x))

    def backward(self, dout):
        dout = self.output.backward(self.softmax.backward(dout))
        for layer in reversed(list(self.hidden.values())):
            dout = layer.backward(dout)
