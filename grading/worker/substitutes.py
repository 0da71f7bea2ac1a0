"""Classes that take the place of the course's own, so that what is built of those can be checked by itself.

An MLP that is graded with these layers is right or wrong whatever the submission's own layers do. They compute
something else than the course's layers, of the same shapes, each with the gradient that belongs to it.
"""

import contextlib

import numpy as np


class Linear:
    is_substitute = True

    def __init__(self, *args, **kwargs):
        in_features, out_features, *_ = (*args, *kwargs.values())
        self.params = {"weight": np.zeros((out_features, in_features)), "bias": np.zeros(out_features)}
        self.grads = {name: np.zeros_like(value) for name, value in self.params.items()}

    def forward(self, x):
        """Return (1 + bᵢ) Σⱼ sin(xⱼ + wᵢⱼ)."""
        self.angles = x[:, None, :] + self.params["weight"]
        return np.sin(self.angles).sum(axis=2) * (1 + self.params["bias"])

    def backward(self, dout, *_, **__):
        changes = (dout * (1 + self.params["bias"]))[:, :, None] * np.cos(self.angles)
        bias = (dout * np.sin(self.angles).sum(axis=2)).sum(axis=0)
        self.grads = {"weight": changes.sum(axis=0), "bias": bias}
        return changes.sum(axis=1)


class Activation:
    is_substitute = True

    def __init__(self, *args, **kwargs):
        self.slope = next(iter((*args, *kwargs.values())), 0.0)

    def forward(self, x):
        self.seen = x
        return 0.5 * np.sin(x) + self.slope * x

    def backward(self, dout):
        return dout * (0.5 * np.cos(self.seen) + self.slope)


class SoftMax:
    is_substitute = True

    def __init__(self, *_, **__):
        pass

    def forward(self, x):
        self.out = np.tanh(x)
        return self.out

    def backward(self, dout):
        return dout * (1 - self.out**2)


class CrossEntropy:
    is_substitute = True


class Function:
    """For batch norm by hand; its gradient is autograd's."""

    is_substitute = True

    @staticmethod
    def apply(input, gamma, beta, eps=1e-5, *_):
        return gamma * input.sin() - beta + eps * input


SUBSTITUTES = {
    "modules.LinearModule": Linear,
    "modules.LeakyReLUModule": Activation,
    "modules.SoftMaxModule": SoftMax,
    "modules.CrossEntropyModule": CrossEntropy,
    "custom_batchnorm.CustomBatchNormManualFunction": Function,
}


@contextlib.contextmanager
def substituted(load, prefix):
    """Let the submission's classes whose targets begin with `prefix` be substitutes; None for its own.

    Their methods are replaced within the class itself, as other modules have imported it already.
    """
    with contextlib.ExitStack() as after:
        for target, substitute in SUBSTITUTES.items():
            if prefix is None or not target.startswith(prefix):
                continue
            try:
                found = load(target)
            except Exception:  # it is a substitute already
                continue
            for name, value in vars(substitute).items():
                if name in ("__init__", "forward", "backward", "apply"):
                    own = vars(found).get(name)
                    after.callback(*((setattr, found, name, own) if own else (delattr, found, name)))
                    setattr(found, name, value)
        yield
