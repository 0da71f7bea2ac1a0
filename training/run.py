"""A training run: run directory, progress, signals, resuming. This module does not import torch.

run = Run(args, data, {"model": model, "batches": data["train"]})  # with --resume, restores both
for step in run.steps():  # from the restored step to max_steps
    if run.is_evaluation_step(step):
        run.log(train=(loss, accuracy), test=(loss, accuracy))  # metrics.jsonl and curves
        run.save_checkpoint()
    if step == args.max_steps:  # for evaluation only
        break
    ...  # one training step
    run.update(loss)  # progress bar; raises if the loss is not finite
run.finish()  # summary.json
"""

import contextlib
import itertools
import json
import math
import os
import re
import shlex
import signal
import sys
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.files import RunError, append_metrics, lock, read_metrics, write_atomically, write_json, write_text
from training.flags import parse_args
from training.metadata import describe_setup, peak_memory_mb
from training.plots import draw_curve, save_figure
from training.streams import robust_output

DIVERGED = "the run has diverged"


def run_script(train, parser, argv=None, check=None):
    """Parse the flags, call `train(args)`, which returns a `Run`, and return the exit status.

    The status is 0 after a complete run; that of `run_command` after an error; 130, 143 or 129 after Ctrl-C, SIGTERM
    or SIGHUP. Invalid flags exit with status 2.
    """
    warnings.formatwarning = lambda message, *_: f"{parser.prog}: warning: {message}\n"
    with robust_output():
        args = parse_args(parser, argv, check)

    def run_and_report():
        run = train(args)
        if run is None:
            raise RunError("train() returned None; end it with: return run")
        return 0 if run.is_complete else 128 + run.stopped_by

    return run_command(parser.prog, run_and_report)


def run_command(prog, command, *args, after_interrupt=""):
    """Call `command(*args)`, and return its exit status, 0 if it returns None.

    The status is 1, with one line on standard error, after a `RunError` or `OSError` or without enough memory; 130
    after Ctrl-C.
    """
    with robust_output():
        try:
            return command(*args) or 0
        except (MemoryError, RuntimeError) as error:  # PyTorch raises RuntimeErrors
            reason = str(error).strip().split("\n")[0] or "MemoryError"
            if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", reason):
                raise
            print(f"{prog}: error: out of memory ({reason}); use a smaller network or batch", file=sys.stderr)
        except (RunError, OSError) as error:
            print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"{prog}: interrupted{after_interrupt}", file=sys.stderr)
            return 128 + signal.SIGINT
        return 1


class Run:
    """A training run, new or, with `args.resume`, restored from its last checkpoint.

    Args:
        args: flags from `parse_args`.
        data: `{'train': DataSet, 'test': DataSet, …}`.
        parts: `{name: part}`, the content of a checkpoint. A part has `state_dict` and `load_state_dict`.
        rank, n_processes: rank of this process and number of processes. Only rank 0 writes and prints.
        **config: additional entries for config.json.

    Attributes:
        directory: run directory, a `pathlib.Path`; None for a new run on ranks above 0.
        metrics: evaluations so far, a list of dicts.
        step: number of training steps done.
        stopped_by: number of the signal that stopped the run, or None.
        is_complete: whether `finish` has completed the run.

    Raises:
        RunError: the run directory cannot be written or is in use, the checkpoint is not valid, or the
            images or the number of processes differ from those of the run to resume.
    """

    checkpoint_name = "checkpoint.npz"
    command = ("python",)  # starts a script

    def __init__(self, args, data, parts, *, rank=0, n_processes=1, **config):
        self.args, self.parts = args, parts
        self.is_main, self.n_processes = rank == 0, n_processes
        self.origin = data["train"].origin
        self.title = f"{args.script} on {self.origin['name']}"
        self.directory, self.metrics, self.step, self.stopped_by = None, [], 0, None
        self._seconds_before = self._step_seconds = 0.0
        self.is_complete = False
        self._bar = tqdm(disable=True)
        if args.resume is not None:
            self.directory = Path(args.resume)
            self._resume()
        elif self.is_main:
            self._create({"processes": n_processes, **config})
        self._began = self._step_began = time.perf_counter()
        sizes = ", ".join(f"{d.num_examples} {name}" for name, d in data.items() if d.num_examples)
        self.say(f"{self.origin['name']} ({sizes} images); run directory {self.directory}")
        if self.step and not self.is_complete:
            self.say(f"resumed at step {self.step}")
        self._warn_if_synthetic()

    # ---- The run directory -----------------------------------------------------------------------

    def _create(self, config):
        self._id = uuid.uuid4().hex
        config = {
            "id": self._id,
            "script": self.args.script,
            "flags": vars(self.args),
            "dataset": self.origin,
            "seed": self.args.seed,
            "launcher_pid": os.getppid(),  # torchrun's pid, by which restarted processes recognise their run
            **config,
            **describe_setup(),
        }
        try:
            self.directory = _create_directory(self.args.out_dir, self.args.script)
            open(self.directory / "config.json", "x").close()
            write_json(self.directory / "config.json", config)
        except FileExistsError:
            raise RunError(f"{self.directory} already has a config.json; name another directory") from None
        except OSError as error:
            if self.directory is not None:
                with contextlib.suppress(OSError):
                    (self.directory / "config.json").unlink(missing_ok=True)
                    self.directory.rmdir()
            raise RunError(f"{error}; the run did not start: fix this, or name another --out_dir") from error
        self._lock()

    def _lock(self):
        self._config_file = open(self.directory / "config.json", "rb")  # noqa: SIM115, locked as long as it is open
        if not lock(self._config_file):
            raise RunError(f"{self.directory} is in use by another training process; wait for it, or stop it")

    def _resume(self):
        config = json.loads((self.directory / "config.json").read_text())
        self._id, recorded = config.get("id"), config["dataset"]
        if self.is_main:
            self._lock()
        if recorded != self.origin:
            raise RunError(
                f"{self.directory} was trained on {recorded['name']} ({recorded['fingerprint']}), got "
                f"{self.origin['name']} ({self.origin['fingerprint']}); name the original images with --data_dir"
            )
        n_processes = config.get("processes", 1)
        if n_processes != self.n_processes:
            raise RunError(
                f"{self.directory} was started with {n_processes} processes, got {self.n_processes}; resume it with "
                + ("python" if n_processes == 1 else f"torchrun --nproc_per_node={n_processes}")
            )
        self.metrics = read_metrics(self.directory)
        if (self.directory / "summary.json").exists():
            self.step, self.is_complete = self.args.max_steps, True
            return
        path = self.directory / self.checkpoint_name
        if not path.exists() and len(self.metrics) <= 1:  # killed before the first checkpoint: start from step 0
            self.metrics = []
        else:
            self._load_checkpoint(path)
        # A run killed between logging an evaluation and saving its checkpoint repeats the evaluation.
        self.metrics = [m for m in self.metrics if m["step"] <= self.step]
        if self.is_main:
            with self._resumable():
                write_text(self.directory / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in self.metrics))

    def _load_checkpoint(self, path):
        try:
            with open(path, "rb") as file:
                state = self.read_state(file)
            own = state.pop("run")
            if str(own["id"]) != self._id:
                raise ValueError("it belongs to another run")
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.step = int(own["step"])
            self._seconds_before, self._step_seconds = float(own["seconds"]), float(own["step_seconds"])
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # a damaged file raises almost any type of exception
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).strip() or type(error).__name__
            raise RunError(f"{path} is not a valid checkpoint ({reason.splitlines()[0]}); start a new run") from error

    def save_checkpoint(self):
        """Save all parts and the step, atomically."""
        if self.is_main:
            own = {"id": self._id, "step": self.step, "seconds": self._seconds(), "step_seconds": self._step_seconds}
            state = {"run": own} | {name: part.state_dict() for name, part in self.parts.items()}
            with self._resumable():
                write_atomically(self.directory / self.checkpoint_name, lambda file: self.write_state(file, state))
        self._step_began = time.perf_counter()

    def write_state(self, file, state):
        """Write `{part: {name: array or scalar}}` to a binary file."""
        np.savez(file, **{f"{part}.{name}": x for part, values in state.items() for name, x in values.items()})

    def read_state(self, file):
        """Read the state that `write_state` wrote, without running code in the file."""
        state = {}
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays:
                part, name = key.split(".", 1)
                state.setdefault(part, {})[name] = arrays[key]
        return state

    # ---- The loop --------------------------------------------------------------------------------

    def steps(self):
        """Yield each step from the restored one to `max_steps`; the last one is for evaluation only.

        After Ctrl-C, SIGTERM or SIGHUP, save a checkpoint and stop.
        """
        if self.is_complete:
            self.say("this run is already complete")
            return
        with self._catch_signals(), self._progress_bar() as self._bar:
            while self.step <= self.args.max_steps:
                self._step_began = time.perf_counter()
                yield self.step
                self._step_seconds += time.perf_counter() - self._step_began
                self.step += 1
                self._bar.update()
                if self.should_stop():
                    self._bar.close()
                    self.save_checkpoint()
                    self._warn(f"stopped after {self.step} steps; to resume: {self._resume_command()}")
                    return

    def _resume_command(self):
        spec = sys.modules["__main__"].__spec__  # None unless started by python -m
        program = ["-m", spec.name] if spec else [sys.argv[0]]
        return shlex.join([*self.command, *program, "--resume", str(self.directory)])

    def is_evaluation_step(self, step):
        """Return whether to evaluate before this step: every `eval_freq` steps and at the end, unless already done."""
        is_due = step % self.args.eval_freq == 0 or step == self.args.max_steps
        return is_due and not (self.metrics and self.metrics[-1]["step"] == step)

    def log(self, *, extra=None, **results):
        """Append an evaluation to metrics.jsonl, print it and redraw the curves.

        Args:
            extra: additional entries for the line in metrics.jsonl.
            **results: `split=(loss, accuracy)`, at least train and test.

        Raises:
            RunError: a loss is not finite.
        """
        metrics = {"step": self.step}
        for split, (loss, accuracy) in results.items():
            loss, accuracy = float(loss), float(accuracy)
            self._check_finite(f"{split} loss", loss)
            if not 0 <= accuracy <= 1:
                raise RunError(f"log: got {split}=({loss:.4g}, {accuracy:.4g}), expected loss and accuracy, 0 to 1")
            metrics |= {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
        metrics |= {
            "images_seen": self.step * self.args.batch_size,
            "seconds": round(self._seconds(), 3),
            **(extra or {}),
        }
        self.metrics.append(metrics)
        if self.is_main:
            with self._resumable():
                append_metrics(self.directory, metrics)
                self._draw_curves()
        shown = (f"{split} loss {loss:.4f} accuracy {accuracy:.4f}" for split, (loss, accuracy) in results.items())
        self.say("   ".join([f"step {self.step:>6}/{self.args.max_steps}", *shown, f"{metrics['seconds']:.1f} s"]))
        self._step_began = time.perf_counter()

    def _draw_curves(self):
        for quantity in ("accuracy", "loss"):
            save_figure(draw_curve(self.metrics, quantity, self.title), self.directory / f"{quantity}.png")

    def update(self, loss):
        """Show the training loss.

        Raises:
            RunError: the loss is not finite.
        """
        self._check_finite("training loss", loss)
        self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

    def finish(self, draw_figures=None):
        """Draw figures and write summary.json, unless the run was stopped or already complete.

        Args:
            draw_figures: callback that returns `{name: figure}`.
        """
        if not self.metrics:
            raise RunError("finish: there is no evaluation; call log at each evaluation step")
        if self.is_complete or self.metrics[-1]["step"] < self.args.max_steps:
            return
        if self.is_main:
            with self._catch_signals(), self._resumable():
                for name, figure in (draw_figures() if draw_figures else {}).items():
                    save_figure(figure, self.directory / f"{name}.png")
                self._write_summary()
            self._warn_if_synthetic()
        self.is_complete = True

    def _write_summary(self):
        last, seconds = self.metrics[-1], self._seconds()
        best = {"test_accuracy": max, "test_loss": min}
        best = {name: choose(self.metrics, key=lambda m, name=name: m[name]) for name, choose in best.items()}
        summary = {
            "dataset": self.origin["name"],
            "last": last,
            "best": {name: {"value": m[name], "step": m["step"]} for name, m in best.items()},
            "seconds": round(seconds, 3),
            "images_per_second": round(last["images_seen"] / self._step_seconds),
            "peak_memory_mb": peak_memory_mb(),
        }
        write_json(self.directory / "summary.json", summary)
        curves = ", ".join(str(self.directory / name) for name in ("accuracy.png", "loss.png"))
        self.say(
            f"test accuracy {last['test_accuracy']:.4f}, test loss {last['test_loss']:.4f} after {self.step} steps "
            f"and {seconds:.1f} s; curves: {curves}"
        )

    # ---- Signals, errors, output -----------------------------------------------------------------

    def should_stop(self):
        """Return whether to stop after the current step."""
        return self.stopped_by is not None

    @contextlib.contextmanager
    def _catch_signals(self):
        """Let Ctrl-C, SIGTERM and SIGHUP set `stopped_by`. A second signal stops a single process at once."""
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # Ignored signals stay ignored: SIGHUP under nohup, Ctrl-C in a shell's background job.
        before = {number: old for number in numbers if (old := signal.getsignal(number)) is not signal.SIG_IGN}

        def stop(number, _frame):
            self.stopped_by, message = number, "\nstopping after this step"
            if self.n_processes == 1:  # with several, the second signal may be torchrun's copy of a scheduler's
                signal.signal(number, before[number])
                message += "; signal again to stop at once"
            with contextlib.suppress(OSError):  # not print, which is not reentrant
                os.write(2, f"{message}\n".encode())

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _resumable(self):
        """Add how to resume the run to an `OSError` in this block."""
        try:
            yield
        except OSError as error:
            raise RunError(f"{error}; fix this, then resume: --resume {shlex.quote(str(self.directory))}") from error

    def _check_finite(self, name, value):
        if not math.isfinite(value):
            raise RunError(
                f"{name} is {float(value)} at step {self.step}: {DIVERGED}; the last checkpoint is unchanged. "
                f"Check the gradients, or start a new run with a --learning_rate below {self.args.learning_rate}"
            )

    def _seconds(self):
        return self._seconds_before + time.perf_counter() - self._began

    def _progress_bar(self):
        is_disabled = True if self.args.quiet or not self.is_main else None  # None: unless stderr is a terminal
        steps = {"total": self.args.max_steps, "initial": self.step, "unit": "step"}
        return tqdm(**steps, disable=is_disabled, dynamic_ncols=True, leave=False)

    def say(self, message):
        """Print a line on rank 0, unless --quiet."""
        if self.is_main and not self.args.quiet:
            tqdm.write(message)  # above the progress bar
            sys.stdout.flush()

    def _warn(self, message):
        if self.is_main:
            tqdm.write(message, file=sys.stderr)

    def _warn_if_synthetic(self):
        if self.origin["is_synthetic"]:
            self._warn("*** SYNTHETIC IMAGES: these numbers are not CIFAR-10 results ***")


def _create_directory(out_dir, script):
    """Create and return a run directory: `out_dir`, or a new one named after the time."""
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        return Path(out_dir)
    base = Path("results", script, time.strftime("%Y-%m-%d_%H-%M-%S"))
    for n in itertools.count(1):
        directory = base if n == 1 else base.with_name(f"{base.name}-{n}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir(parents=True)
            return directory
