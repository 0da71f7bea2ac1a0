"""Standard output and error that fall silent on a closed pipe, a closed terminal or a full disk."""

import contextlib
import io
import os
import sys


class _Output:
    """Text stream that discards output after the first write error."""

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
            # Python flushes the stream's buffer again at exit.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = io.StringIO()
            return 0

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def robust_output():
    """Ignore errors of standard output and error in this block."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115, None if the parent process closed it
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # for characters outside its encoding
            stack.enter_context(redirect(_Output(stream)))
        yield
