# ruff: noqa
"""Weights (out, in), a row of biases, the softmax's Jacobian as a batch of matrices, clipping in place of a constant."""

import matplotlib.pyplot as plt
import numpy as np


class LinearModule:
    def __init__(self, in_features, out_features):
        self.params = {
            "weight": np.random.normal(scale=0.0001, size=(out_features, in_features)),
            "bias": np.zeros((1, out_features)),
        }
        self.grads = {"weight": None, "bias": None}

    def forward(self, x):
        self.last_input = x
        return np.dot(x, self.params["weight"].T) + self.params["bias"]

    def backward(self, dout):
        self.grads["weight"] = np.dot(dout.T, self.last_input)
        self.grads["bias"] = np.sum(dout, axis=0, keepdims=True)
        return np.dot(dout, self.params["weight"])

    def plot(self):
        plt.hist(self.params["weight"].ravel())


class LeakyReLUModule:
    def __init__(self, neg_slope):
        self.neg_slope = neg_slope

    def forward(self, x):
        self.gradient = np.where(x > 0, 1.0, self.neg_slope)
        return x * self.gradient

    def backward(self, dout):
        return self.gradient * dout


class SoftMaxModule:
    def forward(self, x):
        e = np.exp(x - np.amax(x, axis=1, keepdims=True))
        self.out = e / np.sum(e, axis=1, keepdims=True)
        return self.out

    def backward(self, dout):
        jacobian = self.out[:, :, None] * (np.eye(self.out.shape[1])[None] - self.out[:, None, :])
        return (dout[:, None, :] @ jacobian)[:, 0, :]


class CrossEntropyModule:
    def forward(self, x, y):
        return -np.sum(y * np.log(np.clip(x, 1e-12, 1.0))) / y.shape[0]

    def backward(self, x, y):
        return -(y / np.clip(x, 1e-12, None)) / y.shape[0]
