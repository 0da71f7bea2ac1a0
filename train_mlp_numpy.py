"""Train the NumPy MLP on CIFAR-10 (question 1.2).

python train_mlp_numpy.py
python train_mlp_numpy.py --dnn_hidden_units 300 --max_steps 3000
python train_mlp_numpy.py --resume results/train_mlp_numpy/2026-11-23_20-15-00
"""

import math
import sys

import numpy as np

from cifar10_utils import CLASSES, IMAGE_SHAPE, get_cifar10
from mlp_numpy import MLP
from modules import CrossEntropyModule
from training.flags import make_mlp_parser
from training.run import Run, run_script


def train(args, network=MLP):
    """Train a `network` in float32 with the given flags, and return the `Run`."""
    data = get_cifar10(args.data_dir, dataset=args.dataset, seed=args.seed, synthetic_size=args.synthetic_size)
    n_inputs, n_classes, rng = math.prod(IMAGE_SHAPE), len(CLASSES), np.random.default_rng(args.seed)
    mlp = network(n_inputs, args.dnn_hidden_units, n_classes, args.neg_slope, dtype=np.float32, rng=rng)
    cross_entropy = CrossEntropyModule()

    # Creates the run directory or, with --resume, restores the weights and the position in the training set.
    run = Run(args, data, {"mlp": mlp, "batches": data["train"]}, device="cpu", precision="float32")
    # If training diverges, activations overflow before run.update reports the loss as NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        for step in run.steps():
            if run.is_evaluation_step(step):
                run.log(train=evaluate(mlp, data["train"], args.train_eval_size), test=evaluate(mlp, data["test"]))
                run.save_checkpoint()
            if step == args.max_steps:
                break
            images, targets = data["train"].next_batch(args.batch_size)
            probabilities = mlp.forward(flatten(images))
            loss = cross_entropy.forward(probabilities, targets)
            mlp.backward(cross_entropy.backward(probabilities, targets))
            sgd_step(mlp, args.learning_rate)
            run.update(loss)
    run.finish()
    return run


def flatten(images):
    """Return images of shape (n, 3, 32, 32) as rows, shape (n, 3072)."""
    return images.reshape(len(images), -1)


def sgd_step(mlp, learning_rate):
    """Take one step of gradient descent, W ← W − η dL/dW, for all parameters."""
    for layer in mlp.layers:
        for name, grad in layer.grads.items():
            # Not in place: the caches of other cores hold the old weights, and overwriting them is slow.
            layer.params[name] = -learning_rate * grad + layer.params[name]


def evaluate(mlp, dataset, limit=0):
    """Return mean loss and accuracy, in [0, 1], over the first `limit` examples of `dataset` (0: all)."""
    cross_entropy = CrossEntropyModule()
    loss, n_correct, n = 0.0, 0, 0
    for images, targets in dataset.batches(1000, limit):
        probabilities = mlp.forward(flatten(images))
        loss += float(cross_entropy.forward(probabilities, targets)) * len(images)
        n_correct += int((probabilities.argmax(axis=1) == targets.argmax(axis=1)).sum())
        n += len(images)
    return loss / n, n_correct / n


def make_flags():
    """Return this script's flag parser."""
    return make_mlp_parser("train_mlp_numpy", "Train an MLP, written in NumPy, on CIFAR-10 by gradient descent.")


def main(argv=None):
    return run_script(train, make_flags(), argv)


if __name__ == "__main__":
    sys.exit(main())
