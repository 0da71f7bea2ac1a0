"""The training checks: each network trained by the grader's own loop, in the submission's process, on CIFAR-10.

That process receives training images and labels, those of some steps at a time. It returns an MLP's weights, with which
the grader classifies the test set. For the ConvNet it returns logits of test images, which it receives after training
and without labels.
"""

import copy
import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grading.checks.check import Check, Result, failure, sentence
from grading.checks.mlp_numpy import NETWORKS
from grading.checks.mlp_pytorch import ONE, if_plain

N_STEPS, BATCH_SIZE, LEARNING_RATE, N_HIDDEN, NEG_SLOPE = 1500, 200, 2e-3, 100, 0.02
CONVNET_STEPS, CONVNET_BATCH, CONVNET_TEST_IMAGES = 250, 32, 2000
STEPS_PER_REQUEST, MAX_THREADS = 50, 8
# Test accuracies on these images of the project's own ConvNet after these steps, by this module's loop, five seeds.
CONVNET_ACCURACIES = (0.501, 0.4995, 0.5095, 0.462, 0.453)
SECONDS = 480  # the ConvNet's steps took 235 s on three tenths of one core


@dataclass
class Training:
    """What training needs; shared by all submissions.

    Attributes:
        data: `{'train', 'test'}` of `DataSet`, or None with `why_not`.
        threads: with which PyTorch computes.
    """

    data: dict | None
    why_not: str = ""
    threads: int = 1


def load_training(data_dir, wanted, jobs=1):
    """Return `Training` with CIFAR-10 from `data_dir`, or without, and why. Nothing is downloaded.

    Args:
        wanted: False if the training checks are switched off.
        jobs: submissions that are graded at once.
    """
    if not wanted:
        return Training(None, "Not part of this grading.")
    from cifar10_utils import DataError, get_cifar10

    try:
        if not Path(data_dir).is_dir():
            raise DataError(f"CIFAR-10 is not in {data_dir}: train_mlp_numpy.py downloads it; or use --data_dir")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = get_cifar10(data_dir, seed=42, download=False)
    except DataError as error:
        return Training(None, sentence(str(error)))
    return Training(data, threads=min(MAX_THREADS, max(1, (os.cpu_count() or 1) // jobs)))


def parts(data, n_steps, batch_size):
    """Yield images and labels of some steps after another, in the order in which the training scripts draw them."""
    train = copy.copy(data["train"])  # other submissions draw at the same time
    train.position = 0
    for _ in range(0, n_steps, STEPS_PER_REQUEST):
        index = np.concatenate([train.next_index(batch_size) for _ in range(STEPS_PER_REQUEST)])
        yield {"images": train.pixels[index], "labels": train.classes[index], "mean_image": train.mean_image}


@functools.cache
def start_weights():
    """Return the MLP's initial weights, from N(0, 0.0001²), the same for every submission."""
    rng = np.random.default_rng(42)
    sizes = [(N_HIDDEN, 3072), (10, N_HIDDEN)]
    weights = {f"weight{l}": rng.normal(0, 1e-4, size).astype(np.float32) for l, size in enumerate(sizes)}
    return weights | {f"bias{l}": np.zeros(n, np.float32) for l, (n, _) in enumerate(sizes)}


def mlp_accuracy(weights, test):
    """Return the test accuracy of an MLP with these weights."""
    n_correct = 0
    with np.errstate(all="ignore"):
        for images, targets in test.batches(1000, test.num_examples):
            hidden = images.reshape(len(images), -1) @ weights["weight0"].T + weights["bias0"]
            hidden = np.where(hidden > 0, hidden, NEG_SLOPE * hidden)
            logits = hidden @ weights["weight1"].T + weights["bias1"]
            n_correct += int((logits.argmax(axis=1) == targets.argmax(axis=1)).sum())
    return n_correct / test.num_examples


def _mlp(case, experiment, figure):
    """Train the class of `case`. One that hangs in the case itself would use up `SECONDS`, and is not trained."""

    def run(grading):
        from report.claims import interval
        from report.records import whole_runs

        low, high, text = interval([run.metrics[-1]["test_accuracy"] for run in whole_runs(experiment)], 0.99)
        params = {"args": [3072, [N_HIDDEN], 10, NEG_SLOPE], "float32": True, "threads": grading.training.threads}
        params |= {"learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE}
        if (answer := case.ask(grading)).kind == "timeout":
            return failure(answer, case.called())
        called = f"MLP(3072, [{N_HIDDEN}], 10, {NEG_SLOPE}), {N_STEPS} steps of {BATCH_SIZE} images of CIFAR-10"
        weights, left = start_weights(), SECONDS
        shapes = {name: array.shape for name, array in weights.items()}
        for arrays in parts(grading.training.data, N_STEPS, BATCH_SIZE):
            answer = grading.send("train", case.target, params, arrays | weights, left)
            biases = {name: array for name, array in weights.items() if name.startswith("bias")}
            weights, left = biases | answer.arrays, left - answer.seconds  # a network without biases returns none
            if answer.error or {n: a.shape for n, a in weights.items()} != shapes:
                return failure(answer, called, "The weights have other shapes than at the start.")
        accuracy = mlp_accuracy(weights, grading.training.data["test"])
        expected = f"expected {low:.3f} to {high:.3f} (figure {figure}: {text})"
        return _judge(low <= accuracy <= high, called, accuracy, expected)

    return run


def _judge(is_right, called, accuracy, expected):
    return Result("passed" if is_right else "failed", called, f"The test accuracy is {accuracy:.4f}, {expected}.")


def _convnet(grading):
    from report.claims import interval

    target, test, left = "convnet_pytorch.ConvNet", grading.training.data["test"], SECONDS
    low, _, text = interval(CONVNET_ACCURACIES, 0.99)
    params = {"learning_rate": 1e-4, "batch_size": CONVNET_BATCH, "threads": grading.training.threads, "seed": 42}
    called = f"ConvNet(3, 10), {CONVNET_STEPS} steps of Adam with {CONVNET_BATCH} images of CIFAR-10"
    for i, arrays in enumerate(parts(grading.training.data, CONVNET_STEPS, CONVNET_BATCH)):
        answer = grading.send("convnet_train", target, params | {"is_first": i == 0}, arrays, left)
        left -= answer.seconds
        if answer.error:
            return failure(answer, called)
    n = CONVNET_TEST_IMAGES
    answer = grading.send(
        "convnet_predict", target, {}, {"images": test.pixels[:n], "mean_image": test.mean_image}, left
    )
    logits = answer.arrays.get("out")
    if logits is None or logits.shape != (n, 10) or not np.isfinite(logits).all():
        return failure(answer, called, f"The output has not the shape ({n}, 10), or is not finite.")
    accuracy = float((logits.argmax(axis=1) == test.classes[:n]).mean())
    return _judge(accuracy >= low, called, accuracy, f"expected at least {low:.3f} on {n} images ({text})")


CHECKS = [
    Check("mlp_numpy.training", "1.2", 0.75, f"test accuracy after {N_STEPS} steps",
          ("mlp_numpy.py", "modules.py"), _mlp(NETWORKS[(5,)][1], "fig01_mlp_numpy", 1)),
    Check("mlp_pytorch.training", "2", 2, f"test accuracy after {N_STEPS} steps", ("mlp_pytorch.py",),
          if_plain(_mlp(ONE, "fig03_mlp_pytorch", 3), ONE)),
    Check("convnet.training", "4", 3, f"test accuracy after {CONVNET_STEPS} steps", ("convnet_pytorch.py",), _convnet),
]  # fmt: skip
