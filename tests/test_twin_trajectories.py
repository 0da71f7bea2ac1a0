"""The NumPy MLP and the same MLP in PyTorch, from equal weights and on equal batches, agree for 200 steps.

They differ by 1e-15, the rounding errors of numbers of order 1. The bound of 1e-8 leaves room for another
order of summation on other processors, and is far below the effect of any mistake.
"""

import numpy as np
import pytest
import torch

from cifar10_utils import DataSet, synthetic_images
from mlp_numpy import MLP
from modules import CrossEntropyModule
from train_mlp_numpy import flatten, sgd_step

N_STEPS = 200


@pytest.fixture(scope="module")
def batches():
    """Inputs and one-hot targets of 200 training steps in float64."""
    images, labels = synthetic_images(2000, seed=7)
    dataset = DataSet(images, labels, images.mean(axis=0, dtype=np.float64).astype(np.float32))
    drawn = [dataset.next_batch(100) for _ in range(N_STEPS)]
    return [(flatten(images).astype(np.float64), targets.astype(np.float64)) for images, targets in drawn]


def torch_network(mlp, neg_slope):
    """Return `mlp` in PyTorch, with the same weights."""
    modules = []
    for layer in mlp.layers:
        weight, bias = (torch.tensor(layer.params[name]) for name in ("weight", "bias"))
        linear = torch.nn.Linear(*weight.T.shape, dtype=torch.float64)
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, torch.nn.LeakyReLU(neg_slope)]
    return torch.nn.Sequential(*modules[:-1])


# The default network, one without a hidden layer, and a deep one. The latter would not learn in 200 steps
# from the course's weights; it starts from those of He et al. (2015), the first layer's divided by the
# standard deviation of pixels, about 64.
@pytest.mark.parametrize(
    ("n_hidden", "learning_rate", "he_weights"),
    [pytest.param([100], 2e-3, False, marks=pytest.mark.slow), ([], 1e-6, False), ([60, 40, 20], 1e-5, True)],
)
def test_weights_and_losses_agree_over_200_steps(batches, n_hidden, learning_rate, he_weights):
    neg_slope = 0.02
    rng = np.random.default_rng(8)
    mlp, cross_entropy = MLP(3072, n_hidden, 10, neg_slope, rng=rng), CrossEntropyModule()
    if he_weights:
        for layer in mlp.layers:
            layer.params["weight"] *= np.sqrt(2 / layer.params["weight"].shape[1]) / 1e-4
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
    assert loss < 0.9 * first_loss, "a network that does not learn agrees with anything"
    assert worst < 1e-8
