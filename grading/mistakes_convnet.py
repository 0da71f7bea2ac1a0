"""Known mistakes of the ConvNet."""

from torch import nn

from grading.mistakes import make, with_forward

CONVNET = "convnet_pytorch.ConvNet"


def _replaced(kind, new, only=None):
    """Return a change of the ConvNet: `new(layer)` in place of each feature layer of that kind, or the `only`-th."""

    def put_into(base):
        class Wrong(base):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                places = [i for i, layer in enumerate(self.features) if isinstance(layer, kind)]
                for i in places if only is None else [places[only]]:
                    self.features[i] = new(self.features[i])

        return Wrong

    return put_into


def _always_batch(right, self, x):
    training = self.training
    self.train()
    out = right(x)
    self.train(training)
    return out


def _detached_features(right, self, x):
    return self.classifier(self.features(x).flatten(1).detach())


def _relu_first(base):
    class Wrong(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for i in [i for i, layer in enumerate(self.features) if isinstance(layer, nn.BatchNorm2d)]:
                self.features[i], self.features[i + 1] = self.features[i + 1], self.features[i]

    return Wrong


def _without_norms(right, self, x):
    for layer in self.features:
        x = x if isinstance(layer, nn.BatchNorm2d) else layer(x)
    return self.classifier(x.flatten(1))


def _ten_classes(base):
    return type(base.__name__, (base,), {"__init__": lambda self, n_channels, _: base.__init__(self, n_channels, 10)})


MISTAKES = [
    *make("convnet.forward", CONVNET,
        ("pooling is 2x2 without padding; Table 1 says 3x3, stride 2, padding 1",
         _replaced(nn.MaxPool2d, lambda m: nn.MaxPool2d(2, 2))),
        ("pooling takes means; Table 1 says the largest",
         _replaced(nn.MaxPool2d, lambda m: nn.AvgPool2d(3, 2, 1))),
        ("there are no ReLUs behind the batch norms", _replaced(nn.ReLU, lambda m: nn.Identity())),
        ("ReLU stands before batch norm; Table 1 has it behind", _relu_first),
        ("the batch norms are made but not used", with_forward(_without_norms)),
        ("the last convolution has no ReLU", _replaced(nn.ReLU, lambda m: nn.Identity(), only=-1)),
        ("the activations are leaky ReLUs, not ReLUs", _replaced(nn.ReLU, lambda m: nn.LeakyReLU(0.01))),
        ("a ReLU follows the linear layer", with_forward(lambda right, self, x: right(x).relu())),
        ("the ConvNet returns probabilities, not logits", with_forward(lambda right, self, x: right(x).softmax(dim=1))),
    ),
    *make("convnet.evaluation", CONVNET,
        ("batch norm takes the batch's statistics in evaluation, too", with_forward(_always_batch)),
    ),
    *make("convnet.sizes", CONVNET, ("n_classes is not handed on: there are always 10", _ten_classes)),
    *make("convnet.gradients", CONVNET,
        ("a detach (or .data, or no_grad) keeps the gradient from the convolutions", with_forward(_detached_features)),
    ),
]  # fmt: skip
