"""Main loop of a submission's process: limit it, then answer requests until the grader closes the connection."""

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from . import frames, load

MEMORY_BYTES = 4 << 30  # beyond what is mapped already
FILE_BYTES = 64 << 20
CPU_SECONDS = 4 * 3600  # more than the longest training; ends what escapes the grader on systems without a sandbox
MAX_TASKS = 500  # beyond those of the machine: the kernel counts threads, and those of the user's other processes
PR_SET_PDEATHSIG = 1


def main(has_torch):
    """Answer requests on the socket that is standard input; what the submission prints is discarded."""
    connection = socket.socket(fileno=os.dup(0))
    if has_torch:  # before memory is limited, as it maps gigabytes
        importlib.import_module(".operations_torch", __package__)
    limit()
    del sys.path[0]  # this package's directory
    stream = connection.makefile("rb")
    request, files = receive(stream)
    loader = write_files(request["folders"], files)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    error, out = None, {}
    while True:
        send(connection, {"id": request["id"], "error": error}, out)
        try:
            request, arrays = receive(stream)
        except EOFError:
            return
        out = {}
        error = load.run(loader, request["op"], request["target"], request["params"], arrays, out)


def limit():
    """Limit this process and all that it starts."""
    wanted = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": FILE_BYTES, "RLIMIT_CPU": CPU_SECONDS}
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        tasks = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        wanted |= {"RLIMIT_AS": mapped + MEMORY_BYTES, "RLIMIT_NPROC": tasks + MAX_TASKS}
        Path("/proc/self/oom_score_adj").write_text("1000")  # if the machine runs out of memory, this ends first
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for name, value in wanted.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def receive(stream):
    """Return the next request and its arrays."""

    def read(n_bytes):
        data = bytearray(n_bytes)
        if stream.readinto(data) < n_bytes:
            raise EOFError
        return data

    return frames.decode(read, 1 << 40, max_header_bytes=1 << 30)


def send(connection, reply, arrays):
    """Send a reply, or that its arrays cannot be sent."""
    try:
        message = frames.encode(reply, arrays)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        message = frames.encode(reply | {"error": {"kind": "error", "message": text, "where": ""}}, {})
    for buffer in message:
        connection.sendall(buffer)


def write_files(folders, files):
    """Write the submission's files and the course's, and return the `load.Loader` of the submission."""
    for folder in folders:
        Path("submission", folder).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with contextlib.suppress(OSError, ValueError):  # a name that no file system takes; nothing imports such a file
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(data.tobytes())
    loader, course = load.Loader("submission", folders), str(Path("course").absolute())
    loader.prepare()
    sys.path.append(course)  # last: these files may be imported without being handed in
    return loader
