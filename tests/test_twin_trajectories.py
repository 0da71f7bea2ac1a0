"""The NumPy MLP and the PyTorch MLP, from equal weights and on equal batches, agree for 200 steps.

They differ by 1e-15, the rounding errors of numbers of order 1. The bound of 1e-8 leaves room for another
order of summation on other processors, and is far below the effect of any mistake.
"""

import numpy as np
import pytest
import torch

import mlp_numpy
import mlp_pytorch
from cifar10_utils import DataSet, synthetic_images
from modules import CrossEntropyModule
from train_mlp_numpy import flatten, sgd_step


# The default network, one without a hidden layer, and a deep one. The latter would not learn in 200 steps
# from the course's weights; it starts from those of He et al. (2015), the first layer's divided by the
# standard deviation of pixels, about 64.
@pytest.mark.parametrize(
    ("n_hidden", "learning_rate", "he_weights"),
    [pytest.param([100], 2e-3, False, marks=pytest.mark.slow), ([], 1e-6, False), ([60, 40, 20], 1e-5, True)],
)
def test_weights_and_losses_agree_over_200_steps(n_hidden, learning_rate, he_weights):
    images, labels = synthetic_images(2000, seed=7)
    dataset = DataSet(images, labels, images.mean(axis=0, dtype=np.float64).astype(np.float32))
    mlp = mlp_numpy.MLP(3072, n_hidden, 10, 0.02, rng=np.random.default_rng(8))
    if he_weights:
        for layer in mlp.layers:
            layer.params["weight"] *= np.sqrt(2 / layer.params["weight"].shape[1]) / 1e-4
        mlp.layers[0].params["weight"] /= 64
    twin = mlp_pytorch.MLP(3072, n_hidden, 10, 0.02).double()
    for parameter, value in zip(twin.parameters(), mlp.state_dict().values(), strict=True):
        parameter.data.copy_(torch.from_numpy(value))
    cross_entropy, optimizer = CrossEntropyModule(), torch.optim.SGD(twin.parameters(), learning_rate)

    losses = []
    for _ in range(200):
        x, y = (array.astype(np.float64) for array in dataset.next_batch(100))
        p = mlp.forward(flatten(x))
        loss = cross_entropy.forward(p, y)
        mlp.backward(cross_entropy.backward(p, y))
        sgd_step(mlp, learning_rate)

        optimizer.zero_grad()
        twin_loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
        twin_loss.backward()
        optimizer.step()
        losses.append((loss, twin_loss.item()))

    ours, theirs = np.transpose(losses)
    assert ours[-1] < 0.9 * ours[0], "a network that does not learn agrees with anything"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
    for parameter, value in zip(twin.parameters(), mlp.state_dict().values(), strict=True):
        np.testing.assert_allclose(value, parameter.detach(), rtol=0, atol=1e-8)
