"""Train the PyTorch MLP, and record with each evaluation how large the gradient of each layer was in the step before.

python report/gradient_flow.py --dnn_hidden_units 900,500,350,150,50 --optimizer adam --max_steps 2000 --eval_freq 20
"""

import io
import math
import sys
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # imports are from the project's root
    import interrupts

    interrupts.end_in_one_line()

import numpy as np
import torch
from PIL import Image
from torch import nn

import torch_utils
import train_mlp_pytorch
from flags import real_number, whole_number
from torch_flags import check_torch_flags
from torch_run import after_restart
from train_utils import run_script


def train(args):
    """Train as `train_mlp_pytorch` does; a line of metrics.jsonl has `weight_1_gradient`, `bias_1_gradient` and so on.

    They are Euclidean norms, before they are clipped, and layers count from 1. Step 0 has none. With `--every_step` a
    line also has lists of what each step since the line before was like: its `batch_losses` (of several processes, on
    the first one's part), the `gradient_norms` of all parameters together, before they are clipped, and its
    `step_lengths`, the root mean square over all parameters of how far it moved them, over `--learning_rate`.
    """
    norms, steps = {}, {"batch_losses": [], "gradient_norms": [], "step_lengths": []}

    def keep(name, value):
        steps[name].append(rounded(value))

    class Folder(torch_utils.TorchRun.folder_type):
        def append_metrics(self, metrics):
            super().append_metrics(metrics | norms | (steps if args.every_step and norms else {}))
            for values in steps.values():
                values.clear()

        def write_checkpoint(self, state, step, **seconds):
            super().write_checkpoint(state | {"every_step": steps}, step, **seconds)

        def reopen(self, *run):
            metrics, step, state = super().reopen(*run)
            for name, values in (state or {}).pop("every_step", {}).items():
                steps[name].extend(values)
            return metrics, step, state

    class Run(torch_utils.TorchRun):
        folder_type = Folder

    def make_optimizer(network, args):
        optimizer = plain_optimizer(network, args)
        layers = [module for module in network.layers if isinstance(module, nn.Linear)]
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        before = []

        def before_step(*_):
            if any(parameter.grad is None for parameter in parameters):
                return  # Muon has stepped along its own, and leaves the rest to Adam
            for number, layer in enumerate(layers, 1):
                for name, parameter in layer.named_parameters():
                    norms[f"{name}_{number}_gradient"] = rounded(parameter.grad.norm(), 4)
            if args.every_step:
                keep("gradient_norms", math.hypot(*(parameter.grad.norm().item() for parameter in parameters)))
                before[:] = [parameter.detach().clone() for parameter in parameters]
            if args.clip_norm:
                torch.nn.utils.clip_grad_norm_(network.parameters(), args.clip_norm)

        def after_step(*_):
            moved = math.hypot(*((p.detach() - old).norm().item() for p, old in zip(parameters, before, strict=True)))
            keep("step_lengths", moved / math.sqrt(sum(p.numel() for p in parameters)) / args.learning_rate)

        optimizer.register_step_pre_hook(before_step)
        if args.every_step:
            optimizer.register_step_post_hook(after_step)
        if args.optimizer != "sgd":
            for group in optimizer.param_groups:
                beta1, beta2 = group["betas"]
                group |= {"eps": args.adam_eps, "betas": (beta1, args.adam_beta2 or beta2)}
        return optimizer

    def training_step(*step):
        loss = plain_step(*step)
        keep("batch_losses", loss)
        return loss

    def get_cifar10(*folder, **kwargs):
        data = plain_data(*folder, **kwargs)
        if args.jpeg:
            for dataset in data.values():
                dataset.pixels = through_jpeg(dataset.pixels, args.jpeg)
                dataset.mean_image = data["train"].pixels.mean(axis=0).astype(np.float32)
        return data

    plain_optimizer, plain_data = torch_utils.make_optimizer, torch_utils.get_cifar10
    plain_step = torch_utils.training_step
    patches = {"TorchRun": Run, "make_optimizer": make_optimizer, "get_cifar10": get_cifar10}
    if args.every_step:
        patches["training_step"] = training_step
    with mock.patch.multiple(torch_utils, **patches):
        return train_mlp_pytorch.train(args)


def rounded(value, n_digits=3):
    return float(f"{value:.{n_digits}g}")


def through_jpeg(images, quality):
    """Return images, uint8 (n, 3, 32, 32), as they are after JPEG at a quality from 1 to 95."""
    decoded = np.empty_like(images)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        decoded[i] = np.asarray(Image.open(file)).transpose(2, 0, 1)
    return decoded


def make_flags():
    """Return the parser of this script's flags: those of train_mlp_pytorch.py and five more."""
    parser = train_mlp_pytorch.make_flags()
    parser.prog, parser.description = "gradient_flow.py", "Train the PyTorch MLP and record its gradients' norms."
    parser.set_defaults(script="gradient_flow")
    add = parser.groups["training"].add_argument
    add("--adam_eps", type=real_number(0, exclusive=True), default=1e-8, help="what Adam adds to its denominator")
    parser.groups["run"].add_argument(
        "--every_step", action="store_true", help="record loss, gradient and length of each step, too"
    )
    help = "share that Adam's second moment keeps at each step (default: PyTorch's, 0.999)"
    add("--adam_beta2", type=real_number(0, below=1), help=help)
    add("--clip_norm", type=real_number(0), default=0.0, help="of the whole gradient, at most; 0: any")
    parser.groups["images"].add_argument(
        "--jpeg", type=whole_number(0, 95), default=0, help="quality that images are put through again"
    )
    return parser


def main(argv=None):
    return run_script(train, make_flags(), argv, check=check_torch_flags, before=after_restart)


if __name__ == "__main__":
    sys.exit(main())
