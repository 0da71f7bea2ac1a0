"""Every check of the NumPy layers' gradients, for any implementation of them.

A check takes the layers as a namespace (`LinearModule`, …, `MLP`) and calls them as the course does,
so that `test_gradients.py` can demand that the project's pass, or a student's in their place, and
`test_wrong_layers.py` that wrong ones do not. But for those at special values (0, huge logits), each compares
with central differences and with PyTorch's autograd, and calls a layer on two batches of different sizes,
because a layer that remembers its first batch is right only once. Inputs are read-only: they belong to the
caller, and to other layers.
"""

import inspect
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from gradcheck import assert_close, numerical_gradient


def autograd(f, *arrays, dout=None):
    """Return f's value on tensors of `arrays`, and its gradients, given that of its output, as arrays."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = f(*tensors)
    out.backward(None if dout is None else torch.tensor(dout))
    return out.detach().numpy(), [t.grad.numpy() for t in tensors]


def read_only(*arrays):
    """Return views of arrays, into which writing is a ValueError."""
    views = [array.view() for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views if len(views) > 1 else views[0]


def one_hot(rng, n_batch, n_classes, dtype=np.float64):
    return np.eye(n_classes, dtype=dtype)[rng.integers(n_classes, size=n_batch)]


def check_linear(layers, n_batch, n_in, n_out):
    rng = np.random.default_rng(1)
    layer = layers.LinearModule(n_in, n_out)
    weight, bias = layer.params["weight"], layer.params["bias"]
    weight[...], bias[...] = rng.normal(size=weight.shape), rng.normal(size=bias.shape)
    for n in (n_batch, n_batch + 1):
        x, dout = rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out))
        out = layer.forward(read_only(x))
        grads = {"x": layer.backward(read_only(dout)), **layer.grads}
        expected, torch_grads = autograd(F.linear, x, weight, bias, dout=dout)
        assert_close("out", out, expected)
        for name, value, torch_grad in zip(("x", "weight", "bias"), (x, weight, bias), torch_grads, strict=True):
            numerical = numerical_gradient(lambda x=x: layer.forward(x), value, dout)
            assert_close(name, grads[name], numerical, finite_differences=True)
            assert_close(name, grads[name], torch_grad)


def check_leaky_relu(layers, shape, neg_slope):
    rng = np.random.default_rng(2)
    layer = layers.LeakyReLUModule(neg_slope)
    for n in (shape[0], shape[0] + 1):
        x, dout = rng.normal(size=(2, n, *shape[1:]))
        x += 0.1 * np.sign(x)  # away from 0, where central differences mean nothing
        out, dx = layer.forward(read_only(x)), layer.backward(read_only(dout))
        expected, (torch_dx,) = autograd(partial(F.leaky_relu, negative_slope=neg_slope), x, dout=dout)
        assert_close("out", out, expected)
        assert_close("x", dx, numerical_gradient(lambda x=x: layer.forward(x), x, dout), finite_differences=True)
        assert_close("x", dx, torch_dx)


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
        x, dout = scale * rng.normal(size=(n, n_classes)), rng.normal(size=(n, n_classes))
        out, dx = layer.forward(read_only(x)), layer.backward(read_only(dout))
        expected, (torch_dx,) = autograd(partial(F.softmax, dim=1), x, dout=dout)
        assert_close("out", out, expected)
        assert_close("x", dx, numerical_gradient(lambda x=x: layer.forward(x), x, dout), finite_differences=True)
        # Where one probability is 1 the gradient is a difference of equals: rounding of them, not of it.
        assert_close("1 + x", 1 + dx, 1 + torch_dx)


def check_cross_entropy(layers, n_batch, n_classes, soft):
    rng = np.random.default_rng(4)
    layer = layers.CrossEntropyModule()
    for n in (n_batch, n_batch + 1):
        x = rng.uniform(0.1, 1, size=(n, n_classes))
        y = rng.dirichlet(np.ones(n_classes), n) if soft else one_hot(rng, n, n_classes)
        loss, dx = layer.forward(*read_only(x, y)), layer.backward(*read_only(x, y))
        expected, (torch_dx,) = autograd(lambda x, y=y: -(torch.tensor(y) * x.log()).sum(1).mean(), x)
        assert_close("loss", loss, expected)
        numerical = numerical_gradient(lambda x=x, y=y: layer.forward(x, y), x, 1.0)
        assert_close("x", dx, numerical, finite_differences=True)
        assert_close("x", dx, torch_dx)


def check_cross_entropy_of_zero(layers, dtype):
    tiny = np.finfo(dtype).tiny
    layer = layers.CrossEntropyModule()
    x, y = np.array([[0, 1, 0], [0.5, 0.5, 0]], dtype), np.array([[1, 0, 0], [0, 1, 0]], dtype)
    assert_close("loss", layer.forward(x, y), -(np.log(tiny) + np.log(dtype(0.5))) / 2)
    assert_close("x", layer.backward(x, y), np.array([[-1 / (2 * tiny), 0, 0], [0, -1, 0]], dtype))


def check_softmax_cross_entropy(layers, n_batch, n_classes, scale, dtype):
    """The two together give what PyTorch's `cross_entropy` gives, however large the logits."""
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
        # The floor under a probability is one under the loss.
        assert_close("loss", loss, np.minimum(losses, -np.log(np.finfo(dtype).tiny)).mean())
        assert dx.dtype == dtype
        assert_close("(1 + x)/B", (1 / n + dx).astype(dtype), (1 / n + torch_dx).astype(dtype))


def linear_layers(mlp):
    """Return those of the MLP's modules that have parameters, in order, in whichever attribute it keeps them."""
    found = {}
    for value in vars(mlp).values():
        modules = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
        found |= {id(module): module for module in modules if hasattr(module, "params")}
    return list(found.values())


def torch_mlp(mlp, x, y, neg_slope):
    """Return loss, gradient of x, and gradients of weight, bias, weight, … of the same network in PyTorch."""
    params = [p for layer in linear_layers(mlp) for p in (layer.params["weight"], layer.params["bias"])]

    def loss(x, *params):
        for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
            x = F.leaky_relu(F.linear(x, weight, bias), neg_slope)
        return F.cross_entropy(F.linear(x, *params[-2:]), torch.tensor(y))

    value, (dx, *grads) = autograd(loss, x, *params)
    return value, dx, grads


def check_mlp(layers, n_batch, n_in, n_hidden, n_classes, neg_slope):
    rng = np.random.default_rng(6)
    mlp, cross_entropy = layers.MLP(n_in, n_hidden, n_classes, neg_slope), layers.CrossEntropyModule()
    # The course's MLP returns nothing from backward; this project's can return the gradient of its input.
    returns_dx = "needs_input_grad" in inspect.signature(mlp.backward).parameters
    linears = linear_layers(mlp)
    assert len(linears) == len(n_hidden) + 1, f"found {len(linears)} modules with params, expected {len(n_hidden) + 1}"
    for layer in linears:
        for param in layer.params.values():
            param[...] = rng.normal(size=param.shape)
    for n in (n_batch, n_batch + 1):
        x, y = rng.normal(size=(n, n_in)), one_hot(rng, n, n_classes)

        def f(x=x, y=y):
            return cross_entropy.forward(mlp.forward(x), y)

        dout = cross_entropy.backward(mlp.forward(read_only(x)), y)
        dx = mlp.backward(dout, needs_input_grad=True) if returns_dx else mlp.backward(dout)
        loss, torch_dx, torch_grads = torch_mlp(mlp, x, y, neg_slope)
        grads = [("x", x, dx, torch_dx)] if returns_dx else []
        names = [(l, name) for l in range(len(linears)) for name in ("weight", "bias")]
        for (l, name), torch_grad in zip(names, torch_grads, strict=True):
            grads.append((f"linear{l + 1}.{name}", linears[l].params[name], linears[l].grads[name], torch_grad))
        assert_close("loss", f(), loss)
        for name, value, grad, torch_grad in grads:
            assert_close(name, grad, numerical_gradient(f, value, 1.0), finite_differences=True)
            # A gradient here may be a difference of equals: rounding of them, not of it.
            assert_close("1 + " + name, 1 + grad, 1 + torch_grad)


# Shapes: one column, square (which lets a forgotten transpose through), a batch of 1, one class.
CHECKS = {
    **{
        f"linear {n_batch}x{n_in}->{n_out}": partial(check_linear, n_batch=n_batch, n_in=n_in, n_out=n_out)
        for n_batch, n_in, n_out in [(5, 4, 4), (4, 4, 4), (3, 7, 2), (1, 5, 3), (6, 1, 4), (2, 3, 1)]
    },
    **{
        f"leaky relu {shape}, slope {slope}": partial(check_leaky_relu, shape=shape, neg_slope=slope)
        for shape, slope in [((4, 6), 0.02), ((1, 3), 0.5), ((5, 2), 0.0), ((3, 3), -0.5), ((3, 4), 1.5)]
    },
    **{
        f"leaky relu at 0, slope {slope}": partial(check_leaky_relu_at_zero, neg_slope=slope)
        for slope in (0.0, 0.02, 0.5)
    },
    **{
        f"softmax {n_batch}x{n_classes}, logits of {scale}": partial(
            check_softmax, n_batch=n_batch, n_classes=n_classes, scale=scale
        )
        for n_batch, n_classes, scale in [(4, 5, 1), (5, 5, 1), (1, 10, 1), (3, 1, 1), (6, 3, 1000)]
    },
    **{
        f"cross-entropy {n_batch}x{n_classes}, {'soft' if soft else 'one-hot'}": partial(
            check_cross_entropy, n_batch=n_batch, n_classes=n_classes, soft=soft
        )
        for n_batch, n_classes, soft in [(4, 5, False), (1, 10, False), (3, 1, False), (6, 3, True)]
    },
    **{
        f"cross-entropy of 0, {dtype.__name__}": partial(check_cross_entropy_of_zero, dtype=dtype)
        for dtype in (np.float32, np.float64)
    },
    **{
        f"softmax and cross-entropy {n_batch}x{n_classes}, logits of {scale}, {dtype.__name__}": partial(
            check_softmax_cross_entropy, n_batch=n_batch, n_classes=n_classes, scale=scale, dtype=dtype
        )
        for n_batch, n_classes in [(8, 10), (1, 10), (4, 1)]
        for scale in (1, 1000, 10_000)
        for dtype in (np.float32, np.float64)
    },
    **{
        f"mlp {n_batch}x{n_in}->{n_hidden}->{n_classes}, slope {slope}": partial(
            check_mlp, n_batch=n_batch, n_in=n_in, n_hidden=n_hidden, n_classes=n_classes, neg_slope=slope
        )
        for n_batch, n_in, n_hidden, n_classes, slope in [
            (5, 6, [], 4, 0.02),
            (4, 6, [5], 3, 0.02),
            (1, 4, [3], 2, 0.0),
            (3, 5, [4, 4, 4], 3, 0.5),
            (2, 4, [6, 3], 1, 0.02),
        ]
    },
}
