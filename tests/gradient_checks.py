"""Gradient checks of the NumPy layers, for this project's implementation or any other.

A check takes the layers as a namespace (`LinearModule`, …, `MLP`) and calls them as the course does. It compares values
with PyTorch, and gradients with central differences and with PyTorch's autograd. Every layer gets two batches of
different sizes, since a layer may keep something of its first batch. Inputs are read-only: they belong to the caller.
"""

import inspect
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from gradcheck import assert_close, numerical_gradient


def autograd(f, *arrays, dout=None):
    """Return the value of f on tensors of `arrays`, and its gradients, given that of its output, as arrays."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = f(*tensors)
    out.backward(None if dout is None else torch.tensor(dout))
    return out.detach().numpy(), [t.grad.numpy() for t in tensors]


def read_only(array):
    """Return a view of an array that raises ValueError when it is written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def one_hot(rng, n_batch, n_classes, dtype=np.float64):
    return np.eye(n_classes, dtype=dtype)[rng.integers(n_classes, size=n_batch)]


def randomize(rng, params):
    """Fill the parameters, in place, with numbers of order 1."""
    for param in params.values():
        param[...] = rng.normal(size=param.shape)


def check_gradient(name, grad, f, value, dout, torch_grad, offset=0.0):
    """Compare a gradient with central differences of `f` and with PyTorch's.

    Args:
        offset: added to both exact gradients, for one that is a difference of equal numbers: it is
            exact up to the rounding of these numbers, not of the difference.
    """
    assert_close(name, grad, numerical_gradient(f, value, dout), finite_differences=True)
    assert_close(f"{offset:g} + {name}" if offset else name, offset + grad, offset + torch_grad)


def check_module(layer, torch_function, x, dout, params=None, offset=0.0):
    """Check the output of a layer and the gradients of its input and parameters, `{name: array}`."""
    params = params or {}
    out, dx = layer.forward(read_only(x)), layer.backward(read_only(dout))
    expected, torch_grads = autograd(torch_function, x, *params.values(), dout=dout)
    assert_close("out", out, expected)
    grads = {name: layer.grads[name] for name in params}
    values = {"x": x, **params}
    for (name, grad), torch_grad in zip({"x": dx, **grads}.items(), torch_grads, strict=True):
        check_gradient(name, grad, lambda: layer.forward(x), values[name], dout, torch_grad, offset)


def check_linear(layers, n_batch, n_in, n_out):
    rng = np.random.default_rng(1)
    layer = layers.LinearModule(n_in, n_out)
    randomize(rng, layer.params)
    params = {name: layer.params[name] for name in ("weight", "bias")}
    for n in (n_batch, n_batch + 1):
        check_module(layer, F.linear, rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out)), params)


def check_leaky_relu(layers, shape, neg_slope):
    rng = np.random.default_rng(2)
    layer = layers.LeakyReLUModule(neg_slope)
    for n in (shape[0], shape[0] + 1):
        x, dout = rng.normal(size=(2, n, *shape[1:]))
        x += 0.1 * np.sign(x)  # away from 0, where central differences are wrong
        check_module(layer, partial(F.leaky_relu, negative_slope=neg_slope), x, dout)


def check_leaky_relu_at_zero(layers, neg_slope):
    layer = layers.LeakyReLUModule(neg_slope)
    x, dout = np.array([[0.0, -0.0, 1.0, -1.0]]), np.array([[3.0, 5.0, 7.0, 11.0]])
    out, dx = layer.forward(x), layer.backward(dout)
    expected, (torch_dx,) = autograd(partial(F.leaky_relu, negative_slope=neg_slope), x, dout=dout)
    assert_close("out", out, expected)
    assert_close("x at 0", dx, torch_dx)


def check_softmax(layers, n_batch, n_classes, scale):
    rng = np.random.default_rng(3)
    layer = layers.SoftMaxModule()
    for n in (n_batch, n_batch + 1):
        x, dout = rng.normal(size=(2, n, n_classes))
        check_module(layer, partial(F.softmax, dim=1), scale * x, dout, offset=1.0)


def check_cross_entropy(layers, n_batch, n_classes, targets):
    rng = np.random.default_rng(4)
    layer = layers.CrossEntropyModule()
    for n in (n_batch, n_batch + 1):
        x = rng.uniform(0.1, 1, size=(n, n_classes))
        y = rng.dirichlet(np.ones(n_classes), n) if targets == "soft" else one_hot(rng, n, n_classes)
        loss, dx = layer.forward(read_only(x), read_only(y)), layer.backward(read_only(x), read_only(y))
        expected, (torch_dx,) = autograd(lambda x, y=y: -(torch.tensor(y) * x.log()).sum(1).mean(), x)
        assert_close("loss", loss, expected)
        check_gradient("x", dx, lambda x=x, y=y: layer.forward(x, y), x, 1.0, torch_dx)


def check_cross_entropy_of_zero(layers, dtype):
    layer, dtype = layers.CrossEntropyModule(), np.dtype(dtype).type
    tiny = np.finfo(dtype).tiny
    x, y = np.array([[0, 1, 0], [0.5, 0.5, 0]], dtype), np.array([[1, 0, 0], [0, 1, 0]], dtype)
    assert_close("loss", layer.forward(x, y), -(np.log(tiny) + np.log(dtype(0.5))) / 2)
    assert_close("x", layer.backward(x, y), np.array([[-1 / (2 * tiny), 0, 0], [0, -1, 0]], dtype))


def check_softmax_cross_entropy(layers, n_batch, n_classes, scale, dtype):
    """Compare both together with PyTorch's `cross_entropy`, for logits of any size."""
    rng = np.random.default_rng(5)
    softmax, cross_entropy = layers.SoftMaxModule(), layers.CrossEntropyModule()
    for n in (n_batch, n_batch + 1):
        x = (scale * rng.choice([-1, 1], (n, n_classes)) * rng.uniform(0.5, 1, (n, n_classes))).astype(dtype)
        y = one_hot(rng, n, n_classes, dtype)
        p = softmax.forward(read_only(x))
        loss = cross_entropy.forward(p, y)
        dx = softmax.backward(cross_entropy.backward(p, y))
        losses = F.cross_entropy(torch.tensor(x), torch.tensor(y), reduction="none").numpy()
        _, (torch_dx,) = autograd(lambda x, y=y: F.cross_entropy(x, torch.tensor(y)), x)
        # The smallest probability that is allowed limits the loss.
        assert_close("loss", loss, np.minimum(losses, -np.log(np.finfo(dtype).tiny)).mean())
        assert dx.dtype == dtype
        assert_close("1/B + x", (1 / n + dx).astype(dtype), (1 / n + torch_dx).astype(dtype))


def linear_layers(mlp):
    """Return the modules of an MLP that have parameters, in order, from whichever attribute holds them."""
    found = {}
    for value in vars(mlp).values():
        modules = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
        found |= {id(module): module for module in modules if hasattr(module, "params")}
    return list(found.values())


def check_mlp(layers, n_batch, n_in, n_hidden, n_classes, neg_slope):
    rng = np.random.default_rng(6)
    mlp, cross_entropy = layers.MLP(n_in, n_hidden, n_classes, neg_slope), layers.CrossEntropyModule()
    linears = linear_layers(mlp)
    assert len(linears) == len(n_hidden) + 1, f"found {len(linears)} modules with params, expected {len(n_hidden) + 1}"
    for layer in linears:
        randomize(rng, layer.params)
    names = [(l, name) for l in range(len(linears)) for name in ("weight", "bias")]
    params = [linears[l].params[name] for l, name in names]
    for n in (n_batch, n_batch + 1):
        x, y = rng.normal(size=(n, n_in)), one_hot(rng, n, n_classes)

        def f(x=x, y=y):
            return cross_entropy.forward(mlp.forward(x), y)

        def torch_loss(x, *params, y=y):
            for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
                x = F.leaky_relu(F.linear(x, weight, bias), neg_slope)
            return F.cross_entropy(F.linear(x, *params[-2:]), torch.tensor(y))

        dout = cross_entropy.backward(mlp.forward(read_only(x)), y)
        # The course's MLP returns nothing from backward; this project's can return the input's gradient.
        returns_dx = "needs_input_grad" in inspect.signature(mlp.backward).parameters
        dx = mlp.backward(dout, needs_input_grad=True) if returns_dx else mlp.backward(dout)
        grads = {f"linear{l + 1}.{name}": linears[l].grads[name] for l, name in names}
        loss, (torch_dx, *torch_grads) = autograd(torch_loss, x, *params)
        assert_close("loss", f(), loss)
        if returns_dx:
            check_gradient("x", dx, f, x, 1.0, torch_dx, offset=1.0)
        for (name, grad), param, torch_grad in zip(grads.items(), params, torch_grads, strict=True):
            check_gradient(name, grad, f, param, 1.0, torch_grad, offset=1.0)


def cases(check, name, rows):
    """Return `{name: function of the layers}` of a check with each row of arguments."""
    return {name.format(*row): lambda layers, row=row: check(layers, *row) for row in rows}


# Shapes include one column, square ones (which hide a missing transpose), a batch of 1 and one class.
CHECKS = {
    **cases(check_linear, "linear {}x{}->{}", [(5, 4, 4), (4, 4, 4), (3, 7, 2), (1, 5, 3), (6, 1, 4), (2, 3, 1)]),
    **cases(
        check_leaky_relu,
        "leaky relu {}, slope {}",
        [((4, 6), 0.02), ((1, 3), 0.5), ((5, 2), 0.0), ((3, 3), -0.5), ((3, 4), 1.5)],
    ),
    **cases(check_leaky_relu_at_zero, "leaky relu at 0, slope {}", [(0.0,), (0.02,), (0.5,)]),
    **cases(check_softmax, "softmax {}x{}, logits of {}", [(4, 5, 1), (5, 5, 1), (1, 10, 1), (3, 1, 1), (6, 3, 1000)]),
    **cases(
        check_cross_entropy,
        "cross-entropy {}x{}, {}",
        [(4, 5, "one-hot"), (1, 10, "one-hot"), (3, 1, "one-hot"), (6, 3, "soft")],
    ),
    **cases(check_cross_entropy_of_zero, "cross-entropy of 0, {}", [("float32",), ("float64",)]),
    **cases(
        check_softmax_cross_entropy,
        "softmax and cross-entropy {}x{}, logits of {}, {}",
        product((8, 1), (10, 1), (1, 1000, 10_000), ("float32", "float64")),
    ),
    **cases(
        check_mlp,
        "mlp {}x{}->{}->{}, slope {}",
        [
            (5, 6, [], 4, 0.02),
            (4, 6, [5], 3, 0.02),
            (1, 4, [3], 2, 0.0),
            (3, 5, [4, 4, 4], 3, 0.5),
            (2, 4, [6, 3], 1, 0.02),
        ],
    ),
}
