"""Names of common mistakes. A match adds a sentence to a failed check, and never changes points.

Each entry recomputes what a submission with this mistake gives. `c` has the inputs of a check, x, y, dout, weight0,
bias0, gamma, beta, eps, slope; n, the size of the batch; and what is right as out, dx, dweight0, dbias0, dgamma, dbeta.
"""

# ruff: noqa: E501, a row of a table stays on its line

from types import SimpleNamespace

import numpy as np
import torch

from grading.checks.check import is_close


def softmax(x, axis=1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def row_exp(x):
    return np.exp(x - x.max(axis=1, keepdims=True))


def normalised(c, axis=0, ddof=0, eps=None):
    """Return the normalised input, over the batch unless another axis is given."""
    variance = c.x.var(axis=axis, ddof=ddof, keepdims=True)
    return (c.x - c.x.mean(axis=axis, keepdims=True)) / np.sqrt(variance + (c.eps if eps is None else eps))


def with_constants(c, mean=False, variance=False):
    """Return the gradient of the input if mean or variance is taken for a constant."""
    x = torch.tensor(c.x, requires_grad=True)
    means, variances = x.mean(0), x.var(0, correction=0)
    means, variances = means.detach() if mean else means, variances.detach() if variance else variances
    out = torch.tensor(c.gamma) * (x - means) / (variances + c.eps).sqrt()
    return torch.autograd.grad(out, x, torch.tensor(c.dout))[0].numpy()


# fmt: off
LINEAR = {
    "out": [
        ("The bias is not added", lambda c: c.out - c.bias0),
    ],
    "dweight0": [
        ("The weight gradient has the wrong sign", lambda c: -c.dweight0),
        ("The weight gradient has the shape of the weight transposed", lambda c: c.dweight0.T),
        ("The weight gradient is not written into `grads`", lambda c: 0 * c.dweight0),
    ],
    "dbias0": [
        ("The bias gradient is summed over units, not over the batch", lambda c: c.dout.sum(axis=1)),
        ("The bias gradient is dout itself; sum it over the batch", lambda c: c.dout),
        ("The bias gradient is not written into `grads`", lambda c: 0 * c.dbias0),
    ],
}
LEAKY_RELU = {
    "out": [
        ("Negative inputs give 0: the slope is not used", lambda c: np.maximum(c.x, 0)),
        ("The slopes of positive and negative inputs are swapped", lambda c: np.where(c.x > 0, c.slope, 1) * c.x),
        ("The slope has the wrong sign", lambda c: abs(c.out) * np.where(c.slope, 1, 0)),
        ("The slope is always 0.01: neg_slope is not used", lambda c: np.where(c.x > 0, c.x, 0.01 * c.x)),
        ("The slope is always 0.02: neg_slope is not used", lambda c: np.where(c.x > 0, c.x, 0.02 * c.x)),
    ],
    "dx": [
        ("Negative inputs have gradient 0: the slope is not used", lambda c: c.dx * (c.x > 0)),
        ("Negative inputs have the gradient of positive ones: the slope is not used", lambda c: c.dout),
        ("The slopes of positive and negative inputs are swapped", lambda c: np.where(c.x > 0, c.slope, 1) * c.dout),
        ("The slope depends on the sign of dout instead of that of the input", lambda c: np.where(c.dout > 0, 1, c.slope) * c.dout),
    ],
}
SOFTMAX = {
    "out": [
        ("The probabilities are normalised over the batch; normalise each row", lambda c: softmax(c.x, axis=0)),
        ("The sum is over the batch; normalise each row", lambda c: row_exp(c.x) / row_exp(c.x).sum(axis=0)),
    ],
    "dx": [
        ("The cross terms are missing: the Jacobian has entries off its diagonal", lambda c: c.out * c.dout),
        ("The cross terms have the wrong sign", lambda c: c.out * (c.dout + (c.dout * c.out).sum(axis=1, keepdims=True))),
        ("The sum of the cross terms lacks the probabilities", lambda c: c.out * (c.dout - c.dout.sum(axis=1, keepdims=True))),
        ("The cross terms are summed over the batch; sum over each row", lambda c: c.out * (c.dout - (c.dout * c.out).sum(axis=0))),
        ("This is dout: multiply it by the Jacobian of softmax", lambda c: c.dout),
        ("Only the diagonal of the Jacobian, p (1 − p), is used: add its other entries", lambda c: c.out * (1 - c.out) * c.dout),
    ],
    "large out": [
        ("Subtract the row's maximum from the logits: exp overflows", lambda c: np.exp(c.x) / np.exp(c.x).sum(axis=1, keepdims=True)),
        ("The maximum of the whole batch is subtracted, and other rows underflow: subtract that of each row", lambda c: np.exp(c.x - c.x.max()) / np.exp(c.x - c.x.max()).sum(axis=1, keepdims=True)),
    ],
}
CROSS_ENTROPY = {
    "out": [
        ("The loss is the sum over the batch; take the mean", lambda c: c.n * c.out),
        ("The loss has the wrong sign", lambda c: -c.out),
        ("The loss is a mean over the classes, too; take their sum", lambda c: c.out / c.x.shape[1]),
    ],
    "dx": [
        ("The gradient has the wrong sign", lambda c: -c.dx),
        ("The gradient is divided by the size of the batch twice", lambda c: c.dx / c.n),
        ("The gradient is divided by the number of classes, too", lambda c: c.dx / c.x.shape[1]),
        ("The gradient is divided by the number of classes instead of the size of the batch", lambda c: c.dx * c.n / c.x.shape[1]),
        ("This is the gradient of softmax and loss together", lambda c: (c.x - c.y) / c.n),
        ("This is the gradient of softmax and loss together, not divided by the batch", lambda c: c.x - c.y),
        ("The targets are not used", lambda c: -1 / c.x / c.n),
    ],
}
BATCH_NORM = {
    "out": [
        ("The variance has Bessel's correction, n − 1; divide by n", lambda c: c.gamma * normalised(c, ddof=1) + c.beta),
        ("Mean and variance are taken over the neurons (dim 1); take them over the batch (dim 0)", lambda c: c.gamma * normalised(c, 1) + c.beta),
        ("The output does not use gamma", lambda c: normalised(c) + c.beta),
        ("The eps of the module is not passed on: 1e-5 is used", lambda c: c.gamma * normalised(c, eps=1e-5) + c.beta),
    ],
    "dx": [
        ("The mean depends on x, too: its term is missing", lambda c: with_constants(c, mean=True)),
        ("The variance depends on x, too: its term is missing", lambda c: with_constants(c, variance=True)),
        ("Mean and variance depend on x, too: their terms are missing", lambda c: with_constants(c, mean=True, variance=True)),
        ("The factor gamma is missing", lambda c: c.dx / c.gamma),
    ],
    "dgamma": [
        ("The gradient is a mean over the batch; take the sum", lambda c: c.dgamma / c.n),
        ("This is the gradient of beta: the factor x̂ is missing", lambda c: c.dbeta),
    ],
    "dbeta": [
        ("The gradient is a mean over the batch; take the sum", lambda c: c.dbeta / c.n),
    ],
}
# fmt: on
OF_CLASS = {
    "LinearModule": LINEAR,
    "LeakyReLUModule": LEAKY_RELU,
    "SoftMaxModule": SOFTMAX,
    "CrossEntropyModule": CROSS_ENTROPY,
    **{f"CustomBatchNorm{name}": BATCH_NORM for name in ("Autograd", "ManualFunction", "ManualModule")},
}


def name_mistake(case, name, got):
    """Return the sentence of the mistake that gives an array, or an empty one.

    Args:
        case: what the check has sent, a `case.Case`.
        name: of the result, a key of its table.
        got: an array, or None.
    """
    if got is None:
        return ""
    args = case.params.get("args", ())
    more = {"eps": case.params.get("eps", 1e-5), "slope": args[0] if args else None, "n": len(case.arrays["x"])}
    c = SimpleNamespace(**case.arrays, **case.expected, **more)
    with np.errstate(all="ignore"):
        for sentence, compute in OF_CLASS.get(case.target.split(".")[1], {}).get(name, ()):
            if _is_same(got, np.asarray(compute(c))):
                return sentence
    return ""


def _is_same(got, wrong):
    finite = np.isfinite(wrong)
    return (
        got.shape == wrong.shape
        and np.array_equal(np.isfinite(got), finite)
        and is_close(np.where(finite, got, 0), np.where(finite, wrong, 0))
    )
