"""How fast the PyTorch scripts' steps are, as ratios to the same steps written plainly.

    python -m tests.benchmarks.networks_pytorch

The plain way keeps the course's float32 images, in the order in which they come, computes in float32 and
leaves PyTorch's options as they are. Needs CIFAR-10 in its default place, or takes synthetic images, on
which the times are the same. Nothing else should be running.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from cifar10_utils import get_cifar10
from convnet_pytorch import ConvNet
from custom_batchnorm import CustomBatchNormAutograd, CustomBatchNormManualModule
from mlp_pytorch import MLP
from tests.benchmarks.mlp_numpy import DATA_DIR, DATASET, ROOT, median_ms
from torch_images import DeviceImages, preprocessing
from torch_utils import (
    Processes,
    choose_device,
    choose_precision,
    describe,
    lay_out,
    make_optimizer,
    score,
    training_step,
)


def plain(network, optimizer, data, batch_size):
    """Return a training step and an evaluation, as one writes them first."""
    images, labels = torch.from_numpy(data["train"].images), torch.from_numpy(data["train"].labels)
    test_images, test_labels = torch.from_numpy(data["test"].images), torch.from_numpy(data["test"].labels)

    def step():
        index = torch.randint(len(images), (batch_size,))
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images[index]), labels[index])
        loss.backward()
        optimizer.step()
        return loss.item()

    def evaluate():
        network.eval()
        n_correct = 0
        with torch.no_grad():
            for start in range(0, len(test_images), 500):
                rows = slice(start, start + 500)
                n_correct += (network(test_images[rows]).argmax(1) == test_labels[rows]).sum().item()
        network.train()
        return n_correct / len(test_images)

    return step, evaluate


def ours(network, optimizer, data, batch_size, device, precision):
    """Return a training step and an evaluation, as `train_network` does them."""
    is_convolutional = isinstance(network, ConvNet)
    memory_format = lay_out(network) if is_convolutional else torch.contiguous_format
    mean, scale = preprocessing(data["train"], "mean_image")
    images = {
        split: DeviceImages(data[split], device, torch.float32, mean, scale, memory_format)
        for split in ("train", "test")
    }

    def step():
        batch = images["train"].batch(data["train"].next_index(batch_size))
        return training_step(network, optimizer, *batch, precision).item()

    def evaluate():
        return score(network, images["test"], precision, Processes())

    return step, evaluate


def compare_networks(n_steps):
    device = choose_device("auto")
    for name, make_network, batch_size, optimizer, plain_optimizer in (
        ("ConvNet", lambda: ConvNet(3, 10), 32, "adam", lambda p: torch.optim.Adam(p, 1e-4)),
        ("MLP", lambda: MLP(3072, [100], 10, 0.02), 200, "sgd", lambda p: torch.optim.SGD(p, 1e-4)),
    ):
        data = get_cifar10(DATA_DIR, dataset=DATASET, one_hot=False)
        precision = choose_precision("auto", device, name == "ConvNet")
        flags = SimpleNamespace(optimizer=optimizer, learning_rate=1e-4, weight_decay=0.0, momentum=0.0)
        network, other = make_network().to(device), make_network()
        step, evaluate = ours(network, make_optimizer(network, flags), data, batch_size, device, precision)
        plain_step, plain_evaluate = plain(other, plain_optimizer(other.parameters()), data, batch_size)
        median_ms([step, plain_step], 5)  # warm up
        n = n_steps * (1 if name == "ConvNet" else 10)
        step_ms, plain_ms = median_ms([step, plain_step], n)
        print(
            f"{name} step, {describe(device)}, {precision}: {step_ms:.2f} ms, "
            f"plain on the CPU {plain_ms:.2f} ms, {plain_ms / step_ms:.2f} times as fast"
        )
        evaluate_ms, plain_ms = median_ms([evaluate, plain_evaluate], 3)
        print(
            f"{name} evaluation of the test set: {evaluate_ms / 1e3:.2f} s, plain {plain_ms / 1e3:.2f} s, "
            f"{plain_ms / evaluate_ms:.2f} times as fast"
        )


def compare_batch_norms():
    x, dout = torch.randn(2, 200, 500)
    modules = {
        "nn.BatchNorm1d": nn.BatchNorm1d(500, track_running_stats=False),
        "manual": CustomBatchNormManualModule(500),
        "autograd": CustomBatchNormAutograd(500),
    }

    def forward_and_backward(module):
        input = x.clone().requires_grad_()

        def run():
            module(input).backward(dout)
            input.grad = module.weight.grad = module.bias.grad = None

        return run

    functions = [forward_and_backward(module) for module in modules.values()]
    median_ms(functions, 100)  # warm up
    times = median_ms(functions, 2000)
    for name, ms in zip(modules, times, strict=True):
        print(f"batch norm of (200, 500), {name}: {ms:.3f} ms, {ms / times[0]:.2f} times nn.BatchNorm1d")


def measure_memory():
    with tempfile.TemporaryDirectory() as folder:
        out_dir = Path(folder, "run")
        command = [sys.executable, ROOT / "train_convnet_pytorch.py", "--max_steps=20", "--quiet"]
        command += [f"--dataset={DATASET}", f"--data_dir={DATA_DIR}", f"--out_dir={out_dir}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        summary = json.loads((out_dir / "summary.json").read_text())
        print(f"peak memory of the ConvNet's run: {summary['peak_memory_mb']} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="of the ConvNet each way; ten times as many of the MLP")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "not the official CIFAR-10 files")
    torch.manual_seed(0)
    print(f"on {os.cpu_count()} cores, PyTorch {torch.__version__}, with {DATASET} images")
    compare_batch_norms()
    compare_networks(args.steps)
    measure_memory()


if __name__ == "__main__":
    main()
