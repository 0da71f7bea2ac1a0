"""Several processes that train one network, started by torchrun. With a single process, these functions do nothing."""

import contextlib
import os
import time

import torch
import torch.distributed as dist
from torch import nn


@contextlib.contextmanager
def process_group():
    """Join the other processes that torchrun has started, during this block."""
    if expected_size() == 1:
        yield
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    # torchrun's store outlives the processes: restarted ones must not read the addresses of their predecessors.
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(store=store, rank=rank, world_size=world_size)
    yield
    dist.destroy_process_group()
    # A thread of gloo's may still release the last sum's tensor. It needs the interpreter for that: if Python exits
    # first, the process is aborted.
    time.sleep(0.2)


def expected_size():
    """Return the number of processes that torchrun has started, 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def size():
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank():
    """Return this process's number on its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


@contextlib.contextmanager
def first_on_each_machine():
    """Run this block on one process of each machine before the others, so that only one downloads."""
    if local_rank() > 0:
        dist.barrier()
    yield
    if size() > 1 and local_rank() == 0:
        dist.barrier()


def share(batch):
    """Return this process's share of a batch."""
    return batch[rank() :: size()]


def total(*numbers):
    """Return the sums of numbers over all processes."""
    if size() == 1:
        return numbers
    totals = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(totals)
    return totals.tolist()


def copy_from_main(tensors):
    """Overwrite tensors with those of rank 0."""
    if size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def parallel(network):
    """Return the network, with gradients averaged over all processes."""
    return network if size() == 1 else nn.parallel.DistributedDataParallel(network)
