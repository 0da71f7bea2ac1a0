"""Wrong and unusual classes: each a small change of the project's own, with what it costs, for tests of the grader."""

import collections

import numpy as np
import torch.nn.functional as F
from torch import nn

import mlp_numpy
from convnet_pytorch import ConvNet
from custom_batchnorm import CustomBatchNormAutograd, CustomBatchNormManualFunction
from mlp_pytorch import MLP
from modules import CrossEntropyModule, LeakyReLUModule, LinearModule


def changed(base, forward=None, build=None, **methods):
    """Return a subclass: `build(self)` changes what has been made, `forward(self, right, x)` the output."""

    class Changed(base):
        def __init__(self, *args):
            super().__init__(*args)
            self.made_with = args
            if build:
                build(self)

        def forward(self, *args):
            return forward(self, super().forward, *args) if forward else super().forward(*args)

    return type(base.__name__, (Changed,), methods)


def each(kind, new):
    """Return a function that replaces each layer of a kind in a network by `new(layer)`."""

    def build(net):
        layers = net.layers if hasattr(net, "layers") else net.features
        for i, layer in enumerate(layers):
            if isinstance(layer, kind):
                layers[i] = new(layer)

    return build


def with_slope(slope):
    return type("MLP", (MLP,), {"__init__": lambda self, *args: MLP.__init__(self, *args[:3], slope(args[3]))})


# ---- In NumPy ----------------------------------------------------------------------------------

SHARED_GRADS = {}


def shared_grads(self, dout, needs_input_grad=True):
    dx = LinearModule.backward(self, dout)
    SHARED_GRADS.update(self.grads)
    self.grads = SHARED_GRADS
    return dx


class OtherKeys(LinearModule):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.params = {key[0].upper(): value for key, value in self.params.items()}

    def forward(self, x):
        self.x = x
        return x @ self.params["W"].T + self.params.get("B", 0)

    def backward(self, dout, needs_input_grad=True):
        self.grads = {"W": dout.T @ self.x, "B": dout.sum(axis=0)}
        return dout @ self.params["W"]


class NoBias(OtherKeys):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        del self.params["B"]


def threshold_at_slope(self, x):
    self.x = x
    return np.where(x > self.neg_slope, x, self.neg_slope * x)


def layers_in_deque(net):
    """Also, `params` is something else."""
    net.modules, net.layers, net.params = collections.deque(net.modules), (), {"neg_slope": net.made_with[3]}


def backward_in_deque(self, dout):
    for module in reversed(self.modules):
        dout = module.backward(dout)


def share_numpy(net):
    """Let all linear layers of equal sizes be one."""
    made = {}
    for i, module in enumerate(net.modules):
        if hasattr(module, "params"):
            net.modules[i] = made.setdefault(module.params["weight"].shape, module)
    net.layers = ()


def row_by_row(self, right, x):
    out = np.concatenate([right(row[None]) for row in x])
    self.x = x
    return out


# ---- In PyTorch --------------------------------------------------------------------------------


def plain_list(net):
    net.hidden = list(net.layers)
    del net.layers


def detached(self, right, x):
    return self.layers[-1](self.layers[:-1](x.flatten(1)).detach())


def remove_biases(net):
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            layer.bias = None


def share(net):
    """Let all linear layers of equal sizes be one."""
    made = {}
    each(nn.Linear, lambda layer: made.setdefault((layer.in_features, layer.out_features), layer))(net)


def normed(layer):
    return nn.Sequential(layer, nn.BatchNorm1d(layer.out_features))


def end_lazily(net):
    if isinstance(net, ConvNet):
        net.classifier = nn.LazyLinear(net.made_with[1])
    else:
        net.layers[-1] = nn.LazyLinear(net.made_with[2])


def all_means(self, right, x):
    """All layers are used, as numbers: nonsense with a right gradient."""
    linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
    return linears[-1].bias + sum(layer.weight.mean() * x.mean(1, keepdim=True) for layer in linears)


# ---- ConvNets ----------------------------------------------------------------------------------


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


def conv_used_twice(self, right, x):
    convolutions = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
    for layer in self.features:
        x = (convolutions[-2] if layer is convolutions[-1] else layer)(x)
    return self.classifier(x.flatten(1))


def two_linear_layers(net):
    net.classifier = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), net.classifier)


def first_of_5x5(net):
    net.features[0] = nn.Conv2d(net.made_with[0], 64, 5, padding=2)


def always_training(self, right, x):
    is_training = self.training
    out = self.train()
    out = right(x)
    self.train(is_training)
    return out


# ---- What each costs, and words of the explanation ----------------------------------------------

VARIANTS = {
    # Layers and MLPs in NumPy.
    "gradients shared between instances": (
        changed(LinearModule, backward=shared_grads), ["layers.second_batch"], "a second instance"),
    "a list as output": (
        changed(LinearModule, lambda self, right, x: right(x).tolist()), ["linear.forward"], "list or tuple"),
    "two arrays as output": (
        changed(LinearModule, lambda self, right, x: (right(x), x)), ["linear.forward"],
        "got a tuple (ndarray of shape (7, 3), ndarray of shape (7, 5)), expected an array"),
    "other keys": (OtherKeys, ["linear.forward"], "has the keys 'W', 'B', expected 'weight' and 'bias'"),
    "no biases in NumPy": (NoBias, ["linear.start", "linear.forward", "linear.bias_gradient"], "no bias"),
    "a threshold at the slope": (
        type("LeakyReLUModule", (LeakyReLUModule,), {"forward": threshold_at_slope,
             "backward": lambda self, dout: np.where(self.x > self.neg_slope, dout, self.neg_slope * dout)}),
        ["leaky_relu.forward"], "wrong in"),
    "layers in a deque": (changed(mlp_numpy.MLP, build=layers_in_deque, backward=backward_in_deque), [], ""),
    "numpy layers of equal sizes shared": (
        changed(mlp_numpy.MLP, build=share_numpy), ["mlp_numpy.forward"], "found layers"),
    "a loop over the batch": (changed(LinearModule, row_by_row), ["layers.speed"], "more lines of Python"),
    "weights of variance 0.0001": (
        changed(LinearModule, build=lambda self: np.multiply(self.params["weight"], 100, out=self.params["weight"])),
        ["linear.start"], "not the variance"),
    # MLPs in PyTorch.
    "slope negated": (with_slope(lambda a: -a), ["mlp_pytorch.slope"], "The slope is -0.25"),
    "no slope in the constructor": (
        type("MLP", (MLP,), {"__init__": lambda self, n, h, m: MLP.__init__(self, n, h, m, 0.0)}),
        ["mlp_pytorch.slope"], "The slope is 0"),
    "probabilities": (
        changed(MLP, lambda self, right, x: right(x).softmax(1)), ["mlp_pytorch.forward"], "returns probabilities"),
    "activation last": (
        changed(MLP, lambda self, right, x: F.leaky_relu(right(x), self.made_with[3])), ["mlp_pytorch.forward"],
        "after the last"),
    "ELU": (
        changed(MLP, build=each(nn.LeakyReLU, lambda m: nn.ELU())), ["mlp_pytorch.forward", "mlp_pytorch.slope"],
        "uses elu and cannot be compared with the plain one: it is decided by hand"),
    "log-probabilities": (
        changed(MLP, lambda self, right, x: right(x).log_softmax(dim=1)), ["mlp_pytorch.forward"],
        "uses log_softmax and cannot be compared with the plain one: it is decided by hand"),
    "logits in a tuple": (changed(MLP, lambda self, right, x: (right(x), x)), ["mlp_pytorch.forward"], "is a tuple"),
    "foward": (
        type("MLP", (MLP,), {"forward": nn.Module.forward, "foward": MLP.forward}), ["mlp_pytorch.forward"],
        "There is no method forward; found foward"),
    "deep layers skipped": (
        changed(MLP, lambda self, right, x: (1 + (len(self.layers) > 4)) * right(x)), ["mlp_pytorch.depth"], "2 times"),
    "frozen": (
        changed(MLP, build=lambda net: net.layers[0].requires_grad_(False)), ["mlp_pytorch.parameters"], "Frozen"),
    "zero weights": (
        changed(MLP, build=lambda net: [nn.init.zeros_(q) for q in net.parameters()]), ["mlp_pytorch.parameters"],
        "at random"),
    "plain list": (
        changed(MLP, lambda self, right, x: nn.Sequential(*self.hidden)(x.flatten(1)), plain_list),
        ["mlp_pytorch.parameters"], "nn.ModuleList"),
    "layers shared": (changed(MLP, build=share), ["mlp_pytorch.parameters"], ""),
    "no biases": (changed(MLP, build=remove_biases), ["mlp_pytorch.parameters"], ""),
    "detached": (changed(MLP, detached), ["mlp_pytorch.gradients"], "no gradient"),
    "in float64": (changed(MLP, lambda self, right, x: right(x).double()), ["mlp_pytorch.float32"], "float64"),
    "a cast to float32": (changed(MLP, lambda self, right, x: right(x.float())), [], ""),
    "a lazy layer": (changed(MLP, build=end_lazily), [], ""),
    "dropout": (changed(MLP, build=each(nn.LeakyReLU, lambda m: nn.Sequential(m, nn.Dropout(0.5)))), [], ""),
    "batch norm": (changed(MLP, build=each(nn.Linear, normed)), [], ""),
    "nonsense": (
        changed(MLP, all_means),
        [f"mlp_pytorch.{n}" for n in ("forward", "slope", "depth", "gradients", "no_hidden", "float32", "steps")],
        "same function of the input"),
    # Batch norms.
    "no gradient for eps": (
        type("F", (CustomBatchNormManualFunction,),
             {"backward": staticmethod(lambda ctx, dout: CustomBatchNormManualFunction.backward(ctx, dout)[:3])}),
        ["bn_function.needs_input_grad"], "3 values for 4 arguments"),
    "another default of eps": (
        type("A", (CustomBatchNormAutograd,),
             {"__init__": lambda self, n, eps=1e-3: CustomBatchNormAutograd.__init__(self, n, eps)}),
        ["bn_autograd.eps"], "eps=1e-05 gives"),
    # ConvNets.
    "2x2 pooling": (
        changed(ConvNet, build=each(nn.MaxPool2d, lambda m: nn.MaxPool2d(2))), ["convnet.forward"], "pool of kernel 2"),
    "no last ReLUs": (rearranged(without_relu), ["convnet.forward"], "After convolutions 1, 2, 4, 6: norm, pool"),
    "leaky ReLUs": (
        changed(ConvNet, build=each(nn.ReLU, lambda m: nn.LeakyReLU(0.02))), ["convnet.forward"], "leaky_relu"),
    "dropout in a ConvNet": (
        changed(ConvNet, lambda self, right, x: F.dropout(right(x), training=self.training)), ["convnet.forward"],
        "dropout"),
    "a convolution used twice": (changed(ConvNet, conv_used_twice), ["convnet.forward"], ""),
    "five norms, pooling first": (
        rearranged(lambda layers: pool_first(last_norm_only(layers))), ["convnet.shapes"], "There are 5 batch norms"),
    "a 5x5 convolution": (changed(ConvNet, build=first_of_5x5), ["convnet.shapes"], "(64, 3, 5, 5)"),
    "two linear layers": (changed(ConvNet, build=two_linear_layers), ["convnet.shapes"], "There are 2 linear layers"),
    "features detached": (
        changed(ConvNet, lambda self, right, x: self.classifier(self.features(x).flatten(1).detach())),
        ["convnet.gradients"], "detach"),
    "batch statistics": (changed(ConvNet, always_training), ["convnet.evaluation"], "running statistics"),
    "ten classes": (
        type("ConvNet", (ConvNet,), {"__init__": lambda self, n, _: ConvNet.__init__(self, n, 10)}),
        ["convnet.sizes"], "expected (2, 7)"),
    "a lazy layer in a ConvNet": (changed(ConvNet, build=end_lazily), [], ""),
}  # fmt: skip


# ---- Nonsense, and which checks it passes -------------------------------------------------------


class LastBias(MLP):
    EARNED = "mlp_pytorch.", "parameters"

    def forward(self, x):
        return self.layers[-1].bias.expand(len(x), -1)


class Affine(CustomBatchNormAutograd):
    EARNED = "bn_autograd.", "parameters", "wrong_shape"

    def normalize(self, input):
        return self.weight * input + self.bias


class InnerProduct(CrossEntropyModule):
    EARNED = ("cross_entropy.",)

    def forward(self, x, y):
        return (x * y).sum()

    def backward(self, x, y):
        return y


class OneLinear(ConvNet):
    EARNED = ("convnet.",)

    def __init__(self, n_channels, n_classes):
        nn.Module.__init__(self)
        self.norm, self.linear = nn.BatchNorm2d(n_channels), nn.Linear(n_channels, n_classes)

    def forward(self, x):
        return self.linear(self.norm(x).mean((2, 3)))
