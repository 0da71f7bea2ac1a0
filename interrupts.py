"""Ctrl-C while Python still imports: one line, as at any later time, and no traceback of what is being imported."""

import os
import signal
import sys
from pathlib import Path


def end_in_one_line():
    """Let Ctrl-C end this process at once, with one line and status 130: there is nothing to lose yet.

    To be called before what takes long to import; PyTorch takes two seconds, and swallows exceptions in places.
    A process that ignores Ctrl-C, as a shell's background job does, goes on ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)


def raise_again():
    """Let Ctrl-C raise `KeyboardInterrupt` again, where `end_in_one_line` has been called."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_):
    os.write(2, f"{Path(sys.argv[0]).name}: interrupted\n".encode())
    os._exit(130)
