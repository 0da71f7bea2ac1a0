"""Layers of a multi-layer perceptron in NumPy, with forward and backward passes.

The notation is the course's (question 1.1): a linear module computes x̃ = W x + b, a hidden
activation maps x̃ to x, and L is the loss. A batch of B examples is a matrix of B rows.
`backward` takes `dout`, the gradient of L with respect to the module's output, and returns the
gradient with respect to its input. It uses values stored by the last `forward`.

The name after "Eq." is that of an equation in report/report.pdf, printed beside its number. The report derives the
gradients for one example in 1.1 a and b, and for a batch, as computed here, in 1.1 c.
"""

import numpy as np


def as_floating(a, dtype=np.float64):
    """Convert an integer or boolean array to `dtype`; return a floating-point array unchanged."""
    return a if np.issubdtype(a.dtype, np.floating) else a.astype(dtype)


class LinearModule:
    """Affine map of each row of a batch: x̃ = W x + b, Eq. (linear-forward).

    Weights start from N(0, 0.0001²), biases at 0.

    Args:
        in_features: number of input features, at least 1.
        out_features: number of output features, at least 1.
        dtype: parameter dtype. Finite differences need the default, float64.
        rng: `numpy.random.Generator` for the weights. The default is NumPy's global generator, which
            `np.random.seed` seeds.

    Attributes:
        params: `{'weight': (out_features, in_features), 'bias': (out_features,)}`, replaceable between calls.
        grads: gradients of L, with the same keys and shapes; zeros before the first `backward`.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, in_features, out_features, *, dtype=np.float64, rng=None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"LinearModule needs sizes of at least 1, got {in_features} -> {out_features}")
        weight = (rng or np.random).normal(0, 1e-4, (out_features, in_features))
        # Column-major order makes Wᵀ and its gradient contiguous, which speeds up both matrix products.
        self.params = {"weight": weight.astype(dtype, order="F"), "bias": np.zeros(out_features, dtype)}
        self.grads = {name: np.zeros_like(value) for name, value in self.params.items()}

    def forward(self, x):
        """Return X̃ = X Wᵀ + b, Eq. (batch-linear-forward), shape (B, out_features), for X (B, in_features).

        Raises:
            ValueError: `x` of any other shape.
        """
        in_features = self.params["weight"].shape[1]
        if x.ndim != 2 or x.shape[1] != in_features:
            raise ValueError(f"LinearModule expects x of shape (n_batch, {in_features}), got {x.shape}")
        self.x = x
        out = x @ self.params["weight"].T
        out += self.params["bias"]
        return out

    def backward(self, dout, needs_input_grad=True):
        """Set `grads` and return dL/dX, shape (B, in_features).

            dL/dX = dL/dX̃ W         Eq. (batch-linear-input)
            dL/dW = (dL/dX̃)ᵀ X      Eq. (batch-linear-weight)
            dL/db = Σₛ dL/dx̃ˢ       Eq. (batch-linear-bias)

        For one example, Eq. (linear-input), Eq. (linear-weight) and Eq. (linear-bias): products of `dout` with
        Eq. (linear-jacobian-input), Eq. (linear-jacobian-weight) and Eq. (linear-jacobian-bias).

        Args:
            dout: dL/dX̃, shape (B, out_features). It contains the factor 1/B of the mean loss.
            needs_input_grad: if False, return None. The first layer of a network does not need dL/dX.
        """
        self.grads["weight"] = (self.x.T @ dout).T
        self.grads["bias"] = dout.sum(axis=0)
        return dout @ self.params["weight"] if needs_input_grad else None


class LeakyReLUModule:
    """x = max(0, x̃) + a · min(0, x̃), elementwise, Eq. (leaky-relu-forward).

    The derivative at x̃ = 0 is taken to be a, as in PyTorch.

    Args:
        neg_slope: a, the slope for negative inputs; any finite number.
    """

    def __init__(self, neg_slope):
        self.neg_slope = float(neg_slope)  # a NumPy float64 scalar would upcast float32 activations

    def forward(self, x):
        """Return the activation, with the shape of `x`."""
        self.is_positive = x > 0
        return np.maximum(x, 0) + self.neg_slope * np.minimum(x, 0)

    def backward(self, dout):
        """Return dL/dx̃ = dL/dx · (1 where x̃ > 0, else a), with the shape of `dout`, Eq. (batch-leaky-relu).

        For one example, Eq. (leaky-relu-backward): the product with the diagonal Eq. (leaky-relu-jacobian).
        """
        # np.where is slower because it branches on the mask, which is unpredictable.
        return dout * self.is_positive + self.neg_slope * (dout * ~self.is_positive)


class SoftMaxModule:
    """xᵢ = exp(x̃ᵢ) / Σⱼ exp(x̃ⱼ) over each row of a batch, Eq. (softmax-forward).

    Probabilities are at least the smallest normal number of their dtype. If the true class had
    probability 0, the example's gradient would be 0, because `backward` multiplies −t/x by x. With
    this minimum, softmax followed by cross-entropy gives (p − t)/B for any finite logits,
    Eq. (batch-softmax-cross-entropy); for one example, Eq. (softmax-cross-entropy).
    """

    def forward(self, x):
        """Return probabilities for the logits `x`, both of shape (B, n_classes)."""
        x = as_floating(x)
        # Subtracting the row maximum leaves the probabilities unchanged and prevents overflow.
        exp = np.exp(x - x.max(axis=1, keepdims=True))
        probabilities = exp / exp.sum(axis=1, keepdims=True)
        self.out = np.maximum(probabilities, np.finfo(probabilities.dtype).tiny)
        return self.out

    def backward(self, dout):
        """Return dL/dx̃ = x ⊙ (dL/dx − Σⱼ xⱼ dL/dxⱼ), shape (B, n_classes), Eq. (batch-softmax).

        For one example, Eq. (softmax-backward): the Jacobian ∂xᵢ/∂x̃ⱼ = xᵢ (δᵢⱼ − xⱼ), Eq. (softmax-jacobian),
        times `dout`, without building the Jacobian.
        """
        return self.out * (dout - (dout * self.out).sum(axis=1, keepdims=True))


class CrossEntropyModule:
    """L = −(1/B) Σₛ Σᵢ tᵢˢ log xᵢˢ, the mean over the batch, Eq. (batch-cross-entropy-forward).

    Probabilities below the smallest normal number of their dtype are replaced by it. The loss of an
    example is therefore at most 87.4 in float32 and 708.4 in float64.
    """

    def forward(self, x, y):
        """Return L, a scalar.

        Args:
            x: probabilities, shape (B, n_classes).
            y: one-hot targets t, any dtype, same shape.

        Raises:
            ValueError: different shapes.
        """
        if x.shape != y.shape:
            raise ValueError(f"CrossEntropyModule expects one-hot y of the shape of x, {x.shape}, got {y.shape}")
        y = as_floating(y, x.dtype)
        return -(y * np.log(self._floored(x))).sum() / len(x)

    def backward(self, x, y):
        """Return dL/dx = −t / (B x), shape (B, n_classes), Eq. (batch-cross-entropy).

        For one example, Eq. (cross-entropy-backward).
        """
        y = as_floating(y, x.dtype)
        return -y / (len(x) * self._floored(x))

    @staticmethod
    def _floored(x):
        return np.maximum(x, np.finfo(x.dtype).tiny)
