"""Train the PyTorch MLP on CIFAR-10 (question 2)."""

import sys

import torch
import torch.nn.functional as F

from cifar10_utils import get_cifar10
from mlp_pytorch import MLP
from training.engine import TorchRun, choose_device
from training.flags import make_mlp_parser
from training.run import run_script


def accuracy(predictions, labels):
    """Return the fraction of correct predictions, from 0 to 1.

    predictions: logits, shape (n, 10). labels: class numbers, shape (n,).
    """
    raise NotImplementedError


@torch.no_grad()
def evaluate(network, dataset, device, limit=0):
    """Return the mean loss and the accuracy, two floats, over the first `limit` examples of `dataset`, 0 for all.

    `dataset.batches(100, limit)` yields images and labels. Call `network.eval()` first and `network.train()` last.
    """
    raise NotImplementedError


def train(args):
    """Train as the flags in `args` say, and return the `Run`.

    The loop has the same steps as in train_mlp_numpy.py. The differences:

    - Seed PyTorch's generator. Choose a device, `choose_device("auto")`, and move the network to it.
    - `get_cifar10(..., one_hot=False)`: labels are class numbers, as `F.cross_entropy` takes them.
    - Create `torch.optim.SGD` or `torch.optim.Adam`, as `args.optimizer` says.
    - `parts = {"network": network, "optimizer": optimizer, "batches": data["train"]}` and
      `run = TorchRun(args, data, parts, device)`.
    - `torch.from_numpy(array).to(device)` turns images and labels into tensors.
    - Forward, loss, `optimizer.zero_grad()`, `loss.backward()`, `optimizer.step()`, `run.update(loss.item())`.
    """
    raise NotImplementedError


def make_flags():
    """Return the parser of the flags. Add your own flags here."""
    parser = make_mlp_parser("train_mlp_pytorch", "Train an MLP in PyTorch on CIFAR-10.")
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd", help="optimiser")
    parser.set_defaults(precision="fp32", tensorboard=False)  # settings of TorchRun without a flag
    return parser


if __name__ == "__main__":
    sys.exit(run_script(train, make_flags()))
