"""The error of a central difference over its step, for batch norm's input gradient, in single and double precision.

Batch norm uses only sums, products and roots, which all processors round alike, so the errors are the same everywhere.
"""

import numpy as np

X = np.array([[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75], [0.5, -1.25], [-0.75, 1.5]])  # B = 5, d = 2
DOUT = np.array([[0.5, -1.0], [1.5, 0.25], [-0.75, 1.0], [2.0, -0.5], [-1.25, 0.75]])
EPS = 0.125


def normalized(x):
    """Return x̂ and √(σ² + ε), Eq. (bn-forward), in the dtype of `x`, which may be any."""
    n_batch, eps = x.dtype.type(len(x)), x.dtype.type(EPS)
    centred = x - x.sum(axis=0) / n_batch
    root = np.sqrt((centred * centred).sum(axis=0) / n_batch + eps)
    return centred / root, root


def relative_error(dtype, h):
    """Return the largest error of central differences with step `h`, over the largest entry of the right gradient."""
    x_hat, root = normalized(X)
    exact = (DOUT - DOUT.mean(axis=0) - x_hat * (DOUT * x_hat).mean(axis=0)) / root  # Eq. (bn-input), γ = 1
    error = 0.0
    for index in np.ndindex(X.shape):
        above, below = X.copy(), X.copy()
        above[index] += h
        below[index] -= h
        losses = [sum((DOUT * normalized(x.astype(dtype))[0]).ravel().tolist()) for x in (above, below)]
        error = max(error, abs((losses[0] - losses[1]) / (2 * h) - exact[index]))
    return float(error / np.abs(exact).max())


def chosen_step(dtype):
    """Return the step that balances truncation, of order h², with rounding, of order u/h: the cube root of u."""
    return float(np.cbrt(np.finfo(dtype).eps))
