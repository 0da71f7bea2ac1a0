"""Known mistakes of batch norm: by autograd, by hand, and of the module around that."""

# ruff: noqa: E501, a row of a table stays on its line

import copy

import torch
from torch import nn

from grading.mistakes import built, make

AUTOGRAD, FUNCTION, MODULE = (
    f"custom_batchnorm.CustomBatchNorm{name}" for name in ("Autograd", "ManualFunction", "ManualModule")
)


def _var(x):
    return (x - x.mean(dim=0)).square().mean(dim=0)


def _normalized(f):
    """Return a change of a batch-norm module: y is `f(x, gamma, beta, eps)`."""
    return lambda base: type(
        base.__name__, (base,), {"normalize": lambda self, x: f(x, self.weight, self.bias, self.eps)}
    )


def bessel(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / (x.var(dim=0) + eps).sqrt() + beta


def over_neurons(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True, correction=0) + eps).sqrt() + beta


def over_everything(x, gamma, beta, eps):
    return gamma * (x - x.mean()) / (x.var(correction=0) + eps).sqrt() + beta


def without_gamma(x, gamma, beta, eps):
    return (x - x.mean(dim=0)) / (_var(x) + eps).sqrt() + beta + 0 * gamma


def without_beta(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / (_var(x) + eps).sqrt() + 0 * beta


def by_variance(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / (_var(x) + eps) + beta


def eps_outside(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / (_var(x).sqrt() + eps) + beta


def eps_fixed(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / (_var(x) + 1e-5).sqrt() + beta


def eps_missing(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / _var(x).sqrt() + beta


def detached_statistics(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0).detach()) / (_var(x).detach() + eps).sqrt() + beta


def detached_variance(x, gamma, beta, eps):
    return gamma * (x - x.mean(dim=0)) / (_var(x).detach() + eps).sqrt() + beta


def _running(base):
    class Wrong(base):
        def normalize(self, x):
            if not hasattr(self, "first"):
                self.first = x.mean(dim=0).detach(), _var(x).detach()
                return super().normalize(x)
            mean, var = self.first
            return self.weight * (x - mean) / (var + self.eps).sqrt() + self.bias

    return Wrong


def _starting(gamma=1.0, beta=0.0):
    def change(norm):
        nn.init.constant_(norm.weight, gamma)
        nn.init.constant_(norm.bias, beta)

    return built(change)


FORWARDS = [
    ("the variance has Bessel's correction (n - 1); batch norm's has not", bessel),
    ("mean and variance are taken over the neurons (dim 1), not over the batch (dim 0)", over_neurons),
    ("mean and variance are taken over everything, not over the batch for each neuron", over_everything),
    ("gamma is left out", without_gamma),
    ("beta is left out", without_beta),
    ("the deviation is divided by the variance, not by its root", by_variance),
]
EPSILONS = [
    ("eps is added outside the root; it belongs to the variance", eps_outside),
    ("the eps that was asked for is not used: 1e-5 acts", eps_fixed),
    ("eps is not added at all", eps_missing),
]


def gradients_of(f):
    """Return the gradients that belong to a forward pass of `f(x, gamma, beta, eps)`, as `_function` takes them."""

    def gradient(i):
        def of(c):
            with torch.enable_grad():
                args = [tensor.detach().requires_grad_() for tensor in (c.x, c.gamma, c.beta)]
                return torch.autograd.grad(f(*args, c.eps), args, c.dout)[i]

        return of

    return {name: gradient(i) for i, name in enumerate(("dx", "dgamma", "dbeta"))}


def kept_by(f):
    """Return the right formulas, of x_hat and 1/std as a forward pass of `f` has kept them, as `_function` takes them."""

    def kept(c):
        c = copy.copy(c)
        c.x_hat = f(c.x, torch.ones_like(c.gamma), torch.zeros_like(c.beta), c.eps)
        c.inv = c.x_hat / (c.x - c.x.mean(dim=0))
        c.dgamma = (c.dout * c.x_hat).sum(dim=0)
        return c

    return {"dx": lambda c: kept(c).dx(), "dgamma": lambda c: kept(c).dgamma}


def _forward_or_both(mistakes):
    """Return the rows of wrong forward passes, with each backward pass that students write: the right one, the one that
    belongs to it, and the right formula of what the wrong forward pass has kept."""
    backward = [lambda f: {}, gradients_of, kept_by]
    return [(text, _function(y=f, **gradients(f))) for text, f in mistakes for gradients in backward]


def _function(y=None, **gradients):
    """Return a change of the manual function: another forward, or gradients `name=f(context)`, `dx`, `dgamma`, `dbeta`."""

    def put_into(base):
        class Wrong(base):
            @staticmethod
            def forward(ctx, x, gamma, beta, eps=1e-5, track=None):
                out = base.forward(ctx, x, gamma, beta, eps, track)
                ctx.seen = x, gamma, beta, eps
                return out if y is None else y(x, gamma, beta, eps)

            @staticmethod
            def backward(ctx, dout):
                grads = dict(zip(("dx", "dgamma", "dbeta"), base.backward(ctx, dout), strict=False))
                c = Context(*ctx.seen, dout)
                for name, f in gradients.items():
                    if name == "all":
                        grads = {n: torch.zeros_like(dout) if g is None else g for n, g in grads.items()}
                    elif grads[name] is not None:
                        grads[name] = f(c)
                return *grads.values(), None, None

        return Wrong

    return put_into


def _dx_and_dgamma(f):
    return {name: gradient for name, gradient in gradients_of(f).items() if name != "dbeta"}


class Context:
    """What a backward pass knows: x, gamma, beta, eps, dout, and B, x_hat, 1/std, dgamma, dbeta."""

    def __init__(self, x, gamma, beta, eps, dout):
        self.x, self.gamma, self.beta, self.eps, self.dout, self.B = x, gamma, beta, eps, dout, len(x)
        self.inv = (_var(x) + eps).rsqrt()
        self.x_hat = (x - x.mean(dim=0)) * self.inv
        self.dgamma, self.dbeta = (dout * self.x_hat).sum(dim=0), dout.sum(dim=0)

    def dx(self, mean=1.0, variance=1.0, gamma=None):
        inner = self.dout - mean * self.dbeta / self.B - variance * self.x_hat * self.dgamma / self.B
        return (self.gamma if gamma is None else gamma) * self.inv * inner


def _gamma_zero(c):
    """dx by an x_hat that was won back from y by dividing by gamma: nothing where gamma is 0."""
    y = c.gamma * c.x_hat + c.beta
    x_hat = (y - c.beta) / c.gamma
    return c.gamma * c.inv * (c.dout - c.dbeta / c.B - x_hat * (c.dout * x_hat).sum(dim=0) / c.B)


MISTAKES = [
    *make("bn_autograd.parameters", AUTOGRAD,
        ("gamma starts at 0; it starts at 1", _starting(gamma=0.0)),
        ("beta starts at 1; it starts at 0", _starting(beta=1.0)),
    ),
    *make("bn_autograd.forward", AUTOGRAD, *((text, _normalized(f)) for text, f in FORWARDS)),
    *make("bn_autograd.eps", AUTOGRAD, *((text, _normalized(f)) for text, f in EPSILONS)),
    *make("bn_autograd.gradients", AUTOGRAD,
        ("the statistics are detached: they depend on x, and the gradient goes through them", _normalized(detached_statistics)),
        ("the variance is detached: it depends on x, and the gradient goes through it", _normalized(detached_variance)),
    ),
    *make("bn_autograd.second_batch", AUTOGRAD, ("the statistics of the first batch are kept", _running)),
    *make("bn_function.forward", FUNCTION, *_forward_or_both(FORWARDS)),
    *make("bn_function.eps", FUNCTION,
        *_forward_or_both(EPSILONS),
        ("backward does not take the eps that forward was given: 1e-5 acts", _function(**_dx_and_dgamma(eps_fixed))),
        ("backward does not add eps to the variance", _function(**_dx_and_dgamma(eps_missing))),
    ),
    *make("bn_function.input_gradient", FUNCTION,
        ("the input gradient treats the mean as a constant", _function(dx=lambda c: c.dx(mean=0))),
        ("the input gradient treats the variance as a constant", _function(dx=lambda c: c.dx(variance=0))),
        ("the input gradient treats mean and variance as constants", _function(dx=lambda c: c.dx(0, 0))),
        ("the mean's term is not divided by the batch", _function(dx=lambda c: c.dx(mean=c.B))),
        ("the variance's term is not divided by the batch", _function(dx=lambda c: c.dx(variance=c.B))),
        ("the variance's term has the wrong sign", _function(dx=lambda c: c.dx(variance=-1))),
        ("the mean's term has the wrong sign", _function(dx=lambda c: c.dx(mean=-1))),
        ("gamma is forgotten in the input gradient", _function(dx=lambda c: c.dx(gamma=1.0))),
        ("1/sqrt(variance + eps) is forgotten in the input gradient", _function(dx=lambda c: c.dx() / c.inv)),
        ("the variance's term takes B - 1 for B", _function(dx=lambda c: c.dx(variance=c.B / (c.B - 1)))),
    ),
    *make("bn_function.gamma_gradient", FUNCTION,
        ("gamma's gradient is averaged over the batch; it is a sum", _function(dgamma=lambda c: c.dgamma / c.B)),
        ("gamma's gradient is summed over the neurons (dim 1), not over the batch (dim 0)",
         _function(dgamma=lambda c: (c.dout * c.x_hat).sum(dim=1))),
        ("gamma's gradient lacks x_hat", _function(dgamma=lambda c: c.dbeta)),
        ("gamma's gradient takes x for x_hat", _function(dgamma=lambda c: (c.dout * c.x).sum(dim=0))),
        ("gamma's gradient takes y for x_hat", _function(dgamma=lambda c: (c.dout * (c.gamma * c.x_hat + c.beta)).sum(dim=0))),
        ("gamma's gradient has the wrong sign", _function(dgamma=lambda c: -c.dgamma)),
        ("gamma's gradient is missing", _function(dgamma=lambda c: None)),
    ),
    *make("bn_function.beta_gradient", FUNCTION,
        ("beta's gradient is averaged over the batch; it is a sum", _function(dbeta=lambda c: c.dbeta / c.B)),
        ("beta's gradient is that of one example", _function(dbeta=lambda c: c.dout[0])),
        ("beta's gradient has the wrong sign", _function(dbeta=lambda c: -c.dbeta)),
        ("beta's gradient is gamma's", _function(dbeta=lambda c: c.dgamma)),
        ("beta's gradient is missing", _function(dbeta=lambda c: None)),
    ),
    *make("bn_function.needs_input_grad", FUNCTION,
        ("backward returns gradients that nobody asked for: ctx.needs_input_grad is not looked at", _function(all=None)),
    ),
    *make("bn_function.gamma_of_zero", FUNCTION,
        ("x_hat is won back by dividing by gamma, which may be 0", _function(dx=_gamma_zero)),
    ),
    *make("bn_module.parameters", MODULE,
        ("gamma starts at 0; it starts at 1", _starting(gamma=0.0)),
        ("beta starts at 1; it starts at 0", _starting(beta=1.0)),
    ),
    *make("bn_module.forward", MODULE,
        *((text, _normalized(f)) for text, f in FORWARDS),
        *((f"{text} (the module's eps has to be handed on to the function)", _normalized(f)) for text, f in EPSILONS),
        ("gamma and beta change places", _normalized(lambda x, g, b, eps: b * (x - x.mean(0)) / (_var(x) + eps).sqrt() + g)),
    ),
    *make("bn_module.gradients", MODULE,
        ("the statistics are detached", _normalized(detached_statistics)),
        ("gamma and beta are detached (.data)", _normalized(
            lambda x, g, b, eps: g.detach() * (x - x.mean(0)) / (_var(x) + eps).sqrt() + b.detach())),
    ),
]  # fmt: skip
