"""Batch normalisation three times: by autograd, by hand, and the latter as a module (question 3).

Ioffe and Szegedy, "Batch Normalization", 2015. Over a batch s = 1 … B, for neuron i:

    μᵢ = (1/B) Σₛ xᵢˢ        σᵢ² = (1/B) Σₛ (xᵢˢ − μᵢ)²
    x̂ᵢˢ = (xᵢˢ − μᵢ) / √(σᵢ² + ε)        yᵢˢ = γᵢ x̂ᵢˢ + βᵢ

These are Eq. (bn-statistics) and Eq. (bn-forward) of the report, report/report.pdf.
"""

import torch
from torch import nn


def at_least_float32(x):
    """Return x, in float32 where it has less: σ² of a deviation of 300 overflows float16, and bfloat16 has 8 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def statistics(x):
    """Return μ and σ² of each neuron, shape (n_neurons,), and x − μ, for x of shape (n_batch, n_neurons)."""
    x = at_least_float32(x)
    mean = x.mean(dim=0)
    centred = x - mean
    # torch.var_mean over a batch of (200, 500) takes eight times as long on a CPU.
    return mean, centred.square().mean(dim=0), centred


def normalized(x, eps, known=None):
    """Return x̂, of the shape of x, and 1/√(σ² + ε); `known`: what `statistics` returns of x, where it is known."""
    _, variance, centred = known or statistics(x)
    inverse_std = torch.rsqrt(variance + eps)
    return centred * inverse_std, inverse_std


def check_shapes(x, gamma, beta):
    """Raise `ValueError` where x is not (n_batch, n_neurons), or gamma or beta not (n_neurons,)."""
    if gamma.ndim != 1 or beta.shape != gamma.shape:
        raise ValueError(
            f"batch norm expects gamma and beta of shape (n_neurons,), got {tuple(gamma.shape)} and {tuple(beta.shape)}"
        )
    if x.ndim != 2 or x.shape[1:] != gamma.shape:
        raise ValueError(f"batch norm expects input of shape (n_batch, {gamma.numel()}), got {tuple(x.shape)}")


def check_batch(x):
    """Raise `ValueError` where a batch has no variance."""
    if len(x) < 2:
        raise ValueError(f"batch norm takes its statistics over a batch of at least 2 examples, got {len(x)}")


class CustomBatchNorm(nn.Module):
    """What the two modules share: parameters, running statistics, and evaluation with them.

    Parameters and buffers are named as in `nn.BatchNorm1d`, so that either loads the other's state
    dict: γ is `weight`, β is `bias`. They start at 1 and 0.

    Args:
        n_neurons: size of a row of the input.
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running statistics.
        track_running_stats: keep them, and normalise with them in evaluation. Without, as in the
            course, evaluation normalises with its own batch, too.
    """

    def __init__(self, n_neurons, eps=1e-5, *, momentum=0.1, track_running_stats=False):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        self.weight = nn.Parameter(torch.ones(n_neurons))
        self.bias = nn.Parameter(torch.zeros(n_neurons))
        if track_running_stats:
            self.register_buffer("running_mean", torch.zeros(n_neurons))
            self.register_buffer("running_var", torch.ones(n_neurons))
            self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input):
        """Return y, of the shape of `input`, (n_batch, n_neurons), and of the dtype that it and γ promote to.

        Raises:
            ValueError: `input` of any other shape, or a batch of 1 whose statistics are asked for.
        """
        check_shapes(input, self.weight, self.bias)
        input = input.to(torch.promote_types(input.dtype, self.weight.dtype))
        if self.training or not self.track_running_stats:
            check_batch(input)
            return self.normalize(input)
        inverse_std = torch.rsqrt(at_least_float32(self.running_var) + self.eps)
        centred = at_least_float32(input) - self.running_mean
        return (centred * (inverse_std * self.weight) + self.bias).to(input.dtype)

    def normalize(self, input):
        """Return y, of the dtype of `input`, by the statistics of its batch, which are tracked where asked for."""
        raise NotImplementedError

    @torch.no_grad()
    def _track(self, mean, variance, n_batch):
        # As in nn.BatchNorm1d, the running variance has Bessel's correction, unlike the one that normalises.
        for running, newest in ((self.running_mean, mean), (self.running_var, variance * (n_batch / (n_batch - 1)))):
            running.copy_(torch.lerp(running.to(newest.dtype), newest, self.momentum))
        self.num_batches_tracked += 1

    def extra_repr(self):
        return f"{self.weight.numel()}, eps={self.eps}, track_running_stats={self.track_running_stats}"


class CustomBatchNormAutograd(CustomBatchNorm):
    """Batch norm whose backward pass autograd derives (question 3.1). Arguments: see `CustomBatchNorm`."""

    def normalize(self, input):
        mean, variance, centred = statistics(input)
        if self.track_running_stats:
            self._track(mean, variance, len(input))
        return (self.weight * (centred * torch.rsqrt(variance + self.eps)) + self.bias).to(input.dtype)


class CustomBatchNormManualFunction(torch.autograd.Function):
    """Batch norm with its backward pass written out (question 3.2 b). Use: `apply(input, gamma, beta, eps)`.

    Second derivatives are right as well: `backward` is made of operations that autograd can differentiate, on tensors
    whose history it knows. `torch.func` and forward mode refuse a function of this form; `CustomBatchNormAutograd` has
    both.
    """

    def __init__(self, *args, **kwargs):
        """Take anything: the course calls `apply` on an instance, which PyTorch itself would warn of."""

    @staticmethod
    def forward(ctx, input, gamma, beta, eps=1e-5, known=None):
        """Return y, of the shape of `input` and of the dtype that it and γ promote to.

        Args:
            input: x, shape (n_batch, n_neurons), n_batch at least 2.
            gamma, beta: shape (n_neurons,).
            eps: ε.
            known: what `statistics` returns of `input`, if the caller has computed it already.

        Raises:
            ValueError: any other shape.
        """
        check_shapes(input, gamma, beta)
        check_batch(input)
        x_hat, inverse_std = normalized(input, eps, known)
        needs_dx, needs_dgamma, *_ = ctx.needs_input_grad
        ctx.eps = eps
        ctx.save_for_backward(
            *((input, x_hat, inverse_std) if needs_dx or needs_dgamma else ()), *((gamma,) if needs_dx else ())
        )
        return torch.addcmul(beta, x_hat, gamma).to(torch.promote_types(input.dtype, gamma.dtype))

    @staticmethod
    def backward(ctx, dout):
        """Return dL/dx, dL/dγ and dL/dβ, each None where nobody asks for it, and None for the rest (question 3.2 a).

            dL/dβᵢ = Σₛ dL/dyᵢˢ              Eq. (bn-beta)
            dL/dγᵢ = Σₛ dL/dyᵢˢ x̂ᵢˢ          Eq. (bn-gamma)
            dL/dxᵢˢ = γᵢ / √(σᵢ² + ε) · (dL/dyᵢˢ − (1/B) dL/dβᵢ − (1/B) x̂ᵢˢ dL/dγᵢ)    Eq. (bn-input)

        The last is Eq. (bn-normalized) times Eq. (bn-jacobian), in which the derivatives of mean and variance,
        Eq. (bn-mean-jacobian) and Eq. (bn-variance-jacobian), are put in.

        Args:
            dout: dL/dy, shape (n_batch, n_neurons).
        """
        dout = at_least_float32(dout)
        needs_dx, needs_dgamma, needs_dbeta, *_ = ctx.needs_input_grad
        dx = dgamma = dbeta = None
        if needs_dx or needs_dbeta:
            dbeta = dout.sum(dim=0)
        if needs_dx or needs_dgamma:
            input, x_hat, inverse_std, *gamma = ctx.saved_tensors
            if torch.is_grad_enabled():  # for a second derivative, to which the statistics contribute
                x_hat, inverse_std = normalized(input, ctx.eps)
            dgamma = (dout * x_hat).sum(dim=0)
        if needs_dx:
            n_batch, scale = len(dout), gamma[0] * inverse_std
            # Two passes over memory; term by term as it reads, it takes four.
            dx = torch.addcmul(dout, x_hat, dgamma, value=-1 / n_batch)
            dx = torch.addcmul(scale * dbeta / -n_batch, scale, dx)
        return dx, dgamma if needs_dgamma else None, dbeta if needs_dbeta else None, None, None


class CustomBatchNormManualModule(CustomBatchNorm):
    """Batch norm by `CustomBatchNormManualFunction` (question 3.2 c). Arguments: see `CustomBatchNorm`."""

    def normalize(self, input):
        known = None
        if self.track_running_stats:
            with torch.no_grad():  # the function's backward pass gives the whole gradient of x
                known = statistics(input)
            self._track(*known[:2], len(input))
        return CustomBatchNormManualFunction.apply(input, self.weight, self.bias, self.eps, known)
