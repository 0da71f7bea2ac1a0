"""Train the ConvNet, and add to summary.json what the report shows of it besides its curves.

python -m report.convnet_answers --max_steps 5000
"""

import json
import sys

import numpy as np
import torch

import train_convnet_pytorch
from cifar10_utils import CLASSES, IMAGE_SHAPE, get_cifar10
from convnet_pytorch import ConvNet
from training import engine
from training.files import write_json
from training.images import to_device
from training.run import run_script


def train(args):
    """Train as `train_convnet_pytorch` does; summary.json gets `first_layer` and `confusion_matrix`.

    These are weights, (64, 3, 3, 3), rounded to four digits, and counts of test images, (10, 10), a row per true class.
    """
    run = train_convnet_pytorch.train(args)
    if run.is_complete:
        path = run.directory / "summary.json"
        write_json(
            path, json.loads(path.read_text()) | answers(args, run.read_state(run.directory / run.checkpoint_name))
        )
    return run


def answers(args, state):
    """Return the further entries of summary.json for a checkpoint."""
    data = get_cifar10(args.data_dir, dataset=args.dataset, synthetic_size=args.synthetic_size)
    network = ConvNet(IMAGE_SHAPE[0], len(CLASSES))
    network.load_state_dict(state["network"])
    memory_format = engine.use_fast_memory_formats(network)
    images = to_device(data, torch.device("cpu"), args.preprocess, memory_format)["test"]
    counts = engine.confusion_matrix(data["test"].classes, engine.predict(network, images, args.precision))
    weights = network.features[0].weight.detach().numpy().astype(float)
    return {"first_layer": np.round(weights, 4).tolist(), "confusion_matrix": counts.tolist()}


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
