"""Question 4: the ConvNet, all but its training."""

import functools
import re
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F

from grading.checks.case import CONSTANT
from grading.checks.check import PASSED, Check, Result, difference, failure, is_close, is_varied, sentence
from grading.checks.inputs import images
from grading.worker.operations_torch import drawn

CONVNET = "convnet_pytorch.ConvNet"
# Sums over 4,608 products differ by some 1e-5 of the largest in float32, and an image goes through nine of them.
# Mistakes change these numbers by a tenth and more.
TOLERANCE = 2e-3
CHANNELS = [(64, 3), (128, 64), (256, 128), (256, 256), (512, 256), (512, 512), (512, 512), (512, 512)]
N_PARAMETERS = 9_228_362  # without biases of convolutions, which the batch norms subtract
UNIT = ("conv", "norm", "relu")
TABLE_1 = (*UNIT, "pool", *UNIT, "pool", *2 * UNIT, "pool", *2 * UNIT, "pool", *2 * UNIT, "pool", "linear")
IMAGES, OTHER_IMAGES = images(4, 3, 70), images(2, 1, 71)
# Functions of PyTorch as Table 1 calls them; those that only change a shape are left out.
KINDS = {
    "conv": r"conv2d#\d+\[\(1,1\),\((\d),\1\).*", "norm": r"batch_norm#\d+", "relu": r"relu",
    "linear": r"(linear|addmm)(#\d+)?", "pool": r"max_pool2d(_with_indices)?\[(3|\(3,3\)),(2|\(2,2\)),(1|\(1,1\)).*",
}  # fmt: skip
SHAPES_ONLY = (
    r"flatten|view|reshape|squeeze|unsqueeze|contiguous|size|dim|__get.*|shape|unflatten|clone|detach|to|float"
)


def ask(grading, op="convnet", arrays=IMAGES, sizes=(3, 10), **more):
    return grading.ask(op, CONVNET, {"args": list(sizes)} | more, arrays)


def shapes(grading):
    return grading.ask("convnet_shapes", CONVNET, {"args": [3, 10]})


def calls(answer):
    """Return the calls by which the logits came, as Table 1 names them or else as PyTorch does; and their numbers."""
    found = []
    for call in answer.text("calls").split():
        name, place = re.split(r"[#\[]", call)[0], re.search(r"#(\d+)", call)
        kind = next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, call)), None)
        if not re.fullmatch(SHAPES_ONLY, name):
            size = re.findall(r"\d+", call.partition("[")[2].replace("(2,2)", "2").replace("(3,3)", "3"))
            if name == "max_pool2d" and len(size) > 2:
                name = f"pool of kernel {size[0]}, stride {size[1]} and padding {size[2]}"
            found.append((kind or name, int(place[1]) if place else 0))
    return found


@torch.no_grad()
def compose(layers, convolutions, linear):
    """Return logits in training of `[(kind, number)]`, with the weights that the submission is given.

    Args:
        convolutions: the shapes of their weights.
        linear: likewise, of the linear layers.
    """
    x = torch.tensor(IMAGES["x"])
    for kind, i in layers:
        if kind == "conv":
            shape = tuple(int(n) for n in convolutions[i])
            bound = (6 / np.prod(shape[1:])) ** 0.5
            x = F.conv2d(x, drawn("conv", i, -bound, bound, shape), padding=shape[2] // 2)
        elif kind == "norm":
            n = (x.shape[1],)
            weight, bias = drawn("weight", i, 0.5, 1.5, n), drawn("bias", i, -0.3, 0.3, n)
            x = F.batch_norm(x, None, None, weight, bias, training=True)
        elif kind == "pool":
            x = F.max_pool2d(x, 3, 2, 1)
        elif kind == "relu":
            x = F.relu(x)
        else:
            shape = tuple(int(n) for n in linear[i])
            bound = (6 / shape[1]) ** 0.5
            weight, bias = drawn("linear", i, -bound, bound, shape), drawn("linear_bias", i, -0.2, 0.2, shape[:1])
            x = F.linear(x.flatten(1), weight, bias)
    return x.numpy().astype(np.float64)


@functools.cache
def reference():
    """Return the logits of Table 1."""
    layers = [(kind, TABLE_1[:i].count(kind)) for i, kind in enumerate(TABLE_1)]
    return compose(layers, [(n, m, 3, 3) for n, m in CHANNELS], [(10, 512)])


def in_words(kinds):
    """Return where calls differ from Table 1, as sentences; an empty text if they do not."""
    parts = [_parts(kinds), _parts(TABLE_1)]
    if len(parts[0]) != len(parts[1]):
        return f"There are {len(parts[0]) - 1} convolutions; Table 1 has 8"
    wrong = {}
    for i, (got, expected) in enumerate(zip(*parts, strict=True)):
        if got != expected:
            right = ", ".join(expected)
            if any(kind.startswith("pool of") for kind in got):
                right = right.replace("pool", "pool of kernel 3, stride 2 and padding 1")
            text = f"{', '.join(got) or 'nothing'}; Table 1 has {right}"
            wrong.setdefault(text, []).append(str(i))
    texts = {f"After convolution{'s' * (len(n) > 1)} {', '.join(n)}: {text}" for text, n in wrong.items()}
    return ". ".join(sorted(texts)).replace("After convolution 0", "Before the first convolution")


def _parts(kinds):
    """Return the kinds that follow the images, and each convolution."""
    parts = [[]]
    for kind in kinds:
        parts.append([]) if kind.startswith("conv") else parts[-1].append(kind)  # of another size, too
    return parts


def _in_words(shapes):
    return ", ".join(map(str, shapes.elements())) or "none"


def _shapes(grading):
    answer, called = shapes(grading), "ConvNet(3, 10)"
    if answer.error:
        return failure(answer, called)
    expected = {
        "convolutions": [(n, m, 3, 3) for n, m in CHANNELS],
        "norms": [n for n, _ in CHANNELS],
        "linear": [(10, 512)],
    }
    for name, right in expected.items():  # in whichever order they are registered
        got = Counter(tuple(map(int, np.atleast_1d(shape))) for shape in answer.arrays[name])
        right = Counter(tuple(np.atleast_1d(shape).tolist()) for shape in right)
        if got != right:
            layers = {"norms": "batch norms", "linear": "linear layers"}.get(name, name)
            more, missing = _in_words(got - right), _in_words(right - got)
            problem = f"There are {sum(got.values())} {layers}. Not in Table 1: {more}. Missing: {missing}."
            kinds = [kind for kind, _ in calls(ask(grading))]
            note = "Table 1 has eight 3×3 convolutions, a batch norm after each, and one linear layer"
            return Result("failed", called, problem, (kinds and in_words(kinds)) or note)
    if answer.arrays["count"] != N_PARAMETERS:
        problem = f"There are {answer.arrays['count']:,.0f} parameters, expected {N_PARAMETERS:,}"
        return Result("failed", called, f"{problem} (without biases of convolutions).")
    return PASSED


def _forward(grading):
    answer, called = ask(grading), "ConvNet(3, 10)(x) with given weights, in training, for 4 images"
    out, right, found = answer.arrays.get("out", np.zeros(0)), reference(), calls(answer)
    kinds = [kind for kind, _ in found]
    if problem := answer.text("problem"):
        return Result("failed", called, sentence(problem))
    if is_close(out, right, tolerance=TOLERANCE) and "dropout" not in kinds:
        return PASSED
    # Other shapes have lost points already, and layers may be registered in any order: compare with its own layers.
    has_other_shapes = set(kinds) <= set(KINDS) and not _shapes(grading).passed
    used = [i for kind, i in found if kind == "conv"]
    is_reordered = tuple(kinds) == TABLE_1 and sorted(used) == list(range(8))
    if kinds and (has_other_shapes or is_reordered):
        own = shapes(grading).arrays
        if is_close(out, compose(found, own["convolutions"], own["linear"]), tolerance=TOLERANCE):
            return PASSED
    problem = difference("output", out, right, tolerance=TOLERANCE) or "There is dropout; Table 1 has none."
    log_p = torch.tensor(right).log_softmax(dim=1).numpy()
    if kinds[-1:] == ["log_softmax"] and is_close(out, log_p, tolerance=TOLERANCE):
        note = "The network returns log-probabilities, not logits: it is decided by hand"
        return Result("not decided", called, problem, note)
    return failure(answer, called, problem, in_words(kinds) if kinds else "")


def _gradients(grading):
    """Of all that the output is computed from."""
    answer, called = ask(grading), "ConvNet(3, 10): forward(x), backward(dout), in training, for 4 images"
    n_wrong = answer.arrays.get("n_wrong")
    if n_wrong is None:
        return failure(answer, called, "There are no gradients.")
    if not n_wrong:
        return PASSED
    note = "detach, .data or no_grad keeps the gradient from them, perhaps"
    return Result("failed", called, f"{n_wrong:.0f} gradients are missing, zero or not finite.", note)


def _float32(grading):
    answer, called = ask(grading), "ConvNet(3, 10): forward(x), backward(dout), in float32"
    out = answer.arrays.get("out")
    if answer.error or not is_varied(out):
        return failure(answer, called, CONSTANT)
    if out.dtype != np.float32 or not shapes(grading).arrays.get("is_float32", 1):
        return Result("failed", called, "Output or parameters are not in float32.")
    return PASSED


def _evaluation(grading):
    answer, called = ask(grading, "convnet_rows"), "ConvNet(3, 10)(x) in evaluation, for 4 images"
    out, again, half, moved = (answer.arrays.get(name) for name in ("out", "again", "half", "moved"))
    if answer.error or not is_varied(out):
        return failure(answer, called, CONSTANT)
    if not np.array_equal(out, again):
        note = "Dropout must not act in evaluation: use nn.Dropout, or F.dropout with training=self.training"
        return Result("failed", called, "The same images give another output at the second call.", note)
    if not is_close(half, out[: len(half)], tolerance=TOLERANCE) or is_close(moved, out, tolerance=1e-6):
        note = "Batch norm uses the statistics of the batch; in evaluation it has to use the running statistics"
        return Result("failed", called, "The output for an image depends on the other images of the batch.", note)
    return PASSED


def _sizes(grading):
    answer, called = ask(grading, arrays=OTHER_IMAGES, sizes=(1, 7)), "ConvNet(1, 7)(x), for 2 images of one channel"
    out = answer.arrays.get("out")
    if answer.error or not is_varied(out):
        return failure(answer, called, CONSTANT)
    problem = f"The output has shape {out.shape}, expected (2, 7)."
    return PASSED if out.shape == (2, 7) else Result("failed", called, problem)


def _of_convolutions(check):
    """Return a check that a network without convolutions does not pass."""

    def run(grading):
        answer = shapes(grading)
        if not answer.error and not len(answer.arrays["convolutions"]):
            return Result("failed", "ConvNet(3, 10)", "The network has no convolutions.")
        return check(grading)

    return run


def _check(name, points, title, run):
    return Check(name, "4", points, title, ("convnet_pytorch.py",), _of_convolutions(run))


CHECKS = [
    _check("convnet.shapes", 2, "the layers and parameters of Table 1", _shapes),
    _check("convnet.forward", 2, "logits in training, with given weights", _forward),
    _check("convnet.gradients", 1, "gradients of input and parameters", _gradients),
    _check("convnet.float32", 0.25, "float32, as in training", _float32),
    _check("convnet.evaluation", 0.75, "running statistics in evaluation, no dropout", _evaluation),
    _check("convnet.sizes", 1, "n_channels and n_classes are used", _sizes),
]
