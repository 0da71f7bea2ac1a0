"""Wrong layers: students' mistakes, each a subclass of the right class with the mistake as its docstring.

`WRONG_LAYERS` contains those of the NumPy layers and the MLP, `WRONG_BATCH_NORMS` those of batch norm. The gradient
checks find every one of them.
"""

from functools import partial
from types import SimpleNamespace

import numpy as np

from custom_batchnorm import CustomBatchNormAutograd, CustomBatchNormManualFunction, statistics
from mlp_numpy import MLP
from modules import CrossEntropyModule, LeakyReLUModule, LinearModule, SoftMaxModule
from report.wrong_gradients import BiasAveraged, CrossTermsLost, SlopeOfWrongSign


def layers_with(wrong_class):
    """Return the namespace that a gradient check takes, with a wrong class instead of its base, in the MLP as well."""
    right = (LinearModule, LeakyReLUModule, SoftMaxModule, CrossEntropyModule, MLP)
    layers = SimpleNamespace(**{c.__name__: wrong_class if issubclass(wrong_class, c) else c for c in right})
    if layers.MLP is MLP:
        parts = {"linear": layers.LinearModule, "activation": layers.LeakyReLUModule, "output": layers.SoftMaxModule}
        layers.MLP = subclass(MLP, "An MLP of a wrong layer.", **parts)
    return layers


def subclass(base, mistake, **attributes):
    return type(base.__name__, (base,), {"__doc__": mistake, **attributes})


def wrong(base, mistake, **functions):
    """Return a subclass with other methods: functions of self, the right method's result, and the arguments."""

    def method(name, function):
        return lambda self, *args: function(self, getattr(base, name)(self, *args), *args)

    return subclass(base, mistake, **{name: method(name, function) for name, function in functions.items()})


def first_batch_kept(base, attribute):
    """Return a layer that keeps what it stored in `attribute` for its first batch."""

    def forward(self, out, x):
        setattr(self, attribute, self.__dict__.setdefault("first", getattr(self, attribute)))
        return out

    return wrong(base, f"`{attribute}` keeps its value of the first batch.", forward=forward)


# ---- LinearModule ------------------------------------------------------------------------------


def wrong_gradient(name, mistake, gradient):
    """Return a linear module that stores `gradient(self, dout)` as its gradient of 'weight' or 'bias'."""

    def backward(self, dout, needs_input_grad=True):
        value = gradient(self, dout)
        dx = LinearModule.backward(self, dout, needs_input_grad)
        self.grads[name] = value
        return dx

    return subclass(LinearModule, f"The {name} gradient {mistake}.", backward=backward)


wrong_linear = partial(wrong, LinearModule)
wrong_weight = partial(wrong_gradient, "weight")
wrong_bias = partial(wrong_gradient, "bias")

LINEAR = {
    "bias_averaged": BiasAveraged,
    "bias_not_added": wrong_linear("The bias is not added.", forward=lambda self, out, x: out - self.params["bias"]),
    "weight_not_transposed": wrong_linear(
        "The input is multiplied by W instead of Wᵀ.",
        forward=lambda self, out, x: x @ self.params["weight"] + self.params["bias"],
    ),
    "input_of_first_batch": first_batch_kept(LinearModule, "x"),
    "weight_gradient_transposed": wrong_weight("is transposed", lambda self, dout: self.x.T @ dout),
    "weight_gradient_averaged": wrong_weight("is averaged", lambda self, dout: dout.T @ self.x / len(dout)),
    "weight_gradient_negated": wrong_weight("has the wrong sign", lambda self, dout: -dout.T @ self.x),
    "weight_gradient_accumulated": wrong_weight(
        "is added to that of earlier batches", lambda self, dout: self.grads["weight"] + dout.T @ self.x
    ),
    "weight_gradient_missing": wrong_weight("is never computed", lambda self, dout: self.grads["weight"]),
    "bias_gradient_missing": wrong_bias("is never computed", lambda self, dout: self.grads["bias"]),
    "bias_gradient_accumulated": wrong_bias(
        "is added to that of earlier batches", lambda self, dout: self.grads["bias"] + dout.sum(axis=0)
    ),
    "bias_gradient_over_units": wrong_bias("is summed over units", lambda self, dout: dout.sum(axis=1)),
    "bias_gradient_of_one_example": wrong_bias("is that of the first example", lambda self, dout: dout[0]),
    "bias_gradient_not_summed": wrong_bias("is not summed over the batch", lambda self, dout: dout),
    "bias_gradient_in_a_row": wrong_bias("is a matrix of one row", lambda self, dout: dout.sum(axis=0, keepdims=True)),
    "bias_gradient_over_all": wrong_bias("is summed over units, too", lambda self, dout: dout.sum() + 0 * dout[0]),
    "input_gradient_transposed": wrong_linear(
        "backward multiplies by Wᵀ instead of W.", backward=lambda self, dx, dout, *_: dout @ self.params["weight"].T
    ),
    "input_gradient_negated": wrong_linear("dL/dX has the wrong sign.", backward=lambda self, dx, *_: -dx),
    "input_gradient_missing": wrong_linear("backward returns nothing.", backward=lambda self, dx, *_: None),
}

# ---- LeakyReLUModule ---------------------------------------------------------------------------


def wrong_mask(mistake, is_positive):
    """Return a leaky ReLU whose backward uses `is_positive(x, out)` as its mask."""

    def forward(self, out, x):
        self.is_positive = is_positive(x, out)
        return out

    return wrong(LeakyReLUModule, mistake, forward=forward)


wrong_slope = partial(wrong, LeakyReLUModule)

LEAKY_RELU = {
    "slope_of_wrong_sign": SlopeOfWrongSign,
    "slope_ignored": wrong_slope("A negative input gives 0.", forward=lambda self, out, x: np.maximum(x, 0)),
    "slope_negated": wrong_slope("A negative input gives −a x.", forward=lambda self, out, x: np.where(x > 0, x, -out)),
    "gradient_of_relu": wrong_slope(
        "A negative input has gradient 0.", backward=lambda self, dx, dout: dout * self.is_positive
    ),
    "slope_on_both_sides": wrong_slope(
        "A negative input has the slope 1 + a.", backward=lambda self, dx, dout: dx + dout * ~self.is_positive
    ),
    "gradient_squared": wrong_slope(
        "dL/dx of a positive input is squared.", backward=lambda self, dx, dout: np.where(self.is_positive, dx**2, dx)
    ),
    "mask_inverted": wrong_mask("The mask is true for negative inputs.", lambda x, out: x < 0),
    "mask_true_at_zero": wrong_mask("The slope at 0 is 1 instead of a.", lambda x, out: x >= 0),
    "mask_of_output": wrong_mask("The mask is that of the output, wrong for a < 0.", lambda x, out: out > 0),
    "mask_of_first_batch": first_batch_kept(LeakyReLUModule, "is_positive"),
}

# ---- SoftMaxModule -----------------------------------------------------------------------------


def wrong_probabilities(mistake, shift, axis=1, can_be_zero=False):
    """Return a softmax that subtracts `shift(x)` from its logits and normalises along `axis`."""

    def forward(self, x):
        exp = np.exp(x - shift(x))
        probabilities = exp / exp.sum(axis=axis, keepdims=True)
        self.out = probabilities if can_be_zero else np.maximum(probabilities, np.finfo(exp.dtype).tiny)
        return self.out

    return subclass(SoftMaxModule, mistake, forward=forward)


def wrong_jacobian(mistake, gradient):
    """Return a softmax whose backward returns `gradient(p, dout)` for probabilities p."""
    return wrong(SoftMaxModule, mistake, backward=lambda self, dx, dout: gradient(self.out, dout))


row_max = partial(np.max, axis=1, keepdims=True)
row_sum = partial(np.sum, axis=1, keepdims=True)

SOFTMAX = {
    "cross_terms_lost": CrossTermsLost,
    "maximum_not_subtracted": wrong_probabilities("Large logits overflow.", lambda x: 0),
    "maximum_of_batch": wrong_probabilities("The maximum of the batch is subtracted from every row.", np.max),
    "normalized_over_batch": wrong_probabilities("Columns sum to 1 instead of rows.", row_max, axis=0),
    "probabilities_of_zero": wrong_probabilities("Small probabilities underflow to 0.", row_max, can_be_zero=True),
    "cross_terms_missing": wrong_jacobian("The Jacobian is diagonal, xᵢ.", lambda p, dout: p * dout),
    "cross_terms_over_batch": wrong_jacobian(
        "Cross terms are summed over the batch.", lambda p, dout: p * (dout - (dout * p).sum(axis=0))
    ),
    "cross_terms_over_all": wrong_jacobian(
        "Cross terms are summed over batch and classes.", lambda p, dout: p * (dout - (dout * p).sum())
    ),
    "cross_terms_unweighted": wrong_jacobian("Cross terms lack xⱼ.", lambda p, dout: p * (dout - row_sum(dout))),
    "cross_terms_added": wrong_jacobian("Cross terms are added.", lambda p, dout: p * (dout + row_sum(dout * p))),
    "dout_overwritten": wrong_jacobian(
        "backward writes into dout.", lambda p, dout: p * np.subtract(dout, row_sum(dout * p), out=dout)
    ),
}

# ---- CrossEntropyModule ------------------------------------------------------------------------

wrong_loss = partial(wrong, CrossEntropyModule)


def for_first_batch(self, mean, x, y):
    """Return a mean divided by the size of the first batch instead of this one's."""
    return mean * len(x) / self.__dict__.setdefault("n_batch", len(x))


CROSS_ENTROPY = {
    "loss_for_first_batch": wrong_loss("L is divided by the first batch's size.", forward=for_first_batch),
    "loss_summed": wrong_loss("L is a sum over the batch.", forward=lambda self, loss, x, y: loss * len(x)),
    "loss_over_all": wrong_loss("L is also a mean over classes.", forward=lambda self, loss, x, y: loss / x.shape[1]),
    "loss_negated": wrong_loss("L has the wrong sign.", forward=lambda self, loss, x, y: -loss),
    "log_to_base_2": wrong_loss("The logarithm is to base 2.", forward=lambda self, loss, x, y: loss / np.log(2)),
    "log_of_zero": wrong_loss("L is infinite at 0.", forward=lambda self, _, x, y: -(y * np.log(x)).sum() / len(x)),
    "loss_gradient_for_first_batch": wrong_loss(
        "dL/dx is divided by the first batch's size.", backward=for_first_batch
    ),
    "loss_gradient_at_zero": wrong_loss("dL/dx is infinite at 0.", backward=lambda self, dx, x, y: -y / (len(x) * x)),
    "loss_gradient_summed": wrong_loss("dL/dx is not divided by B.", backward=lambda self, dx, x, y: dx * len(x)),
    "loss_gradient_over_all": wrong_loss("dL/dx is also a mean.", backward=lambda self, dx, x, y: dx / x.shape[1]),
    "loss_gradient_negated": wrong_loss("dL/dx has the wrong sign.", backward=lambda self, dx, x, y: -dx),
    "loss_gradient_of_logits": wrong_loss("dL/dx is (x − t) / B.", backward=lambda self, dx, x, y: (x - y) / len(x)),
    "loss_gradient_of_all": wrong_loss("dL/dx ignores t.", backward=lambda self, dx, x, y: -1 / (len(x) * x)),
}

# ---- MLP ---------------------------------------------------------------------------------------


class ActivationBeforeSoftMax(MLP):
    """The last linear layer is followed by an activation."""

    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        super().__init__(n_inputs, n_hidden, n_classes, neg_slope)
        self.modules.insert(-1, self.activation(neg_slope))


def wrong_order(mistake, modules):
    """Return an MLP whose backward visits `modules(self)`, and returns nothing, as the course's."""

    def backward(self, dout):
        for module in modules(self):
            dout = module.backward(dout)

    return subclass(MLP, mistake, backward=backward)


NETWORK = {
    "activation_shared": subclass(
        MLP,
        "All layers share one activation.",
        activation=lambda self, slope: self.__dict__.setdefault("shared", LeakyReLUModule(slope)),
    ),
    "slope_not_passed": subclass(MLP, "The slope is always 0.01.", activation=lambda self, _: LeakyReLUModule(0.01)),
    "activations_missing": subclass(MLP, "There are no activations.", activation=lambda self, _: LeakyReLUModule(1)),
    "softmax_missing": subclass(MLP, "The output is the logits.", output=lambda self: LeakyReLUModule(1)),
    "activation_before_softmax": ActivationBeforeSoftMax,
    "backward_in_forward_order": wrong_order("backward visits modules in forward order.", lambda self: self.modules),
    "activations_skipped": wrong_order(
        "backward skips the activations.",
        lambda self: [module for module in reversed(self.modules) if not isinstance(module, LeakyReLUModule)],
    ),
    "first_layer_forgotten": wrong_order("backward skips the first layer.", lambda self: reversed(self.modules[1:])),
}

WRONG_LAYERS = LINEAR | LEAKY_RELU | SOFTMAX | CROSS_ENTROPY | NETWORK
# Not mistakes for a grade: shapes that broadcast, the slope at exactly 0, a loss of probabilities that underflow.
HARMLESS = (
    "bias_gradient_in_a_row", "mask_true_at_zero", "mask_of_output", "probabilities_of_zero", "dout_overwritten",
    "log_of_zero", "loss_gradient_at_zero",
)  # fmt: skip

# ---- Batch norm --------------------------------------------------------------------------------


def wrong_norm(mistake, **gradients):
    """Return the manual function with other gradients of `x`, `gamma` or `beta`, which are functions of a namespace n.

    n.mean and n.variance are the terms of dL/dx that come from the statistics, n.dx is dL/dx before it is scaled.
    """

    def forward(ctx, input, *args):
        ctx.input = input
        return CustomBatchNormManualFunction.forward(ctx, input, *args)

    def backward(ctx, dout):
        dx, dgamma, dbeta, *others = CustomBatchNormManualFunction.backward(ctx, dout)
        x_hat, inverse_std, gamma = ctx.saved_tensors
        n = SimpleNamespace(B=len(dout), dout=dout, x=ctx.input, x_hat=x_hat, inverse_std=inverse_std, gamma=gamma)
        if dx is not None:
            n.scale, n.mean, n.variance = gamma * inverse_std, dout.mean(dim=0), x_hat * (dout * x_hat).mean(dim=0)
            n.dx = dout - n.mean - n.variance
        right = {"x": dx, "gamma": dgamma, "beta": dbeta}
        wrong_ones = {name: gradient(n) for name, gradient in gradients.items() if right[name] is not None}
        return *(right | wrong_ones).values(), *others

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return subclass(CustomBatchNormManualFunction, mistake, **methods)


def wrong_x_hat(mistake, x_hat):
    """Return a batch norm by autograd with another x̂: `x_hat(x, centred, variance, eps)`."""

    def normalize(self, input):
        _, variance, centred = statistics(input)
        return self.weight * x_hat(input, centred, variance, self.eps) + self.bias

    return subclass(CustomBatchNormAutograd, mistake, normalize=normalize)


WRONG_BATCH_NORMS = {
    "beta_averaged": wrong_norm("dL/dβ is averaged over the batch.", beta=lambda n: n.dout.mean(dim=0)),
    "beta_of_one_example": wrong_norm("dL/dβ is that of the first example.", beta=lambda n: n.dout[0]),
    "beta_negated": wrong_norm("dL/dβ has the wrong sign.", beta=lambda n: -n.dout.sum(dim=0)),
    "beta_over_neurons": wrong_norm("dL/dβ is summed over neurons.", beta=lambda n: n.dout.sum(dim=1)),
    "gamma_averaged": wrong_norm("dL/dγ is averaged over the batch.", gamma=lambda n: (n.dout * n.x_hat).mean(dim=0)),
    "gamma_without_x_hat": wrong_norm("dL/dγ lacks x̂.", gamma=lambda n: n.dout.sum(dim=0)),
    "gamma_of_x": wrong_norm("dL/dγ has x instead of x̂.", gamma=lambda n: (n.dout * n.x).sum(dim=0)),
    "gamma_missing": wrong_norm("dL/dγ is not returned.", gamma=lambda n: None),
    "input_missing": wrong_norm("dL/dx is not returned.", x=lambda n: None),
    "sums_lost": wrong_norm(
        "No term is summed over the batch.", x=lambda n: n.scale * n.dout * (1 - 1 / n.B - n.x_hat**2 / n.B)
    ),
    "mean_constant": wrong_norm("The mean counts as a constant.", x=lambda n: n.scale * (n.dout - n.variance)),
    "variance_constant": wrong_norm("The variance counts as a constant.", x=lambda n: n.scale * (n.dout - n.mean)),
    "statistics_constant": wrong_norm("Both statistics count as constants.", x=lambda n: n.scale * n.dout),
    "mean_summed": wrong_norm("The mean's term lacks 1/B.", x=lambda n: n.scale * (n.dx + n.mean - n.B * n.mean)),
    "mean_unscaled": wrong_norm("The mean's term is not scaled.", x=lambda n: n.scale * (n.dx + n.mean) - n.mean),
    "variance_summed": wrong_norm(
        "The variance's term lacks 1/B.", x=lambda n: n.scale * (n.dx + n.variance - n.B * n.variance)
    ),
    "variance_negated": wrong_norm("The variance's term is added.", x=lambda n: n.scale * (n.dx + 2 * n.variance)),
    "variance_without_x_hat": wrong_norm(
        "The variance's term lacks x̂.", x=lambda n: n.scale * (n.dx + n.variance - n.variance / n.x_hat)
    ),
    "variance_not_summed": wrong_norm(
        "The variance's term is not summed over the batch.",
        x=lambda n: n.scale * (n.dx + n.variance - n.dout * n.x_hat**2 / n.B),
    ),
    "variance_of_bessel": wrong_norm(
        "The variance's term is divided by B - 1.", x=lambda n: n.scale * (n.dx - n.variance / (n.B - 1))
    ),
    "variance_not_centred": wrong_norm(
        "x̂ is not centred in the variance's term.",
        x=lambda n: n.scale * (n.dout - n.mean - n.inverse_std**2 * n.x * (n.dout * n.x).mean(dim=0)),
    ),
    "input_without_gamma": wrong_norm("dL/dx lacks γ.", x=lambda n: n.inverse_std * n.dx),
    "input_without_deviation": wrong_norm("dL/dx lacks 1 / √(σ² + ε).", x=lambda n: n.gamma * n.dx),
    "input_by_variance": wrong_norm("dL/dx is divided by σ² + ε.", x=lambda n: n.scale * n.inverse_std * n.dx),
    "bessel": wrong_x_hat("The variance is divided by B - 1.", lambda x, c, v, eps: c / (x.var(dim=0) + eps).sqrt()),
    "eps_outside_root": wrong_x_hat("ε is added to σ, not to σ².", lambda x, c, v, eps: c / (v.sqrt() + eps)),
    "eps_missing": wrong_x_hat("ε is not added.", lambda x, c, v, eps: c / v.sqrt()),
    "statistics_of_all": wrong_x_hat(
        "Statistics are taken over neurons, too.",
        lambda x, c, v, eps: (x - x.mean()) / (x.var(correction=0) + eps).sqrt(),
    ),
    "not_centred": wrong_x_hat("The mean is not subtracted.", lambda x, c, v, eps: x / (v + eps).sqrt()),
    "not_scaled": wrong_x_hat("x̂ is x − μ.", lambda x, c, v, eps: c),
    "beta_left_out": wrong(CustomBatchNormAutograd, "β is not added.", normalize=lambda self, y, x: y - self.bias),
    "gamma_left_out": wrong(
        CustomBatchNormAutograd,
        "γ is not used.",
        normalize=lambda self, y, x: (y - self.bias) / self.weight + self.bias,
    ),
}
