"""What the two PyTorch scripts compute: validation, precision, each flag's effect, NumPy's twin, two processes."""

import functools
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from runs import (
    MLP,
    NUMPY,
    SMALL,
    assert_same_run,
    checkpoint,
    metrics_without_seconds,
    run,
    run_process,
    slow_convnet,
    torchrun,
)

import mlp_numpy
import mlp_pytorch
import torch_utils
import train_mlp_numpy
import train_mlp_pytorch
from run_folder import read_metrics
from train_utils import Run


@pytest.fixture
def flags(synthetic_flags):
    return [*synthetic_flags, "--device=cpu"]


def test_validation_images_are_held_out_and_evaluated(reference):
    config = json.loads((reference(MLP) / "config.json").read_text())
    assert config["flags"]["validation_size"] == 100
    for metrics in read_metrics(reference(MLP)):
        assert {"validation_loss", "validation_accuracy", "test_loss", "train_loss"} <= set(metrics)
    assert "validation_loss" not in read_metrics(reference(MLP, "--validation_size=0"))[0]


def test_untrained_mlp_gives_every_class_a_tenth(flags, tmp_path):
    assert run(MLP, *flags, "--max_steps=1", "--out_dir", tmp_path / "run").status == 0
    assert read_metrics(tmp_path / "run")[0]["test_loss"] == pytest.approx(np.log(10), abs=1e-3)


@pytest.mark.parametrize("script", [MLP, slow_convnet])
def test_same_seed_gives_the_same_run(flags, reference, script, tmp_path):
    assert run(script, *flags, *SMALL[script], "--quiet", "--out_dir", tmp_path / "again").status == 0
    assert_same_run(tmp_path / "again", reference(script))


def test_precision_is_taken_from_its_flag(flags, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        done = run(MLP, *flags, "--max_steps=30", f"--precision={precision}", "--out_dir", folder)
        assert done.status == 0, done.err
        assert f"on cpu in {precision}" in done.out
        assert json.loads((folder / "config.json").read_text())["precision"] == precision
        assert all(a.dtype != torch.bfloat16 for a in checkpoint(folder).values()), "weights are kept in float32"
        losses[precision] = read_metrics(folder)[-1]["test_loss"]
    assert losses["fp32"] != losses["bf16"]
    # bfloat16 has 8 bits of significand, 0.4%.
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and g++ is not here")
def test_compiled_network_trains_as_the_plain_one_does(flags, tmp_path):
    small = [*flags, "--max_steps=10", "--eval_freq=5", "--precision=fp32"]
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        assert run(MLP, *small, *more, "--out_dir", tmp_path / name).status == 0
    for plain, compiled in zip(read_metrics(tmp_path / "plain"), read_metrics(tmp_path / "compiled"), strict=True):
        assert plain["test_loss"] == pytest.approx(compiled["test_loss"], rel=1e-5)  # ten steps of float32


# Each flag, alone, must change what three steps come to.
EFFECTIVE_FLAGS = [
    "--init=normal", "--batch_norm=manual", "--dropout=0.5", "--dnn_hidden_units=30", "--neg_slope=0.5",
    "--optimizer=adamw --momentum=0", "--momentum=0.9", "--weight_decay=0.1", "--lr_schedule=cosine",
    "--lr_schedule=onecycle", "--label_smoothing=0.2", "--augment=flip", "--augment=flip_crop",
    "--augment=flip_affine", "--augment=flip_crop --shift=1", "--lr_schedule=triangle", "--optimizer=muon",
    "--preprocess=standardize", "--validation_size=100", "--seed=7", "--batch_size=8", "--learning_rate=0.002",
    "--train_eval_size=10",
]  # fmt: skip


def test_each_flag_has_an_effect(flags, tmp_path, monkeypatch):
    """Without this, a flag that nobody passes on would be as good as one that works."""
    monkeypatch.setattr(torch_utils, "draw_results", lambda *_: {})
    start = [*flags, "--synthetic_size=200", "--batch_size=30", "--init=kaiming", "--momentum=0.5", "--precision=fp32"]
    start += ["--learning_rate=0.001", "--max_steps=3", "--eval_freq=3", "--train_eval_size=30", "--quiet"]
    losses = {}
    for i, more in enumerate(["", *EFFECTIVE_FLAGS]):
        assert run(MLP, *start, *more.split(), "--out_dir", tmp_path / str(i)).status == 0
        losses[more] = read_metrics(tmp_path / str(i))[-1]["train_loss"]
    assert len(set(losses.values())) == len(losses), losses


# ---- The twins ---------------------------------------------------------------------------------


def test_numpy_and_pytorch_scripts_agree_over_200_steps_in_float64(synthetic_flags, tmp_path, monkeypatch):
    """The scripts' own `train`, from equal weights, on batches that both draw from the same seed.

    Measured: losses and weights part by 1e-15. The bound leaves room for other orders of summation.
    """
    initial, losses = {}, []

    class NumpyMLP(mlp_numpy.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for name, param in self.state_dict().items():
                param[...] = param.astype(np.float32)  # in which the twin is born
                initial[name] = param.copy()

    class TorchMLP(mlp_pytorch.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for param, value in zip(self.parameters(), initial.values(), strict=True):
                param.data.copy_(torch.from_numpy(value))

    def record(self, name, value):
        if name == "training loss":
            losses.append(value)

    monkeypatch.setattr(train_mlp_numpy, "MLP", NumpyMLP)
    monkeypatch.setattr(train_mlp_pytorch, "MLP", TorchMLP)
    monkeypatch.setattr(Run, "_check_finite", record)
    for name, module, dtype, own in (
        (NUMPY, train_mlp_numpy, np.float64, []),
        (MLP, train_mlp_pytorch, torch.float64, ["--precision=fp32", "--device=cpu"]),
    ):
        monkeypatch.setattr(module, "train", functools.partial(module.train, dtype=dtype))
        flags = [*synthetic_flags, *own, "--max_steps=200", "--eval_freq=200", "--out_dir", tmp_path / name]
        assert run(name, *flags).status == 0

    ours, theirs = np.array(losses).reshape(2, 200)
    assert ours[-1] < 0.9 * ours[0], "networks that stand still agree with anything"
    weights = [checkpoint(tmp_path / name) for name in (NUMPY, MLP)]
    differences = [abs(ours - theirs).max()]
    for number, layer in ((1, 0), (2, 2)):
        for name in ("weight", "bias"):
            a, b = weights[0][f"linear{number}.{name}"], weights[1][f"network.layers.{layer}.{name}"]
            assert a.dtype == b.dtype == np.float64
            differences.append(abs(a - b).max())
    print(f"loss {ours[0]:.3f} to {ours[-1]:.3f}: losses and weights differ by {max(differences):.2g} at most")
    assert max(differences) < 1e-8


# ---- More than one process ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which PyTorch's Windows builds lack")
def test_two_processes_agree_with_one(flags, tmp_path):
    small = [*flags, "--synthetic_size=2000", "--validation_size=1"]  # too small for both to have a share
    # Sums over half a batch round otherwise; at a kink of the slope, that would part the runs for good.
    small += ["--max_steps=50", "--eval_freq=5", "--precision=fp32", "--neg_slope=1"]
    assert run(MLP, *small, "--out_dir", tmp_path / "one").status == 0
    done = run_process(*torchrun(MLP, *small, "--out_dir", tmp_path / "two"))
    assert done.status == 0, done.err
    assert done.out.count("step     50/50") == 1, "one process speaks"
    assert "2 processes" in done.out
    one, two = metrics_without_seconds(tmp_path / "one"), metrics_without_seconds(tmp_path / "two")
    assert len(one) == len(two) == 11
    assert one[-1]["train_loss"] < 0.98 * one[0]["train_loss"]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in ("train_loss", "test_loss", "validation_loss"):
            assert a[name] == pytest.approx(b[name], abs=1e-5)
