"""Standard output and error that stop nothing: after a closed pipe, terminal or a full disk they are silent."""

import contextlib
import io
import os
import sys


class _Output:
    """A text stream that is silent after the first write that fails."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._try(self._stream.write, text)

    def flush(self):
        return self._try(self._stream.flush)

    def _try(self, function, *args):
        try:
            return function(*args)
        except OSError:
            # What is still buffered would fail again when Python exits.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = io.StringIO()
            return 0

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def robust_output():
    """Let nothing that is printed in this block raise an error."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115, None if it was closed before the start
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # for characters that its encoding lacks
            stack.enter_context(redirect(_Output(stream)))
        yield
