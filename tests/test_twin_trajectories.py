"""The NumPy MLP and the same MLP in PyTorch, from equal weights and on equal batches, stay together.

Measured over 200 steps: they part by 1e-15, some roundings of a number of order 1. The bound of 1e-8
leaves room for other processors' order of summation, and is far below what any mistake would give.
"""

import numpy as np
import pytest
import torch

from cifar10_utils import DataSet
from mlp_numpy import MLP
from modules import CrossEntropyModule
from synthetic_data import synthetic_images
from train_mlp_numpy import flatten, sgd_step

N_STEPS = 200


@pytest.fixture(scope="module")
def batches():
    """Inputs and one-hot targets of 200 training steps, float64, as the training script would draw them."""
    images, labels = synthetic_images(2000, seed=7)
    dataset = DataSet(images, labels, images.mean(axis=0, dtype=np.float64).astype(np.float32))
    drawn = [dataset.next_batch(100) for _ in range(N_STEPS)]
    return [(flatten(images).astype(np.float64), targets.astype(np.float64)) for images, targets in drawn]


def torch_network(mlp, neg_slope):
    """Return the network `mlp`, weights included, in PyTorch."""
    modules = []
    for layer in mlp.layers:
        weight, bias = (torch.tensor(layer.params[name]) for name in ("weight", "bias"))
        linear = torch.nn.Linear(*weight.T.shape, dtype=torch.float64)
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, torch.nn.LeakyReLU(neg_slope)]
    return torch.nn.Sequential(*modules[:-1])


# The default network; one without a hidden layer, which needs smaller steps on raw pixels; and a deep
# one, which would stand still for all 200 steps on the course's weights, so it gets He et al.'s (2015),
# the first layer's divided by the standard deviation of pixels, about 64.
@pytest.mark.parametrize(
    ("n_hidden", "learning_rate", "he_weights"),
    [pytest.param([100], 2e-3, False, marks=pytest.mark.slow), ([], 1e-6, False), ([60, 40, 20], 1e-5, True)],
)
def test_weights_and_losses_agree_over_200_steps(batches, n_hidden, learning_rate, he_weights):
    neg_slope = 0.02
    rng = np.random.default_rng(8)
    mlp, cross_entropy = MLP(3072, n_hidden, 10, neg_slope, rng=rng), CrossEntropyModule()
    for layer in mlp.layers:
        if he_weights:
            layer.params["weight"] *= np.sqrt(2 / layer.params["weight"].shape[1]) / 1e-4
    if he_weights:
        mlp.layers[0].params["weight"] /= 64
    twin = torch_network(mlp, neg_slope)
    optimizer = torch.optim.SGD(twin.parameters(), learning_rate)

    first_loss = None
    worst = 0.0
    for x, y in batches:
        p = mlp.forward(x)
        loss = cross_entropy.forward(p, y)
        mlp.backward(cross_entropy.backward(p, y))
        sgd_step(mlp, learning_rate)

        optimizer.zero_grad()
        twin_loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        twin_loss.backward()
        optimizer.step()

        first_loss = first_loss or loss
        params = [p for layer in mlp.layers for p in (layer.params["weight"], layer.params["bias"])]
        differences = [abs(loss - twin_loss.item())]
        differences += [np.abs(p - t.detach().numpy()).max() for p, t in zip(params, twin.parameters(), strict=True)]
        worst = max(worst, *differences)
    print(f"hidden {n_hidden}, loss {first_loss:.3f} to {loss:.3f}: weights and losses differ by {worst:.2g} at most")
    assert loss < 0.9 * first_loss, "a network that stands still agrees with anything"
    assert worst < 1e-8
