"""The layers' and the MLP's gradients, against central differences and against PyTorch."""

from types import SimpleNamespace

import numpy as np
import pytest
from gradcheck import assert_close, numerical_gradient
from gradient_checks import CHECKS

import mlp_numpy
import modules

LAYERS = SimpleNamespace(**{**vars(modules), **vars(mlp_numpy)})


@pytest.mark.parametrize("name", CHECKS)
def test_gradients_agree_with_finite_differences_and_autograd(name):
    CHECKS[name](LAYERS)


def test_checker_names_parameter_index_and_both_values():
    right = np.arange(6.0).reshape(2, 3)
    wrong = right.copy()
    wrong[1, 2] += 0.25
    with pytest.raises(AssertionError, match=r"linear1\.weight: got .*5\.25.* at index \(1, 2\), expected .*5\.0"):
        assert_close("linear1.weight", wrong, right)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_checker_fails_on_values_that_are_not_finite(bad):
    with pytest.raises(AssertionError, match="x: got"):
        assert_close("x", np.array([0.0, bad]), np.zeros(2))
    with pytest.raises(AssertionError, match="x: got"):
        assert_close("x", np.zeros(2), np.array([0.0, bad]))


def test_checker_fails_on_a_shape_that_would_broadcast():
    with pytest.raises(AssertionError, match=r"bias: shape \(1, 3\), expected \(3,\)"):
        assert_close("bias", np.zeros((1, 3)), np.zeros(3))


def test_checker_refuses_float32():
    with pytest.raises(TypeError, match="float64"):
        numerical_gradient(lambda: 0.0, np.zeros(2, np.float32), 1.0)


def test_numerical_gradient_of_a_cube_is_right():
    x = np.array([-2.0, 0.0, 3.0])
    assert_close("x", numerical_gradient(lambda: x**3, x, np.ones(3)), 3 * x**2, finite_differences=True)


def test_training_keeps_float32_from_pixels_to_gradients():
    mlp = mlp_numpy.MLP(6, [4], 3, 0.02, dtype=np.float32)
    p = mlp.forward(np.ones((2, 6), np.float32))
    y = np.eye(3, dtype=np.float32)[[0, 2]]
    mlp.backward(modules.CrossEntropyModule().backward(p, y))
    assert p.dtype == np.float32
    assert {g.dtype for layer in mlp.layers for g in layer.grads.values()} == {np.dtype(np.float32)}


def test_weights_start_small_and_biases_at_zero():
    layer = modules.LinearModule(300, 200, rng=np.random.default_rng(0))
    assert layer.params["weight"].shape == (200, 300)
    # 60,000 draws: their standard deviation is known to 1/sqrt(120,000), 0.3%.
    assert layer.params["weight"].std() == pytest.approx(1e-4, rel=0.02)
    assert not layer.params["bias"].any()
    assert layer.params["bias"].shape == (200,)


def test_numpy_seed_fixes_the_weights_where_no_generator_is_given():
    np.random.seed(3)  # noqa: NPY002 - what the course's own code calls
    first = modules.LinearModule(4, 3).params["weight"]
    np.random.seed(3)  # noqa: NPY002
    assert (modules.LinearModule(4, 3).params["weight"] == first).all()


def test_training_does_not_compute_the_gradient_of_the_input():
    mlp = mlp_numpy.MLP(6, [4], 3, 0.02)
    p = mlp.forward(np.ones((2, 6)))
    assert mlp.backward(np.ones_like(p)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: modules.LinearModule(3, 2).forward(np.ones((4, 5))), r"\(n_batch, 3\), got \(4, 5\)"),
        (lambda: modules.LinearModule(3, 2).forward(np.ones(3)), r"\(n_batch, 3\), got \(3,\)"),
        (lambda: modules.LinearModule(0, 2), "at least 1, got 0 -> 2"),
        (lambda: modules.CrossEntropyModule().forward(np.ones((10, 10)), np.arange(10)), r"one-hot .*\(10,\)"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_state_dict_restores_a_network_and_refuses_another():
    a, b = (mlp_numpy.MLP(6, [4], 3, 0.02, rng=np.random.default_rng(seed)) for seed in (1, 2))
    x = np.random.default_rng(3).normal(size=(2, 6))
    assert (a.forward(x) != b.forward(x)).any()
    b.load_state_dict(a.state_dict())
    assert (a.forward(x) == b.forward(x)).all()
    with pytest.raises(ValueError, match=r"linear1\.weight has shape \(4, 6\), expected \(5, 6\)"):
        mlp_numpy.MLP(6, [5], 3, 0.02).load_state_dict(a.state_dict())
    with pytest.raises(KeyError, match=r"linear3\.weight"):
        mlp_numpy.MLP(6, [4, 3], 3, 0.02).load_state_dict(a.state_dict())
