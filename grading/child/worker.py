"""A submission's process: it limits itself, takes requests, runs operations on the submission, hands back arrays."""

import contextlib
import importlib
import os
import resource
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from . import frames, old_numpy, operations

CHANNEL = 3  # the socket's number


class Submission:
    """The submission's modules, imported as they are asked for, and what an operation leaves for a later one.

    Attributes:
        root: the folder that was handed in.
        folders: those within it that hold the course's files.
        kept: what operations leave.
    """

    def __init__(self):
        self.root, self.folders, self.kept = Path("submission").absolute(), [], {}

    def __call__(self, module, name):
        """Return what `module` calls `name`.

        Raises:
            NotImplementedError: it calls nothing so.
        """
        imported = self.import_module(module)
        if not hasattr(imported, name):
            raise NotImplementedError(f"{module}.py has no {name}")
        return getattr(imported, name)

    def import_module(self, name):
        """Return a module, as part of a package where it imports from `.`"""
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if "relative import" not in str(error):
                raise
            folder = next(folder for folder in self.folders if Path(self.root, folder, f"{name}.py").exists())
            sys.modules[name] = importlib.import_module(".".join((self.root.name, *Path(folder).parts, name)))
            return sys.modules[name]


def main(limits):
    """Answer requests on the socket that is standard input; what the submission prints goes nowhere."""
    os.dup2(0, CHANNEL)
    os.closerange(CHANNEL + 1, 4096)
    if limits["has_torch"]:
        from . import operations_torch  # noqa: F401, before memory is limited: it maps more than a submission may
    limit(limits)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    del sys.path[0]  # this folder
    serve(Connection(CHANNEL))


def limit(limits):
    """Limit this process and all that come of it; memory is what may be had beyond what is mapped already."""
    megabyte = 1 << 20
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits["file_mb"] * megabyte,
        "RLIMIT_NOFILE": 128,
        "RLIMIT_CPU": limits["cpu_seconds"],
    }
    if sys.platform == "linux":  # elsewhere a process maps more than it may
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # The kernel counts all tasks of a user: those of others may be all that there are, and they come and go.
        others = 0 if limits["has_own_user"] else 1000 + int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        wanted |= {"RLIMIT_AS": mapped + limits["memory_mb"] * megabyte, "RLIMIT_NPROC": limits["tasks"] + others}
        Path("/proc/self/oom_score_adj").write_text("1000")  # where the machine runs out of memory, this ends first
    for name, value in wanted.items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (value, value))


def serve(connection):
    """Answer requests until the other end hangs up."""
    submission, used_old = Submission(), []
    while True:
        try:
            request, arrays = frames.receive(connection, 1 << 40)
        except EOFError:
            return
        reply, results = {"id": request["id"], "error": None}, {}
        try:
            if request["op"] == "files":
                _write_files(submission, request, arrays)
                if request["lenient"]:
                    old_numpy.bring_back(used_old)
            else:
                arrays = {name: array.copy() for name, array in arrays.items()}  # the submission may write into them
                _operation(request["op"])(submission, request["params"], arrays, results)
        except BaseException as error:  # exit() and Ctrl-C's exception are a submission's, too
            reply["error"] = _describe(error)
        reply["old"] = used_old
        frames.send(connection, reply, results)


def _operation(name):
    """Return an operation, and undo what a file of the submission may have set for all others as it was imported."""
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    if hasattr(operations, name) and "torch" not in sys.modules:
        return getattr(operations, name)
    from . import operations_torch

    operations_torch.settle()
    return getattr(operations, name, None) or getattr(operations_torch, name)


def _write_files(submission, request, arrays):
    course = Path("course").absolute()
    files = {submission.root / name: raw.tobytes() for name, raw in arrays.items()}
    files |= {course / name: text.encode() for name, text in request["course"].items()}
    for path, raw in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    submission.folders = request["folders"]
    sys.path[:0] = [str(submission.root / folder) for folder in submission.folders]
    # Last, for code that is a package in the folder, or in a folder of it; and for the course's own modules.
    sys.path += [str(path) for path in (submission.root, submission.root.parent, course)]
    for name in {Path(folder).parts[0] for folder in submission.folders if folder != "."} & sys.stdlib_module_names:
        # PyTorch has imported the standard library's `code`; `code.modules` is then looked for in their folder as well.
        module = importlib.import_module(name)
        module.__path__ = [*getattr(module, "__path__", ()), str(submission.root / name)]
    sys.dont_write_bytecode = True
    os.chdir(submission.root / submission.folders[0])


def _describe(error):
    """Return type, message and place of an error, the place being the submission's last line in it."""
    described = {"type": type(error).__name__[:80], "message": "", "where": ""}
    with contextlib.suppress(Exception):
        described["message"] = str(error)[:500]
    with contextlib.suppress(Exception):
        if isinstance(error, SyntaxError) and error.filename:
            described["message"] = error.msg  # its text names the place, too
            described["where"] = f"{Path(error.filename).name}, line {error.lineno}"
        else:
            own = [f for f in traceback.extract_tb(error.__traceback__) if "/submission/" in f.filename]
            if own:
                described["where"] = f"{Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name}"
    return described
