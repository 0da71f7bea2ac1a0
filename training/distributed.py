"""Training in several processes, started by torchrun. In a single process these functions have no effect."""

import contextlib
import os
import time

import torch
import torch.distributed as dist
from torch import nn


@contextlib.contextmanager
def process_group():
    """Join torchrun's process group during this block."""
    if expected_size() == 1:
        yield
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    # torchrun's store outlives restarts: new processes must not read the addresses of the old ones.
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(store=store, rank=rank, world_size=world_size)
    yield
    dist.destroy_process_group()
    # gloo's thread may still need the interpreter to release a tensor. If Python exits first, the process aborts.
    time.sleep(0.2)


def expected_size():
    """Return the number of processes, 1 without torchrun. Valid before `process_group`, too."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def size():
    """Return the number of processes in the group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """Return this process's rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank():
    """Return this process's rank on its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


@contextlib.contextmanager
def first_on_each_machine():
    """Run this block in one process per machine before the others, so that only one downloads."""
    if local_rank() > 0:
        dist.barrier()
    yield
    if size() > 1 and local_rank() == 0:
        dist.barrier()


def share(batch):
    """Return this process's share of a batch."""
    return batch[rank() :: size()]


def total(*numbers):
    """Return the sum of each number over all processes."""
    if size() == 1:
        return numbers
    totals = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(totals)
    return totals.tolist()


def copy_from_main(tensors):
    """Overwrite `tensors` with those of rank 0."""
    if size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def parallel(network):
    """Return `network`, wrapped to average gradients over all processes."""
    return network if size() == 1 else nn.parallel.DistributedDataParallel(network)
