"""One training run, whatever it trains: flags, run folder, metrics, checkpoint, progress and curves.

A script makes its flags with `make_parser` and `parse_args`, and its loop with `Run.steps`; `run_script`
turns errors into one line and an exit status. Nothing here imports torch.
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from figures import draw_curve


class RunError(Exception):
    """A run cannot start, go on or be resumed; the message says what to do."""


# ---- Flags -------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Reads flags from the command line and from `@FILE`s, and reports a wrong one in one line, exit status 2."""

    def convert_arg_line_to_args(self, line):
        words = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True)
        words.whitespace_split = True
        words.commenters = ""  # a # within a word is the word's
        words.escape = ""  # a backslash parts the folders of a path on Windows
        try:
            return list(words)
        except ValueError as error:
            self.error(f"flag file line {line!r}: {error}")

    def parse_args(self, args=None, namespace=None):
        try:
            return super().parse_args(args, namespace)
        except UnicodeDecodeError as error:
            self.error(f"a flag file is no text: {error}")
        except RecursionError:
            self.error("a flag file names itself")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (flags: {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for flags that have none."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


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
        epilog="Flags can also stand in a file, one and its value a line, # before a comment: give it as @FILE.",
        fromfile_prefix_chars="@",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    add = parser.add_argument
    positive = whole_number(1)
    add("--learning_rate", type=real_number(0, exclusive=True), default=learning_rate, help="step size")
    add("--max_steps", type=positive, default=max_steps, help="number of training steps")
    add("--batch_size", type=positive, default=batch_size, help="images a step")
    add("--eval_freq", type=positive, default=eval_freq, help="steps between evaluations")
    add(
        "--train_eval_size",
        type=whole_number(0, 50_000),
        default=10_000,
        help="training images to evaluate on, 0 for all; the test set is always taken whole",
    )
    add("--seed", type=whole_number(0, 2**32 - 1), default=42, help="of weights and order of the images")
    add(
        "--dataset",
        choices=("auto", "cifar10", "synthetic"),
        default="auto",
        help="auto takes synthetic images where CIFAR-10 is neither on disk nor to be had",
    )
    add("--data_dir", default="./cifar10/cifar-10-batches-py", help="folder of CIFAR-10, downloaded where missing")
    add(
        "--synthetic_size",
        type=whole_number(10, 1_000_000),
        default=50_000,
        help="synthetic training images, with a fifth as many for the test",
    )
    add("--out_dir", help="run folder to make (default: results/SCRIPT/TIME)")
    add("--resume", metavar="DIR", help="go on with the run in DIR, under the flags it was started with")
    add("--quiet", action="store_true", help="print only warnings and errors")
    parser.set_defaults(script=script)
    return parser


def make_mlp_parser(script, description):
    """Return a `Parser` with the flags that both MLPs' scripts share, and the course's defaults."""
    parser = make_parser(script, description, learning_rate=2e-3, max_steps=1500, batch_size=200, eval_freq=100)
    parser.add_argument(
        "--dnn_hidden_units",
        type=layer_sizes,
        default="100",
        help="sizes of the hidden layers, with commas between; '' for none",
    )
    parser.add_argument(
        "--neg_slope", type=real_number(0), default=0.02, help="slope of the leaky ReLUs for negative inputs"
    )
    return parser


def parse_args(parser, argv=None):
    """Return the flags; with `--resume`, those that the run was started with. Reads no data.

    Exits with status 2 and one line on standard error where a flag is unknown or impossible.
    """
    args = parser.parse_args(argv)
    if args.resume is not None:
        return _parse_resumed(parser, argv, args)
    if args.out_dir is not None:
        folder = Path(args.out_dir)
        try:
            is_taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
            is_run = is_taken and (folder / "config.json").is_file()
            nearest = next(parent for parent in folder.absolute().parents if parent.exists())
            if not nearest.is_dir():
                raise NotADirectoryError(f"{str(nearest)!r} is not a folder")
        except OSError as error:
            parser.error(f"argument --out_dir: {error}; name another folder")
        if is_taken:
            parser.error(
                f"argument --out_dir: {args.out_dir!r} exists already and is not overwritten; name another folder"
                + (f", or go on with that run: --resume {shlex.quote(args.out_dir)}" if is_run else "")
            )
    n_train = n_training_images(args)
    if args.batch_size > n_train:
        parser.error(f"argument --batch_size: got {args.batch_size}, expected at most {n_train}, the training images")
    return args


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
    args.dataset = dataset  # what 'auto' found the first time, whatever is to be had now
    if "precision" in recorded:
        args.precision = config["precision"]
    return args


def run_script(train, parser, argv=None, *, expected=(), check=None):
    """Parse flags, `check(parser, args)` them, call `train(args)` and return the exit status.

    0 after a whole run, 1 with one line on standard error for a `RunError`, an `OSError`, a lack of
    memory or one of `expected`, 130 for a run that Ctrl-C ended, 143 for one that SIGTERM did; wrong
    flags exit with 2.
    """
    warnings.formatwarning = lambda message, *_: f"{parser.prog}: warning: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be beyond the log's encoding
    args = parse_args(parser, argv)
    if check is not None:
        check(parser, args)
    try:
        run = train(args)
        return 0 if run.is_complete else 128 + run.stopped_by
    except MemoryError as error:
        print(f"{parser.prog}: error: out of memory ({error}): take a smaller network or batch", file=sys.stderr)
        return 1
    except (RunError, OSError, *expected) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130


# ---- One run -----------------------------------------------------------------------------------


class Run:
    """A run folder, and the loop that fills it.

    Args:
        args: flags from `parse_args`. Without `args.resume` a new folder is made.
        data: splits from `get_cifar10`; where they come from is recorded, and those that are not empty are
            evaluated.
        device, precision, n_processes: recorded; a run is resumed by as many processes as it was begun by.
        is_main: False where another process writes the folder of this run.

    Attributes:
        folder: `pathlib.Path` of the run folder.
        step: how many training steps the network has had.
        loss: the script sets it to the training loss of its last batch.
        is_complete: whether that was the last one; not so after Ctrl-C or SIGTERM.
        stopped_by: number of the signal that ended the run early, or None.

    Raises:
        RunError: what is to be resumed is damaged, or was trained on other data.
        OSError: the folder cannot be written.
    """

    checkpoint_name = "checkpoint.npz"
    launcher = ("python",)

    def __init__(self, args, data, *, device="cpu", precision="float32", is_main=True, n_processes=1):
        self.args = args
        self.n_processes = n_processes
        self.dataset = data["train"].origin
        self.splits = [split for split in ("train", "test", "validation") if data[split].num_examples]
        self.is_main = is_main
        self.step = 0
        self.loss = 0.0
        self.metrics = []
        self._state = None
        self._lock = None
        self.stopped_by = None
        self._seconds_before = 0.0  # of the run before it was resumed
        self._step_seconds = 0.0  # of training steps only, without evaluations and figures
        if args.resume is not None:
            self.folder = Path(args.resume)
            self._lock_folder()
            self._reopen()
        elif is_main:
            self.folder = self._make_folder()
            self._write_config(device, precision)
            self._lock_folder()
        else:
            self.folder = None
        self._started = time.perf_counter()
        n_train, n_test = data["train"].num_examples, data["test"].num_examples
        self.say(f"{self.dataset['name']}: {n_train} training and {n_test} test images; run folder {self.folder}")
        self._warn_if_synthetic()

    @property
    def is_complete(self):
        return self.step == self.args.max_steps

    @property
    def title(self):
        """Of this run's figures."""
        return f"{self.args.script} on {self.dataset['name']}"

    def steps(self, evaluate, state, figures=None):
        """Yield once for each training step that is to be done, and take care of everything else.

        At step 0, every `eval_freq` steps and at the last, the network is evaluated, and metrics,
        figures and checkpoint are written. Ends early, with a checkpoint, after Ctrl-C.

        Args:
            evaluate: `evaluate(split)` returns loss and accuracy on one of `splits`.
            state: returns what a checkpoint must hold, as `write_state` takes it.
            figures: returns what is to be drawn of the trained network besides the curves, `{name: figure}`.

        Raises:
            RunError: a loss is not finite. The last checkpoint stays as it was.
        """
        try:
            yield from self._steps(evaluate, state, figures)
        finally:
            self._unlock_folder()

    def _steps(self, evaluate, state, figures):
        if self.is_complete and self._state is None:
            self.say("this run is complete already; nothing is left to do")
            return
        if self.is_main and self.args.resume is not None:
            lines = "".join(json.dumps(m) + "\n" for m in self.metrics)
            write_atomically(self.folder / "metrics.jsonl", lambda file: file.write(lines.encode()))
        # Until the last file is written: torchrun may pass a signal on to this process after another has been stopped.
        with self._catch_signals():
            with self._progress_bar() as bar:
                while True:
                    if self._is_due(self.step) and not (self.metrics and self.metrics[-1]["step"] == self.step):
                        self._record(evaluate)
                        if self.is_main:
                            self._write_checkpoint(state())
                    if self.is_complete or self._is_stopped():
                        break
                    began = time.perf_counter()
                    yield
                    self._step_seconds += time.perf_counter() - began
                    self.step += 1
                    self._check_finite("training loss", self.loss)
                    bar.set_postfix_str(f"loss {self.loss:.3f}", refresh=False)
                    bar.update()
            self._warn_if_synthetic()
            if self.is_main:
                self._finish(state, figures)

    def _finish(self, state, figures):
        """Write what a run leaves at its end, or what it goes on from where it was stopped."""
        if self.is_complete:
            for name, figure in (figures() if figures else {}).items():
                self._write_figure(name, figure)
            self._write_summary()
            return
        weights = state()
        if not self.is_finite(weights):  # the last loss was that of the weights before the last step
            self._check_finite("a weight", math.nan)
        self._write_checkpoint(weights)
        join = subprocess.list2cmdline if os.name == "nt" else shlex.join
        command = join([*self.launcher, sys.argv[0], "--resume", str(self.folder)])
        print(f"stopped at step {self.step}; to go on: {command}", file=sys.stderr)

    def restore(self, load):
        """Call `load(state)` with what the checkpoint holds, where there is one to resume from."""
        if self._state is not None:
            try:
                load(self._state)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise RunError(f"{self.folder / self.checkpoint_name} is not of this run: {error}") from error

    def say(self, message):
        if self.is_main and not self.args.quiet:
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()

    # What a checkpoint is made of. PyTorch's scripts override these three and the name.

    def write_state(self, file, state):
        """Write a checkpoint to `file`, open for bytes.

        Args:
            state: `{name: array}`, what the script's `state()` returned, the text 'run' and the numbers
                'step', 'seconds' and 'step_seconds'.
        """
        np.savez(file, **state)

    def read_state(self, path):
        """Return what `write_state` wrote, running nothing that the file holds.

        Raises:
            ValueError: the file is damaged or anything else.
            OSError: it cannot be read.
        """
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
            except Exception as error:  # damaged archives raise nearly every kind that there is
                raise ValueError(error) from error

    def is_finite(self, state):
        """Return whether all weights in what the script's `state()` returned are finite."""
        return all(np.isfinite(array).all() for array in state.values())

    # The folder and its files

    def _lock_folder(self):
        """Keep the folder to this process, until `steps` ends or the process does, in whichever way."""
        if not self.is_main or fcntl is None:
            return
        self._lock = open(self.folder / "config.json", "rb")  # noqa: SIM115, held until `_unlock_folder`
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{self.folder} is in use by a process that trains in it; wait for that, or stop it"
            ) from None
        except OSError:  # a file system without locks
            pass

    def _unlock_folder(self):
        if self._lock is not None:
            self._lock.close()

    def _make_folder(self):
        if self.args.out_dir is not None:
            folder = Path(self.args.out_dir)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                # `parse_args` has seen that it was empty, but another run may have taken it since.
                open(folder / "config.json", "x").close()
            except FileExistsError:
                raise RunError(f"{folder} is taken by a run that has just begun; name another folder") from None
            return folder
        base = Path("results", self.args.script, time.strftime("%Y-%m-%d_%H-%M-%S"))
        folder, n = base, 1
        while True:
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                n += 1
                folder = base.with_name(f"{base.name}-{n}")

    def _write_config(self, device, precision):
        modules = ("numpy", "torch", "torchvision")
        self._id = uuid.uuid4().hex
        config = {
            "id": self._id,
            "script": self.args.script,
            "flags": vars(self.args),
            "dataset": self.dataset,
            "seed": self.args.seed,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {"python": platform.python_version()}
            | {name: sys.modules[name].__version__ for name in modules if name in sys.modules},
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_processor()}",
            "device": device,
            "precision": precision,
            "processes": self.n_processes,
            "git_commit": git_commit(Path(__file__).parent),
        }
        write_json(self.folder / "config.json", config)

    def _reopen(self):
        config = json.loads((self.folder / "config.json").read_text())
        self._id = config.get("id")
        recorded = config["dataset"]
        if recorded != self.dataset:
            raise RunError(
                f"{self.folder} was trained on {recorded['name']} ({recorded['fingerprint']}), got "
                f"{self.dataset['name']} ({self.dataset['fingerprint']}): name the folder of the first with --data_dir"
            )
        self.metrics = read_metrics(self.folder)
        if (self.folder / "summary.json").exists():
            self.step = self.args.max_steps
            return
        n_processes = config.get("processes", 1)
        if n_processes != self.n_processes:
            raise RunError(
                f"{self.folder} was begun by {n_processes} processes, got {self.n_processes}: resume it "
                + ("with python" if n_processes == 1 else f"by torchrun with {n_processes} processes")
            )
        path = self.folder / self.checkpoint_name
        if path.exists():
            try:
                state = self.read_state(path)
                self.step = int(state.pop("step"))
                self._seconds_before = float(state.pop("seconds"))
                self._step_seconds = float(state.pop("step_seconds"))
                if str(state.pop("run")) != self._id:
                    raise ValueError("it is of another run")
                if not 0 <= self.step <= self.args.max_steps:
                    raise ValueError(f"it is of step {self.step} of {self.args.max_steps}")
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path} is damaged or no checkpoint ({error}); start a new run") from error
            self._state = state
        elif any(m["step"] > 0 for m in self.metrics):
            raise RunError(f"{path} is missing, and without it this run cannot go on; start a new run")
        # Killed between metrics and checkpoint, a run has evaluations that it is about to repeat.
        self.metrics = [m for m in self.metrics if self._state is not None and m["step"] <= self.step]
        if self._state is not None:
            due = [step for step in range(self.step + 1) if self._is_due(step)]
            if [m["step"] for m in self.metrics] != due:
                raise RunError(f"{self.folder / 'metrics.jsonl'} lacks evaluations that were made; start a new run")

    def _record(self, evaluate):
        metrics = {"step": self.step}
        for split in self.splits:
            loss, accuracy = evaluate(split)
            self._check_finite(f"{split} loss", loss)
            metrics |= {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
        metrics |= {"images_seen": self.step * self.args.batch_size, "seconds": round(self._seconds(), 3)}
        self.metrics.append(metrics)
        if not self.is_main:
            return
        # One write of one short line: a killed process leaves whole lines.
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._draw_curves()
        results = (f"{s} loss {metrics[f'{s}_loss']:.4f} accuracy {metrics[f'{s}_accuracy']:.4f}" for s in self.splits)
        self.say("   ".join([f"step {self.step:>6}/{self.args.max_steps}", *results, f"{metrics['seconds']:.1f} s"]))

    def _write_checkpoint(self, state):
        own = {"run": self._id, "step": self.step, "seconds": self._seconds(), "step_seconds": self._step_seconds}
        write_atomically(self.folder / self.checkpoint_name, lambda file: self.write_state(file, state | own))

    def _draw_curves(self):
        for quantity in ("accuracy", "loss"):
            self._write_figure(quantity, draw_curve(self.metrics, quantity, self.title))

    def _write_figure(self, name, figure):
        write_atomically(self.folder / f"{name}.png", lambda file: figure.savefig(file, format="png"))

    def _write_summary(self):
        last = self.metrics[-1]
        best_accuracy = max(self.metrics, key=lambda m: m["test_accuracy"])
        best_loss = min(self.metrics, key=lambda m: m["test_loss"])
        summary = {
            "dataset": self.dataset["name"],
            "last": last,
            "best": {
                "test_accuracy": {"value": best_accuracy["test_accuracy"], "step": best_accuracy["step"]},
                "test_loss": {"value": best_loss["test_loss"], "step": best_loss["step"]},
            },
            "seconds": round(self._seconds(), 3),
            "images_per_second": round(last["images_seen"] / self._step_seconds),
            "peak_memory_mb": _peak_memory_mb(),
        }
        write_json(self.folder / "summary.json", summary)
        self.say(
            f"test accuracy {last['test_accuracy']:.4f}, test loss {last['test_loss']:.4f} after {self.step} steps "
            f"and {summary['seconds']:.1f} s; curves: {self.folder / 'accuracy.png'}, {self.folder / 'loss.png'}"
        )

    # Around the loop

    def _seconds(self):
        return self._seconds_before + time.perf_counter() - self._started

    def _progress_bar(self):
        # disable=None: no bar where standard error is not a terminal.
        return tqdm(
            total=self.args.max_steps,
            initial=self.step,
            unit="step",
            disable=True if self.args.quiet or not self.is_main else None,
            dynamic_ncols=True,
            leave=False,
        )

    @contextlib.contextmanager
    def _catch_signals(self):
        """Let Ctrl-C and SIGTERM end the run after the step that they fall in; a second one ends it at once.

        Not so one of several processes: torchrun hands on to them what may have reached them already, as where a
        scheduler signals all, and kills those that do not end within 30 s.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number, _frame):
            self.stopped_by = number
            again = ""
            if self.n_processes == 1:
                signal.signal(number, before[number])
                again = "; once more to stop at once"
            print(f"\nstopping after this step{again}", file=sys.stderr)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _is_due(self, step):
        return step % self.args.eval_freq == 0 or step == self.args.max_steps

    def _is_stopped(self):
        return self.stopped_by is not None

    def _check_finite(self, name, value):
        if not math.isfinite(value):
            message = f"{name} is {float(value)} at step {self.step}: "
            if self.step == 0:
                raise RunError(message + "the network overflows before it is trained; start anew with other flags")
            raise RunError(
                f"{message}the run has diverged; start anew with a --learning_rate below {self.args.learning_rate}. "
                f"The last good checkpoint stays in {self.folder / self.checkpoint_name}"
            )

    def _warn_if_synthetic(self):
        if self.is_main and self.dataset["is_synthetic"]:
            print(
                "*** SYNTHETIC IMAGES, not CIFAR-10: no number of this run says anything of CIFAR-10 ***",
                file=sys.stderr,
            )


# ---- Files -------------------------------------------------------------------------------------


def read_metrics(folder):
    """Return the evaluations of a run folder, a list of dicts, without a last line that a crash cut off.

    Raises:
        RunError: a line is no evaluation.
    """
    path = Path(folder, "metrics.jsonl")
    try:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        metrics = [json.loads(line) for line in lines if line.endswith("\n")]
        if not all(isinstance(m, dict) and type(m.get("step")) is int for m in metrics):
            raise ValueError("a line has no step")
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); start a new run") from error
    return metrics


def write_atomically(path, write):
    """Call `write(file)` on a temporary file, flush it to disk and rename it to `path`: there is never half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb") as file:  # fails at a link that somebody has put there meanwhile
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path, content):
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def git_commit(folder):
    """Return the commit that `folder` has checked out, with '-dirty' where Python files differ, or None without one.

    Other files, such as a report's numbers, change with each run that is recorded, and do not change what it computes.
    """

    def git(*command):
        done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor():
    """Return the processor's name, on which the last digits of a run depend."""
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].split("\n")[0].strip()
    return platform.processor()


def _peak_memory_mb():
    """Return the process's peak resident memory in MB (10⁶ bytes), or None on Windows."""
    # Linux, where getrusage's figure includes the process that started this one.
    with contextlib.suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
