"""The training scripts: they learn, agree with each other, and obey their flags."""

import functools

import numpy as np
import pytest
import torch
from runs import CIFAR10, CONVNET, DEVICE, MLP, NUMPY, run

import mlp_numpy
import mlp_pytorch
import train_mlp_numpy
from cifar10_utils import DataSet, synthetic_images
from training import engine
from training.files import read_metrics
from training.run import Run

needs_cifar10 = pytest.mark.skipif(not CIFAR10.exists(), reason=f"CIFAR-10 is not in {CIFAR10}")
EFFECTIVE_FLAGS = [
    "--init=normal", "--batch_norm=manual", "--dropout=0.5", "--dnn_hidden_units=30", "--neg_slope=0.5",
    "--optimizer=adam --momentum=0 --weight_decay=0.1", "--optimizer=adamw --momentum=0 --weight_decay=0.1",
    "--momentum=0.9", "--weight_decay=0.1", "--lr_schedule=cosine",
    "--lr_schedule=onecycle", "--lr_schedule=triangle", "--label_smoothing=0.2", "--augment=flip",
    "--augment=flip_crop", "--augment=flip_affine", "--augment=flip_crop --shift=1", "--augment=flip --alternate",
    "--optimizer=muon", "--preprocess=standardize", "--validation_size=100", "--seed=7", "--batch_size=8",
    "--learning_rate=0.002", "--train_eval_size=10", "--precision=bf16",
]  # fmt: skip


@pytest.fixture
def directory_of(synthetic_flags, tmp_path):
    """Call with a script and flags to get the directory of a short run, evaluated at its first and last step."""

    def directory_of(script, *flags):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        few = ["--batch_size=50", "--eval_freq=1000", "--train_eval_size=20"]
        few += [f"--device={DEVICE}"] * (script != NUMPY)
        done = run(script, *synthetic_flags, *few, *flags, "--quiet", "--out_dir", directory)
        assert done.status == 0, done.err
        return directory

    return directory_of


@pytest.fixture
def losses(monkeypatch):
    """The training losses of all further runs, one per step."""
    losses = []
    monkeypatch.setattr(Run, "update", lambda _, loss: losses.append(float(loss)))
    return losses


# ---- Learning ------------------------------------------------------------------------------------


def test_convnet_learns_one_batch(directory_of, losses):
    directory_of(CONVNET, "--synthetic_size=10", "--batch_size=10", "--learning_rate=1e-3", "--max_steps=5")
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("n_hidden", ["", "100", "60,40,20"])
def test_numpy_and_pytorch_scripts_agree(directory_of, losses, monkeypatch, n_hidden):
    """Both start from the same weights and draw the same batches."""
    initial = []

    class NumpyMLP(mlp_numpy.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for layer in self.layers:  # to He et al.'s weights, with which deep networks learn at once
                layer.params["weight"] *= np.float32(np.sqrt(2 / layer.params["weight"].shape[1]) / 1e-4)
            self.layers[0].params["weight"] /= 64  # the standard deviation of pixels
            initial.extend(value.copy() for value in self.state_dict().values())

    class TorchMLP(mlp_pytorch.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for parameter, value in zip(self.parameters(), initial, strict=True):
                parameter.data.copy_(torch.from_numpy(value))

    monkeypatch.setattr(train_mlp_numpy, "train", functools.partial(train_mlp_numpy.train, network=NumpyMLP))
    monkeypatch.setattr("train_mlp_pytorch.MLP", TorchMLP)
    for script in (NUMPY, MLP):
        flags = ["--max_steps=30", "--batch_size=100", "--learning_rate=1e-5", f"--dnn_hidden_units={n_hidden}"]
        directory_of(script, *flags)
    ours, theirs = np.reshape(losses, (2, 30))
    assert ours[-1] < 0.8 * ours[0], "networks that do not learn always agree"
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)  # measured: 5e-7


@pytest.mark.parametrize("script", [NUMPY, MLP])
def test_seed_determines_every_loss(directory_of, losses, script):
    for seed in (1, 1, 2):
        directory_of(script, "--max_steps=3", f"--seed={seed}")
    first, again, other = np.reshape(losses, (3, 3))
    assert (first == again).all()
    assert (first != other).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "dataset"),
    [(NUMPY, "synthetic"), *(pytest.param(script, "cifar10", marks=needs_cifar10) for script in (NUMPY, MLP))],
)
def test_default_mlp_reaches_reported_accuracy_and_overfits(tmp_path, script, dataset):
    data_dir = CIFAR10 if dataset == "cifar10" else tmp_path
    done = run(script, f"--dataset={dataset}", f"--data_dir={data_dir}", "--quiet", "--out_dir", tmp_path / "run")
    assert done.status == 0, done.err
    last = read_metrics(tmp_path / "run")[-1]
    # 35 recorded runs on CIFAR-10 with other seeds and processors have 0.457 ± 0.018 and 1.46 to 1.88.
    assert 0.40 <= last["test_accuracy"] <= 0.55
    assert 1.30 <= last["test_loss"] <= 2.00
    assert last["train_accuracy"] > last["test_accuracy"] + 0.02
    assert last["train_loss"] < last["test_loss"] - 0.05


# ---- What flags do -------------------------------------------------------------------------------


def test_each_flag_changes_the_loss(directory_of, monkeypatch):
    monkeypatch.setattr(engine, "draw_results", lambda *_: {})
    start = ["--synthetic_size=200", "--batch_size=30", "--init=kaiming", "--momentum=0.5", "--learning_rate=0.001"]
    results = {}
    for flags in ["", *EFFECTIVE_FLAGS]:
        directory = directory_of(MLP, *start, "--max_steps=3", *flags.split())
        results[flags] = read_metrics(directory)[-1]["train_loss"]
    assert len(set(results.values())) == len(results), results


@pytest.mark.parametrize("limit", [0, 7])
def test_numpy_evaluate_returns_means_over_images(limit):
    images, labels = synthetic_images(1007, seed=0)  # more than one batch
    dataset = DataSet(images, labels, np.zeros((3, 32, 32), np.float32))
    mlp = mlp_numpy.MLP(3072, [], 10, 0.02, rng=np.random.default_rng(0))
    p, n = mlp.forward(train_mlp_numpy.flatten(dataset.images)), limit or 1007
    loss, accuracy = train_mlp_numpy.evaluate(mlp, dataset, limit)
    assert loss == pytest.approx(-np.log(p[np.arange(n), labels[:n]]).mean(), rel=1e-6)
    assert accuracy == np.mean(p[:n].argmax(axis=1) == labels[:n])


def test_whiten_flag_sets_a_layer_that_is_not_trained(directory_of, monkeypatch):
    layer = {"weight": torch.ones(20, 3072), "bias": torch.ones(20)}
    monkeypatch.setattr("train_mlp_pytorch.whitening", lambda images, n_components: layer)
    directory = directory_of(MLP, "--whiten=20", "--optimizer=adamw", "--weight_decay=0.1", "--max_steps=2")
    network = torch.load(directory / "checkpoint.pt", weights_only=True)["network"]
    assert all(torch.equal(network[f"whitening.{name}"], value) for name, value in layer.items())


def test_tensorboard_flag_writes_an_event_file(directory_of):
    pytest.importorskip("tensorboard")
    assert list(directory_of(MLP, "--max_steps=1", "--tensorboard").glob("events.out.tfevents.*"))


def test_curves_are_titled_with_script_and_data_set(synthetic_flags, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("training.run.draw_curve", lambda metrics, quantity, title: titles.append(title))
    monkeypatch.setattr("training.run.save_figure", lambda figure, path: None)
    run(NUMPY, *synthetic_flags, "--max_steps=1", "--quiet", "--out_dir", tmp_path / "run", draw=True)
    assert set(titles) == {"train_mlp_numpy on SYNTHETIC IMAGES, not CIFAR-10"}
