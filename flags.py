"""The flags that all scripts share: their types, flag files, and what `--resume` may repeat.

`make_parser` makes a script's parser, `parse_args` reads its flags. No data is read here.
"""

import argparse
import json
import math
import os
import re
import shlex
import sys
from pathlib import Path

GROUPS = ("network", "training", "images", "run", "machine")  # of flags, as --help shows them


class Parser(argparse.ArgumentParser):
    """Reads flags from the command line and from `@FILE`s, and reports a wrong one in one line, exit status 2.

    Attributes:
        speaks: whether it does; not so all but one of several processes that have the same flags.
        groups: `{title: group of flags}`, in the order in which they are shown.
    """

    speaks = True

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        self.groups = {title: self.add_argument_group(title) for title in GROUPS}

    def convert_arg_line_to_args(self, line):
        line = line.removeprefix("\ufeff")  # some editors begin a file with this mark
        words = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True)
        words.whitespace_split = True
        words.commenters = ""  # a # within a word is the word's
        words.escape = ""  # a backslash parts the folders of a path on Windows
        try:
            return [_home_of_flag_file(word) for word in words]
        except ValueError as error:
            self.error(f"flag file line {line!r}: {error}")

    def parse_args(self, args=None, namespace=None):
        args = [_home_of_flag_file(arg) for arg in (sys.argv[1:] if args is None else args)]
        try:
            return super().parse_args(args, namespace)
        except ValueError as error:  # of decoding it, or of a NUL in a name
            self.error(f"a flag file is no text: {error}")
        except RecursionError:
            self.error("a flag file names itself")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (flags: {self.prog} --help)\n" if self.speaks else None)


def _home_of_flag_file(arg):
    return f"@{os.path.expanduser(arg[1:])}" if arg.startswith("@~") else arg


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for flags that have none, and switches."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


def whole_number(minimum, maximum=None):
    """Return an argparse type for whole numbers from `minimum` to `maximum` (None: no bound)."""
    expected = f"a whole number {f'of at least {minimum}' if maximum is None else f'from {minimum} to {maximum}'}"

    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < minimum or (maximum is not None and number > maximum):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return number

    return parse


def real_number(minimum, *, exclusive=False, below=math.inf):
    """Return an argparse type for numbers of at least, or `exclusive`ly above, `minimum`, and below `below`."""
    expected = f"a number {'above' if exclusive else 'of at least'} {minimum}"
    if below < math.inf:
        expected += f" and below {below}"

    def parse(text):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not minimum <= number < below or (exclusive and number == minimum):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return number

    return parse


def file_path(text):
    """Argparse type: a path, in which ~ means home and ~NAME that of another user."""
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a path, which has no NUL in it")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, and there is no such user; for a folder of that name: ./{text}"
        )
    return expanded


def layer_sizes(text):
    """Argparse type: '100,50' is [100, 50], and '' is [], a network without a hidden layer."""
    try:
        sizes = [int(size) for size in text.split(",")] if text.strip() else []
    except ValueError:
        sizes = [0]
    if not all(1 <= size <= 1_000_000 for size in sizes):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected sizes from 1 to 1000000 with commas between, as in 100,50"
        )
    return sizes


def make_parser(script, description, *, learning_rate, max_steps, batch_size, eval_freq):
    """Return a `Parser` with the flags that every script shares, and the defaults of this one, `script`.py."""
    parser = Parser(
        prog=f"{script}.py",
        description=description,
        epilog="Flags can also stand in a file, one and its value a line, # before a comment: @FILE. See runs.md.",
        usage="%(prog)s [@FILE] [flags]",
        fromfile_prefix_chars="@",
    )
    add = parser.groups["training"].add_argument
    positive = whole_number(1)
    add("--learning_rate", type=real_number(0, exclusive=True), default=learning_rate, help="step size")
    add("--max_steps", type=positive, default=max_steps, help="number of training steps")
    add("--batch_size", type=positive, default=batch_size, help="images a step")
    add(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=42,
        help="sets the initial weights and the order of images",
    )
    add = parser.groups["images"].add_argument
    add(
        "--dataset",
        choices=("auto", "cifar10", "synthetic"),
        default="auto",
        help="auto takes synthetic images where CIFAR-10 is neither on disk nor available for download",
    )
    add(
        "--data_dir",
        type=file_path,
        default="./cifar10/cifar-10-batches-py",
        help="folder of CIFAR-10, downloaded where missing",
    )
    add(
        "--synthetic_size",
        type=whole_number(10, 1_000_000),
        default=50_000,
        help="synthetic training images, with a fifth as many for the test",
    )
    add = parser.groups["run"].add_argument
    add("--eval_freq", type=positive, default=eval_freq, help="steps between evaluations")
    add(
        "--train_eval_size",
        type=whole_number(0, 50_000),
        default=10_000,
        help="training images to evaluate on, 0 for all; the test set is always taken whole",
    )
    add("--out_dir", type=file_path, help="run folder to make (default: results/SCRIPT/TIME)")
    add(
        "--resume", type=file_path, metavar="DIR", help="go on with the run in DIR, under the flags it was started with"
    )
    add("--quiet", action="store_true", help="print only warnings and errors")
    parser.set_defaults(script=script)
    return parser


def make_mlp_parser(script, description):
    """Return a `Parser` with the flags that both MLPs' scripts share, and the course's defaults."""
    parser = make_parser(script, description, learning_rate=2e-3, max_steps=1500, batch_size=200, eval_freq=100)
    add = parser.groups["network"].add_argument
    add(
        "--dnn_hidden_units",
        type=layer_sizes,
        default="100",
        help="sizes of the hidden layers, with commas between; '' for none",
    )
    add("--neg_slope", type=real_number(0), default=0.02, help="slope of the leaky ReLUs for negative inputs")
    return parser


def parse_args(parser, argv=None):
    """Return the flags; with `--resume`, those that the run was started with. Reads no data.

    Exits with status 2 and one line on standard error where a flag is unknown or impossible.
    """
    args = parser.parse_args(argv)
    if args.resume is not None:
        return _parse_resumed(parser, argv, args)
    _check_out_dir(parser, args.out_dir)
    n_train = n_training_images(args)
    if args.batch_size > n_train:
        parser.error(
            f"argument --batch_size: got {args.batch_size}, expected at most {n_train}, the number of training images"
            + " (--synthetic_size, which --dataset auto may fall back on)" * (n_train == args.synthetic_size < 50_000)
        )
    return args


def _check_out_dir(parser, out_dir):
    """End with one line and exit status 2 where no new run can be written to `out_dir`, None for the default."""
    folder = Path("results" if out_dir is None else out_dir)
    try:
        is_there = folder.exists() or folder.is_symlink()  # a link may lead nowhere
        is_taken = out_dir is not None and is_there and not (folder.is_dir() and not any(folder.iterdir()))
        # It is empty where a run was killed as it began.
        is_run = is_taken and (folder / "config.json").is_file() and (folder / "config.json").stat().st_size > 0
        place = next(p for p in (folder, *folder.absolute().parents) if p.exists() or p.is_symlink())
        if not is_taken and not place.is_dir():
            raise NotADirectoryError(f"{str(place)!r} is not a folder")
        is_writer = os.environ.get("RANK", "0") == "0"  # of several processes the first
        if not is_taken and is_writer and not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(f"{str(place)!r} cannot be written to")
    except OSError as error:
        parser.error(f"argument --out_dir: {error}; name another folder")
    if is_taken:
        parser.error(
            f"argument --out_dir: {out_dir!r} exists already and is not overwritten; name another folder"
            + (f", or go on with that run: --resume {shlex.quote(out_dir)}" if is_run else "")
        )


def n_training_images(args):
    """Return how many training images there will be, at least."""
    sizes = {"cifar10": 50_000, "synthetic": args.synthetic_size}
    return sizes.get(args.dataset, min(sizes.values()))


def _parse_resumed(parser, argv, args):
    """Return the flags of the run in `args.resume`, which the command line may repeat but not change."""
    folder, script = args.resume, args.script
    try:
        config = json.loads(Path(folder, "config.json").read_text())
        recorded = config["flags"] | {"resume": folder}
        dataset = "synthetic" if config["dataset"]["is_synthetic"] else "cifar10"
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"argument --resume: {folder!r} is not a run folder with a readable config.json ({error})")
    if recorded.get("script") != script:
        parser.error(f"argument --resume: {folder!r} is a run of {recorded.get('script')}.py")
    parser.set_defaults(**recorded)
    args = parser.parse_args(argv)
    for name, value in recorded.items():
        # A data set may have moved (its fingerprint is checked), and quiet changes no number.
        if name not in ("data_dir", "quiet") and getattr(args, name) != value:
            parser.error(
                f"argument --{name}: got {getattr(args, name)!r}, but {folder!r} was started with {value!r}; "
                "leave the flag out, or start a new run without --resume"
            )
    args.dataset = dataset  # what 'auto' found the first time, whatever is there now
    if "precision" in recorded:
        args.precision = config["precision"]
    return args
