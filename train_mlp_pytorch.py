"""Train the PyTorch MLP on CIFAR-10 (question 2).

python train_mlp_pytorch.py
python train_mlp_pytorch.py --dnn_hidden_units 300,100 --init kaiming --batch_norm manual --optimizer adam
python train_mlp_pytorch.py --resume results/train_mlp_pytorch/2026-11-24_20-15-00
torchrun --nproc_per_node=2 train_mlp_pytorch.py
"""

import math
import sys

if __name__ == "__main__":
    import interrupts

    interrupts.end_in_one_line()

import torch

from cifar10_utils import CLASSES, IMAGE_SHAPE
from flags import make_mlp_parser, real_number, whole_number
from mlp_pytorch import BATCH_NORMS, INITS, MLP
from torch_flags import add_torch_flags, check_torch_flags
from torch_run import after_restart
from torch_utils import train_network
from train_utils import run_script


def train(args, dtype=torch.float32):
    """Train as the flags say, in float32 or, for comparisons, in float64, and return the `Run`."""

    def make_network():
        return MLP(
            math.prod(IMAGE_SHAPE),
            args.dnn_hidden_units,
            len(CLASSES),
            args.neg_slope,
            init=args.init,
            batch_norm=args.batch_norm,
            dropout=args.dropout,
            n_whitened=args.whiten,
        )

    return train_network(args, make_network, dtype=dtype)


def make_flags():
    """Return the parser of this script's flags."""
    parser = make_mlp_parser("train_mlp_pytorch", "Train an MLP in PyTorch on CIFAR-10.")
    add = parser.groups["network"].add_argument
    add("--init", choices=INITS, default="normal", help="of the weights: the course's, He et al.'s, or PyTorch's")
    add(
        "--batch_norm", choices=BATCH_NORMS, default="none", help="before activations: this project's two, or PyTorch's"
    )
    add("--dropout", type=real_number(0, below=1), default=0.0, help="probability of leaving a hidden unit out")
    add(
        "--whiten",
        type=whole_number(0, 3072),
        default=0,
        help="train on that many principal components of the images, whitened; 0: on pixels",
    )
    add_torch_flags(parser, optimizer="sgd")
    return parser


def main(argv=None):
    return run_script(train, make_flags(), argv, check=check_torch_flags, before=after_restart)


if __name__ == "__main__":
    sys.exit(main())
