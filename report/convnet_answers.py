"""Train the ConvNet, and keep in summary.json what the report shows of it beside its curves.

python report/convnet_answers.py --max_steps 5000
"""

import sys
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # imports are from the project's root
    import interrupts

    interrupts.end_in_one_line()

import numpy as np

import torch_utils
import train_convnet_pytorch
from torch_flags import check_torch_flags
from torch_run import after_restart
from train_utils import run_script


def train(args):
    """Train as `train_convnet_pytorch` does; summary.json also has `first_layer` and `confusion_matrix`.

    These are the weights, (64, 3, 3, 3), to four digits, and the counts of test images, (10, 10), a row a true class.
    """
    answers = {}

    class Folder(torch_utils.TorchRun.folder_type):
        def write_summary(self, summary):
            super().write_summary(summary | answers)

    class Run(torch_utils.TorchRun):
        folder_type = Folder

    def draw_results(network, images, dataset, precision, *rest):
        counts = torch_utils.confusion_matrix(dataset.classes, torch_utils.predict(network, images, precision))
        weights = network.features[0].weight.detach().float().cpu().numpy()
        answers.update(first_layer=np.round(weights.astype(float), 4).tolist(), confusion_matrix=counts.tolist())
        return plain_drawing(network, images, dataset, precision, *rest)

    plain_drawing = torch_utils.draw_results
    with mock.patch.multiple(torch_utils, TorchRun=Run, draw_results=draw_results):
        return train_convnet_pytorch.train(args)


def make_flags():
    """Return the parser of this script's flags: those of train_convnet_pytorch.py."""
    parser = train_convnet_pytorch.make_flags()
    parser.prog, parser.description = "convnet_answers.py", "Train the ConvNet and keep its answers."
    parser.set_defaults(script="convnet_answers")
    return parser


def main(argv=None):
    return run_script(train, make_flags(), argv, check=check_torch_flags, before=after_restart)


if __name__ == "__main__":
    sys.exit(main())
