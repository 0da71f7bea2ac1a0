"""Train the NumPy MLP on CIFAR-10 by gradient descent (question 1.2)."""

import sys

import numpy as np

from cifar10_utils import get_cifar10
from mlp_numpy import MLP
from modules import CrossEntropyModule
from training.flags import make_mlp_parser
from training.run import Run, run_script


def accuracy(predictions, targets):
    """Return the fraction of correct predictions, from 0 to 1.

    predictions: probabilities, shape (n, 10). targets: one-hot, of the same shape.
    """
    raise NotImplementedError


def evaluate(mlp, dataset, limit=0):
    """Return the mean loss and the accuracy over the first `limit` examples of `dataset`, 0 for all.

    `dataset.batches(1000, limit)` yields images and targets. The last batch may be smaller.
    """
    raise NotImplementedError


def train(args):
    """Train as the flags in `args` say, and return the `Run`.

    1. Seed NumPy's generator with `args.seed`.
    2. Read the images:
       `data = get_cifar10(args.data_dir, dataset=args.dataset, seed=args.seed, synthetic_size=args.synthetic_size)`.
    3. Create the MLP: 3072 inputs, `args.dnn_hidden_units` (a list), 10 classes, `args.neg_slope`.
    4. Create the run directory: `run = Run(args, data, {"mlp": mlp, "batches": data["train"]})`. With --resume, this
       restores the parameters and the order of the images from the checkpoint.
    5. Repeat for each `step in run.steps()`, from 0 to `args.max_steps`:
       - If `run.is_evaluation_step(step)`, evaluate the training set (its first `args.train_eval_size` examples) and
         the test set: `run.log(train=(loss, accuracy), test=(loss, accuracy))` saves them and draws the curves. Then
         save a checkpoint: `run.save_checkpoint()`.
       - If `step == args.max_steps`, leave the loop.
       - Batch: `data["train"].next_batch(args.batch_size)` returns images, (n, 3, 32, 32), and one-hot targets,
         (n, 10). The MLP takes the images as rows, (n, 3072).
       - Forward: probabilities, then the loss.
       - Backward: the gradient of the loss, then of the MLP.
       - Step: subtract `args.learning_rate` times its gradient from each parameter.
       - `run.update(loss)` shows the loss, and stops the run if it is not finite.
    6. `run.finish()` writes the summary. Return `run`.
    """
    raise NotImplementedError


def make_flags():
    """Return the parser of the flags. `python train_mlp_numpy.py --help` lists them."""
    return make_mlp_parser("train_mlp_numpy", "Train an MLP, written in NumPy, on CIFAR-10.")


if __name__ == "__main__":
    sys.exit(run_script(train, make_flags()))
