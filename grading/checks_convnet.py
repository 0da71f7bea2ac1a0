"""Question 4: the ConvNet, all but its training."""

# ruff: noqa: E501, a row of a table stays on its line

import numpy as np

from grading.check import Check, Outcome
from grading.inputs import convnet_input
from grading.mistakes_convnet import FIVE_NORMS
from grading.reference import difference

# ReLU's and pooling's choices fall the same way in float32; sums over 4,608 products do not: some 1e-5 of the
# largest, and a gradient goes through nine of them. Mistakes change these numbers by a tenth and more.
CONVNET_ALLOWANCE = 2e-3
TABLE_1 = [(64, 3), (128, 64), (256, 128), (256, 256), (512, 256), (512, 512), (512, 512), (512, 512)]
N_PARAMETERS, N_CONV_BIASES = 9_231_114, 2752
IMAGES, OTHER_IMAGES = convnet_input(8, 3, 10, 70), convnet_input(4, 1, 7, 71)
NO_ARRAYS = {}  # the same for all that ask, so that the question is put once


def _shapes(g):
    return g.ask("convnet_shapes", {"n_channels": 3, "n_classes": 10}, NO_ARRAYS)


def _convnet_shapes(g):
    answer = _shapes(g)
    expected = {
        "convolutions": np.array([(n, m, 3, 3) for n, m in TABLE_1], float),
        "norms": np.array([n for n, _ in TABLE_1], float),
        "linear": np.array([(10, 512)], float),
    }
    called = "ConvNet(3, 10), its convolutions, batch norms and linear layers"
    found = difference(answer.arrays, expected, ["convolutions", "norms", "linear"])
    if found:
        outcome = g.failure(called, answer, found)
        table_1 = "Table 1 has eight 3×3 convolutions, a batch norm behind each, and one linear layer"
        outcome.hint = outcome.hint or table_1
        for mistake in FIVE_NORMS:  # which of them, its numbers of channels do not tell: its logits do
            if _convnet(["out"], carried=(mistake,))(g).passed:
                g.carry(mistake)
                outcome.hint, outcome.mistake = mistake.sentence, mistake
                break
        return outcome
    count, biases = float(answer.arrays["count"]), float(answer.arrays["conv_biases"])
    wanted = N_PARAMETERS if biases else N_PARAMETERS - N_CONV_BIASES
    if count != wanted:
        hint = "there are parameters besides Table 1's"
        return Outcome(False, called, f"{count:,.0f} parameters", f"{wanted:,}", hint)
    return Outcome(True)


def _convnet(keys, arrays=IMAGES, sizes=(3, 10), training=True, backward=False, carried=None):
    def run(g):
        shapes = _shapes(g)
        has_biases = float(np.sum(shapes.arrays.get("conv_biases", 1))) > 0
        params = {"n_channels": sizes[0], "n_classes": sizes[1], "seed": 7, "conv_bias": has_biases}
        params |= {"training": training, "backward": backward}
        right = g.reference("convnet", params, arrays)
        # Gradients of different lengths stand beside one another, so each is allowed a part of the largest.
        allowance = {key: CONVNET_ALLOWANCE * float(abs(right[key]).max()) for key in keys}
        mode = "training" if training else "evaluation"
        called = f"ConvNet{sizes} with given weights in {mode}, images {arrays['x'].shape}{', backward(dout)' if backward else ''}"
        return g.compare(called, "convnet", params, arrays, keys, allowance, carried)

    return run


def _convnet_forward(g):
    outcome = _convnet(["out"])(g)
    return _convnet(["out", "dropout"])(g) if outcome.passed else outcome


def _convnet_sizes(g):
    outcome = _convnet(["out"], OTHER_IMAGES, (1, 7))(g)
    if not outcome.passed and not outcome.hint and "convnet.forward" not in g.failed:
        first = g.ask("convnet_shapes", {"n_channels": 1, "n_classes": 7}, NO_ARRAYS).arrays.get("convolutions")
        outcome.hint = "a ConvNet(1, 7) takes images of 1 channel and gives 7 logits: both numbers have to be handed on"
        if first is not None and len(first) and first[0][1] == 3:
            outcome.hint = (
                "n_channels is not handed on: the first convolution takes 3 channels, not images of 1 channel"
            )
    return outcome


def _check(name, points, title, run):
    return Check(name, "4", points, title, ("convnet_pytorch.py",), run)


CHECKS = [
    _check("convnet.shapes", 2, "Table 1's layers, 9,231,114 parameters", _convnet_shapes),
    _check("convnet.forward", 2, "logits in training, with given weights", _convnet_forward),
    _check("convnet.gradients", 1, "gradients of input and parameters",
       _convnet(["dx", "dconv", "dnorm", "dlinear"], backward=True)),
    _check("convnet.float32", 0.25, "float32, as in training", _convnet(["is_float32", "out"], backward=True)),
    _check("convnet.evaluation", 0.75, "running statistics in evaluation, no dropout", _convnet(["out", "dropout"], training=False)),
    _check("convnet.sizes", 1, "n_channels and n_classes are handed on", _convnet_sizes),
]  # fmt: skip
