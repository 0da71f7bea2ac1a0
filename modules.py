"""The layers of a multi-layer perceptron in NumPy, each with its forward and its backward pass.

The notation is the course's (question 1.1): a linear module computes x̃ = W x + b, a hidden
activation turns x̃ into x, L is the loss. A batch of B examples is a matrix with one example a row.
`backward` takes `dout`, the gradient of L with respect to the module's output and of its shape, and
returns the gradient with respect to its input. It uses what the last `forward` saw, so the two are
called in turn.

Names behind "Eq." are those that the report, report/report.pdf, prints beside its equations' numbers. It derives
everything for one example in 1.1 a and b, and for a batch, which is what is computed here, in 1.1 c.
"""

import numpy as np


class LinearModule:
    """Affine map of each row of a batch: x̃ = W x + b, Eq. (linear-forward).

    Weights start from N(0, 0.0001²), biases at 0.

    Args:
        in_features: size of a row of the input, at least 1.
        out_features: size of a row of the output, at least 1.
        dtype: of the parameters. The default, float64, is what finite differences need.
        rng: `numpy.random.Generator` to draw from; None draws from NumPy's global one, which
            `np.random.seed` seeds.

    Attributes:
        params: `{'weight': (out_features, in_features), 'bias': (out_features,)}`, read at each call.
        grads: the gradients of L, of the same keys and shapes; zero before the first `backward`.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, in_features, out_features, *, dtype=np.float64, rng=None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"LinearModule needs sizes of at least 1, got {in_features} -> {out_features}")
        weight = (rng or np.random).normal(0, 1e-4, (out_features, in_features))
        # Column order makes Wᵀ, and in `backward` the gradient, row by row in memory: both products
        # of a (200, 3072) batch then take 0.9 of their time.
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
        """Set `grads` and return dL/dX, shape (B, in_features). Sums over the batch: the loss takes the mean.

            dL/dX = dL/dX̃ W         Eq. (batch-linear-input)
            dL/dW = (dL/dX̃)ᵀ X      Eq. (batch-linear-weight)
            dL/db = Σₛ dL/dx̃ˢ       Eq. (batch-linear-bias)

        For one example, Eq. (linear-input), Eq. (linear-weight) and Eq. (linear-bias): products of `dout` with
        Eq. (linear-jacobian-input), Eq. (linear-jacobian-weight) and Eq. (linear-jacobian-bias).

        Args:
            dout: dL/dX̃, shape (B, out_features).
            needs_input_grad: False returns None instead; the first layer of a network has no use
                for dL/dX, its most expensive product.
        """
        self.grads["weight"] = (self.x.T @ dout).T
        self.grads["bias"] = dout.sum(axis=0)
        return dout @ self.params["weight"] if needs_input_grad else None


class LeakyReLUModule:
    """x = max(0, x̃) + a · min(0, x̃), element by element, Eq. (leaky-relu-forward).

    At x̃ = 0, where there is no derivative, `backward` takes a, as PyTorch does.

    Args:
        neg_slope: a, the slope left of 0; any finite number.
    """

    def __init__(self, neg_slope):
        self.neg_slope = float(neg_slope)  # a NumPy float64 would take a float32 network with it

    def forward(self, x):
        """Return the activation of `x`, of its shape."""
        self.is_positive = x > 0
        return np.maximum(x, 0) + self.neg_slope * np.minimum(x, 0)

    def backward(self, dout):
        """Return dL/dx̃ = dL/dx · (1 where x̃ > 0, else a), of the shape of `dout`, Eq. (batch-leaky-relu).

        For one example, Eq. (leaky-relu-backward): the product with the diagonal Eq. (leaky-relu-jacobian).
        """
        # np.where takes five times as long: the mask is random, and its branches are mispredicted.
        return dout * self.is_positive + self.neg_slope * (dout * ~self.is_positive)


class SoftMaxModule:
    """xᵢ = exp(x̃ᵢ) / Σⱼ exp(x̃ⱼ) over each row of a batch, Eq. (softmax-forward).

    Probabilities are at least the smallest normal number of their dtype. A probability that
    underflowed to 0 would take its example's gradient with it: the loss hands back −1/x, and x · 1/x
    is 1 at any normal x, but for rounding. So softmax followed by cross-entropy gives (p − t)/B for any finite logits,
    Eq. (batch-softmax-cross-entropy); for one example, Eq. (softmax-cross-entropy).
    """

    def forward(self, x):
        """Return the probabilities, shape (B, n_classes), of logits `x` of that shape."""
        # Taking the largest logit off changes no probability, and exp cannot overflow.
        exp = np.exp(x - x.max(axis=1, keepdims=True))
        probabilities = exp / exp.sum(axis=1, keepdims=True)
        self.out = np.maximum(probabilities, np.finfo(probabilities.dtype).tiny)
        return self.out

    def backward(self, dout):
        """Return dL/dx̃ = x ⊙ (dL/dx − Σⱼ xⱼ dL/dxⱼ), shape (B, n_classes), Eq. (batch-softmax).

        For one example, Eq. (softmax-backward): the Jacobian ∂xᵢ/∂x̃ⱼ = xᵢ (δᵢⱼ − xⱼ), Eq. (softmax-jacobian),
        times `dout`, without ever building it.
        """
        return self.out * (dout - (dout * self.out).sum(axis=1, keepdims=True))


class CrossEntropyModule:
    """L = −(1/B) Σₛ Σᵢ tᵢˢ log xᵢˢ, the mean over the batch, Eq. (batch-cross-entropy-forward).

    Probabilities below the smallest normal number of their dtype count as that number, so that a
    loss is at most 87.4 an example in float32 and 708.4 in float64, and never infinite.
    """

    def forward(self, x, y):
        """Return L, a scalar.

        Args:
            x: probabilities, shape (B, n_classes).
            y: targets t, one-hot, of the same shape.

        Raises:
            ValueError: shapes that differ.
        """
        if x.shape != y.shape:
            raise ValueError(f"CrossEntropyModule expects one-hot y of the shape of x, {x.shape}, got {y.shape}")
        return -(y * np.log(self._floored(x))).sum() / len(x)

    def backward(self, x, y):
        """Return dL/dx = −t / (B x), shape (B, n_classes), Eq. (batch-cross-entropy).

        For one example, Eq. (cross-entropy-jacobian).
        """
        return -y / (len(x) * self._floored(x))

    @staticmethod
    def _floored(x):
        return np.maximum(x, np.finfo(x.dtype).tiny)
