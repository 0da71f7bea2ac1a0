"""Printing that ends no run: a reader that goes away, a closed terminal or a closed stream costs its lines only."""

import contextlib
import io
import os
import sys


class _Output:
    """A text stream that falls silent at the first write that fails, and hands on everything else."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._try(self._stream.write, text)

    def flush(self):
        return self._try(self._stream.flush)

    def _try(self, function, *args):
        try:
            return function(*args)
        except RuntimeError:  # a signal's message in the middle of another one
            return 0
        except (OSError, ValueError):  # ValueError: it is closed
            # What is still buffered would fail again as Python ends: it goes nowhere instead.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = io.StringIO()
            return 0

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_output():
    """Let nothing that is printed in this block raise an error because nobody can read it."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name)
            if stream is None:  # closed before Python began: its number must not go to a file of the run's
                stream = open(os.devnull, "w")  # noqa: SIM115, as long as the process
                setattr(sys, name, stream)
            elif isinstance(stream, io.TextIOWrapper):
                with contextlib.suppress(OSError, ValueError):  # it writes what is buffered
                    stream.reconfigure(errors="backslashreplace")  # a folder's name may be beyond the log's encoding
            stack.enter_context(redirect(_Output(stream)))
        yield
