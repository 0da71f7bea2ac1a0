"""What the layers and the MLP promise besides right gradients."""

import numpy as np
import pytest

import mlp_numpy
import modules


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
    layer = modules.LinearModule(3, 2)
    layer.forward(np.ones((4, 3)))
    assert layer.backward(np.ones((4, 2)), needs_input_grad=False) is None


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
