"""Atomic writes, locks, and the metrics file."""

import contextlib
import json
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


class RunError(Exception):
    """A run cannot start, continue or be resumed. The message is one line and says what to do."""


def write_atomically(path, write):
    """Write a file atomically by calling `write(file)` with a temporary binary file.

    Raises:
        OSError: the file cannot be written. The message names `path`, which is unchanged.
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
    """Write a UTF-8 text file atomically, with lone surrogates as escapes such as `\\udce9`."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path, content):
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _naming_file(path):
    """Add the file's name to an `OSError` in this block."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error


def append_metrics(directory, metrics):
    """Append an evaluation to metrics.jsonl and flush it to disk."""
    path = Path(directory, "metrics.jsonl")
    with _naming_file(path), open(path, "a") as file:
        file.write(json.dumps(metrics) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(directory):
    """Return the evaluations in a run directory, a list of dicts, without an incomplete last line.

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
    """Create a directory and hold an exclusive lock on it during this block.

    Raises:
        RunError: another process holds the lock. The message has its pid.
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
    """Lock an open file until it is closed. Return False if another process holds the lock."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
