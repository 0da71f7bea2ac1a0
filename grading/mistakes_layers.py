"""Known mistakes of the four layers in NumPy, and conventions that are as right as the project's."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.mistakes import Mistake, changed, make

LOG_CONSTANT = 1e-5  # the largest inside a logarithm that costs nothing
L, A, S, C = (f"modules.{name}Module" for name in ("Linear", "LeakyReLU", "SoftMax", "CrossEntropy"))


def gradient(name, wrong):
    """Return a change of LinearModule whose gradient `name` is `wrong(self, dout)`."""

    def backward(right, self, dout, *args):
        dx = right(dout, *args)
        self.grads[name] = wrong(self, dout)
        return dx

    return changed(backward=backward)


def kept_from_first(attribute):
    """Return a change of a class that keeps `attribute` of its first forward pass for good."""

    def forward(right, self, *args):
        result = right(*args)
        first = self.__dict__.setdefault("first", {})
        setattr(self, attribute, first.setdefault(attribute, getattr(self, attribute)))
        return result

    return changed(forward=forward)


def _input_gradient(wrong):
    def backward(right, self, dout, *args):
        dx = right(dout, *args)
        return None if dx is None else wrong(dx)

    return changed(backward=backward)


def _added_up(right, self, dout, *args):
    before = {name: np.array(grad) for name, grad in self.grads.items()}
    dx = right(dout, *args)
    for name in self.grads:
        self.grads[name] = self.grads[name] + before[name]
    return dx


def _divided(right, self, dout, *args):
    dx = right(dout, *args)
    self.grads = {name: grad / len(dout) for name, grad in self.grads.items()}
    return dx


def _bias(self):
    return self.params["bias"]


def _returns_nothing(right, self, *args):
    right(*args)


def _other_slope(f):
    """Return a change of LeakyReLUModule: its slope is `f(the one asked for)`, forward and backward."""

    def forward(right, self, x):
        self.neg_slope = f(self.__dict__.setdefault("asked", self.neg_slope))
        return right(x)

    return changed(forward=forward)


def _slope_backward(factor):
    return changed(backward=lambda right, self, dout: dout * np.where(self.is_positive, 1, factor(self.neg_slope)))


def _softmax_backward(f):
    return changed(backward=lambda right, self, dout: f(self.out, dout))


def _softmax_forward(f):
    def forward(right, self, x):
        self.out = f(x)
        return self.out

    return changed(forward=forward)


def _entropy(forward=None, backward=None):
    return changed(
        forward=forward and (lambda right, self, x, y: forward(x, y)),
        backward=backward and (lambda right, self, x, y: backward(x, y)),
    )


def _binary(x, y):
    return -(y * np.log(x) + (1 - y) * np.log(1 - x))


def _exp(x):
    return np.exp(x - x.max(axis=1, keepdims=True))


LOG_CONSTANT_MISTAKE = Mistake(
    "cross_entropy.forward", C, "a small constant stands inside the logarithm",
    _entropy(lambda x, y: -(y * np.log(x + LOG_CONSTANT)).sum() / len(x), lambda x, y: -y / (x + LOG_CONSTANT) / len(x)),
    is_harmless=True,
)  # fmt: skip

# The mean over the batch may be taken anywhere, once: the check numpy.batch_mean sees to that.
CONVENTIONS = [
    *make("cross_entropy.backward", C,
        ("CrossEntropyModule.backward does not divide by the batch", _entropy(None, lambda x, y: -y / x)), harmless=True),
    *make("softmax.backward", S,
        ("SoftMaxModule.backward divides by the batch", changed(backward=lambda right, self, d: right(d) / len(d))),
        harmless=True),
    *make("linear gradients", L,
        ("LinearModule divides its gradients by the batch", changed(backward=_divided)), harmless=True),
]  # fmt: skip

MISTAKES = [
    *CONVENTIONS,
    *make("linear.forward", L,
        ("the bias is not added", changed(lambda right, self, x: right(x) - _bias(self))),
        ("the bias is subtracted", changed(lambda right, self, x: right(x) - 2 * _bias(self))),
    ),
    *make("linear.weight_gradient", L,
        ("the weight gradient is divided by the batch, which the loss has done already",
         gradient("weight", lambda self, dout: dout.T @ self.x / len(dout))),
        ("the weight gradient has the wrong sign", gradient("weight", lambda self, dout: -dout.T @ self.x)),
        ("the weight gradient has the weight's shape transposed", gradient("weight", lambda self, dout: self.x.T @ dout)),
    ),
    *make("linear.weight_gradient", L,
        ("the weight gradient is not written into grads", gradient("weight", lambda self, dout: 0 * dout.T @ self.x)),
        carried=False),
    *make("linear.bias_gradient", L,
        ("the bias gradient is the mean over the batch, not the sum: the loss has divided by the batch already",
         gradient("bias", lambda self, dout: dout.mean(axis=0))),
        ("the bias gradient is summed over units, not over the batch", gradient("bias", lambda self, dout: dout.sum(axis=1))),
        ("the bias gradient is the mean over units, not a sum over the batch",
         gradient("bias", lambda self, dout: dout.mean(axis=1))),
        ("the bias gradient is dout itself, not summed over the batch", gradient("bias", lambda self, dout: dout)),
        ("the bias gradient is that of the first example only", gradient("bias", lambda self, dout: dout[0])),
        ("the bias gradient is summed over everything, units too",
         gradient("bias", lambda self, dout: dout.sum() + 0 * dout[0])),
        ("the bias gradient has the wrong sign", gradient("bias", lambda self, dout: -dout.sum(axis=0))),
    ),
    *make("linear.bias_gradient", L,
        ("the bias gradient is not written into grads", gradient("bias", lambda self, dout: 0 * dout[0])), carried=False),
    *make("linear.input_gradient", L,
        ("the input gradient has the wrong sign", _input_gradient(lambda dx: -dx)),
        ("the input gradient is divided by the batch", _input_gradient(lambda dx: dx / len(dx))),
    ),
    *make("linear.input_gradient", L,
        ("LinearModule.backward returns nothing: it has to return the gradient of its input",
         changed(backward=_returns_nothing)), carried=False),
    *make("leaky_relu.forward", A,
        ("the slope is ignored forward: negative inputs give 0", changed(lambda right, self, x: right(x) * (x > 0))),
        ("the slope is subtracted forward", changed(lambda right, self, x: right(x) * np.where(x > 0, 1, -1))),
        ("the slope is ignored, forward and backward: negative inputs give 0", _other_slope(lambda a: 0.0)),
        ("the slope has the wrong sign, forward and backward", _other_slope(lambda a: -a)),
        *((f"LeakyReLUModule ignores its argument: a slope of {slope} acts", _other_slope(lambda a, slope=slope: slope))
          for slope in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)),
    ),
    *make("leaky_relu.backward", A,
        ("the slope is ignored backward: negative inputs hand back 0", _slope_backward(lambda a: 0.0)),
        ("the slope has the wrong sign backward", _slope_backward(lambda a: -a)),
        ("negative inputs hand back 1, not the slope", _slope_backward(lambda a: 1.0)),
        ("negative inputs hand back 1 + slope", _slope_backward(lambda a: 1.0 + a)),
        ("the mask is the wrong way round: the slope is on the positive side",
         changed(backward=lambda right, self, dout: dout * np.where(self.is_positive, self.neg_slope, 1))),
        ("dout is not multiplied in", changed(backward=lambda right, self, dout: right(np.ones_like(dout)))),
    ),
    *make("leaky_relu.backward", A,
        ("LeakyReLUModule.backward returns nothing: it has to return the gradient of its input",
         changed(backward=_returns_nothing)), carried=False),
    *make("softmax.forward", S,
        *(("the probabilities are normalised over the batch, not over the classes",
           _softmax_forward(lambda x, exp=exp: exp(x) / exp(x).sum(axis=0))) for exp in (_exp, np.exp)),
        ("the probabilities are normalised over batch and classes together",
         _softmax_forward(lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum())),
        *(("the exponentials are not normalised", _softmax_forward(exp)) for exp in (_exp, np.exp)),
    ),
    *make("softmax.backward", S,
        ("the cross terms of the Jacobian are missing: it has entries off its diagonal", _softmax_backward(lambda p, d: p * d)),
        ("the Jacobian's diagonal p (1 - p) is taken alone, as if softmax were a sigmoid",
         _softmax_backward(lambda p, d: p * (1 - p) * d)),
        ("the cross terms are added, not subtracted",
         _softmax_backward(lambda p, d: p * (d + (d * p).sum(axis=1, keepdims=True)))),
        ("the cross terms are summed over the batch", _softmax_backward(lambda p, d: p * (d - (d * p).sum(axis=0)))),
        ("the cross terms lack the probabilities", _softmax_backward(lambda p, d: p * (d - d.sum(axis=1, keepdims=True)))),
        ("the cross terms are summed over everything", _softmax_backward(lambda p, d: p * (d - (d * p).sum()))),
        ("dout is handed on as it came", _softmax_backward(lambda p, d: d)),
    ),
    *make("softmax.backward", S,
        ("SoftMaxModule.backward returns nothing: it has to return the gradient of its input",
         changed(backward=_returns_nothing)), carried=False),
    *make("softmax.large_logits", S,
        ("exp overflows: the row's largest logit has to be taken off first, which changes no probability",
         _softmax_forward(lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True))),
        ("the largest logit of the whole batch is taken off: a row far below it underflows; each row has its own",
         _softmax_forward(lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(axis=1, keepdims=True))),
    ),
    *make("cross_entropy.forward", C,
        ("the loss is the sum over the batch, not the mean", _entropy(lambda x, y: -(y * np.log(x)).sum())),
        ("the loss is the sum over the batch, not the mean, and its gradient, too",
         _entropy(lambda x, y: -(y * np.log(x)).sum(), lambda x, y: -y / x)),
        ("the loss is divided by batch and classes", _entropy(lambda x, y: -(y * np.log(x)).mean())),
        ("the loss is divided by the classes, not the batch", _entropy(lambda x, y: -(y * np.log(x)).sum() / x.shape[1])),
        ("the loss has the wrong sign", _entropy(lambda x, y: (y * np.log(x)).sum() / len(x))),
        ("the logarithm is to the base of 2", _entropy(lambda x, y: -(y * np.log2(x)).sum() / len(x))),
        ("the logarithm is to the base of 10", _entropy(lambda x, y: -(y * np.log10(x)).sum() / len(x))),
        ("the loss is the binary cross-entropy of each class; (1 - t) log(1 - x) does not belong to it",
         _entropy(lambda x, y: _binary(x, y).sum() / len(x))),
        ("the loss is the binary cross-entropy of each class, its mean over batch and classes",
         _entropy(lambda x, y: _binary(x, y).mean())),
        ("loss and gradient are those of the binary cross-entropy of each class; (1 - t) log(1 - x) does not belong to it",
         _entropy(lambda x, y: _binary(x, y).sum() / len(x), lambda x, y: (x - y) / (x * (1 - x)) / len(x))),
    ),
    *make("cross_entropy.backward", C,
        ("the loss's gradient is that of the binary cross-entropy of each class",
         _entropy(None, lambda x, y: (x - y) / (x * (1 - x)) / len(x))),
        ("the loss's gradient is divided by batch and classes", _entropy(None, lambda x, y: -y / x / x.size)),
        ("the loss's gradient has the wrong sign", _entropy(None, lambda x, y: y / x / len(x))),
        ("the loss's gradient is p - t, which is that of softmax and loss together",
         _entropy(None, lambda x, y: (x - y) / len(x))),
        ("the loss's gradient does not look at the targets", _entropy(None, lambda x, y: -1 / x / len(x))),
        ("the loss's gradient is p - t, undivided", _entropy(None, lambda x, y: x - y)),
    ),
    *make("cross_entropy.backward", C,
        ("CrossEntropyModule.backward returns nothing: it has to return the loss's gradient",
         changed(backward=_returns_nothing)), carried=False),
    *make("numpy.second_batch", L,
        ("LinearModule keeps the input of its first batch", kept_from_first("x")),
        ("LinearModule adds its gradients up over batches", changed(backward=_added_up)),
    ),
    *make("numpy.second_batch", A, ("LeakyReLUModule keeps the mask of its first batch", kept_from_first("is_positive"))),
    *make("numpy.second_batch", S, ("SoftMaxModule keeps the output of its first batch", kept_from_first("out"))),
    *make("numpy.second_batch", C,
        ("CrossEntropyModule divides by the size of its first batch", changed(
            lambda right, self, x, y: right(x, y) * len(x) / self.__dict__.setdefault("n", len(x)))),
        ("CrossEntropyModule divides its gradient by the size of its first batch", changed(
            None, lambda right, self, x, y: right(x, y) * len(x) / self.__dict__.setdefault("n", len(x)))),
    ),
]  # fmt: skip
