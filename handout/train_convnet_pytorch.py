"""Train the ConvNet on CIFAR-10 with Adam (question 4)."""

import sys

import torch
import torch.nn.functional as F

from cifar10_utils import get_cifar10
from convnet_pytorch import ConvNet
from train_mlp_pytorch import evaluate
from training.engine import TorchRun, choose_device
from training.flags import make_parser
from training.run import run_script


def train(args):
    """Train as the flags in `args` say, and return the `Run`.

    The steps are the same as in train_mlp_pytorch.py, with `ConvNet(3, 10)` and `torch.optim.Adam`.
    """
    raise NotImplementedError


def make_flags():
    """Return the parser of the flags."""
    defaults = {"learning_rate": 1e-4, "max_steps": 5000, "batch_size": 32, "eval_freq": 500}
    parser = make_parser("train_convnet_pytorch", "Train the ConvNet of Table 1 on CIFAR-10.", **defaults)
    parser.set_defaults(precision="fp32", tensorboard=False)  # settings of TorchRun without a flag
    return parser


if __name__ == "__main__":
    sys.exit(run_script(train, make_flags()))
