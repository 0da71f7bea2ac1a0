"""Train the ConvNet, and add to summary.json what the report shows of it besides its curves.

python -m report.convnet_answers --max_steps 5000
"""

import sys

import numpy as np

import train_convnet_pytorch
from training import engine
from training.run import run_script


def train(args):
    """Train as `train_convnet_pytorch` does; summary.json gets `first_layer` and `confusion_matrix`.

    These are weights, (64, 3, 3, 3), rounded to four digits, and counts of test images, (10, 10), a row per true class.
    """

    def summarize(network, images):
        probabilities = engine.predict(network, images["test"], args.precision)
        counts = engine.confusion_matrix(images["test"].dataset.classes, probabilities)
        weights = network.features[0].weight.detach().cpu().numpy().astype(float)
        return {"first_layer": np.round(weights, 4).tolist(), "confusion_matrix": counts.tolist()}

    return train_convnet_pytorch.train(args, summarize)


def make_flags():
    """Return the parser of this script's flags: those of train_convnet_pytorch.py."""
    parser = train_convnet_pytorch.make_flags()
    parser.prog, parser.description = "convnet_answers.py", "Train the ConvNet and keep its answers."
    parser.set_defaults(script="convnet_answers")
    return parser


def main(argv=None):
    return run_script(train, make_flags(), argv, engine.check_flags)


if __name__ == "__main__":
    sys.exit(main())
