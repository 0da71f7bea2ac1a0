"""The training checks: each network trained by the grader's own loop, in the submission's process, on CIFAR-10.

That process gets training images and their labels, those of some steps at a time. The MLPs' weights come back, and
the test set is classified here; the ConvNet's logits of test images come back, which its process got after training,
without labels.
"""

import copy
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grading.check import Check, Outcome
from grading.checks_mlp_pytorch import for_any_kind
from grading.runs import interval, read_runs

N_STEPS, BATCH_SIZE, LEARNING_RATE, N_HIDDEN, NEG_SLOPE = 1500, 200, 2e-3, 100, 0.02
CONVNET_STEPS, CONVNET_FULL_STEPS, CONVNET_BATCH = 250, 5000, 32
CONVNET_TEST_IMAGES = 2000
# Of the curves, which earn no points: how often networks are evaluated before the end, and on how many test images.
EVERY, CONVNET_EVERY, CONVNET_FULL_EVERY = 100, 50, 500
CURVE_IMAGES, CONVNET_CURVE_IMAGES = 2000, 500
MAX_THREADS = 8  # each counts against the sandbox's number of processes
# What the project's own ConvNet reaches after `CONVNET_STEPS`, for several seeds.
BUDGET = Path(__file__).parent / "convnet_budget.json"
SECONDS, FULL_SECONDS = 480, 7200  # the ConvNet's steps took 235 s on three tenths of one core


@dataclass
class Training:
    """What training needs; shared by all submissions.

    Attributes:
        data: `{'train', 'test'}` of `DataSet`, or None with `why_not`.
        full: train the ConvNet for its 5,000 steps.
        threads: with which PyTorch computes.
    """

    data: dict | None
    why_not: str = ""
    full: bool = False
    threads: int = 1


def load_training(data_dir, wanted, full, jobs=1):
    """Return `Training` with CIFAR-10 from `data_dir`, or without, and why. Nothing is downloaded.

    Args:
        wanted: False where the training checks are switched off.
        full: train the ConvNet for its 5,000 steps.
        jobs: submissions that are graded at once.
    """
    if not wanted:
        return Training(None, "switched off by --no_training")
    if not Path(data_dir).is_dir():
        return Training(
            None, f"there is no CIFAR-10 in {data_dir}: train_mlp_numpy.py downloads it, or name it with --data_dir"
        )
    import warnings

    threads = min(MAX_THREADS, max(1, (os.cpu_count() or 1) // jobs))
    from cifar10_utils import DataError, get_cifar10

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Training(get_cifar10(data_dir, seed=42, download=False), full=full, threads=threads)
    except DataError as error:
        return Training(None, str(error))


def parts(data, n_steps, batch_size, every):
    """Yield the last step and the inputs of one part of training after another, `every` steps each.

    Images and labels are in the order in which the training scripts draw them.
    """
    train = copy.copy(data["train"])  # other submissions draw at the same time
    train.position = 0
    for step in range(every, n_steps + 1, every):
        index = np.concatenate([train.next_index(batch_size) for _ in range(every)])
        images, labels = train.pixels[index], train.classes[index]
        yield step, {"images": images, "labels": labels, "mean_image": train.mean_image, "index": np.arange(len(index))}


@functools.cache
def start_weights():
    """Return the MLP's initial weights, of N(0, 0.0001²), the same for every submission."""
    rng = np.random.default_rng(42)
    sizes = [(N_HIDDEN, 3072), (10, N_HIDDEN)]
    weights = {f"weight{l}": rng.normal(0, 1e-4, size).astype(np.float32) for l, size in enumerate(sizes)}
    return weights | {f"bias{l}": np.zeros(n, np.float32) for l, (n, _) in enumerate(sizes)}


def mlp_accuracy(weights, test, n_images):
    """Return the accuracy of an MLP of these weights on the first `n_images` of the test set."""
    n_correct = 0
    with np.errstate(all="ignore"):
        for images, targets in test.batches(1000, n_images):
            hidden = images.reshape(len(images), -1) @ weights["weight0"].T + weights["bias0"]
            hidden = np.where(hidden > 0, hidden, NEG_SLOPE * hidden)
            logits = hidden @ weights["weight1"].T + weights["bias1"]
            n_correct += int((logits.argmax(axis=1) == targets.argmax(axis=1)).sum())
    return n_correct / n_images


def _mlp(op, experiment, figure):
    def run(g):
        training = g.training
        low, high, text = interval([r.metrics[-1]["test_accuracy"] for r in read_runs(experiment)])
        params = {"n_inputs": 3072, "n_hidden": [N_HIDDEN], "n_classes": 10, "neg_slope": NEG_SLOPE}
        params |= {"learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE, "threads": training.threads}
        called = f"MLP(3072, [{N_HIDDEN}], 10, {NEG_SLOPE}) after {N_STEPS} of the grader's steps, {SECONDS} s at most"
        expected = f"test accuracy from {low:.3f} to {high:.3f} (figure {figure}: {text})"
        weights, test, left = start_weights(), training.data["test"], SECONDS
        shapes = {name: array.shape for name, array in weights.items()}
        curve = g.measured[op] = []
        for step, arrays in parts(training.data, N_STEPS, BATCH_SIZE, EVERY):
            answer = g.session.ask(op, params, arrays | weights, left)
            weights, left = answer.arrays, left - answer.seconds
            if answer.error or {n: a.shape for n, a in weights.items()} != shapes:
                return Outcome(False, called, f"{answer.error or 'weights of other shapes'}, by step {step}", expected)
            accuracy = mlp_accuracy(weights, test, CURVE_IMAGES if step < N_STEPS else test.num_examples)
            curve.append((step, accuracy))
        return Outcome(low <= accuracy <= high, called, f"test accuracy {accuracy:.4f}", expected)

    return run


def convnet_interval():
    """Return `runs.interval` of what the project's ConvNet reaches after `CONVNET_STEPS`."""
    return interval(json.loads(BUDGET.read_text())["test_accuracy"])


def _convnet(g):
    training = g.training
    test, full = training.data["test"], training.full
    if full:
        n_steps, every, n_test, left = CONVNET_FULL_STEPS, CONVNET_FULL_EVERY, test.num_examples, FULL_SECONDS
        low, _, text = interval([r.metrics[-1]["test_accuracy"] for r in read_runs("fig13_convnet")])
        text = f"figure 13: {text}"
    else:
        n_steps, every, n_test, left = CONVNET_STEPS, CONVNET_EVERY, CONVNET_TEST_IMAGES, SECONDS
        low, _, text = convnet_interval()
    params = {"learning_rate": 1e-4, "batch_size": CONVNET_BATCH, "threads": training.threads, "seed": 42}
    called = f"ConvNet(3, 10) trained for {n_steps} steps of {CONVNET_BATCH} images by Adam, {left} s at most"
    expected = f"test accuracy of at least {low:.3f} on {n_test} images ({text})"
    curve = g.measured["convnet"] = []
    for step, arrays in parts(training.data, n_steps, CONVNET_BATCH, every):
        answer = g.session.ask("convnet_train", params | {"is_first": step == every}, arrays, left)
        left -= answer.seconds
        if answer.error:
            return Outcome(False, called, f"{answer.error}, by step {step}", expected)
        n = CONVNET_CURVE_IMAGES if step < n_steps else n_test
        arrays = {"images": test.pixels[:n], "mean_image": test.mean_image}
        answer = g.session.ask("convnet_predict", {}, arrays, left)
        left -= answer.seconds
        logits = answer.arrays.get("out")
        if logits is None or logits.shape != (n, 10):
            got = answer.error or f"logits of shape {None if logits is None else logits.shape}"
            return Outcome(False, called, f"{got}, at step {step}", expected)
        accuracy = float((logits.argmax(axis=1) == test.classes[:n]).mean()) if np.isfinite(logits).all() else 0.0
        curve.append((step, accuracy))
    return Outcome(accuracy >= low, called, f"test accuracy {accuracy:.4f}", expected)


CHECKS = [
    Check("mlp_numpy.training", "1.2", 0.75, f"figure 1's accuracy after {N_STEPS} steps",
          ("mlp_numpy.py", "modules.py"), _mlp("steps_numpy", "fig01_mlp_numpy", 1)),
    Check("mlp_pytorch.training", "2", 2, f"figure 3's accuracy after {N_STEPS} steps", ("mlp_pytorch.py",),
          for_any_kind(_mlp("steps_pytorch", "fig03_mlp_pytorch", 3))),
    Check("convnet.training", "4", 3, "a stated accuracy within a short budget", ("convnet_pytorch.py",), _convnet),
]  # fmt: skip
