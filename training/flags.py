"""Command-line flags of the training scripts. No data is read here, and torch is not imported.

`make_parser` builds a script's parser, `add_torch_flags` adds what the PyTorch scripts share, `parse_args` reads them.
"""

import argparse
import json
import math
import os
import re
import shlex
from pathlib import Path

N_TRAINING_IMAGES = 50_000  # in CIFAR-10
GROUPS = ("network", "training", "images", "run", "machine")  # in the order of --help


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, exit status 2, and allows comments in `@FILE`s.

    Attributes:
        groups: `{title: argument group}` for the titles in `GROUPS`.
    """

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        self.groups = {title: self.add_argument_group(title) for title in GROUPS}

    def convert_arg_line_to_args(self, line):
        """Split a line as a shell would: a # begins a comment, except in quotes or inside a word."""
        try:
            for comment in re.finditer(r"(^|\s)#", line):
                try:
                    return shlex.split(line[: comment.start()])
                except ValueError:  # inside an open quote
                    continue
            return shlex.split(line)
        except ValueError as error:
            self.error(f"flag file line {line!r}: {error}")

    def parse_args(self, args=None, namespace=None):
        try:
            return super().parse_args(args, namespace)
        except UnicodeDecodeError as error:
            self.error(f"a flag file is not UTF-8 text: {error}")
        except RecursionError:
            self.error("a flag file reads itself")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (flags: {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except for switches and for flags without a default."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


# ---- Types ---------------------------------------------------------------------------------------


def integer(minimum, maximum=math.inf):
    """Return an argparse type for integers from `minimum` to `maximum`."""
    expected = f"an integer of at least {minimum}" + f" and at most {maximum}" * (maximum < math.inf)
    return _checked(int, lambda value: minimum <= value <= maximum, expected)


def number(minimum, *, below=math.inf, exclusive=False):
    """Return an argparse type for numbers of at least `minimum` (more, if `exclusive`), and below `below`."""
    expected = f"a number {'above' if exclusive else 'of at least'} {minimum}" + f" and below {below}" * (
        below < math.inf
    )
    return _checked(float, lambda value: minimum <= value < below and not (exclusive and value == minimum), expected)


def _checked(convert, is_valid, expected):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return value

    return parse


def file_path(text):
    """Argparse type: a path, in which ~ means home."""
    if not text:
        raise argparse.ArgumentTypeError("got an empty path")
    return os.path.expanduser(text)


def layer_sizes(text):
    """Argparse type: '100,50' gives [100, 50], and '' gives [], a network without hidden layers."""
    try:
        sizes = [int(size) for size in text.split(",")] if text.strip() else []
    except ValueError:
        sizes = [0]
    if not all(1 <= size <= 1_000_000 for size in sizes):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected comma-separated sizes from 1 to 1000000, as in 100,50"
        )
    return sizes


# ---- Flags ---------------------------------------------------------------------------------------


def make_parser(script, description, *, learning_rate, max_steps, batch_size, eval_freq):
    """Return a `Parser` with the flags of every training script, and the defaults of `script`.py."""
    parser = Parser(
        prog=f"{script}.py",
        usage="%(prog)s [@FILE] [flags]",
        description=description,
        epilog="@FILE reads flags from a file, with # comments; see training/README.md.",
        fromfile_prefix_chars="@",
    )
    add = parser.groups["training"].add_argument
    add("--learning_rate", type=number(0, exclusive=True), default=learning_rate, help="step size")
    add("--max_steps", type=integer(1), default=max_steps, help="number of training steps")
    add("--batch_size", type=integer(1), default=batch_size, help="images per step")
    add("--seed", type=integer(0, 2**32 - 1), default=42, help="seed of the initial weights and the order of images")
    add = parser.groups["images"].add_argument
    add(
        "--dataset",
        choices=("auto", "cifar10", "synthetic"),
        default="auto",
        help="auto: synthetic images if CIFAR-10 is not on disk and there is no network",
    )
    add(
        "--data_dir",
        type=file_path,
        default="./cifar10/cifar-10-batches-py",
        help="directory of CIFAR-10, downloaded if it is missing",
    )
    add("--synthetic_size", type=integer(10, 1_000_000), default=50_000, help="number of synthetic training images")
    add = parser.groups["run"].add_argument
    add("--eval_freq", type=integer(1), default=eval_freq, help="steps between evaluations")
    add(
        "--train_eval_size",
        type=integer(0, N_TRAINING_IMAGES),
        default=10_000,
        help="training images to evaluate on, 0 for all",
    )
    add("--out_dir", type=file_path, help="run directory to create (default: results/SCRIPT/TIME)")
    add("--resume", type=file_path, metavar="DIR", help="run directory to resume, with the flags it began with")
    add("--quiet", action="store_true", help="print only warnings and errors")
    parser.set_defaults(script=script)
    return parser


def make_mlp_parser(script, description):
    """Return a `Parser` with the flags of both MLP scripts, and the course's defaults."""
    parser = make_parser(script, description, learning_rate=2e-3, max_steps=1500, batch_size=200, eval_freq=100)
    add = parser.groups["network"].add_argument
    sizes = "sizes of the hidden layers, separated by commas; '' for none"
    add("--dnn_hidden_units", type=layer_sizes, default="100", help=sizes)
    add("--neg_slope", type=number(0), default=0.02, help="slope of the leaky ReLUs for negative inputs")
    return parser


def add_torch_flags(parser, *, optimizer):
    """Add the flags that the PyTorch scripts share; `optimizer` is the default of `--optimizer`."""
    add = parser.groups["training"].add_argument
    add(
        "--optimizer",
        choices=("sgd", "adam", "adamw", "muon"),
        default=optimizer,
        help="muon needs another learning rate, see training/README.md",
    )
    add("--momentum", type=number(0, below=1), default=0.0, help="momentum of sgd and muon")
    add("--weight_decay", type=number(0), default=0.0, help="L2 penalty; adamw decouples it from the gradient")
    add(
        "--lr_schedule",
        choices=("constant", "cosine", "onecycle", "triangle"),
        default="constant",
        help="learning-rate schedule; triangle: linearly up, then down to 0",
    )
    add("--label_smoothing", type=number(0, below=1), default=0.0, help="share of each target spread over all classes")
    add = parser.groups["images"].add_argument
    add(
        "--augment",
        choices=("none", "flip", "flip_crop", "flip_affine"),
        default="none",
        help="random changes of training images: mirror; mirror and shift; mirror, shift, rotate and scale",
    )
    add("--shift", type=integer(0, 16), default=4, help="largest shift of flip_crop and flip_affine, in pixels")
    add("--alternate", action="store_true", help="flip each image in alternate epochs instead of at random")
    add(
        "--preprocess",
        choices=("mean_image", "standardize"),
        default="mean_image",
        help="mean_image: subtract it, as the course does; standardize: per channel, subtract the mean and divide by "
        "the standard deviation",
    )
    add(
        "--validation_size",
        type=integer(0, N_TRAINING_IMAGES - 1),
        default=0,
        help="number of training images, the last ones, to hold out and evaluate on",
    )
    add = parser.groups["machine"].add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: a GPU if there is one")
    add(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="precision of matrix products and convolutions; bf16 is faster on processors that support it",
    )
    add("--compile", action="store_true", help="compile the network with torch.compile")
    add = parser.groups["run"].add_argument
    add("--tensorboard", action="store_true", help="also log to the run directory for TensorBoard")
    add("--pictures", action="store_true", help="also draw the first layer's weights and the worst mistakes")


# ---- Parsing -------------------------------------------------------------------------------------


def parse_args(parser, argv=None, check=None):
    """Return the flags, or with `--resume` those that the run began with.

    Exits with status 2 and one line on standard error if a flag is unknown, out of range or contradicts another.

    Args:
        parser: from `make_parser`.
        argv: the command line; None for the process's own.
        check: `check(args)` returns an error message for an invalid combination of flags, or None.
    """
    args = parser.parse_args(argv)
    if args.resume is None and _is_restarted_run(args.out_dir):
        args.resume = args.out_dir
    if args.resume is not None:
        args = _parse_resumed(parser, argv, args.resume)
    elif args.out_dir is not None:
        _check_out_dir(parser, Path(args.out_dir))
    problem = check_batch_size(args) or (check and check(args))
    if problem:
        parser.error(problem)
    return args


def _check_out_dir(parser, out_dir):
    place = next(p for p in (out_dir, *out_dir.absolute().parents) if os.path.lexists(p))
    if place != out_dir and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        parser.error(f"argument --out_dir: {str(place)!r} is not a writable directory; name another directory")
    if place == out_dir and not (place.is_dir() and os.access(place, os.R_OK) and not any(place.iterdir())):
        is_run = (place / "config.json").exists()
        parser.error(
            f"argument --out_dir: {str(out_dir)!r} already exists; name another directory"
            + f", or resume that run: --resume {shlex.quote(str(out_dir))}" * is_run
        )


def check_batch_size(args, n_held_out=0):
    """Return an error message for a batch larger than the training set less `n_held_out` images, or None."""
    sizes = {"cifar10": N_TRAINING_IMAGES, "synthetic": args.synthetic_size}
    n_train = sizes.get(args.dataset, min(sizes.values())) - n_held_out
    if n_train < 1:
        return f"argument --validation_size: got {n_held_out}, expected fewer than the {n_train + n_held_out} images"
    if args.batch_size > n_train:
        note = ", which --dataset auto may use" * (args.dataset == "auto" and args.synthetic_size < N_TRAINING_IMAGES)
        return f"argument --batch_size: got {args.batch_size}, expected at most the {n_train} training images{note}"
    return None


def _parse_resumed(parser, argv, directory):
    """Return the flags of the run in `directory`, which the command line may repeat but not change."""
    try:
        config = json.loads(Path(directory, "config.json").read_text())
        recorded = config["flags"] | {"resume": directory}
        is_synthetic = config["dataset"]["is_synthetic"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"argument --resume: {directory!r} is not a run directory with a readable config.json ({error})")
    script = parser.get_default("script")
    if recorded.get("script") != script:
        parser.error(f"argument --resume: {directory!r} is a run of {recorded.get('script')}.py, not of {script}.py")
    parser.set_defaults(**recorded)
    args = parser.parse_args(argv)
    for name, value in recorded.items():
        # The data may have moved (their fingerprint is checked), and --quiet changes no number.
        if name not in ("data_dir", "quiet", "resume") and getattr(args, name) != value:
            parser.error(
                f"argument --{name}: got {getattr(args, name)!r}, but {directory!r} began with {value!r}; "
                "leave the flag out, or start a new run without --resume"
            )
    args.resume = directory
    args.dataset = "synthetic" if is_synthetic else "cifar10"  # what auto chose when the run began
    return args


def _is_restarted_run(out_dir):
    """Return whether torchrun has restarted the processes that began the run in `out_dir`."""
    if out_dir is None or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    try:
        launcher = json.loads(Path(out_dir, "config.json").read_text())["launcher_pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # Only rank 0 is surely on the machine that wrote it. If it refuses, torchrun stops the others.
    return os.environ.get("RANK") != "0" or launcher == os.getppid()
