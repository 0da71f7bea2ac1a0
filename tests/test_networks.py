"""The PyTorch networks: layers, sizes, initial weights, arguments."""

import pytest
import torch
from torch import nn

from convnet_pytorch import ConvNet
from mlp_pytorch import BATCH_NORMS, MLP


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_mlp_layers_are_linear_norm_activation_dropout(batch_norm, dropout):
    network = MLP(6, [5, 4], 3, 0.1, batch_norm=batch_norm, dropout=dropout)
    hidden = [nn.Linear, BATCH_NORMS[batch_norm], nn.LeakyReLU, nn.Dropout if dropout else None]
    expected = [kind for kind in [*hidden, *hidden, nn.Linear] if kind is not None]
    assert [type(layer) for layer in network.layers] == expected
    assert {layer.negative_slope for layer in network.layers if isinstance(layer, nn.LeakyReLU)} == {0.1}
    weights = [layer.weight.shape for layer in network.layers if isinstance(layer, nn.Linear)]
    assert weights == [(5, 6), (4, 5), (3, 4)]


@pytest.mark.parametrize(("init", "std"), [("normal", 1e-4), ("kaiming", (2 / 1.04 / 300) ** 0.5)])
def test_mlp_initial_weights_have_standard_deviation(init, std):
    torch.manual_seed(0)
    network = MLP(300, [200], 10, 0.2, init=init)
    # The standard deviation of 60,000 samples has a standard error of 0.3%.
    assert network.layers[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert all((m.bias == 0).all() for m in network.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize(
    "make", [lambda: MLP(30, [40], 10, 0.02, init="pytorch").layers, lambda: ConvNet(3, 10).features]
)
def test_network_has_pytorchs_default_initialisation(make):
    torch.manual_seed(0)
    first = make()[0]
    torch.manual_seed(0)
    expected = nn.Linear(30, 40) if isinstance(first, nn.Linear) else nn.Conv2d(3, 64, 3)
    assert torch.equal(first.weight, expected.weight)
    assert torch.equal(first.bias, expected.bias)


@pytest.mark.parametrize("option", [{"init": "xavier"}, {"batch_norm": "layer"}], ids=str)
def test_mlp_raises_for_unknown_option(option):
    (value,) = option.values()
    with pytest.raises(ValueError, match=f"'{value}', expected one of"):
        MLP(6, [5], 3, 0.1, **option)
