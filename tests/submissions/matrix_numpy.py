# ruff: noqa
"""np.matrix, rows of biases, a loss of shape (1,), `grads` made by the first backward pass, clipped probabilities."""

import matplotlib.pyplot as plt
import numpy as np


class LinearModule(object):
    def __init__(self, i, o):
        self.params = {"weight": np.matrix(np.random.normal(0, 1e-4, (o, i))), "bias": np.matrix(np.zeros((1, o)))}

    def forward(self, x):
        self.x = np.matrix(x)
        return np.asarray(self.x * self.params["weight"].T + self.params["bias"])

    def backward(self, dout):
        d = np.matrix(dout)
        self.grads = {"weight": d.T * self.x, "bias": d.sum(axis=0)}
        return np.asarray(d * self.params["weight"])

    def plot(self):
        plt.hist(np.asarray(self.params["weight"]).ravel())


class LeakyReLUModule(object):
    def __init__(self, s):
        self.s = s

    def forward(self, x):
        self.m = (x > 0) + self.s * (x <= 0)
        return x * self.m

    def backward(self, d):
        return d * self.m


class SoftMaxModule(object):
    def forward(self, x):
        e = np.exp((x.T - x.max(1)).T)
        self.p = (e.T / e.sum(1)).T
        return self.p

    def backward(self, d):
        return self.p * d - self.p * np.sum(self.p * d, axis=1)[:, np.newaxis]


class CrossEntropyModule(object):
    def forward(self, x, y):
        return np.mean(np.sum(-y * np.log(np.clip(x, 1e-12, 1.0)), axis=1), keepdims=True)

    def backward(self, x, y):
        return -np.divide(y, np.clip(x, 1e-12, None)) / y.shape[0]
