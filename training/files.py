"""Atomic writes, locks, and the metrics file."""

import contextlib
import json
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


class RunError(Exception):
    """A run cannot start, continue or be resumed; the message says what to do."""


def write_atomically(path, write):
    """Call `write(file)` on a temporary binary file, flush it to disk and rename it to `path`.

    Raises:
        OSError: it cannot be written; the message names `path`, which is unchanged, and no temporary file is left.
    """
    temporary = path.with_name(path.name + ".tmp")
    with _naming_file(path):
        temporary.unlink(missing_ok=True)
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_text(path, text):
    """Write a UTF-8 text file atomically; characters that UTF-8 lacks become `\\udce9` and the like."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path, content):
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _naming_file(path):
    """Make an `OSError` in this block say which file could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error


def append_metrics(directory, metrics):
    """Append one evaluation to metrics.jsonl and flush it to disk."""
    path = Path(directory, "metrics.jsonl")
    with _naming_file(path), open(path, "a") as file:
        file.write(json.dumps(metrics) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(directory):
    """Return the evaluations of a run directory, a list of dicts, without a last line that a crash cut off.

    Raises:
        RunError: a line is not an evaluation.
    """
    path = Path(directory, "metrics.jsonl")
    try:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        metrics = [json.loads(line) for line in lines if line.endswith("\n")]
        if not all(isinstance(m, dict) and type(m.get("step")) is int for m in metrics):
            raise ValueError("a line has no step")
    except ValueError as error:
        raise RunError(f"{path} is not a valid metrics file ({error}); start a new run") from error
    return metrics


@contextlib.contextmanager
def only_process_in(directory):
    """Create a directory, and lock it during this block against other processes that ask for it.

    Raises:
        RunError: another process has the lock; the message names it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a+") as file:
        if not lock(file):
            file.seek(0)
            raise RunError(f"{directory} is in use by process {file.read().strip()}; wait for it, or stop it")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def lock(file):
    """Lock an open file until it is closed. Return False if another process has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
