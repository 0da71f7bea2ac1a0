"""Train the PyTorch MLP, and record with each evaluation how large each layer's gradient was in the step before.

python -m report.gradient_flow --dnn_hidden_units 900,500,350,150,50 --optimizer adam --max_steps 2000 --eval_freq 20
"""

import io
import sys

import numpy as np
from PIL import Image
from torch import nn

import train_mlp_pytorch
from cifar10_utils import get_cifar10
from training.flags import integer, number
from training.run import run_script


class Norms(dict):
    """Gradient norms of the last step, `{'weight_1_gradient': norm, …}`; a checkpoint saves them."""

    def state_dict(self):
        return dict(self)

    load_state_dict = dict.update


def train(args):
    """Train as `train_mlp_pytorch` does; a line of metrics.jsonl has `weight_1_gradient`, `bias_1_gradient` and so on.

    These are Euclidean norms, before clipping, and layers count from 1. Step 0 has none.
    """

    def get_data(*place, **flags):
        data = get_cifar10(*place, **flags)
        if args.jpeg:
            for dataset in data.values():  # the training set first
                dataset.pixels = through_jpeg(dataset.pixels, args.jpeg)
                dataset.mean_image = data["train"].pixels.mean(axis=0).astype(np.float32)
        return data

    def prepare(network, optimizer):
        norms, layers = Norms(), [module for module in network.layers if isinstance(module, nn.Linear)]
        if args.optimizer in ("adam", "adamw"):
            for group in optimizer.param_groups:
                beta2 = group["betas"][1] if args.adam_beta2 is None else args.adam_beta2
                group |= {"eps": args.adam_eps, "betas": (group["betas"][0], beta2)}

        def before_step(*_):
            for l, layer in enumerate(layers, 1):
                for name, parameter in layer.named_parameters():
                    norms[f"{name}_{l}_gradient"] = float(f"{parameter.grad.norm():.4g}")
            if args.clip_norm:
                nn.utils.clip_grad_norm_(network.parameters(), args.clip_norm)

        optimizer.register_step_pre_hook(before_step)
        return norms

    return train_mlp_pytorch.train(args, get_data, prepare)


def through_jpeg(images, quality):
    """Return images, uint8 (n, 3, 32, 32), after JPEG compression at a quality from 1 to 95."""
    decoded = np.empty_like(images)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        decoded[i] = np.asarray(Image.open(file)).transpose(2, 0, 1)
    return decoded


def make_flags():
    """Return the parser of this script's flags: those of train_mlp_pytorch.py and four more."""
    parser = train_mlp_pytorch.make_flags()
    parser.prog, parser.description = "gradient_flow.py", "Train the PyTorch MLP and record its gradients' norms."
    parser.set_defaults(script="gradient_flow")
    add = parser.groups["training"].add_argument
    add("--adam_eps", type=number(0, exclusive=True), default=1e-8, help="Adam's ε")
    add("--adam_beta2", type=number(0, below=1), help="Adam's β₂ (default: 0.999)")
    add("--clip_norm", type=number(0), default=0.0, help="largest norm of the whole gradient; 0: no clipping")
    quality = "compress the images again at this JPEG quality; 0: do not"
    parser.groups["images"].add_argument("--jpeg", type=integer(0, 95), default=0, help=quality)
    return parser


def check_flags(args):
    """Return an error message if flags contradict each other, or None."""
    if args.optimizer == "muon":
        return "argument --optimizer: got muon, expected sgd, adam or adamw"
    if args.optimizer == "sgd" and (args.adam_eps != 1e-8 or args.adam_beta2 is not None):
        return f"arguments --adam_eps, --adam_beta2: got --optimizer {args.optimizer}, expected adam or adamw"
    return train_mlp_pytorch.check_flags(args)


def main(argv=None):
    return run_script(train, make_flags(), argv, check_flags)


if __name__ == "__main__":
    sys.exit(main())
