"""Known mistakes of the ConvNet."""

# ruff: noqa: E501, a row of a table stays on its line

import torch.nn.functional as F
from torch import nn

from grading.mistakes import built, changed, make

CONVNET = "convnet_pytorch.ConvNet"


def _replaced(kind, new, only=None):
    """Return a change of the ConvNet: `new(layer)` in place of each feature layer of that kind, or the `only`-th."""

    def change(net):
        places = [i for i, layer in enumerate(net.features) if isinstance(layer, kind)]
        for i in places if only is None else [places[only]]:
            net.features[i] = new(net.features[i])

    return built(change)


def _always_batch(right, self, x):
    training = self.training
    self.train()
    out = right(x)
    self.train(training)
    return out


def _detached_features(right, self, x):
    return self.classifier(self.features(x).flatten(1).detach())


def _relu_first(net):
    for i in [i for i, layer in enumerate(net.features) if isinstance(layer, nn.BatchNorm2d)]:
        net.features[i], net.features[i + 1] = net.features[i + 1], net.features[i]


def _arranged(block):
    """Return a change of the ConvNet: `block(layers)` rearranges what stands between two poolings, the latter with it."""

    def change(net):
        layers, start = [], 0
        for layer in net.features:
            layers.append(layer)
            if isinstance(layer, nn.MaxPool2d):
                layers[start:] = block(layers[start:])
                start = len(layers)
        net.features = nn.Sequential(*layers)

    return built(change)


def _only_norm(which):
    """Return a block's layers with one batch norm: behind its 'first' or 'last' convolution, or behind its 'pool'."""

    def block(layers):
        *layers, pool = layers
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
        kept = norms[0] if which == "first" else norms[-1]
        rest = [layer for layer in layers if layer not in norms or (layer is kept and which != "pool")]
        return [*rest, pool, *([kept] * (which == "pool"))]

    return block


def _only_norm_and_relu(layers):
    *layers, norm, relu, pool = layers
    return [*(layer for layer in layers if isinstance(layer, nn.Conv2d)), norm, relu, pool]


def _pool_first(layers):
    *layers, norm, relu, pool = layers
    return [*layers, pool, norm, relu]


def _norm_last(layers):
    *layers, norm, relu, pool = layers
    return [*layers, relu, pool, norm]


def _without_norms(right, self, x):
    for layer in self.features:
        x = x if isinstance(layer, nn.BatchNorm2d) else layer(x)
    return self.classifier(x.flatten(1))


def _dropping(is_on):
    return changed(lambda right, self, x: F.dropout(right(x), training=is_on(self)))


def _ten_classes(base):
    return type(base.__name__, (base,), {"__init__": lambda self, n_channels, _: base.__init__(self, n_channels, 10)})


FIVE_NORMS = make("convnet.shapes", CONVNET,
    *((f"there are five batch norms, one {where}; Table 1 has one behind each of the eight convolutions", _arranged(block))
      for where, block in (
          ("behind the last convolution of each block", _only_norm("last")),
          ("behind the first convolution of each block", _only_norm("first")),
          ("and one ReLU behind the convolutions of each block", _only_norm_and_relu),
          ("behind each pooling", _only_norm("pool")),
      )),
)  # fmt: skip

MISTAKES = [
    *FIVE_NORMS,
    *make("convnet.forward", CONVNET,
        ("pooling is 2x2 without padding; Table 1 says 3x3, stride 2, padding 1",
         _replaced(nn.MaxPool2d, lambda m: nn.MaxPool2d(2, 2))),
        ("pooling takes means; Table 1 says the largest",
         _replaced(nn.MaxPool2d, lambda m: nn.AvgPool2d(3, 2, 1))),
        ("there are no ReLUs behind the batch norms", _replaced(nn.ReLU, lambda m: nn.Identity())),
        ("ReLU stands before batch norm; Table 1 has it behind", built(_relu_first)),
        ("the batch norms are made but not used", changed(_without_norms)),
        ("pooling stands before batch norm; Table 1 has it behind batch norm and ReLU", _arranged(_pool_first)),
        ("batch norm stands behind pooling; Table 1 has it behind the convolution", _arranged(_norm_last)),
        *((f"the {n} convolution has no ReLU", _replaced(nn.ReLU, lambda m: nn.Identity(), only=i))
          for i, n in enumerate(("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "last"))),
        *((f"the activations are leaky ReLUs of slope {a}; Table 1 has ReLUs", _replaced(nn.ReLU, lambda m, a=a: nn.LeakyReLU(a)))
          for a in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3)),
        ("there is dropout; Table 1 has none", _dropping(lambda self: self.training)),
        ("a ReLU follows the linear layer", changed(lambda right, self, x: right(x).relu())),
        ("the ConvNet returns probabilities, not logits", changed(lambda right, self, x: right(x).softmax(dim=1))),
    ),
    *make("convnet.evaluation", CONVNET,
        ("batch norm takes the batch's statistics in evaluation, too", changed(_always_batch)),
        ("dropout acts in evaluation, too: nn.Dropout does not, nor F.dropout with training=self.training", _dropping(lambda self: True)),
    ),
    *make("convnet.sizes", CONVNET, ("n_classes is not handed on: there are always 10", _ten_classes)),
    *make("convnet.gradients", CONVNET,
        ("a detach (or .data, or no_grad) keeps the gradient from the convolutions", changed(_detached_features)),
    ),
]  # fmt: skip
