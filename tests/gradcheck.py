"""A gradient checker: central differences in float64, and a comparison that reports the worst entry."""

import numpy as np


def numerical_gradient(f, x, dout):
    """Return the gradient of Σ f() ⊙ dout with respect to `x` by central differences.

    Args:
        f: function without arguments that reads `x`, whose entries are perturbed in place, one at a time.
        x: float64 array of any shape, unchanged on return.
        dout: array of the shape of f(), or a number if f() is one.

    Raises:
        TypeError: `x` is not float64. In float32 the differences are mostly rounding errors.
    """
    if x.dtype != np.float64:
        raise TypeError(f"finite differences need float64, got {x.dtype}")
    grad = np.empty_like(x)
    # The cube root balances the truncation error, of order h², with the rounding error, of order eps/h.
    h = np.cbrt(np.finfo(x.dtype).eps)
    for index in np.ndindex(x.shape):
        value = x[index]
        low, high = value - h, value + h
        x[index] = high
        above = np.sum(f() * dout)
        x[index] = low
        below = np.sum(f() * dout)
        x[index] = value
        grad[index] = (above - below) / (high - low)  # not 2 h, which differs by the rounding of value ± h
    return grad


def assert_close(name, got, expected, *, finite_differences=False):
    """Assert that two arrays agree up to the rounding of their dtype; if not, report the worst entry.

    Two exact computations differ by a multiple of eps times the largest entry: 200 allows for sums of
    some hundred terms. The error of central differences is of order eps^(2/3), 3.7e-11 in float64,
    times the third derivative: 1000 allows for that.

    Args:
        name: what is compared, such as a parameter's name.
        got, expected: arrays, or tensors that can be converted to arrays.
        finite_differences: whether `expected` comes from `numerical_gradient`.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    eps = max(np.finfo(got.dtype).eps, np.finfo(expected.dtype).eps)
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    tolerance = 1000 * eps ** (2 / 3) * max(1.0, largest) if finite_differences else 200 * eps * largest
    error = np.full(got.shape, np.inf)
    finite = np.isfinite(got) & np.isfinite(expected)
    error[finite] = np.abs(got[finite].astype(np.float64) - expected[finite])
    if error.size and error.max() > tolerance:
        index = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
        raise AssertionError(
            f"{name}: got {float(got[index])} at index {index}, expected {float(expected[index])} "
            f"(off by {error[index]:.3g}, tolerance {tolerance:.3g})"
        )
