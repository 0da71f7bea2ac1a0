"""Gradient checks: central differences in float64, and a comparison that reports the worst entry."""

import numpy as np


def numerical_gradient(f, x, dout):
    """Return the gradient of Σ f() ⊙ dout with respect to `x` by central differences.

    Args:
        f: function without arguments that reads `x`. Entries of `x` are perturbed in place, one at a time.
        x: float64 array of any shape, unchanged on return.
        dout: array with the shape of f(), or a number.

    Raises:
        TypeError: `x` is not float64. In float32, rounding errors dominate the differences.
    """
    if x.dtype != np.float64:
        raise TypeError(f"finite differences need float64, got {x.dtype}")
    grad = np.empty_like(x)
    # The cube root balances the truncation error, O(h²), with the rounding error, O(eps/h).
    h = np.cbrt(np.finfo(x.dtype).eps)
    for index in np.ndindex(x.shape):
        value = x[index]
        low, high = value - h, value + h
        x[index] = high
        above = np.sum(f() * dout)
        x[index] = low
        below = np.sum(f() * dout)
        x[index] = value
        grad[index] = (above - below) / (high - low)  # differs from 2 h by the rounding of value ± h
    return grad


def assert_close(name, got, expected, *, finite_differences=False):
    """Assert that two arrays agree up to rounding. A failure reports the worst entry.

    The tolerance is 200 · eps times the largest entry, enough for sums of about a hundred terms.
    With `finite_differences` it is 1000 · eps^(2/3), which is the order of the error of central
    differences (3.7e-11 in float64) times a large third derivative.

    Args:
        name: name of the quantity, for the message.
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
