"""A run by PyTorch: the processes that train together, and a run folder with PyTorch's checkpoint."""

import argparse
import contextlib
import datetime
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from flags import whole_number
from run_folder import RunError, RunFolder
from train_utils import Run

WAIT = datetime.timedelta(minutes=10)  # for the other processes to begin
SAY_AFTER = 5  # seconds of waiting


class Processes:
    """The processes that train one network together: one, or those that torchrun has started.

    Attributes:
        rank: the number of this one, from 0.
        local_rank: its number on this machine, from 0.
        size: how many there are.
        local_size: how many of them are on this machine; 1 where nobody says.

    Raises:
        ValueError: the environment, in which torchrun says all this, contradicts itself.
        RunError: on entering, the others have not come within ten minutes, or cannot be reached; on leaving, another
            has ended.
        SystemExit: another has told of the error that this one has, too, or that made it.
    """

    def __init__(self):
        self.size = _number("WORLD_SIZE", 1, 1)
        self.rank = _number("RANK", 0, 0, self.size - 1)
        self.local_size = _number("LOCAL_WORLD_SIZE", 1, 1)
        self.local_rank = _number("LOCAL_RANK", 0, 0, self.size - 1)
        if self.size > 1:
            missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]
            if missing:
                raise ValueError(
                    f"environment: WORLD_SIZE={self.size} without {', '.join(missing)}; start several processes with "
                    "torchrun, or unset WORLD_SIZE"
                )
            _number("MASTER_PORT", None, 1, 2**16 - 1)

    def __enter__(self):
        if self.size > 1:
            try:
                self._meet()
            except (RuntimeError, OSError) as error:
                self._let_one_tell()
                raise RunError(
                    f"{self.size} processes could not meet at {_address()} within {WAIT.seconds // 60} minutes "
                    f"({_first_line(error)}): start all of them, and check MASTER_ADDR, MASTER_PORT and "
                    "GLOO_SOCKET_IFNAME"
                ) from error
        return self

    def _meet(self):
        message = f"waiting at {_address()} for {self.size} processes, for {WAIT.seconds // 60} minutes at most"
        waiting = threading.Timer(SAY_AFTER, print, [message], {"file": sys.stderr, "flush": True})
        waiting.start()
        try:
            store, *_ = next(rendezvous("env://", timeout=WAIT))
        finally:
            waiting.cancel()
        # torchrun's store outlives a group that it starts again, and what that one left in it must not be read.
        self._store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        self._store.set_timeout(datetime.timedelta(minutes=30))  # PyTorch's default: the first may have to download
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size)

    def __exit__(self, _, error, __):
        if self.size == 1:
            return
        with contextlib.suppress(RuntimeError) if error else contextlib.nullcontext():
            dist.destroy_process_group()
        if error is None:
            self._store = None  # a client that lives as long as Python ends now and then with SIGABRT
            # So does a thread of gloo's that still lets go of the last sum's tensor while Python ends. It needs the
            # interpreter's lock for that, and outlives the group, which parallel networks hold.
            time.sleep(0.1)
        if isinstance(error, Exception):
            self._let_one_tell()
            if isinstance(error, RuntimeError) and ("gloo" in str(error).lower() or isinstance(error, dist.DistError)):
                raise RunError(
                    f"another of the {self.size} processes has ended ({_first_line(error)}); what was written is kept: "
                    "go on with --resume"
                ) from error

    def _let_one_tell(self):
        """End this process where another has told of an error, of which this one's is the same or a consequence."""
        with contextlib.suppress(RuntimeError, AttributeError):  # there is no store, or it has gone
            if self._store.add("told", 1) > 1:
                raise SystemExit(1)

    @contextlib.contextmanager
    def first_on_its_machine(self):
        """Let one process of each machine go first, so that only one downloads."""
        if self.size > 1 and self.local_rank:
            dist.barrier()
        yield
        if self.size > 1 and not self.local_rank:
            dist.barrier()

    def share(self, batch):
        """Return this process's part of what is to be split over all."""
        return batch[self.rank :: self.size]

    def total(self, *numbers):
        """Return the sums of numbers over all processes, as floats."""
        if self.size == 1:
            return numbers
        totals = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(totals)
        return totals.tolist()

    def from_main(self, value):
        """Return rank 0's `value` in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def parallel(self, network):
        """Return the network with gradients averaged over all processes."""
        return network if self.size == 1 else nn.parallel.DistributedDataParallel(network)


def _number(name, default, minimum=0, maximum=None):
    """Return the whole number that the environment has under a name.

    Raises:
        ValueError: it is another, or none.
    """
    if name not in os.environ:
        return default
    try:
        return whole_number(minimum, maximum)(os.environ[name])
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"environment: {name}: {error}; torchrun sets it") from None


def _address():
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _first_line(error):
    return str(error).strip().split("\n")[0][:200]


# ---- Groups that torchrun starts again ----------------------------------------------------------


def launcher(processes):
    """Return the words that start as many processes again; on several machines torchrun's flags are not known here."""
    return "torchrun", f"--nproc_per_node={processes.size}" if processes.local_size == processes.size else "..."


def launch():
    """Return what tells this group of processes, and those that torchrun starts in its place, from others, or None.

    It is the id that torchrun has or was given; without one, torchrun's own process and its start on this machine.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{_address()}, process {os.getppid()}, {_start(os.getppid())}" if run_id == "none" else run_id


def after_restart(parser, argv):
    """Return the command line, or where torchrun has started this group again, one that goes on with its own run."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return argv
    args = parser.parse_args(argv)
    if args.resume is not None:
        return argv
    folders = [Path(args.out_dir)] if args.out_dir else sorted(Path("results", args.script).glob("*"), reverse=True)
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            config = json.loads((folder / "config.json").read_text())
            if config["launch"] == launch():
                # Where the images lie may differ by machine, and the run's record has it of one only.
                return ["--resume", str(folder), "--data_dir", args.data_dir, *["--quiet"] * args.quiet]
    return argv


def _start(process):
    """Return when a process began, in the kernel's clock ticks, or None where this system does not say."""
    try:
        return int(Path("/proc", str(process), "stat").read_text().rsplit(")", 1)[1].split()[19])
    except OSError:
        return None


# ---- The run -----------------------------------------------------------------------------------


class TorchRunFolder(RunFolder):
    """A `RunFolder` whose checkpoint `torch.load` reads without running anything."""

    checkpoint_name = "checkpoint.pt"

    def write_state(self, file, state):
        try:
            torch.save(state, file)
        except RuntimeError as error:  # of an archive that is not whole; what came before it says why
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def read_state(self, file):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged archives raise nearly every kind that there is
            # PyTorch's own message advises to load the file with code and all.
            raise ValueError("it is cut off, or holds more than tensors, numbers and names") from error
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        return state

    def is_finite(self, state):
        return all(bool(tensor.isfinite().all()) for tensor in state["network"].values())


class TorchRun(Run):
    """A `Run` of one or several processes, which also logs to TensorBoard where it is asked to.

    Args:
        processes: the `Processes` that train together, entered; the first of them writes the folder.
    """

    folder_type = TorchRunFolder

    def __init__(self, args, data, processes, **kwargs):
        self.processes = processes
        if processes.size > 1:
            self.launcher = launcher(processes)
        super().__init__(args, data, is_main=processes.rank == 0, n_processes=processes.size, launch=launch(), **kwargs)
        self._writer = None
        if args.tensorboard and self.is_main:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder.path, purge_step=self.step + 1 if self.metrics else 0)

    def _from_main(self, value):
        return self.processes.from_main(value)

    def _record(self, evaluate):
        super()._record(evaluate)
        if self._writer is not None:
            for name, value in self.metrics[-1].items():
                self._writer.add_scalar(name, value, self.step)
            self._writer.flush()

    def _is_stopped(self):
        # A signal may reach one process alone, or a step before another, and none may wait for one that has left: all
        # stop by the same sum, also where a signal comes while that is made, which counts after the next step.
        is_stopped = self.processes.total(self.stopped_by is not None)[0] > 0
        if is_stopped and self.stopped_by is None:
            self.stopped_by = signal.SIGTERM
        return is_stopped
