"""Train the PyTorch MLP, and record with each evaluation how large each layer's gradient was in the step before.

python -m report.gradient_flow --dnn_hidden_units 900,500,350,150,50 --optimizer adam --max_steps 2000 --eval_freq 20
"""

import io
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import train_mlp_pytorch
from cifar10_utils import CLASSES, get_cifar10
from training import distributed, engine
from training.flags import integer, number
from training.images import step_generator, to_device
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
    device = engine.choose_device(args.device)
    data = get_cifar10(
        args.data_dir,
        validation_size=args.validation_size,
        dataset=args.dataset,
        seed=args.seed,
        synthetic_size=args.synthetic_size,
    )
    if args.jpeg:
        for dataset in data.values():  # the training set first
            dataset.pixels = through_jpeg(dataset.pixels, args.jpeg)
            dataset.mean_image = data["train"].pixels.mean(axis=0).astype(np.float32)
    images = to_device(data, device, args.preprocess)
    torch.manual_seed(args.seed)
    network = train_mlp_pytorch.make_network(args).to(device)
    layers = [module for module in network.layers if isinstance(module, nn.Linear)]
    optimizer = engine.make_optimizer(network, args)
    if args.optimizer in ("adam", "adamw"):
        for group in optimizer.param_groups:
            group |= {"eps": args.adam_eps, "betas": (group["betas"][0], args.adam_beta2 or group["betas"][1])}
    schedule = engine.make_schedule(optimizer, args)
    norms = Norms()

    parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "batches": data["train"], "norms": norms}
    run = engine.TorchRun(args, data, parts, device)
    for step in run.steps():
        if run.is_evaluation_step(step):
            run.log(extra=dict(norms), **engine.evaluate(network, images, args))
            run.save_checkpoint()
        if step == args.max_steps:
            break
        inputs, labels = images["train"].next_batch(args, step_generator(args.seed, step))
        with engine.autocast(device, args.precision):
            logits = network(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=args.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        for l, layer in enumerate(layers, 1):
            for name, parameter in layer.named_parameters():
                norms[f"{name}_{l}_gradient"] = float(f"{parameter.grad.norm():.4g}")
        if args.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), args.clip_norm)
        optimizer.step()
        schedule.step()
        run.update(loss.item())
    run.finish(lambda: engine.draw_results(network, images["test"], CLASSES, run.title, args))
    return run


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
    """Return what is wrong with the flags, or None."""
    if args.optimizer == "muon" or args.whiten:
        return "arguments --optimizer muon, --whiten: got one of them, expected neither; use train_mlp_pytorch.py"
    if distributed.expected_size() > 1:
        return "gradient_flow.py runs in one process: start it without torchrun"
    return train_mlp_pytorch.check_flags(args)


def main(argv=None):
    return run_script(train, make_flags(), argv, check_flags)


if __name__ == "__main__":
    sys.exit(main())
