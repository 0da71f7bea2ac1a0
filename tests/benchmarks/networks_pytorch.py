"""Speed of the PyTorch scripts' steps, compared with plain PyTorch.

    python -m tests.benchmarks.networks_pytorch

Plain PyTorch has float32 images in memory, contiguous, computes in float32 and keeps PyTorch's default options.
Uses CIFAR-10 from the default directory, or synthetic images, with the same times. Run nothing else meanwhile.
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
from training import engine
from training.images import to_device


def plain(network, optimizer, data, batch_size):
    """Return a training step and an evaluation in plain PyTorch."""
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


def ours(network, optimizer, data, batch_size, precision):
    """Return a training step and an evaluation of the training scripts."""
    is_convolutional = isinstance(network, ConvNet)
    memory_format = engine.use_fast_memory_formats(network) if is_convolutional else torch.contiguous_format
    images = to_device(data, torch.device("cpu"), "mean_image", memory_format)

    def step():
        inputs, labels = images["train"].batch(data["train"].next_index(batch_size))
        with engine.autocast(inputs.device, precision):
            logits = network(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, lambda: engine.score(network, images["test"], precision)


def compare_networks(n_steps):
    for name, make_network, batch_size, optimizer, plain_optimizer in (
        ("ConvNet", lambda: ConvNet(3, 10), 32, "adam", lambda p: torch.optim.Adam(p, 1e-4)),
        ("MLP", lambda: MLP(3072, [100], 10, 0.02), 200, "sgd", lambda p: torch.optim.SGD(p, 1e-4)),
    ):
        data = get_cifar10(DATA_DIR, dataset=DATASET, one_hot=False)
        flags = SimpleNamespace(optimizer=optimizer, learning_rate=1e-4, weight_decay=0.0, momentum=0.0)
        other = make_network()
        steps, evaluations = zip(plain(other, plain_optimizer(other.parameters()), data, batch_size), strict=True)
        for precision in ("fp32", "bf16"):
            network = make_network()
            step, evaluate = ours(network, engine.make_optimizer(network, flags), data, batch_size, precision)
            steps, evaluations = (*steps, step), (*evaluations, evaluate)
        median_ms(steps, 5)  # warm up
        step_ms = median_ms(steps, n_steps * (1 if name == "ConvNet" else 10))
        evaluation_ms = median_ms(evaluations, 3)
        for i, precision in enumerate(("plain", "fp32", "bf16")):
            print(
                f"{name}, {precision}: step {step_ms[i]:.2f} ms, {step_ms[0] / step_ms[i]:.2f} times as fast as plain; "
                f"evaluation {evaluation_ms[i] / 1e3:.2f} s, {evaluation_ms[0] / evaluation_ms[i]:.2f} times as fast"
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
    with tempfile.TemporaryDirectory() as directory:
        out_dir = Path(directory, "run")
        command = [sys.executable, ROOT / "train_convnet_pytorch.py", "--max_steps=20", "--quiet"]
        command += [f"--dataset={DATASET}", f"--data_dir={DATA_DIR}", f"--out_dir={out_dir}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        summary = json.loads((out_dir / "summary.json").read_text())
        print(f"peak memory of the ConvNet's run: {summary['peak_memory_mb']} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="number of ConvNet steps, a tenth of the MLP's")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "md5 sums differ")
    torch.manual_seed(0)
    print(f"on {os.cpu_count()} cores, PyTorch {torch.__version__}, with {DATASET} images")
    compare_batch_norms()
    compare_networks(args.steps)
    measure_memory()


if __name__ == "__main__":
    main()
