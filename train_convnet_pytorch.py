"""Train the ConvNet of Table 1 on CIFAR-10 (question 4).

python train_convnet_pytorch.py
python train_convnet_pytorch.py --augment flip_crop --lr_schedule onecycle --learning_rate 1e-3 --pictures
python train_convnet_pytorch.py --resume results/train_convnet_pytorch/2026-11-24_20-15-00
torchrun --nproc_per_node=2 train_convnet_pytorch.py
"""

import sys

if __name__ == "__main__":
    import interrupts

    interrupts.end_in_one_line()

from cifar10_utils import CLASSES, IMAGE_SHAPE
from convnet_pytorch import ConvNet
from flags import make_parser
from torch_flags import add_torch_flags, check_torch_flags
from torch_run import after_restart
from torch_utils import train_network
from train_utils import run_script


def train(args):
    """Train as the flags say, and return the `Run`."""
    return train_network(args, lambda: ConvNet(IMAGE_SHAPE[0], len(CLASSES)))


def make_flags():
    """Return the parser of this script's flags."""
    parser = make_parser(
        "train_convnet_pytorch",
        "Train the ConvNet of Table 1 on CIFAR-10.",
        learning_rate=1e-4,
        max_steps=5000,
        batch_size=32,
        eval_freq=500,
    )
    add_torch_flags(parser, optimizer="adam")
    return parser


def main(argv=None):
    return run_script(train, make_flags(), argv, check=check_torch_flags, before=after_restart)


if __name__ == "__main__":
    sys.exit(main())
