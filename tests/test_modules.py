"""The NumPy layers and MLP: extreme values, dtypes, initial parameters, errors, state dict."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from wrong_layers import HARMLESS, WRONG_LAYERS, layers_with

import modules
from mlp_numpy import MLP
from modules import CrossEntropyModule, LinearModule, SoftMaxModule

LOGITS = np.array([[200, 3, 0], [1, 0, 255]])


def check_extremes(layers):
    """Check more than the course asks for: the slope at 0, finite losses for any logits, unchanged inputs."""
    x = np.array([[0.0, -0.0, 2.0, -2.0]])
    for slope in (0.5, -0.5):
        leaky_relu = layers.LeakyReLUModule(slope)
        leaky_relu.forward(x)
        assert leaky_relu.backward(np.ones_like(x)).tolist() == [[slope, slope, 1, slope]]
    linear = layers.LinearModule(4, 2)
    linear.forward(x)
    linear.backward(np.ones((1, 2)))
    assert linear.grads["bias"].shape == (2,)
    logits = np.array([[0.0, 1e4, -1e4], [3.0, 1.0, 2.0]])
    for dtype in (np.float32, np.float64):
        softmax, cross_entropy = layers.SoftMaxModule(), layers.CrossEntropyModule()
        x, y = logits.astype(dtype), np.eye(3, dtype=dtype)[[2, 0]]
        p = softmax.forward(x)
        dout = cross_entropy.backward(p, y)
        dout.flags.writeable = False
        tensor = torch.tensor(x, requires_grad=True)
        F.cross_entropy(tensor, torch.tensor(y)).backward()
        assert np.allclose(softmax.backward(dout), tensor.grad.numpy(), atol=1e-6)
        assert np.isfinite(cross_entropy.forward(p, y))
        zero = np.array([[0, 1]], dtype)
        assert np.isfinite(cross_entropy.forward(zero, zero[:, ::-1]))
        assert np.isfinite(cross_entropy.backward(zero, zero[:, ::-1])).all()


def test_layers_at_extreme_values():
    check_extremes(modules)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", HARMLESS)
def test_check_extremes_finds_wrong_layers(name):
    with pytest.raises((AssertionError, ValueError)):
        check_extremes(layers_with(WRONG_LAYERS[name]))


def test_float32_mlp_has_float32_outputs_and_gradients():
    mlp, cross_entropy = MLP(6, [4], 3, np.float64(0.02), dtype=np.float32), CrossEntropyModule()
    y = np.eye(3, dtype=np.float32)[[0, 2]]
    p = mlp.forward(np.ones((2, 6), np.float32))
    mlp.backward(cross_entropy.backward(p, y))
    results = [p, cross_entropy.forward(p, y), *(g for layer in mlp.layers for g in layer.grads.values())]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize("x_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("y_dtype", [bool, np.uint8, np.int64])
def test_cross_entropy_accepts_integer_targets(x_dtype, y_dtype):
    x, y = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], x_dtype), np.eye(3, dtype=x_dtype)[[0, 2]]
    layer = CrossEntropyModule()
    for method in (layer.forward, layer.backward):
        result = method(x, y.astype(y_dtype))
        assert result.dtype == x_dtype
        assert np.array_equal(result, method(x, y))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64])
def test_softmax_accepts_integer_logits(dtype):
    x = LOGITS.astype(dtype)
    assert np.array_equal(SoftMaxModule().forward(x), SoftMaxModule().forward(x.astype(np.float64)))


def test_linear_without_generator_uses_numpy_seed():
    weights = []
    for _ in range(2):
        np.random.seed(3)  # noqa: NPY002 - as the course's code does
        weights.append(LinearModule(4, 3).params["weight"])
    assert np.array_equal(*weights)


def test_backward_can_omit_input_gradient():
    mlp, layer = MLP(6, [4], 3, 0.02), LinearModule(3, 2)
    assert mlp.backward(np.ones_like(mlp.forward(np.ones((2, 6))))) is None
    layer.forward(np.ones((4, 3)))
    assert layer.backward(np.ones((4, 2)), needs_input_grad=False) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearModule(3, 2).forward(np.ones((4, 5))), r"\(n_batch, 3\), got \(4, 5\)"),
        (lambda: LinearModule(3, 2).forward(np.ones(3)), r"\(n_batch, 3\), got \(3,\)"),
        (lambda: LinearModule(0, 2), "at least 1, got 0 -> 2"),
        (lambda: CrossEntropyModule().forward(np.ones((10, 10)), np.arange(10)), r"\(10, 10\), got \(10,\)"),
    ],
)
def test_wrong_shape_raises_with_both_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_load_state_dict_raises_for_another_mlp():
    a = MLP(6, [4], 3, 0.02)
    with pytest.raises(ValueError, match=r"linear1\.weight has shape \(4, 6\), expected \(5, 6\)"):
        MLP(6, [5], 3, 0.02).load_state_dict(a.state_dict())
    with pytest.raises(KeyError, match=r"linear3\.weight"):
        MLP(6, [4, 3], 3, 0.02).load_state_dict(a.state_dict())
