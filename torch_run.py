"""A run by PyTorch: the processes that train together, and a run folder with PyTorch's checkpoint."""

import contextlib
import os
import signal

import torch
import torch.distributed as dist
from torch import nn

from run_folder import RunFolder
from train_utils import Run


class Processes:
    """The processes that train one network together: one, or those that torchrun has started.

    Attributes:
        rank: the number of this one, from 0.
        local_rank: its number on this machine, from 0.
        size: how many there are.
    """

    def __init__(self):
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))

    def __enter__(self):
        if self.size > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return self

    def __exit__(self, *_):
        if self.size > 1:
            dist.destroy_process_group()

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
