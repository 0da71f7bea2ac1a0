"""A run's folder and its files: config, metrics, checkpoint, figures, summary. Each file is whole or not there."""

import contextlib
import errno
import json
import os
import time
import uuid
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunError(Exception):
    """A run cannot start, go on or be resumed; the message says what to do."""


class RunFolder:
    """The files of one run, to be written by one process; others may read them.

    Attributes:
        path: `pathlib.Path` of the folder.
        checkpoint: path of the checkpoint.
        id: of the run, which its checkpoint repeats.
    """

    checkpoint_name = "checkpoint.npz"

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoint = self.path / self.checkpoint_name
        self.id = None
        self._lock = None

    def __str__(self):
        return str(self.path)

    def begin(self, config):
        """Write config.json, with an id of its own for the run, and keep the folder to this process."""
        self.id = uuid.uuid4().hex
        write_json(self.path / "config.json", {"id": self.id} | config)
        self.lock()

    def lock(self):
        """Keep the folder to this process, until `unlock` or the process's end, in whichever way.

        Raises:
            RunError: another process has it.
        """
        self._lock = open(self.path / "config.json", "rb")  # noqa: SIM115, held until `unlock`
        if not _lock(self._lock):
            raise RunError(f"{self} is in use by a process that trains in it; wait for that, or stop it")

    def unlock(self):
        if self._lock is not None:
            self._lock.close()

    # What a checkpoint is made of. PyTorch's scripts override these three and the name.

    def write_state(self, file, state):
        """Write a checkpoint to `file`, open for bytes.

        Args:
            file: where to.
            state: `{name: array}`, what the script's `state()` returned, the text 'run' and the numbers
                'step', 'seconds' and 'step_seconds'.
        """
        np.savez(file, **state)

    def read_state(self, file):
        """Return what `write_state` wrote, running nothing that the file holds.

        Raises:
            ValueError: the file is damaged or anything else.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # damaged archives raise nearly every kind that there is
            raise ValueError(error) from error

    def is_finite(self, state):
        """Return whether all weights in what the script's `state()` returned are finite."""
        return all(np.isfinite(array).all() for array in state.values())

    # Writing

    def append_metrics(self, metrics):
        """Add a line to metrics.jsonl. It is one write of one short line: a killed process leaves whole lines."""
        path = self.path / "metrics.jsonl"
        with _naming(path), open(path, "a") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewrite_metrics(self, metrics):
        """Let metrics.jsonl hold just these evaluations."""
        lines = "".join(json.dumps(m) + "\n" for m in metrics)
        write_text(self.path / "metrics.jsonl", lines)

    def write_checkpoint(self, state, step, **seconds):
        own = {"run": self.id, "step": step, **seconds}
        write_atomically(self.checkpoint, lambda file: self.write_state(file, state | own))

    def write_figure(self, name, figure):
        write_atomically(self.path / f"{name}.png", lambda file: figure.savefig(file, format="png"))

    def write_summary(self, summary):
        write_json(self.path / "summary.json", summary)

    # Reading what a run is resumed from

    def reopen(self, dataset, n_processes, max_steps, due):
        """Return what a run goes on from: its evaluations, its step and the checkpoint's state, or None without one.

        Args:
            dataset: origin of the images, which must be those that the run was begun with.
            n_processes: as many as the run was begun by.
            max_steps: a whole run's number of steps.
            due: whether a step, a whole number, has an evaluation.

        Raises:
            RunError: a file is damaged or missing, or of another run; other images; other processes.
        """
        config = json.loads((self.path / "config.json").read_text())
        self.id = config.get("id")
        recorded = config["dataset"]
        if recorded != dataset:
            raise RunError(
                f"{self} was trained on {recorded['name']} ({recorded['fingerprint']}), got {dataset['name']} "
                f"({dataset['fingerprint']}): name the folder of the first with --data_dir"
            )
        metrics = read_metrics(self.path)
        if (self.path / "summary.json").exists():
            return metrics, max_steps, None
        n_recorded = config.get("processes", 1)
        if n_recorded != n_processes:
            raise RunError(
                f"{self} was begun by {n_recorded} processes, got {n_processes}: resume it "
                + ("with python" if n_recorded == 1 else f"by torchrun with {n_recorded} processes")
            )
        if not self.checkpoint.exists():
            if any(m["step"] > 0 for m in metrics):
                raise RunError(f"{self.checkpoint} is missing, and without it this run cannot go on; start a new run")
            return [], 0, None
        step, state = self._read_checkpoint(max_steps)
        # Killed between metrics and checkpoint, a run has evaluations that it is about to repeat.
        metrics = [m for m in metrics if m["step"] <= step]
        if [m["step"] for m in metrics] != [i for i in range(step + 1) if due(i)]:
            raise RunError(f"{self.path / 'metrics.jsonl'} lacks evaluations that were made; start a new run")
        return metrics, step, state

    def _read_checkpoint(self, max_steps):
        try:
            with open(self.checkpoint, "rb") as file:
                state = self.read_state(file)
            step = int(state.pop("step"))
            if str(state.pop("run")) != self.id:
                raise ValueError("it is of another run")
            if not 0 <= step <= max_steps:
                raise ValueError(f"it is of step {step} of {max_steps}")
            state |= {name: float(state[name]) for name in ("seconds", "step_seconds")}
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.checkpoint} is damaged or no checkpoint ({error}); start a new run") from error
        return step, state


def make_folder(out_dir, script):
    """Make and return the path of a new run's folder: `out_dir`, or, where that is None, one named after the time.

    Raises:
        RunError: another run has just begun in it.
        OSError: it cannot be made.
    """
    if out_dir is not None:
        folder = Path(out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # The flags' check has seen that it was empty, but another run may have taken it since.
            open(folder / "config.json", "x").close()
        except FileExistsError:
            raise RunError(f"{folder} is taken by a run that has just begun; name another folder") from None
        return folder
    base = Path("results", script, time.strftime("%Y-%m-%d_%H-%M-%S"))
    folder, n = base, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1
            folder = base.with_name(f"{base.name}-{n}")


def _lock(file):
    """Keep an open file to this process, until it is closed or the process ends; return whether nobody else has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


@contextlib.contextmanager
def only_process_in(folder):
    """Make a folder, and keep it in this block to this process among those that ask so.

    Raises:
        RunError: another process has it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".in_use", "a+") as file:
        if not _lock(file):
            file.seek(0)
            raise RunError(f"{folder} is in use by process {file.read().strip()}; wait for it, or stop it")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


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


@contextlib.contextmanager
def _naming(path):
    """Let an `OSError` of writing to `path` say which file it was, and what to do where space has run out."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason += "; make room and go on with --resume: what was written before is whole"
        raise OSError(f"{path} could not be written: {reason}") from error


def write_atomically(path, write):
    """Call `write(file)` on a temporary file, flush it to disk and rename it to `path`: there is never half a file.

    Raises:
        OSError: it cannot be written; the message names `path`, which is as it was, and nothing else is left.
    """
    temporary = path.with_name(path.name + ".tmp")
    with _naming(path):
        temporary.unlink(missing_ok=True)
        try:
            with open(temporary, "xb") as file:  # fails at a link that somebody has put there meanwhile
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_text(path, text):
    """Write a text file, in UTF-8, as `write_atomically` does; what UTF-8 lacks, half a character, as `\\udce9`."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path, content):
    write_text(path, json.dumps(content, indent=2) + "\n")
