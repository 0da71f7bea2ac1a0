"""Train the PyTorch MLP on CIFAR-10 (question 2).

python train_mlp_pytorch.py
python train_mlp_pytorch.py --dnn_hidden_units 300,100 --init kaiming --batch_norm manual --optimizer adam
python train_mlp_pytorch.py --resume results/train_mlp_pytorch/2026-11-24_20-15-00
torchrun --nproc_per_node=2 train_mlp_pytorch.py
"""

import math
import sys

import torch
import torch.nn.functional as F

from cifar10_utils import CLASSES, IMAGE_SHAPE, get_cifar10
from mlp_pytorch import BATCH_NORMS, INITS, MLP
from training import distributed, engine
from training.flags import add_torch_flags, integer, make_mlp_parser, number
from training.images import step_generator, to_device, whitening
from training.run import run_script


@distributed.process_group()
def train(args, get_data=get_cifar10, prepare=None):
    """Train with the given flags, and return the `Run`.

    Args:
        get_data: replaces `get_cifar10`; same arguments and result.
        prepare: called with the network and its optimiser before the first step, which it may change and add hooks to.
            Returns a dict with `state_dict` and `load_state_dict`, for the checkpoint and each line of metrics.jsonl.
    """
    device = engine.choose_device(args.device)
    with distributed.first_on_each_machine():
        data = get_data(
            args.data_dir,
            validation_size=args.validation_size,
            dataset=args.dataset,
            seed=args.seed,
            synthetic_size=args.synthetic_size,
        )
    images = to_device(data, device, args.preprocess)

    torch.manual_seed(args.seed)
    network = make_network(args).to(device)
    if args.whiten:
        network.whitening.load_state_dict(whitening(images["train"], args.whiten))
    optimizer = engine.make_optimizer(network, args)
    schedule = engine.make_schedule(optimizer, args)
    model = distributed.parallel(network)
    if args.compile:
        model = torch.compile(model)

    # Creates the run directory or, with --resume, restores these parts. "batches" is the position in the training set.
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "batches": data["train"]}
    if prepare:
        parts["extra"] = prepare(network, optimizer)
    run = engine.TorchRun(args, data, parts, device)
    for step in run.steps():
        if run.is_evaluation_step(step):
            run.log(extra=parts.get("extra"), **engine.evaluate(network, images, args))
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


def make_network(args):
    """Return the MLP that the flags describe."""
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


def make_flags():
    """Return this script's flag parser."""
    parser = make_mlp_parser("train_mlp_pytorch", "Train an MLP in PyTorch on CIFAR-10.")
    add = parser.groups["network"].add_argument
    add("--init", choices=INITS, default="normal", help="weight initialisation: the course's, He et al.'s, PyTorch's")
    norms = "batch norm before each activation: one of the two in custom_batchnorm.py, or PyTorch's"
    add("--batch_norm", choices=BATCH_NORMS, default="none", help=norms)
    add("--dropout", type=number(0, below=1), default=0.0, help="probability of dropping a hidden unit")
    components = "number of whitened principal components to train on; 0: pixels"
    add("--whiten", type=integer(0, 3072), default=0, help=components)
    add_torch_flags(parser, optimizer="sgd")
    return parser


def check_flags(args):
    """Return an error message if flags contradict each other, or None."""
    n_processes = distributed.expected_size()
    if args.batch_norm != "none" and args.batch_size < 2 * n_processes:
        return f"argument --batch_size: got {args.batch_size}, expected at least 2 per process for batch norm"
    return engine.check_flags(args)


def main(argv=None):
    return run_script(train, make_flags(), argv, check_flags)


if __name__ == "__main__":
    sys.exit(main())
