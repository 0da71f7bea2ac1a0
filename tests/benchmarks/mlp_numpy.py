"""Speed of the NumPy MLP, compared with PyTorch and with the matrix products that it needs.

    python -m tests.benchmarks.mlp_numpy

Uses CIFAR-10 from the default directory, or synthetic images, with the same times. Run nothing else meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import train_mlp_numpy
from cifar10_utils import get_cifar10
from mlp_numpy import MLP
from modules import CrossEntropyModule
from train_mlp_numpy import flatten, sgd_step
from training.run import Run, run_script

ROOT = Path(__file__).parents[2]
DATA_DIR = ROOT / "cifar10" / "cifar-10-batches-py"
DATASET = "cifar10" if DATA_DIR.exists() else "synthetic"


def train_torch(args):
    """Train in PyTorch with the data, batches, evaluations and files of `train_mlp_numpy.train`."""
    import torch

    data = get_cifar10(args.data_dir, dataset=args.dataset, seed=args.seed, one_hot=False)
    network = torch.nn.Sequential(torch.nn.Linear(3072, 100), torch.nn.LeakyReLU(0.02), torch.nn.Linear(100, 10))
    for module in (network[0], network[2]):
        torch.nn.init.normal_(module.weight, std=1e-4)
        torch.nn.init.zeros_(module.bias)
    optimizer = torch.optim.SGD(network.parameters(), args.learning_rate)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def evaluate(dataset, limit=0):
        loss, n_correct, n = 0.0, 0, 0
        with torch.inference_mode():
            for images, labels in dataset.batches(1000, limit):
                labels = torch.from_numpy(labels)
                logits = network(torch.from_numpy(flatten(images)))
                loss += cross_entropy(logits, labels).item() * len(images)
                n_correct += (logits.argmax(1) == labels).sum().item()
                n += len(images)
        return loss / n, n_correct / n

    run = Run(args, data, {"network": network})
    for step in run.steps():
        if run.is_evaluation_step(step):
            run.log(train=evaluate(data["train"], args.train_eval_size), test=evaluate(data["test"]))
            run.save_checkpoint()
        if step == args.max_steps:
            break
        images, labels = data["train"].next_batch(args.batch_size)
        optimizer.zero_grad()
        loss = cross_entropy(network(torch.from_numpy(flatten(images))), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        run.update(loss.item())
    run.finish()
    return run


def train_one(framework, directory):
    """Train with the default flags in this process."""
    flags = ["--quiet", "--dataset", DATASET, "--data_dir", str(DATA_DIR), "--out_dir", directory]
    train = {"numpy": train_mlp_numpy.train, "torch": train_torch}[framework]
    return run_script(train, train_mlp_numpy.make_flags(), flags)


def median_ms(functions, n):
    """Return each function's median time in milliseconds over `n` calls; functions are called in turn."""
    times = [[] for _ in functions]
    for _ in range(n):
        for function, measured in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            measured.append(1e3 * (time.perf_counter() - began))
    return [statistics.median(measured) for measured in times]


def compare_steps():
    data = get_cifar10(DATA_DIR, dataset=DATASET)["train"]
    mlp = MLP(3072, [100], 10, 0.02, dtype=np.float32, rng=np.random.default_rng(0))
    cross_entropy = CrossEntropyModule()
    batch = data.next_batch(200)
    x, dout = flatten(batch[0]), np.random.default_rng(1).normal(size=(200, 100)).astype(np.float32)
    weight = np.zeros((100, 3072), np.float32)

    def draw():
        nonlocal batch
        batch = data.next_batch(200)

    def step():
        p = mlp.forward(flatten(batch[0]))
        cross_entropy.forward(p, batch[1])
        mlp.backward(cross_entropy.backward(p, batch[1]))
        sgd_step(mlp, 2e-3)

    def products():
        x @ weight.T
        dout.T @ x

    median_ms([draw, step, products], 200)  # warm up
    draw_ms, step_ms, products_ms = median_ms([draw, step, products], 1000)
    print(f"the two products alone           {products_ms:.3f} ms")
    print(f"a training step                  {step_ms:.3f} ms, {step_ms / products_ms:.2f} times the products")
    total_ms = draw_ms + step_ms
    print(f"the same, and drawing its batch  {total_ms:.3f} ms, {total_ms / products_ms:.2f} times the products")


def compare_runs(n_runs):
    inside, whole = {"numpy": [], "torch": []}, {"numpy": [], "torch": []}
    memory = {}
    with tempfile.TemporaryDirectory() as directory:
        for i in range(n_runs):
            for framework in inside:
                out_dir = Path(directory, f"{framework}{i}")
                began = time.perf_counter()
                command = [sys.executable, "-m", "tests.benchmarks.mlp_numpy", "--train", framework]
                command += ["--out_dir", str(out_dir)]
                subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
                whole[framework].append(time.perf_counter() - began)
                summary = json.loads((out_dir / "summary.json").read_text())
                inside[framework].append(summary["seconds"])
                memory[framework] = summary["peak_memory_mb"]
    for name, seconds in (("default run, data in memory", inside), ("default run, whole process", whole)):
        ours, theirs = (statistics.median(seconds[framework]) for framework in ("numpy", "torch"))
        print(f"{name}: NumPy {ours:.2f} s, PyTorch {theirs:.2f} s, {theirs / ours:.2f} times as fast as PyTorch")
    print(f"peak memory: NumPy {memory['numpy']} MB, PyTorch {memory['torch']} MB")


def time_start():
    begin = "import time; began = time.perf_counter(); import warnings; warnings.simplefilter('ignore'); "
    load = f"from cifar10_utils import get_cifar10; get_cifar10({str(DATA_DIR)!r}, dataset={DATASET!r}); "
    show = "print(time.perf_counter() - began)"
    ready = [
        float(subprocess.run([sys.executable, "-c", begin + load + show], cwd=ROOT, capture_output=True).stdout)
        for _ in range(5)
    ]
    command = [sys.executable, ROOT / "train_mlp_numpy.py", "--help"]
    (help_ms,) = median_ms([lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)], 9)
    print(f"data ready to train: {statistics.median(ready):.2f} s; --help: {help_ms / 1e3:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="number of default runs of each framework")
    parser.add_argument("--train", choices=("numpy", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--out_dir", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train_one(args.train, args.out_dir)
    warnings.filterwarnings("ignore", "md5 sums differ")
    print(f"on {os.cpu_count()} cores, with {DATASET} images and as many threads as each library takes by default")
    time_start()
    compare_steps()
    compare_runs(args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
