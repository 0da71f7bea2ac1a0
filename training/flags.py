"""Command-line flags of the training scripts. This module neither reads data nor imports torch."""

import argparse
import json
import math
import os
import shlex
from pathlib import Path

N_TRAINING_IMAGES = 50_000  # in CIFAR-10
GROUPS = ("network", "training", "images", "run", "machine")  # in the order of --help


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors, exit status 2, and comments in `@FILE`.

    Attributes:
        groups: `{title: argument group}` for the titles in `GROUPS`.
    """

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        self.groups = {title: self.add_argument_group(title) for title in GROUPS}

    def convert_arg_line_to_args(self, line):
        """Split a line as a shell does, except that every unquoted # starts a comment."""
        try:
            return shlex.split(line, comments=True)
        except ValueError as error:
            self.error(f"flag file line {line!r}: {error}")

    def parse_args(self, args=None, namespace=None):
        try:
            return super().parse_args(args, namespace)
        except UnicodeDecodeError as error:
            self.error(f"a flag file is not UTF-8 text: {error}")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, except for switches and for flags without a default."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


# ---- Types ---------------------------------------------------------------------------------------


def integer(minimum, maximum=math.inf):
    """Return an argparse type for integers from `minimum` to `maximum`."""
    expected = f"an integer of at least {minimum}" + f" and at most {maximum}" * (maximum < math.inf)
    return _checked(int, lambda value: minimum <= value <= maximum, expected)


def number(minimum, *, below=math.inf, exclusive=False):
    """Return an argparse type for numbers from `minimum`, itself excluded if `exclusive`, to below `below`."""
    expected = f"a number {'above' if exclusive else 'of at least'} {minimum}"
    expected += f" and below {below}" * (below < math.inf)
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
    """Argparse type for paths; ~ means home."""
    if not text:
        raise argparse.ArgumentTypeError("got an empty path")
    return os.path.expanduser(text)


def layer_sizes(text):
    """Argparse type for sizes of hidden layers: '100,50' gives [100, 50], and '' gives []."""
    try:
        sizes = [int(size) for size in text.split(",")] if text.strip() else []
    except ValueError:
        sizes = [0]
    if not all(1 <= size <= 1_000_000 for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected sizes from 1 to 1000000, separated by commas")
    return sizes


# ---- Flags ---------------------------------------------------------------------------------------


def make_parser(script, description, *, learning_rate, max_steps, batch_size, eval_freq):
    """Return a `Parser` with the flags that all scripts share, and the given defaults."""
    parser = Parser(
        prog=f"{script}.py",
        usage="%(prog)s [@FILE] [flags]",
        description=description,
        epilog="@FILE reads flags from a file, with # comments; see training/README.md.",
        fromfile_prefix_chars="@",
    )
    add = parser.groups["training"].add_argument
    add("--learning_rate", type=number(0, exclusive=True), default=learning_rate, help="step size of the optimiser")
    add("--max_steps", type=integer(1), default=max_steps, help="number of training steps")
    add("--batch_size", type=integer(1), default=batch_size, help="images per step")
    add("--seed", type=integer(0, 2**32 - 1), default=42, help="seed of the initial weights and the batch order")
    add = parser.groups["images"].add_argument
    choices = ("auto", "cifar10", "synthetic")
    help = "data set; auto: CIFAR-10, or synthetic images if it is not on disk and there is no network"
    add("--dataset", choices=choices, default="auto", help=help)
    help = "directory with the files of CIFAR-10, which are downloaded if it is missing or empty"
    add("--data_dir", type=file_path, default="./cifar10/cifar-10-batches-py", help=help)
    add("--synthetic_size", type=integer(10, 1_000_000), default=50_000, help="number of synthetic training images")
    add = parser.groups["run"].add_argument
    add("--eval_freq", type=integer(1), default=eval_freq, help="steps between evaluations")
    help = "number of training images to evaluate on, the first ones; 0: all"
    add("--train_eval_size", type=integer(0, N_TRAINING_IMAGES), default=10_000, help=help)
    add("--out_dir", type=file_path, help="run directory to create (default: results/SCRIPT/TIME)")
    add("--resume", type=file_path, metavar="DIR", help="run directory to resume, with its flags")
    add("--quiet", action="store_true", help="no output except for warnings and errors")
    parser.set_defaults(script=script)
    return parser


def make_mlp_parser(script, description):
    """Return a `Parser` with the flags that both MLP scripts share, and the course's defaults."""
    parser = make_parser(script, description, learning_rate=2e-3, max_steps=1500, batch_size=200, eval_freq=100)
    add = parser.groups["network"].add_argument
    help = "sizes of the hidden layers, separated by commas; '': no hidden layer"
    add("--dnn_hidden_units", type=layer_sizes, default="100", help=help)
    add("--neg_slope", type=number(0), default=0.02, help="slope of the leaky ReLUs for negative inputs")
    return parser


def add_torch_flags(parser, *, optimizer):
    """Add the flags that the PyTorch scripts share; `optimizer` is the default of `--optimizer`."""
    add = parser.groups["training"].add_argument
    choices = ("sgd", "adam", "adamw", "muon")
    help = "optimiser; muon needs another learning rate, see training/README.md"
    add("--optimizer", choices=choices, default=optimizer, help=help)
    add("--momentum", type=number(0, below=1), default=0.0, help="momentum of sgd and muon")
    add("--weight_decay", type=number(0), default=0.0, help="L2 penalty; decoupled from the gradient for adamw")
    choices = ("constant", "cosine", "onecycle", "triangle")
    help = "learning-rate schedule; triangle: linear rise, then linear decay to 0"
    add("--lr_schedule", choices=choices, default="constant", help=help)
    help = "fraction of each target that is spread over all classes"
    add("--label_smoothing", type=number(0, below=1), default=0.0, help=help)
    add = parser.groups["images"].add_argument
    help = "augmentation of training images; flip_crop: flips and shifts; flip_affine: also rotations and scalings"
    add("--augment", choices=("none", "flip", "flip_crop", "flip_affine"), default="none", help=help)
    add("--shift", type=integer(0, 16), default=4, help="maximum shift of flip_crop and flip_affine, in pixels")
    add("--alternate", action="store_true", help="flips of each image in alternate epochs instead of at random")
    help = "mean_image: pixels minus the mean image, as in the course; standardize: channels of mean 0 and variance 1"
    add("--preprocess", choices=("mean_image", "standardize"), default="mean_image", help=help)
    help = "number of training images, the last ones, to hold out for validation"
    add("--validation_size", type=integer(0, N_TRAINING_IMAGES - 1), default=0, help=help)
    add = parser.groups["machine"].add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="device; auto: a GPU if there is one")
    help = "precision of matrix products and convolutions; bf16 is faster on processors that support it"
    add("--precision", choices=("fp32", "bf16"), default="fp32", help=help)
    add("--compile", action="store_true", help="compilation of the network by torch.compile")
    add = parser.groups["run"].add_argument
    add("--tensorboard", action="store_true", help="TensorBoard logs in the run directory")
    add("--pictures", action="store_true", help="figures of the first layer's weights and of the worst mistakes")


# ---- Parsing -------------------------------------------------------------------------------------


def parse_args(parser, argv=None, check=None):
    """Return the flags, or with `--resume` those of the run.

    Exits with status 2 and one line on standard error if a flag is unknown or invalid.

    Args:
        parser: from `make_parser`.
        argv: command line; default: `sys.argv[1:]`.
        check: `check(args)` returns an error message if flags contradict each other, or None.
    """
    args = parser.parse_args(argv)
    if args.resume is None and _is_restarted_run(args.out_dir):
        args.resume = args.out_dir
    if args.resume is not None:
        args = _parse_resumed(parser, argv, args.resume)
    elif args.out_dir is not None:
        _check_out_dir(parser, Path(args.out_dir))
    if problem := _check_batch_size(args) or (check and check(args)):
        parser.error(problem)
    return args


def _check_out_dir(parser, out_dir):
    existing = next(p for p in (out_dir, *out_dir.absolute().parents) if os.path.lexists(p))
    if not (existing.is_dir() and os.access(existing, os.R_OK | os.W_OK | os.X_OK)):
        parser.error(f"argument --out_dir: {str(existing)!r} is not a writable directory; name another directory")
    if existing == out_dir and any(out_dir.iterdir()):
        resume = f", or resume its run: --resume {shlex.quote(str(out_dir))}"
        parser.error(
            f"argument --out_dir: {str(out_dir)!r} is not empty; name another directory"
            + resume * (out_dir / "config.json").exists()
        )


def _check_batch_size(args):
    """Return an error message if the training set is smaller than a batch, or None."""
    sizes = {"cifar10": N_TRAINING_IMAGES, "synthetic": args.synthetic_size}
    n_images = sizes.get(args.dataset, min(sizes.values()))
    n_train = max(n_images - vars(args).get("validation_size", 0), 0)
    if args.batch_size > n_train:
        return f"argument --batch_size: got {args.batch_size}, expected at most the {n_train} training images"
    return None


def _parse_resumed(parser, argv, directory):
    """Return the flags of the run in `directory`. The command line may repeat them but not change them."""
    try:
        config = json.loads(Path(directory, "config.json").read_text())
        recorded = config["flags"]
        is_synthetic = config["dataset"]["is_synthetic"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "it has no config.json" if isinstance(error, FileNotFoundError) else error
        parser.error(f"argument --resume: {directory!r} is not a run directory ({reason}); name another one")
    script = parser.get_default("script")
    if recorded.get("script") != script:
        parser.error(f"argument --resume: {directory!r} is a run of {recorded.get('script')}.py; use that script")
    parser.set_defaults(**recorded)
    args = parser.parse_args(argv)
    for name, value in vars(parser.parse_args([])).items():
        # The images may have moved (`Run` compares their fingerprint), and --quiet does not affect results.
        if name not in ("data_dir", "quiet", "resume") and getattr(args, name) != value:
            parser.error(
                f"argument --{name}: got {getattr(args, name)!r}, but the run in {directory!r} has {value!r}; "
                "omit the flag, or start a new run without --resume"
            )
    args.resume = directory
    args.dataset = "synthetic" if is_synthetic else "cifar10"  # what auto chose when the run started
    return args


def _is_restarted_run(out_dir):
    """Return whether torchrun has restarted the processes that started the run in `out_dir`."""
    if out_dir is None or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    try:
        launcher = json.loads(Path(out_dir, "config.json").read_text())["launcher_pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # Only rank 0 is certain to share a machine with the launcher. If it refuses the directory, torchrun stops all.
    return os.environ.get("RANK") != "0" or launcher == os.getppid()
