"""Known mistakes of the MLP in PyTorch."""

# ruff: noqa: E501, a row of a table stays on its line

import torch.nn.functional as F
from torch import nn

from grading.mistakes import WRITTEN_SLOPES, built, changed, make, with_slope


def _activation_last(base):
    class Wrong(base):
        def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
            super().__init__(n_inputs, n_hidden, n_classes, neg_slope)
            self.neg_slope = neg_slope

        def forward(self, x):
            return F.leaky_relu(super().forward(x), self.neg_slope)

    return Wrong


def _detached(right, self, x):
    return self.layers[-1](self.layers[:-1](x.flatten(1)).detach())


def _first_activation_only(right, self, x):
    first = next((layer for layer in self.layers if isinstance(layer, nn.LeakyReLU)), None)
    for layer in self.layers:
        if layer is first or not isinstance(layer, nn.LeakyReLU):
            x = layer(x)
    return x


def _activated(kind):
    def change(mlp):
        for i, layer in enumerate(list(mlp.layers)):
            if isinstance(layer, nn.LeakyReLU):
                mlp.layers[i] = kind()

    return built(change)


def _without_biases(mlp):
    for layer in mlp.layers:
        if isinstance(layer, nn.Linear):
            layer.bias = None


def _freezing(which):
    def change(mlp):
        for q in which(mlp.layers):
            q.requires_grad_(False)

    return built(change)


def _registering(which):
    return lambda base: type(base.__name__, (base,), {"parameters": lambda self, recurse=True: which(self.layers)})


MLP = "mlp_pytorch.MLP"
PLAIN_LIST = "are in a plain list, which PyTorch does not know, and are never trained: nn.ModuleList, or nn.Sequential"
MISTAKES = [
    *make("mlp_pytorch.parameters", MLP,
        ("the linear layers have no biases", built(_without_biases)),
        ("the hidden layers are frozen: their parameters want no gradient", _freezing(lambda layers: layers[:-1].parameters())),
        ("the first layer is frozen: its parameters want no gradient", _freezing(lambda layers: layers[0].parameters())),
        ("the biases are frozen: they want no gradient", _freezing(lambda layers: [m.bias for m in layers if isinstance(m, nn.Linear)])),
        ("all layers are frozen: no parameter wants a gradient", _freezing(lambda layers: layers.parameters())),
    ),
    *make("mlp_pytorch.parameters", MLP,
        (f"all layers {PLAIN_LIST}", _registering(lambda layers: iter(()))),
        (f"the hidden layers {PLAIN_LIST}", _registering(lambda layers: layers[-1].parameters())),
        carried=False),
    *make("mlp_pytorch.forward", MLP,
        ("the MLP returns probabilities, not logits: cross-entropy takes the softmax itself",
         changed(lambda right, self, x: right(x).softmax(dim=1))),
        ("the MLP returns log-probabilities, not logits", changed(lambda right, self, x: right(x).log_softmax(dim=1))),
        ("an activation follows the last layer", _activation_last),
        ("there are no activations between the linear layers", with_slope(lambda a: 1.0)),
        ("the activations are tanh, not leaky ReLUs", _activated(nn.Tanh)),
        ("the activations are sigmoids, not leaky ReLUs", _activated(nn.Sigmoid)),
    ),
    *make("mlp_pytorch.depth", MLP, ("only the first hidden layer has an activation", changed(_first_activation_only))),
    *make("mlp_pytorch.slope", MLP,
        ("the MLP does not hand neg_slope on to its activations (0.01, PyTorch's own, acts)", with_slope(lambda a: 0.01)),
        *WRITTEN_SLOPES,
        ("the MLP does not hand neg_slope on to its activations: they are plain ReLUs", with_slope(lambda a: 0.0)),
        ("the MLP hands neg_slope on with the wrong sign", with_slope(lambda a: -a)),
    ),
    *make("mlp_pytorch.gradients", MLP,
        ("a detach (or .data, or no_grad) keeps the gradient from the layers before the last", changed(_detached)),
    ),
]  # fmt: skip
