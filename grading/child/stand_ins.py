"""Stand-ins: what takes the place of a submission's class that failed, so that those which call it can be checked.

They compute something else than the course's classes, of the same shapes: the answers are not in this process.
"""

import contextlib
import functools

import numpy as np


class Linear:
    def __init__(self, in_features, out_features, *_, **__):
        self.params = {"weight": np.zeros((out_features, in_features)), "bias": np.zeros(out_features)}
        self.grads = {name: np.zeros_like(value) for name, value in self.params.items()}

    def forward(self, x):
        self.seen = x
        return np.sin(x) @ self.params["weight"].T - self.params["bias"]

    def backward(self, dout, *_):
        self.grads = {"weight": np.cos(dout).T @ self.seen / 9, "bias": np.sin(dout).sum(axis=0)}
        return dout @ np.cos(self.params["weight"])


class Activation:
    def __init__(self, neg_slope, *_, **__):
        self.neg_slope = neg_slope

    def forward(self, x):
        self.seen = x
        return np.sin(x) + self.neg_slope * x

    def backward(self, dout):
        return dout * (2 + np.cos(self.seen)) - self.neg_slope


class SoftMax:
    def forward(self, x):
        self.seen = x
        positive = 2 + np.sin(x)
        return positive / (1 + positive.sum(axis=1, keepdims=True))

    def backward(self, dout):
        return dout * np.cos(self.seen)


class CrossEntropy:
    def forward(self, x, y):
        return (x * y).sum()

    def backward(self, x, y):
        return (np.sin(x) - y) / (1 + len(x))


class Function:
    @staticmethod
    def apply(input, gamma, beta, eps=1e-5, *_):
        return gamma * input.sin() - beta + eps * input


STAND_INS = {
    "modules.LinearModule": Linear,
    "modules.LeakyReLUModule": Activation,
    "modules.SoftMaxModule": SoftMax,
    "modules.CrossEntropyModule": CrossEntropy,
    "custom_batchnorm.CustomBatchNormManualFunction": Function,
}


def with_stand_ins(operation):
    """Have an operation put stand-ins into the submission's classes `p["stand_ins"]`, while it lasts."""

    @functools.wraps(operation)
    def run(load, p, a, out):
        with contextlib.ExitStack() as after:
            for target in p.get("stand_ins", ()):
                found = load(*target.split("."))
                for name, value in vars(STAND_INS[target]).items():
                    if name in ("__init__", "forward", "backward", "apply"):
                        own = vars(found).get(name)
                        after.callback(*((setattr, found, name, own) if own else (delattr, found, name)))
                        setattr(found, name, value)
            operation(load, p, a, out)

    return run
