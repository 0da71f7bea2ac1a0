"""Train the ConvNet of Table 1 on CIFAR-10 (question 4).

python train_convnet_pytorch.py
python train_convnet_pytorch.py --augment flip_crop --lr_schedule onecycle --learning_rate 1e-3 --pictures
python train_convnet_pytorch.py --resume results/train_convnet_pytorch/2026-11-24_20-15-00
torchrun --nproc_per_node=2 train_convnet_pytorch.py
"""

import sys

import torch
import torch.nn.functional as F

from cifar10_utils import CLASSES, IMAGE_SHAPE, get_cifar10
from convnet_pytorch import ConvNet
from training import distributed, engine
from training.flags import add_torch_flags, make_parser
from training.images import step_generator, to_device
from training.run import run_script


@distributed.process_group()
def train(args):
    """Train with the given flags, and return the `Run`."""
    device = engine.choose_device(args.device)
    with distributed.first_on_each_machine():
        data = get_cifar10(
            args.data_dir,
            validation_size=args.validation_size,
            dataset=args.dataset,
            seed=args.seed,
            synthetic_size=args.synthetic_size,
        )

    torch.manual_seed(args.seed)
    network = ConvNet(IMAGE_SHAPE[0], len(CLASSES)).to(device)
    memory_format = engine.use_fast_memory_formats(network)
    images = to_device(data, device, args.preprocess, memory_format)
    optimizer = engine.make_optimizer(network, args)
    schedule = engine.make_schedule(optimizer, args)
    model = distributed.parallel(network)
    if args.compile:
        model = torch.compile(model)

    # Creates the run directory or, with --resume, restores these parts. "batches" is the position in the training set.
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "batches": data["train"]}
    run = engine.TorchRun(args, data, parts, device)
    for step in run.steps():
        if run.is_evaluation_step(step):
            run.log(**engine.evaluate(network, images, args))
            run.save_checkpoint()
        if step == args.max_steps:
            break
        rng = step_generator(args.seed, step)  # for augmentation; seeds PyTorch too, for dropout
        inputs, labels = images["train"].next_batch(args, rng)
        with engine.autocast(device, args.precision):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=args.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.update(loss.item())
    run.finish(lambda: engine.draw_results(network, images["test"], CLASSES, run.title, args))
    return run


def make_flags():
    """Return this script's flag parser."""
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
    return run_script(train, make_flags(), argv, engine.check_flags)


if __name__ == "__main__":
    sys.exit(main())
