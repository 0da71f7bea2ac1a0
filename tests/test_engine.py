"""The PyTorch engine: images, augmentation, optimisers, evaluation, devices, precision, figures."""

import copy
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from runs import MLP as SCRIPT
from runs import run
from torch import nn

from cifar10_utils import DataSet, synthetic_images
from convnet_pytorch import ConvNet
from mlp_pytorch import MLP
from training import engine
from training.files import read_metrics
from training.images import DeviceImages, alternate_flips, augmentation, preprocessing, whitening
from training.muon import Muon, orthogonal
from training.plots import draw_curve, draw_mistakes

SCHEDULES = ("constant", "cosine", "onecycle", "triangle")
METRICS = [
    {"step": step, "train_loss": 2 - step / 10, "train_accuracy": step / 10, "test_loss": 2, "test_accuracy": 0.1}
    for step in (0, 5)
]


@pytest.fixture(scope="module")
def dataset():
    images, labels = synthetic_images(300, seed=1)
    return DataSet(images, labels, images.mean(axis=0, dtype=np.float64).astype(np.float32))


def on_cpu(dataset, how="mean_image"):
    return DeviceImages(dataset, torch.device("cpu"), *preprocessing(dataset, how))


# ---- Images --------------------------------------------------------------------------------------


def test_standardize_gives_mean_0_and_standard_deviation_1(dataset):
    images = on_cpu(dataset, "standardize").batch(np.arange(300))[0].double()
    # 307,200 numbers per channel, each rounded to 2^-24 of at most some units.
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(3).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("how", "shifts"), [("flip", {0}), ("flip_crop", set(range(-2, 3)))])
def test_augmented_images_are_flips_and_crops_of_padded_ones(dataset, how, shifts):
    places = augmentation(how, 300, np.random.default_rng(0), shift=2)
    images, labels = on_cpu(dataset, "standardize").batch(np.arange(300), **places)
    plain, plain_labels = on_cpu(dataset, "standardize").batch(np.arange(300))
    padded = nn.functional.pad(plain, (4, 4, 4, 4), mode="reflect")
    is_flipped = places["columns"][:, 16] > places["columns"][:, 17]
    down, right = places["rows"][:, 16] - 16, places["columns"][:, 16] - np.where(is_flipped, 15, 16)
    for image, source, flip, y, x in zip(images, padded, is_flipped, down, right, strict=True):
        crop = source[:, 4 + y : 36 + y, 4 + x : 36 + x]
        assert torch.equal(image, crop.flip(2) if flip else crop)
    assert set(down) == set(right) == shifts
    assert is_flipped.mean() == pytest.approx(0.5, abs=0.1)  # its standard deviation is 0.03
    assert torch.equal(labels, plain_labels)


def test_identity_map_keeps_images(dataset):
    index, images = np.arange(3), on_cpu(dataset)
    mapped, _ = images.batch(index, maps=np.tile(np.eye(2, 3, dtype=np.float32), (3, 1, 1)))
    # Positions are float32 fractions of a side, and pixels reach 255.
    torch.testing.assert_close(mapped, images.batch(index)[0], rtol=0, atol=0.01)


def test_flip_affine_rotates_scales_and_shifts_within_limits():
    maps = augmentation("flip_affine", 2000, np.random.default_rng(0), shift=2)["maps"]
    signs, scales = np.sign(np.linalg.det(maps[:, :, :2])), np.linalg.norm(maps[:, :, :2], axis=2)
    angles = np.degrees(np.arcsin(signs * maps[:, 1, 0] / scales[:, 1]))
    assert (signs < 0).mean() == pytest.approx(0.5, abs=0.05)  # its standard deviation is 0.011
    for values, limit in ((angles, 15), (np.log(scales), 0.15), (maps[:, :, 2] * 16, 2)):
        assert [values.min(), values.max()] == pytest.approx([-limit, limit], rel=0.01)


@pytest.mark.parametrize("how", ["flip", "flip_crop", "flip_affine"])
def test_augmentation_with_given_flips_keeps_other_draws(how):
    is_flipped = np.array([True, False, True])
    drawn = augmentation(how, 3, np.random.default_rng(0))
    given = augmentation(how, 3, np.random.default_rng(0), is_flipped=is_flipped)
    if how == "flip_affine":
        assert ((np.linalg.det(given["maps"][:, :, :2]) < 0) == is_flipped).all()
        assert (abs(given["maps"]) == abs(drawn["maps"])).all()
    else:
        assert ((given["columns"][:, 16] > given["columns"][:, 17]) == is_flipped).all()
        assert (given["rows"] == drawn["rows"]).all()


def test_alternate_flips_flip_each_image_in_alternate_epochs():
    dataset = DataSet(np.zeros((50, 3, 32, 32), np.uint8), np.zeros(50), np.zeros((3, 32, 32), np.float32))
    flips = np.zeros((4, 50), bool)  # by epoch and image
    for _ in range(50 // 7 * 4):  # some batches span two epochs
        position, index = dataset.position, dataset.next_index(7)
        flips[(position + np.arange(7)) // 50, index] = alternate_flips(index, position, 50, seed=3)
    assert (flips[0] == flips[2]).all()
    assert (flips[0] != flips[1]).all()
    assert 10 < flips[0].sum() < 40


def test_whitening_decorrelates_and_scales_components(dataset):
    small = DataSet(dataset.pixels[:, :, ::4, ::4], dataset.classes, dataset.mean_image[:, ::4, ::4])
    images = on_cpu(small, "standardize")
    weight, bias = whitening(images, 20).values()
    rows = images.batch(np.arange(300))[0].flatten(1)
    variances = torch.linalg.eigvalsh(rows.T.cov(correction=0))[-20:]
    whitened = rows @ weight.T + bias
    expected = (variances / (variances + 0.1)).diag()
    # The tolerances allow for float32 sums over 300 images.
    torch.testing.assert_close(whitened.mean(dim=0), torch.zeros(20), rtol=0, atol=1e-4)
    torch.testing.assert_close(whitened.T.cov(correction=0), expected, rtol=0, atol=1e-3)


# ---- Optimisers and schedules --------------------------------------------------------------------


def flags(**kwargs):
    defaults = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0}
    return SimpleNamespace(**defaults, **kwargs)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (64, 64)], ids=str)
def test_orthogonal_keeps_vectors_and_equalises_singular_values(shape):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(1, 0.25, len(s))  # three iterations are not enough for much smaller ones
    result = u.T @ orthogonal(u @ s.diag() @ v) @ v.T
    # The tolerance allows for float32 rounding in about ten products of up to 64 terms.
    torch.testing.assert_close(result, result.diag().diag(), rtol=0, atol=1e-5)
    assert ((result.diag() > 0.5) & (result.diag() < 1.25)).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon needs PyTorch 2.9")
def test_muon_matches_pytorchs_on_rescaled_matrices():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.eye(6, 9)) for _ in range(2))
    optimizers = Muon([ours], 0.1, 0.6), torch.optim.Muon([theirs], 0.1, 0, 0.6, ns_steps=3)
    for gradient in torch.randn(3, 6, 9):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            parameter.data.mul_(6**0.5 / parameter.data.norm())
            optimizer.step()
    # Each step is 0.1 times a matrix that PyTorch computes in bfloat16, with errors of a few per cent.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)


def test_muon_treats_a_kernel_as_a_matrix_and_keeps_its_norm():
    torch.manual_seed(0)
    kernel, bias = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.zeros(4))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad, bias.grad = torch.randn(4, 2, 3, 3), torch.tensor([1.0, -2.0, 0.5, 3.0])
    matrix.grad = kernel.grad.flatten(1).clone()
    Muon([kernel, matrix, bias], 0.1, 0.6).step()
    assert torch.equal(kernel.flatten(1), matrix)
    assert kernel.norm().item() == pytest.approx(2, rel=0.2)  # √n_rows, and a step of a tenth of that
    torch.testing.assert_close(bias.detach(), -0.01 * torch.tensor([1.0, -1, 1, 1]))  # Adam's first step


def learning_rates(lr_schedule, max_steps):
    """Return Muon's learning rate for matrices at each step, and check that other parameters have a tenth of it."""
    layer, args, rates = nn.Linear(2, 2), flags(optimizer="muon", lr_schedule=lr_schedule, max_steps=max_steps), []
    optimizer = engine.make_optimizer(layer, args)
    schedule = engine.make_schedule(optimizer, args)
    for _ in range(max_steps):
        matrices, others = (group["lr"] for group in optimizer.param_groups)
        assert others == pytest.approx(matrices / 10)
        rates.append(matrices)
        layer.weight.grad = torch.ones(2, 2)
        optimizer.step()
        schedule.step()
    return np.array(rates)


def test_schedules_have_expected_peak_and_end():
    constant, cosine, onecycle, triangle = (learning_rates(name, max_steps=100) for name in SCHEDULES)
    assert (constant == 0.1).all()
    assert [cosine.argmax(), onecycle.argmax(), triangle.argmax()] == [0, pytest.approx(30, abs=1), 20]
    assert [rates.max() for rates in (cosine, onecycle, triangle)] == pytest.approx([0.1] * 3, rel=0.01)
    assert [rates[-1] for rates in (cosine, onecycle, triangle)] == pytest.approx([0] * 3, abs=0.002)
    assert np.ptp(np.diff(triangle[:20])) + np.ptp(np.diff(triangle[20:])) < 1e-9  # two straight lines


@pytest.mark.parametrize("lr_schedule", SCHEDULES)
@pytest.mark.parametrize("max_steps", [1, 2])
def test_schedule_is_positive_in_the_shortest_runs(lr_schedule, max_steps):
    assert (learning_rates(lr_schedule, max_steps) > 0).all()


# ---- Evaluation ----------------------------------------------------------------------------------


def test_evaluate_returns_means_over_images_in_eval_mode(dataset):
    torch.manual_seed(0)
    network = MLP(3072, [20], 10, 0.02, init="kaiming", batch_norm="torch", dropout=0.5)
    many = DataSet(dataset.pixels.repeat(4, axis=0), dataset.classes.repeat(4), dataset.mean_image)
    with torch.no_grad():
        logits, labels = copy.deepcopy(network).eval()(torch.tensor(many.images)), torch.tensor(many.classes)
    images = {"train": on_cpu(many), "validation": [], "test": on_cpu(many)}
    results = engine.evaluate(network, images, SimpleNamespace(train_eval_size=7, precision="fp32"))
    for split, n in (("train", 7), ("test", 1200)):  # less and more than a batch
        loss = nn.functional.cross_entropy(logits[:n], labels[:n]).item()
        accuracy = (logits[:n].argmax(dim=1) == labels[:n]).double().mean().item()
        assert results[split] == pytest.approx((loss, accuracy), rel=1e-5)
    assert "validation" not in results
    assert network.training


def test_confusion_matrix_has_a_row_per_true_class():
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert engine.confusion_matrix([0, 0, 2], probabilities).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_first_layer_includes_whitening():
    network = MLP(12, [5], 3, 0.1, init="pytorch", n_whitened=4)
    x, origin = torch.randn(1, 12), torch.zeros(1, 12)
    expected = network.layers[0](network.whitening(x)) - network.layers[0](network.whitening(origin))
    torch.testing.assert_close(x @ engine.first_layer(network, (3, 2, 2)).flatten(1).T, expected)


# ---- Device, precision, compilation, memory ------------------------------------------------------


def test_memory_formats_affect_results_by_rounding_only():
    torch.manual_seed(0)
    network, x = ConvNet(3, 10), torch.randn(4, 3, 32, 32)
    fast = copy.deepcopy(network)
    x_fast = x.contiguous(memory_format=engine.use_fast_memory_formats(fast))
    results = []
    for model, inputs in ((network, x), (fast, x_fast)):
        logits = model(inputs)
        logits.square().mean().backward()
        results.append((logits, model.classifier.weight.grad))
    # Measured: 7e-6. The order of summation differs for up to 4,608 products in each of eight convolutions.
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def losses_of_run(directory, synthetic_flags, *more):
    """Train the MLP for ten steps, in which it learns, and return the test losses."""
    small = ["--device=cpu", "--max_steps=10", "--eval_freq=5", "--init=pytorch", "--learning_rate=3e-5"]
    done = run(SCRIPT, *synthetic_flags, *small, "--out_dir", directory, *more)
    assert done.status == 0, done.err
    return [m["test_loss"] for m in read_metrics(directory)]


def test_bf16_keeps_weights_in_float32(synthetic_flags, tmp_path):
    fp32, bf16 = (losses_of_run(tmp_path / p, synthetic_flags, f"--precision={p}") for p in ("fp32", "bf16"))
    assert fp32 != bf16
    assert fp32 == pytest.approx(bf16, rel=0.01)  # bfloat16 has a significand of 8 bits
    weights = torch.load(tmp_path / "bf16" / "checkpoint.pt", weights_only=True)["network"].values()
    assert {w.dtype for w in weights} == {torch.float32}


@pytest.mark.slow
def test_compile_gives_the_same_losses(synthetic_flags, tmp_path):
    plain, compiled = (losses_of_run(tmp_path / str(len(more)), synthetic_flags, *more) for more in ([], ["--compile"]))
    assert plain == pytest.approx(compiled, rel=1e-5)


# ---- Figures -------------------------------------------------------------------------------------


def test_figures_ignore_the_users_matplotlib_style():
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black"}):
        (axes,) = draw_curve(METRICS, "loss", "title").axes
    assert (axes.get_facecolor(), axes.title.get_usetex()) == ((1, 1, 1, 1), False)


@pytest.mark.parametrize(("first_loss", "scale"), [(2.3, "linear"), (140, "log")])
def test_loss_axis_is_logarithmic_if_the_loss_starts_high(first_loss, scale):
    (axes,) = draw_curve([METRICS[0] | {"train_loss": first_loss}, METRICS[1]], "loss", "title").axes
    assert axes.get_yscale() == scale


@pytest.mark.parametrize(("quantity", "label"), [("accuracy", "accuracy"), ("loss", "cross-entropy loss")])
def test_curve_shows_each_split_with_title_and_labels(quantity, label):
    (axes,) = draw_curve(METRICS, quantity, "script on CIFAR-10").axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("script on CIFAR-10", "training step", label)
    curves = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
    assert curves == {split: [m[f"{split}_{quantity}"] for m in METRICS] for split in ("train", "test")}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "test"]


def test_mistakes_figure_starts_with_the_worst(dataset):
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    figure = draw_mistakes(dataset.pixels[:3], np.array([1, 1, 1]), probabilities, ("cat", "dog"), "title")
    assert [axes.get_title() for axes in figure.axes[:3]] == ["dog\nas cat 90%", "dog\nas cat 60%", ""]
