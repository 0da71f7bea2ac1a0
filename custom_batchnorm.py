"""Batch normalisation with autograd, with a manual backward pass, and as a module (question 3).

Ioffe and Szegedy, "Batch Normalization", 2015. Over a batch s = 1 … B, for neuron i:

    μᵢ = (1/B) Σₛ xᵢˢ        σᵢ² = (1/B) Σₛ (xᵢˢ − μᵢ)²
    x̂ᵢˢ = (xᵢˢ − μᵢ) / √(σᵢ² + ε)        yᵢˢ = γᵢ x̂ᵢˢ + βᵢ

These are Eq. (bn-statistics) and Eq. (bn-forward) of the report, report/report.pdf.
"""

import torch
from torch import nn


def check_shape(x, gamma):
    """Raise `ValueError` unless `x` has shape (n_batch, n_neurons), for `gamma` of shape (n_neurons,)."""
    if x.ndim != 2 or x.shape[1:] != gamma.shape:
        raise ValueError(f"batch norm expects input of shape (n_batch, {gamma.numel()}), got {tuple(x.shape)}")


def statistics(x):
    """Return μ and σ², shape (n_neurons,), and x − μ, for `x` of shape (n_batch, n_neurons).

    Raises:
        ValueError: a batch of fewer than 2 examples.
    """
    if len(x) < 2:
        raise ValueError(f"batch norm needs a batch of at least 2 examples, got {len(x)}")
    mean = x.mean(dim=0)
    centred = x - mean
    return mean, centred.square().mean(dim=0), centred  # torch.var_mean over a batch is slow on a CPU


class CustomBatchNormAutograd(nn.Module):
    """Batch norm with autograd's backward pass (question 3.1).

    Parameters and buffers have the names of `nn.BatchNorm1d`, so state dicts are interchangeable:
    γ is `weight` and starts at 1, β is `bias` and starts at 0.

    Args:
        n_neurons: number of input features.
        eps: ε, added to the variance.
        track_running_stats: keep running statistics and use them in evaluation. By default, as in
            the course, evaluation uses the statistics of the batch.
    """

    momentum = 0.1  # weight of the current batch in the running statistics

    def __init__(self, n_neurons, eps=1e-5, *, track_running_stats=False):
        super().__init__()
        self.eps = eps
        self.track_running_stats = track_running_stats
        self.weight = nn.Parameter(torch.ones(n_neurons))
        self.bias = nn.Parameter(torch.zeros(n_neurons))
        if track_running_stats:
            self.register_buffer("running_mean", torch.zeros(n_neurons))
            self.register_buffer("running_var", torch.ones(n_neurons))
            self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input):
        """Return y for `input` x, both of shape (n_batch, n_neurons).

        Raises:
            ValueError: `input` of any other shape, or a batch of 1 unless running statistics are used.
        """
        check_shape(input, self.weight)
        input = input.to(torch.promote_types(input.dtype, self.weight.dtype))  # bfloat16 under autocast
        if self.training or not self.track_running_stats:
            return self.normalize(input)
        inverse_std = torch.rsqrt(self.running_var + self.eps)
        return (input - self.running_mean) * (inverse_std * self.weight) + self.bias

    def normalize(self, input):
        """Return y with the statistics of the batch, and update the running statistics."""
        mean, variance, centred = statistics(input)
        self.track(mean, variance, len(input))
        return self.weight * (centred * torch.rsqrt(variance + self.eps)) + self.bias

    @torch.no_grad()
    def track(self, mean, variance, n_batch):
        """Update the running statistics, if there are any, with μ and σ² of a batch."""
        if self.track_running_stats:
            unbiased = variance * (n_batch / (n_batch - 1))  # as in nn.BatchNorm1d, for evaluation only
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)


class CustomBatchNormManualFunction(torch.autograd.Function):
    """Batch norm with a manual backward pass (question 3.2 b). Usage: `apply(input, gamma, beta, eps)`."""

    def __init__(self, *args, **kwargs):
        """Ignore all arguments. The course calls `apply` on an instance, and PyTorch's `__init__` warns."""

    @staticmethod
    def forward(ctx, input, gamma, beta, eps=1e-5, track=None):
        """Return y, with the shape of `input`.

        Args:
            input: x, shape (n_batch, n_neurons), n_batch at least 2.
            gamma, beta: γ and β, shape (n_neurons,).
            eps: ε.
            track: callback with the arguments μ, σ² and n_batch, or None.

        Raises:
            ValueError: `input` of any other shape, or a batch of fewer than 2.
        """
        check_shape(input, gamma)
        mean, variance, centred = statistics(input)
        if track:
            track(mean, variance, len(input))
        inverse_std = torch.rsqrt(variance + eps)
        x_hat = centred.mul_(inverse_std)
        needs_dx, needs_dgamma, *_ = ctx.needs_input_grad
        for_dx = (inverse_std, gamma) if needs_dx else (None, None)
        ctx.save_for_backward(x_hat if needs_dx or needs_dgamma else None, *for_dx)
        return torch.addcmul(beta, x_hat, gamma)

    @staticmethod
    def backward(ctx, dout):
        """Return dL/dx, dL/dγ and dL/dβ, each None unless needed; None for eps and track (question 3.2 a).

            dL/dβᵢ = Σₛ dL/dyᵢˢ              Eq. (bn-beta)
            dL/dγᵢ = Σₛ dL/dyᵢˢ x̂ᵢˢ          Eq. (bn-gamma)
            dL/dxᵢˢ = γᵢ / √(σᵢ² + ε) · (dL/dyᵢˢ − (1/B) dL/dβᵢ − (1/B) x̂ᵢˢ dL/dγᵢ)    Eq. (bn-input)

        The last one is Eq. (bn-normalized) times Eq. (bn-jacobian), which contains the derivatives of mean and
        variance, Eq. (bn-mean-jacobian) and Eq. (bn-variance-jacobian).

        Args:
            dout: dL/dy, shape (n_batch, n_neurons).

        Raises:
            RuntimeError: a second derivative is requested by `create_graph=True`.
        """
        if torch.is_grad_enabled():  # `once_differentiable` returns a wrong second derivative if dout is constant
            raise RuntimeError("CustomBatchNormManualFunction has no second derivative; use CustomBatchNormAutograd")
        needs_dx, needs_dgamma, needs_dbeta, *_ = ctx.needs_input_grad
        x_hat, inverse_std, gamma = ctx.saved_tensors
        dx = dgamma = dbeta = None
        if needs_dx or needs_dbeta:
            dbeta = dout.sum(dim=0)
        if needs_dx or needs_dgamma:
            dgamma = (dout * x_hat).sum(dim=0)
        if needs_dx:
            n_batch, scale = len(dout), gamma * inverse_std
            # Two passes over memory. Computed term by term, the equation takes four.
            dx = torch.addcmul(dout, x_hat, dgamma, value=-1 / n_batch)  # dout - x_hat * dgamma / B
            dx = torch.addcmul(scale * dbeta / -n_batch, scale, dx)  # scale * (dx - dbeta / B)
        return dx, dgamma if needs_dgamma else None, dbeta if needs_dbeta else None, None, None


class CustomBatchNormManualModule(CustomBatchNormAutograd):
    """The same layer with `CustomBatchNormManualFunction` (question 3.2 c)."""

    def normalize(self, input):
        return CustomBatchNormManualFunction.apply(input, self.weight, self.bias, self.eps, self.track)
