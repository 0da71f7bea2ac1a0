"""A run by PyTorch: the processes that train together, and a run folder with PyTorch's checkpoint."""

import contextlib
import datetime
import json
import math
import os
import signal
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

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
    """

    def __init__(self):
        self.size = _whole_number("WORLD_SIZE", 1, at_least=1)
        self.rank = _whole_number("RANK", 0, below=self.size)
        self.local_size = _whole_number("LOCAL_WORLD_SIZE", 1, at_least=1)
        self.local_rank = _whole_number("LOCAL_RANK", 0, below=self.size)
        if self.size > 1:
            missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]
            if missing:
                raise ValueError(
                    f"environment: WORLD_SIZE={self.size} without {', '.join(missing)}; start several processes with "
                    "torchrun, or unset WORLD_SIZE"
                )
            _whole_number("MASTER_PORT", None, at_least=1, below=2**16)

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
            self._store, *_ = next(rendezvous("env://", timeout=WAIT))
        finally:
            waiting.cancel()
        self._store.set_timeout(datetime.timedelta(minutes=30))  # PyTorch's default: the first may have to download
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size)

    def __exit__(self, _, error, __):
        if self.size == 1:
            return
        with contextlib.suppress(RuntimeError) if error else contextlib.nullcontext():
            dist.destroy_process_group()
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


def _whole_number(name, default, *, at_least=0, below=math.inf):
    """Return what the environment says of a number."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not at_least <= int(text) < below:
        expected = f"at least {at_least}" if below == math.inf else f"from {at_least} to {below - 1}"
        raise ValueError(f"environment: got {name}={text!r}, expected a whole number {expected}; torchrun sets it")
    return int(text)


def _address():
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _first_line(error):
    return str(error).strip().split("\n")[0][:200]


# ---- Groups that torchrun starts again ----------------------------------------------------------


def launch():
    """Return what tells this group of processes, and those that torchrun starts in its place, from others, or None."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{run_id} {_address()}" if run_id == "none" else run_id


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
            # torchrun is this process's parent: what was begun before it did is another's, even under the same name.
            if config["launch"] == launch() and (folder / "config.json").stat().st_mtime >= _began(os.getppid()):
                return ["--resume", str(folder)]
    return argv


def _began(process):
    """Return when a process began, in seconds since 1970, or 0 where this system does not say."""
    try:
        return Path("/proc", str(process)).stat().st_ctime
    except OSError:
        return 0.0


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
    """A `Run` of one or several processes, which also logs to TensorBoard where it is asked to."""

    folder_type = TorchRunFolder

    def __init__(self, args, data, processes, **kwargs):
        self.processes = processes
        if processes.size > 1:
            self.launcher = ("torchrun", f"--nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', processes.size)}")
            kwargs["launch"] = launch()
        super().__init__(args, data, is_main=processes.rank == 0, n_processes=processes.size, **kwargs)
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
