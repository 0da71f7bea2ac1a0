"""Wrong and unusual networks in PyTorch: each a small change of the project's own, for tests of the grader."""

import torch.nn.functional as F
from torch import nn

from convnet_pytorch import ConvNet
from mlp_pytorch import MLP


def changed(base, forward=None, build=None):
    """Return a subclass: `build(self)` changes what has been made, `forward(self, right, x)` the output."""

    class Changed(base):
        def __init__(self, *args):
            super().__init__(*args)
            self.made_with = args
            if build:
                build(self)

        def forward(self, x):
            return forward(self, super().forward, x) if forward else super().forward(x)

    return Changed


def each(net, kind, new):
    """Replace each layer of a kind in a network by `new(layer)`."""
    layers = net.layers if hasattr(net, "layers") else net.features
    for i, layer in enumerate(layers):
        if isinstance(layer, kind):
            layers[i] = new(layer)


def with_slope(slope):
    return type("MLP", (MLP,), {"__init__": lambda self, *args: MLP.__init__(self, *args[:3], slope(args[3]))})


def by_activation(activation):
    """Return an MLP with another activation, or with several layers in its place."""
    return changed(MLP, build=lambda net: each(net, nn.LeakyReLU, activation))


def plain_list(net):
    net.hidden = list(net.layers)
    del net.layers


def detached(self, right, x):
    return self.layers[-1](self.layers[:-1](x.flatten(1)).detach())


def remove_biases(net):
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            layer.bias = None


def normalise(net):
    for i, layer in enumerate(net.layers[:-1]):
        if isinstance(layer, nn.Linear):
            net.layers[i] = nn.Sequential(layer, nn.BatchNorm1d(layer.out_features))


def share(net):
    """Let all linear layers of equal sizes be one."""
    made = {}
    for i, layer in enumerate(net.layers):
        if isinstance(layer, nn.Linear):
            net.layers[i] = made.setdefault((layer.in_features, layer.out_features), layer)


MORE_MLPS = {  # which in evaluation, and before training, are the plain one
    "dropout": by_activation(lambda layer: nn.Sequential(layer, nn.Dropout(0.5))),
    "batch norm": changed(MLP, build=normalise),
}
# The check that is lost, and the network.
WRONG_MLPS = {
    "slope fixed": ("slope", with_slope(lambda a: 0.01)),
    "plain ReLUs": ("slope", with_slope(lambda a: 0.0)),
    "slope negated": ("slope", with_slope(lambda a: -a)),
    "probabilities": ("forward", changed(MLP, lambda self, right, x: right(x).softmax(dim=1))),
    "activation last": ("forward", changed(MLP, lambda self, right, x: F.leaky_relu(right(x), self.made_with[3]))),
    "deep layers skipped": (
        "depth",
        changed(MLP, lambda self, right, x: right(x) if len(self.layers) < 5 else 2 * right(x)),
    ),
    "frozen": ("parameters", changed(MLP, build=lambda net: net.layers[0].requires_grad_(False))),
    "zero weights": (
        "parameters",
        changed(MLP, build=lambda net: [nn.init.zeros_(q) for q in net.parameters()]),
    ),
    "plain list": (
        "parameters",
        changed(MLP, lambda self, right, x: nn.Sequential(*self.hidden)(x.flatten(1)), plain_list),
    ),
    "layer besides": ("parameters", changed(MLP, build=lambda net: setattr(net, "more", nn.Linear(3, 2)))),
    "layers shared": ("parameters", changed(MLP, build=share)),
    "detached": ("gradients", changed(MLP, detached)),
    "in float64": ("float32", changed(MLP, lambda self, right, x: right(x).double())),
}
# The kind that is named, and the network.
OTHER_MLPS = {
    "another activation": by_activation(lambda layer: nn.ELU()),
    "log-probabilities": changed(MLP, lambda self, right, x: right(x).log_softmax(dim=1)),
}


def rearranged(block):
    """Return a ConvNet in which `block(layers)` rearranges what is between two poolings, the latter with it."""

    def build(net):
        layers, start = [], 0
        for layer in net.features:
            layers.append(layer)
            if isinstance(layer, nn.MaxPool2d):
                layers[start:] = block(layers[start:])
                start = len(layers)
        net.features = nn.Sequential(*layers)

    return changed(ConvNet, build=build)


def last_norm_only(layers):
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    return [layer for layer in layers if layer not in norms[:-1]]


def pool_first(layers):
    *layers, norm, relu, pool = layers
    return [*layers, pool, norm, relu]


def without_relu(layers):
    *layers, _, pool = layers
    return [*layers, pool]


def always_training(self, right, x):
    is_training = self.training
    out = self.train()
    out = right(x)
    self.train(is_training)
    return out


WRONG_CONVNETS = {
    "2x2 pooling": (
        "forward", "pool of kernel 2",
        changed(ConvNet, build=lambda net: each(net, nn.MaxPool2d, lambda m: nn.MaxPool2d(2))),
    ),
    "pooling first": ("forward", "conv", rearranged(pool_first)),
    "no last ReLUs": ("forward", "After convolutions 1, 2, 4, 6: norm, pool", rearranged(without_relu)),
    "leaky ReLUs": (
        "forward", "leaky_relu", changed(ConvNet, build=lambda net: each(net, nn.ReLU, lambda m: nn.LeakyReLU(0.02)))
    ),
    "dropout": (
        "forward", "dropout", changed(ConvNet, lambda self, right, x: F.dropout(right(x), training=self.training))
    ),
    "probabilities": ("forward", "softmax", changed(ConvNet, lambda self, right, x: right(x).softmax(dim=1))),
    "five norms": ("shapes", "a batch norm after each", rearranged(last_norm_only)),
    "five norms, pooling first": (
        "shapes", "a batch norm after each", rearranged(lambda layers: pool_first(last_norm_only(layers)))
    ),
    "detached": (
        "gradients", "detach",
        changed(ConvNet, lambda self, right, x: self.classifier(self.features(x).flatten(1).detach())),
    ),
    "batch statistics": ("evaluation", "running statistics", changed(ConvNet, always_training)),
    "ten classes": (
        "sizes", "", type("ConvNet", (ConvNet,), {"__init__": lambda self, n, _: ConvNet.__init__(self, n, 10)})
    ),
}  # fmt: skip
