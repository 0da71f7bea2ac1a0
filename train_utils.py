"""One training run, whatever it trains: the loop around its steps, progress, signals, and errors in one line.

A script parses its flags (`flags.py`), makes a `Run` and takes a step for each that `Run.steps` yields; the
run's files are `run_folder.py`'s. Nothing here imports torch.
"""

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings

from tqdm import tqdm

import interrupts
from cifar10_files import DataError
from figures import draw_curve
from flags import parse_args
from machine import describe_setup, peak_memory_mb
from run_folder import RunError, RunFolder, make_folder
from streams import lasting_output


def run_script(train, parser, argv=None, *, check=None, before=None):
    """Parse flags, `check(parser, args)` them, call `train(args)` and return the exit status.

    The command line is what `before(parser, argv)` makes of it, where that is given.

    0 after a whole run, 1 with one line on standard error for a `RunError`, a `DataError`, an `OSError` or a lack of
    memory, 130 for a run that Ctrl-C ended, 143 for SIGTERM, 129 for SIGHUP (a terminal that was closed); wrong flags
    exit with 2.
    """
    warnings.formatwarning = lambda message, *_: f"{parser.prog}: warning: {message}\n"
    interrupts.raise_again()
    with lasting_output():
        args = parse_args(parser, argv if before is None else before(parser, argv))
        if check is not None:
            check(parser, args)
        try:
            run = train(args)
            return 0 if run.is_complete else 128 + run.stopped_by
        except MemoryError as error:
            print(f"{parser.prog}: error: out of memory ({error}): take a smaller network or batch", file=sys.stderr)
            return 1
        except (RunError, DataError, OSError) as error:
            print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{parser.prog}: interrupted", file=sys.stderr)
            return 130


DIVERGED = "the run has diverged"  # stands in the `RunError`, where report/reproduce.py looks for it


class Run:
    """A training run: its loop, and the folder that it fills.

    Args:
        args: flags from `parse_args`. Without `args.resume` a new folder is made.
        data: splits from `get_cifar10`; where they come from is recorded, and those that are not empty are
            evaluated.
        device, precision, n_processes, launch: recorded; a run is resumed by as many processes as it was begun by,
            and a group of processes that is started again knows its own run by `launch`.
        is_main: False where another process writes the folder of this run.

    Attributes:
        folder: its `RunFolder`.
        metrics: the evaluations so far, a list of dicts.
        loss: the script sets it to the training loss of its last batch.
        step: how many training steps the network has had.
        is_complete: whether that was the last one; not so where a signal has ended the run.
        stopped_by: number of the signal that ended the run early, or None.

    Raises:
        RunError: what is to be resumed is damaged, or was trained on other data.
        OSError: the folder cannot be written.
    """

    folder_type = RunFolder
    launcher = ("python",)

    def __init__(self, args, data, *, device="cpu", precision="float32", is_main=True, n_processes=1, launch=None):
        self.args = args
        self.n_processes = n_processes
        self.dataset = data["train"].origin
        self.splits = [split for split in ("train", "test", "validation") if data[split].num_examples]
        self.is_main = is_main
        self.step = 0
        self.loss = 0.0
        self.metrics = []
        self.stopped_by = None
        self._state = None  # of the checkpoint, where there is one to go on from
        self._is_restored = False
        self._seconds_before = 0.0  # of the run before it was resumed
        self._step_seconds = 0.0  # of training steps only, without evaluations and figures
        if args.resume is not None:
            self._reopen()
        else:
            self._begin(device=device, precision=precision, processes=n_processes, launch=launch)
        self._started = time.perf_counter()
        n_train, n_test = data["train"].num_examples, data["test"].num_examples
        self.say(f"{self.dataset['name']}: {n_train} training and {n_test} test images; run folder {self.folder}")
        self._warn_if_synthetic()

    def _begin(self, **recorded):
        config = {
            "script": self.args.script,
            "flags": vars(self.args),
            "dataset": self.dataset,
            "seed": self.args.seed,
            **recorded,
            **describe_setup(),
        }
        path = make_folder(self.args.out_dir, self.args.script) if self.is_main else None
        self.folder = self.folder_type(self._from_main(path))
        if self.is_main:
            self.folder.begin(config)

    def _reopen(self):
        self.folder = self.folder_type(self.args.resume)
        if self.is_main:
            self.folder.lock()
        self.metrics, self.step, self._state = self.folder.reopen(
            self.dataset, self.n_processes, self.args.max_steps, self._is_due
        )
        if self._state is not None:
            self._seconds_before = self._state.pop("seconds")
            self._step_seconds = self._state.pop("step_seconds")

    def _from_main(self, value):
        """Return what the process that writes the folder has as `value`."""
        return value

    @property
    def is_complete(self):
        return self.step == self.args.max_steps

    @property
    def title(self):
        """Of this run's figures."""
        return f"{self.args.script} on {self.dataset['name']}"

    def restore(self, load):
        """Call `load(state)` with what the checkpoint holds, where there is one to resume from.

        Raises:
            RunError: it is not one of this run.
        """
        self._is_restored = True
        if self._state is not None:
            try:
                load(self._state)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise RunError(f"{self.folder.checkpoint} is not of this run: {error}") from error

    def steps(self, evaluate, state, figures=None):
        """Yield once for each training step that is to be done, and take care of everything else.

        At step 0, every `eval_freq` steps and at the last, the network is evaluated, and metrics,
        figures and checkpoint are written. Ends early, with a checkpoint, after Ctrl-C. Each step sets `loss`. Before
        the first, `restore` loads a checkpoint, and the training data go on from `step · batch_size`.

        Args:
            evaluate: `evaluate(split)` returns loss and accuracy on one of `splits`.
            state: returns what a checkpoint must hold, as `RunFolder.write_state` takes it: the weights, and what the
                optimiser remembers.
            figures: returns what is to be drawn of the trained network besides the curves, `{name: figure}`.

        Raises:
            RunError: a loss is not finite, and the last checkpoint stays as it was; or nothing has restored it.
        """
        try:
            yield from self._steps(evaluate, state, figures)
        finally:
            self.folder.unlock()

    def _steps(self, evaluate, state, figures):
        if self.is_complete and self._state is None:
            self.say("this run is complete already; nothing is left to do")
            return
        if self._state is not None and not self._is_restored:
            raise RunError(f"{self.folder.checkpoint} was not loaded: Run.restore(load) has to come before Run.steps")
        if self.is_main and self.args.resume is not None:
            self.folder.rewrite_metrics(self.metrics)
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
        self.folder.append_metrics(metrics)
        self._draw_curves()
        results = (f"{s} loss {metrics[f'{s}_loss']:.4f} accuracy {metrics[f'{s}_accuracy']:.4f}" for s in self.splits)
        self.say("   ".join([f"step {self.step:>6}/{self.args.max_steps}", *results, f"{metrics['seconds']:.1f} s"]))

    def _draw_curves(self):
        for quantity in ("accuracy", "loss"):
            self.folder.write_figure(quantity, draw_curve(self.metrics, quantity, self.title))

    def _write_checkpoint(self, state):
        self.folder.write_checkpoint(state, self.step, seconds=self._seconds(), step_seconds=self._step_seconds)

    def _finish(self, state, figures):
        """Write what a run leaves at its end, or what it goes on from where it was stopped."""
        if self.is_complete:
            for name, figure in (figures() if figures else {}).items():
                self.folder.write_figure(name, figure)
            self._write_summary()
            return
        weights = state()
        if not self.folder.is_finite(weights):  # the last loss was that of the weights before the last step
            self._check_finite("a weight", math.nan)
        self._write_checkpoint(weights)
        join = subprocess.list2cmdline if os.name == "nt" else shlex.join
        command = join([*self.launcher, sys.argv[0], "--resume", str(self.folder)])
        print(f"stopped at step {self.step}; to go on: {command}", file=sys.stderr)

    def _write_summary(self):
        last = self.metrics[-1]
        best_accuracy = max(self.metrics, key=lambda m: m["test_accuracy"])
        best_loss = min(self.metrics, key=lambda m: m["test_loss"])
        seconds = self._seconds()
        self.folder.write_summary(
            {
                "dataset": self.dataset["name"],
                "last": last,
                "best": {
                    "test_accuracy": {"value": best_accuracy["test_accuracy"], "step": best_accuracy["step"]},
                    "test_loss": {"value": best_loss["test_loss"], "step": best_loss["step"]},
                },
                "seconds": round(seconds, 3),
                "images_per_second": round(last["images_seen"] / self._step_seconds),
                "peak_memory_mb": peak_memory_mb(),
            }
        )
        curves = ", ".join(str(self.folder.path / name) for name in ("accuracy.png", "loss.png"))
        self.say(
            f"test accuracy {last['test_accuracy']:.4f}, test loss {last['test_loss']:.4f} after {self.step} steps "
            f"and {seconds:.1f} s; curves: {curves}"
        )

    def say(self, message):
        if self.is_main and not self.args.quiet:
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()

    def _warn_if_synthetic(self):
        if self.is_main and self.dataset["is_synthetic"]:
            print(
                "*** SYNTHETIC IMAGES, not CIFAR-10: no number of this run says anything of CIFAR-10 ***",
                file=sys.stderr,
            )

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
        """Let Ctrl-C, SIGTERM and SIGHUP end the run after the step that they fall in; a second one ends it at once.

        Not so one of several processes: torchrun hands on to them what may have reached them already, as where a
        scheduler signals all, and kills those that do not end within 30 s.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        # What this process ignores it goes on ignoring: under nohup the end of its terminal, as a shell's background
        # job Ctrl-C.
        before = {number: old for number in numbers if (old := signal.getsignal(number)) is not signal.SIG_IGN}

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

    def _is_stopped(self):
        return self.stopped_by is not None

    def _is_due(self, step):
        return step % self.args.eval_freq == 0 or step == self.args.max_steps

    def _seconds(self):
        return self._seconds_before + time.perf_counter() - self._started

    def _check_finite(self, name, value):
        if not math.isfinite(value):
            message = f"{name} is {float(value)} at step {self.step}: "
            if self.step == 0:
                raise RunError(message + "the network overflows before it is trained; start anew with other flags")
            raise RunError(
                f"{message}{DIVERGED}; start anew with a --learning_rate below {self.args.learning_rate}. "
                f"The last good checkpoint stays in {self.folder.checkpoint}"
            )
