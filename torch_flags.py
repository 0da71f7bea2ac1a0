"""The flags that the two PyTorch scripts share, and what contradicts each other or this machine."""

import importlib
import os
import shutil

import torch

from flags import n_training_images, real_number, whole_number
from torch_run import Processes


def add_torch_flags(parser, *, optimizer):
    """Add the flags of both PyTorch scripts, with the default `optimizer` of this one."""
    parser.speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    add = parser.groups["training"].add_argument
    add(
        "--optimizer",
        choices=("sgd", "adam", "adamw", "muon"),
        default=optimizer,
        help="how to step along a gradient; muon needs another learning rate, see runs.md",
    )
    add(
        "--momentum",
        type=real_number(0, below=1),
        default=0.0,
        help="of sgd and muon; the others have moments of their own",
    )
    add("--weight_decay", type=real_number(0), default=0.0, help="L2 penalty; adamw's is decoupled from the gradient")
    add(
        "--lr_schedule",
        choices=("constant", "cosine", "onecycle", "triangle"),
        default="constant",
        help="of the learning rate; cosine: down to 0 by half a cosine; onecycle: up and down again, smoothly; "
        "triangle: up and down again, in straight lines",
    )
    add(
        "--label_smoothing", type=real_number(0, below=1), default=0.0, help="share of a target spread over all classes"
    )
    add = parser.groups["images"].add_argument
    add(
        "--augment",
        choices=("none", "flip", "flip_crop", "flip_affine"),
        default="none",
        help="flip: mirror half the training images; flip_crop: and shift them; flip_affine: turn and scale them, too",
    )
    add("--shift", type=whole_number(0, 16), default=4, help="pixels that flip_crop and flip_affine shift by at most")
    add("--alternate", action="store_true", help="mirror an image in every second pass over the data, not by chance")
    add(
        "--preprocess",
        choices=("mean_image", "standardize"),
        default="mean_image",
        help="mean_image: subtract it, as the course does; standardize: subtract each channel's mean and divide by "
        "its standard deviation",
    )
    add(
        "--validation_size",
        type=whole_number(0, 49_999),
        default=0,
        help="last training images to hold out, and to evaluate on beside the test images",
    )
    add = parser.groups["machine"].add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto takes a GPU where there is one")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of matrix products and convolutions; auto takes bf16 where the device has it and it is faster",
    )
    add("--compile", action="store_true", help="compile the training step's network with torch.compile")
    add = parser.groups["run"].add_argument
    add("--tensorboard", action="store_true", help="log to the run folder for TensorBoard, too")
    add("--pictures", action="store_true", help="after the run, draw the first layer's weights and the worst mistakes")


def check_torch_flags(parser, args):
    """End with one line and exit status 2 where flags contradict each other or this machine."""
    if args.momentum and args.optimizer not in ("sgd", "muon"):
        parser.error(
            f"argument --momentum: got {args.momentum} with --optimizer {args.optimizer}, expected sgd or muon"
        )
    if args.weight_decay and args.optimizer == "muon":
        parser.error(
            f"argument --weight_decay: got {args.weight_decay} with --optimizer muon, which keeps weights' length"
        )
    if args.shift != parser.get_default("shift") and args.augment not in ("flip_crop", "flip_affine"):
        parser.error(
            f"argument --shift: got {args.shift} with --augment {args.augment}, which shifts nothing; "
            "pass --augment flip_crop or flip_affine, or leave --shift out"
        )
    if args.alternate and args.augment == "none":
        parser.error("argument --alternate: got it with --augment none, which mirrors nothing; pass --augment flip")
    is_there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if args.device in is_there and not is_there[args.device]():
        parser.error(f"argument --device: got {args.device!r}, which this machine or its PyTorch lacks; try auto")
    if args.tensorboard:
        try:
            importlib.import_module("torch.utils.tensorboard")  # to find it is not enough: a folder may have its name
        except ImportError as error:
            parser.error(f"argument --tensorboard: its package is not here ({error}): pip install tensorboard")
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++", "clang++", "cl"]
    if args.compile and not any(map(shutil.which, compilers)):
        parser.error(f"argument --compile: needs a C++ compiler, and none of {', '.join(compilers)} is here")
    try:
        processes = Processes()
    except ValueError as error:
        parser.error(str(error))
    n_processes, n_here = processes.size, processes.local_size
    if args.device == "mps" and n_processes > 1:
        parser.error("argument --device: got 'mps' with several processes, which only cpu and cuda can do")
    if args.device in ("auto", "cuda") and torch.cuda.is_available() and n_here > torch.cuda.device_count():
        parser.error(
            f"argument --device: {n_here} processes for {torch.cuda.device_count()} GPUs, expected no more than those; "
            "or pass --device cpu"
        )
    if args.batch_size % n_processes:
        parser.error(
            f"argument --batch_size: got {args.batch_size}, expected a multiple of the {n_processes} processes"
        )
    if getattr(args, "batch_norm", "none") != "none" and args.batch_size < 2 * n_processes:
        parser.error(f"argument --batch_size: got {args.batch_size}, expected 2 a process at least for batch norm")
    n_train = n_training_images(args) - args.validation_size
    if n_train < args.batch_size:
        parser.error(
            f"argument --validation_size: got {args.validation_size}, which leaves {n_train} training images for "
            f"batches of {args.batch_size}"
        )
