# ruff: noqa
"""The output layer is made first, the hidden ones after it."""

from modules import LeakyReLUModule, LinearModule, SoftMaxModule


class MLP(object):
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        sizes = [n_inputs] + list(n_hidden)
        self.out = LinearModule(sizes[-1], n_classes)
        self.softmax = SoftMaxModule()
        self.hidden = [LinearModule(a, b) for a, b in zip(sizes, sizes[1:])]
        self.relus = [LeakyReLUModule(neg_slope) for _ in self.hidden]

    def forward(self, x):
        for l, r in zip(self.hidden, self.relus):
            x = r.forward(l.forward(x))
        return self.softmax.forward(self.out.forward(x))

    def backward(self, dout):
        dout = self.out.backward(self.softmax.backward(dout))
        for l, r in zip(self.hidden[::-1], self.relus[::-1]):
            dout = l.backward(r.backward(dout))
