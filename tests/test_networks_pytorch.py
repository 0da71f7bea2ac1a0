"""The two networks in PyTorch, and what the training scripts make of their flags: data, augmentation, optimisers."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import torch_utils
from cifar10_utils import DataSet
from convnet_pytorch import ConvNet
from mlp_pytorch import BATCH_NORMS, MLP
from muon import Muon, orthogonal
from synthetic_data import synthetic_images
from torch_images import DeviceImages, augmentation, mirrored_alternately, preprocessing, whitening
from torch_utils import choose_precision, first_layer, make_optimizer, make_schedule, training_step

# ---- The ConvNet -------------------------------------------------------------------------------

# Table 1 of the assignment: what each stage hands to the next.
TABLE_1 = [
    ("conv", 64, 32), ("pool", 64, 16), ("conv", 128, 16), ("pool", 128, 8), ("conv", 256, 8), ("conv", 256, 8),
    ("pool", 256, 4), ("conv", 512, 4), ("conv", 512, 4), ("pool", 512, 2), ("conv", 512, 2), ("conv", 512, 2),
    ("pool", 512, 1), ("linear", 10, None),
]  # fmt: skip


def test_convnet_is_that_of_table_1_at_every_stage():
    network = ConvNet(3, 10)
    stages = []
    kinds = {nn.Conv2d: "conv", nn.MaxPool2d: "pool", nn.Linear: "linear"}
    for module in network.modules():
        if type(module) in kinds:
            module.register_forward_hook(
                lambda module, _, out: stages.append(
                    (kinds[type(module)], out.shape[1], out.shape[2] if out.ndim == 4 else None)
                )
            )
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert stages == TABLE_1


def test_every_convolution_is_followed_by_batch_norm_and_relu():
    modules = list(ConvNet(3, 10).features)
    convolutions = [i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 8
    for i in convolutions:
        assert [type(module) for module in modules[i + 1 : i + 3]] == [nn.BatchNorm2d, nn.ReLU]
        assert (modules[i].kernel_size, modules[i].stride, modules[i].padding) == ((3, 3), (1, 1), (1, 1))
    for module in modules:
        if isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride, module.padding) == (3, 2, 1)


def test_convnet_has_as_many_parameters_as_table_1_says():
    channels = [3, *(width for kind, width, _ in TABLE_1 if kind == "conv")]
    expected = sum(9 * a * b + b + 2 * b for a, b in pairwise(channels)) + 512 * 10 + 10
    assert sum(p.numel() for p in ConvNet(3, 10).parameters()) == expected


def test_convnet_learns_64_images_by_heart():
    torch.manual_seed(0)
    images, labels = synthetic_images(64, seed=0)
    x, y = torch.tensor(images).float() - 120, torch.tensor(labels)
    network = ConvNet(3, 10)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    n_right = []
    for _ in range(25):
        logits = network(x)
        n_right.append(int((logits.argmax(1) == y).sum()))
        if n_right[-1] == 64:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, y).backward()
        optimizer.step()
    assert n_right[0] < 32
    assert n_right[-1] == 64


# ---- The MLP -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_mlp_is_linear_norm_activation_dropout(batch_norm, dropout):
    network = MLP(6, [5, 4], 3, 0.1, batch_norm=batch_norm, dropout=dropout)
    hidden = [nn.Linear, BATCH_NORMS[batch_norm], nn.LeakyReLU, nn.Dropout if dropout else None]
    hidden = [kind for kind in hidden if kind is not None]
    assert [type(module) for module in network.layers] == [*hidden, *hidden, nn.Linear]
    assert network(torch.ones(7, 6)).shape == (7, 3)
    assert all(m.negative_slope == 0.1 for m in network.modules() if isinstance(m, nn.LeakyReLU))
    assert all(m.p == dropout for m in network.modules() if isinstance(m, nn.Dropout))


def test_batch_norms_are_interchangeable_in_a_trained_network():
    torch.manual_seed(0)
    networks = {name: MLP(6, [5, 4], 3, 0.1, init="kaiming", batch_norm=name).double() for name in BATCH_NORMS}
    del networks["none"]
    state = networks["torch"].state_dict()
    for network in networks.values():
        network.load_state_dict(state)
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.randint(3, (20,))
    for network in networks.values():
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        network.eval()
    for name in ("autograd", "manual"):
        torch.testing.assert_close(networks[name].state_dict(), networks["torch"].state_dict())
        torch.testing.assert_close(networks[name](x), networks["torch"](x))


def test_init_pytorch_leaves_what_linear_layers_draw():
    torch.manual_seed(0)
    linear, last = torch.nn.Linear(300, 40), torch.nn.Linear(40, 10)
    torch.manual_seed(0)
    mlp = MLP(300, [40], 10, 0.02, init="pytorch")
    for got, expected in zip(mlp.parameters(), [*linear.parameters(), *last.parameters()], strict=True):
        assert torch.equal(got, expected)
        assert got.std() > 0


@pytest.mark.parametrize(("init", "std"), [("normal", 1e-4), ("kaiming", (2 / 1.04 / 300) ** 0.5)])
def test_initial_weights_have_the_deviation_that_they_should(init, std):
    torch.manual_seed(0)
    network = MLP(300, [200], 10, 0.2, init=init)
    # 60,000 draws: their standard deviation is known to 0.3%.
    assert network.layers[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert all((m.bias == 0).all() for m in network.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("option", [{"init": "xavier"}, {"batch_norm": "layer"}], ids=str)
def test_unknown_option_of_the_mlp_is_refused(option):
    with pytest.raises(ValueError, match="expected one of"):
        MLP(6, [5], 3, 0.1, **option)


# ---- Data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset():
    images, labels = synthetic_images(300, seed=1)
    return DataSet(images, labels, images.mean(axis=0, dtype=np.float64).astype(np.float32))


def on_device(dataset, how="mean_image", **kwargs):
    return DeviceImages(dataset, torch.device("cpu"), torch.float32, *preprocessing(dataset, how), **kwargs)


def test_batches_are_those_of_the_numpy_script_to_the_bit(dataset):
    index = np.array([7, 0, 299, 7])
    images, labels = on_device(dataset).batch(index)
    expected, one_hot = dataset._batch(index)
    assert images.numpy().tobytes() == expected.tobytes()
    assert (labels.numpy() == one_hot.argmax(axis=1)).all()


def test_standardized_images_have_mean_0_and_deviation_1(dataset):
    images, _ = on_device(dataset, "standardize").batch(np.arange(300))
    # 307,200 numbers a channel, each rounded to 2^-24 of at most some units.
    torch.testing.assert_close(images.double().mean(dim=(0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        images.double().std(dim=(0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-5, atol=0
    )


def test_convolutions_get_channels_last(dataset):
    images, _ = on_device(dataset, memory_format=torch.channels_last).batch(np.arange(5))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("how", ["flip", "flip_crop"])
def test_augmentation_draws_for_each_image_and_keeps_pixels_together(how):
    rows, columns = augmentation(how, 2000, np.random.default_rng(0)).values()
    is_flipped = columns[:, 16] > columns[:, 17]
    # 2,000 draws of a half have a standard deviation of 0.011.
    assert is_flipped.mean() == pytest.approx(0.5, abs=0.05)
    for places in (rows, columns):
        assert places.min() == 0
        assert places.max() == 31
        assert (abs(np.diff(places, axis=1)) <= 1).all()
    if how == "flip":
        assert (rows == np.arange(32)).all()
        assert len(np.unique(columns, axis=0)) == 2
    else:
        assert len(np.unique(rows, axis=0)) == 9
        assert len(np.unique(columns, axis=0)) == 18


@pytest.mark.parametrize("shift", [-4, -1, 0, 3])
def test_shift_mirrors_at_the_edge_as_padding_by_reflection_does(dataset, shift):
    """Against `torch.nn.functional.pad` and a crop."""

    class Rng:
        def random(self, shape):
            return np.ones(shape)  # no flip

        def integers(self, low, high, shape):
            return np.full(shape, shift)

    images, _ = on_device(dataset).batch(np.arange(3), **augmentation("flip_crop", 3, Rng()))
    padded = nn.functional.pad(torch.from_numpy(dataset.pixels[:3]).float(), (4, 4, 4, 4), mode="reflect")
    expected = padded[:, :, 4 + shift : 36 + shift, 4 + shift : 36 + shift] - torch.from_numpy(dataset.mean_image)
    assert (images == expected).all()


def test_flip_mirrors_the_image_itself(dataset):
    class Rng:
        def random(self, shape):
            return np.zeros(shape)

    images, labels = on_device(dataset, "standardize").batch(np.arange(3), **augmentation("flip", 3, Rng()))
    plain, plain_labels = on_device(dataset, "standardize").batch(np.arange(3))
    assert (images == plain.flip(3)).all()
    assert (labels == plain_labels).all()


def test_alternate_flips_mirror_each_image_in_every_second_pass():
    dataset = DataSet(np.zeros((50, 3, 32, 32), np.uint8), np.zeros(50), np.zeros((3, 32, 32), np.float32), seed=3)
    is_first = np.random.default_rng(3).random(50) < 0.5
    mirrored = np.zeros((4, 50), int)  # by pass and image
    for _ in range(50 // 7 * 4):  # batches that run over into the next pass
        position = dataset.position
        index = dataset.next_index(7)
        is_mirrored = mirrored_alternately(index, position, is_first)
        passes = (position + np.arange(7)) // 50
        mirrored[passes, index] += is_mirrored
    assert (mirrored[0] == mirrored[2]).all()
    assert (mirrored[0] != mirrored[1]).all()
    assert 10 < mirrored[0].sum() < 40


@pytest.mark.parametrize("how", ["flip", "flip_crop", "flip_affine"])
def test_what_is_mirrored_can_be_said_and_changes_no_other_draw(how):
    say = np.array([True, False, True])
    said = augmentation(how, 3, np.random.default_rng(0), is_mirrored=say)
    drawn = augmentation(how, 3, np.random.default_rng(0))
    if how == "flip_affine":
        is_mirrored = np.linalg.det(said["maps"][:, :, :2]) < 0
        np.testing.assert_array_equal(np.abs(said["maps"]), np.abs(drawn["maps"]))
    else:
        is_mirrored = said["columns"][:, 16] > said["columns"][:, 17]
        np.testing.assert_array_equal(said["rows"], drawn["rows"])
    assert (is_mirrored == say).all()


class Middle:
    """Draws the middle of every range."""

    def uniform(self, low, high, shape):
        return np.full(shape, (low + high) / 2)

    def random(self, n):
        return np.full(n, 0.5)  # no flip


def test_affine_map_from_the_middle_of_every_range_leaves_images_as_they_are(dataset):
    images, _ = on_device(dataset).batch(np.arange(3), **augmentation("flip_affine", 3, Middle()))
    # Places are float32 fractions of a side, and pixels reach 255.
    torch.testing.assert_close(images, on_device(dataset).batch(np.arange(3))[0], rtol=0, atol=0.01)


def test_affine_maps_turn_scale_and_shift_within_their_ranges():
    maps = augmentation("flip_affine", 2000, np.random.default_rng(0), shift=2)["maps"]
    *turns, shifts = maps.transpose(2, 0, 1)
    matrices = np.stack(turns, axis=2)
    assert np.abs(shifts).max() == pytest.approx(2 / 16, rel=0.01)
    assert (np.linalg.det(matrices) < 0).mean() == pytest.approx(0.5, abs=0.05)
    scales = np.linalg.norm(matrices, axis=2)  # of the rows of a turn
    assert np.log(scales).min() == pytest.approx(-0.15, rel=0.01)
    assert np.log(scales).max() == pytest.approx(0.15, rel=0.01)
    sines = matrices[:, 1, 0] / scales[:, 1] * np.sign(np.linalg.det(matrices))
    assert np.degrees(np.arcsin(sines)).max() == pytest.approx(15, rel=0.01)


def test_whitened_components_are_uncorrelated_and_have_nearly_unit_variance(dataset):
    small = DataSet(dataset.pixels[:, :, ::4, ::4], dataset.classes, dataset.mean_image[:, ::4, ::4])
    images = on_device(small, "standardize")
    weight, bias = whitening(images, 20, eps=0.1).values()
    rows = images.batch(np.arange(300))[0].flatten(1)
    largest = torch.linalg.eigvalsh(rows.T.cov(correction=0))[-20:]
    whitened = rows @ weight.T + bias
    # Variances are those of 300 images, summed in float32.
    torch.testing.assert_close(whitened.mean(dim=0), torch.zeros(20), rtol=0, atol=1e-4)
    torch.testing.assert_close(whitened.T.cov(correction=0), (largest / (largest + 0.1)).diag(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("optimizer", [{"optimizer": "adamw", "weight_decay": 0.1}, {"optimizer": "muon"}], ids=str)
def test_whitening_is_fixed_and_undone_for_the_picture_of_the_first_layer(optimizer):
    network = MLP(12, [5], 3, 0.1, init="pytorch", n_whitened=4)
    before = network.whitening.weight.clone()
    training_step(
        network,
        make_optimizer(network, flags(**optimizer)),
        torch.randn(6, 3, 2, 2),
        torch.tensor([0, 1, 2, 0, 1, 2]),
        "fp32",
    )
    assert (network.whitening.weight == before).all()
    x = torch.randn(1, 12)
    expected = network.layers[0](network.whitening(x) - network.whitening.bias) - network.layers[0].bias
    torch.testing.assert_close(x @ first_layer(network, (3, 2, 2)).flatten(1).T, expected)


# ---- Optimiser, schedule, device, precision ----------------------------------------------------


def flags(**kwargs):
    defaults = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0, "optimizer": "sgd", "max_steps": 100}
    return SimpleNamespace(**{**defaults, "lr_schedule": "constant", **kwargs})


@pytest.mark.parametrize(
    ("args", "kind", "options"),
    [
        ({"momentum": 0.9, "weight_decay": 0.01}, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01, "lr": 0.1}),
        ({"optimizer": "adam"}, torch.optim.Adam, {"weight_decay": 0.0, "lr": 0.1}),
        ({"optimizer": "adamw", "weight_decay": 0.2}, torch.optim.AdamW, {"weight_decay": 0.2, "lr": 0.1}),
        ({"optimizer": "muon", "momentum": 0.6}, Muon, {"momentum": 0.6, "lr": 0.1}),
    ],
)
def test_optimizer_is_the_one_that_the_flags_name(args, kind, options):
    optimizer = make_optimizer(nn.Linear(2, 2), flags(**args))
    assert type(optimizer) is kind
    assert options.items() <= optimizer.param_groups[0].items()


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (64, 64)], ids=str)
def test_orthogonal_keeps_singular_vectors_and_evens_out_their_values(shape):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(1, 0.25, len(s))  # three iterations leave smaller ones behind
    values = s / s.norm()
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5  # what x ← p x does to them
    assert values.min() > 0.5
    assert values.max() < 1.3
    # Rounding of float32 over some ten products of up to 64 summands.
    torch.testing.assert_close(u.T @ orthogonal(u @ s.diag() @ v) @ v.T, values.diag(), rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is of PyTorch 2.9 and later")
def test_muon_steps_as_pytorchs_own_does_on_weights_of_its_length():
    ours, theirs = (nn.Parameter(torch.eye(6, 9)) for _ in range(2))
    optimizers = Muon([ours], 0.1, 0.6), torch.optim.Muon([theirs], 0.1, 0, 0.6, ns_steps=3)
    for _ in range(3):
        gradient = torch.randn(6, 9)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            parameter.data.mul_(6**0.5 / parameter.data.norm())
            optimizer.step()
    # Each step is 0.1 times a matrix of which PyTorch's iterations in bfloat16, of 8 bits, leave some per cent open.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)


def test_muon_goes_on_from_its_state_dict():
    networks, optimizers = [], []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(MLP(8, [6, 5], 3, 0.1, init="kaiming", batch_norm="torch"))
        optimizers.append(Muon(networks[-1].parameters(), 0.1, 0.6))
    batch = torch.randn(9, 8), torch.arange(9) % 3
    training_step(networks[0], optimizers[0], *batch, "fp32")
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for network, optimizer in zip(networks, optimizers, strict=True):
        training_step(network, optimizer, *batch, "fp32")
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert (a == b).all()


def test_muon_takes_a_kernel_as_a_matrix_and_keeps_its_length():
    kernel, matrix, bias = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.empty(4, 18)), torch.zeros(4)
    matrix.data = kernel.data.flatten(1).clone()
    bias = nn.Parameter(bias)
    optimizer = Muon([kernel, matrix, bias], 0.1, 0.6)
    kernel.grad, bias.grad = torch.randn(4, 2, 3, 3), torch.tensor([1.0, -2.0, 0.5, 3.0])
    matrix.grad = kernel.grad.flatten(1).clone()
    optimizer.step()
    assert (kernel.flatten(1) == matrix).all()
    assert kernel.norm().item() == pytest.approx(2, rel=0.2)  # before the step, which is a tenth as long, it was 2
    torch.testing.assert_close(bias.detach(), -0.01 * torch.tensor([1.0, -1, 1, 1]))  # Adam's first step


def learning_rates(**kwargs):
    optimizer = make_optimizer(nn.Linear(2, 2), flags(**kwargs))
    schedule = make_schedule(optimizer, flags(**kwargs))
    rates = []
    for _ in range(kwargs.get("max_steps", 100)):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_learning_rate_follows_its_schedule():
    assert learning_rates() == [0.1] * 100
    cosine = learning_rates(lr_schedule="cosine")
    np.testing.assert_allclose(cosine, 0.05 * (1 + np.cos(np.pi * np.arange(100) / 100)), rtol=1e-9)
    onecycle = learning_rates(lr_schedule="onecycle")
    assert max(onecycle) == pytest.approx(0.1, rel=1e-3)  # the peak falls between two steps
    assert np.argmax(onecycle) == pytest.approx(30, abs=1)
    assert onecycle[0] == pytest.approx(0.1 / 25)
    assert onecycle[-1] < 1e-3
    triangle = learning_rates(lr_schedule="triangle")
    np.testing.assert_allclose(triangle[:20], 0.1 * np.arange(1, 21) / 21)
    np.testing.assert_allclose(triangle[20:], 0.1 * np.arange(80, 0, -1) / 80)


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "onecycle", "triangle"])
def test_muon_trains_the_rest_by_a_tenth_of_the_rate_at_every_step(lr_schedule):
    arguments = flags(optimizer="muon", momentum=0.6, lr_schedule=lr_schedule)
    optimizer = make_optimizer(nn.Linear(2, 2), arguments)
    schedule = make_schedule(optimizer, arguments)
    for _ in range(99):
        schedule.step()
        matrices, others = (group["lr"] for group in optimizer.param_groups)
        assert others == pytest.approx(matrices / 10)


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "onecycle", "triangle"])
@pytest.mark.parametrize("max_steps", [1, 2])
def test_schedule_fits_the_shortest_runs(lr_schedule, max_steps):
    assert len(learning_rates(lr_schedule=lr_schedule, max_steps=max_steps)) == max_steps


@pytest.mark.parametrize(
    ("native", "kind", "is_convolutional", "expected"),
    [
        (True, "cpu", True, "bf16"), (True, "cpu", False, "bf16"), (False, "cpu", True, "fp32"),
        (True, "cuda", True, "bf16"), (True, "cuda", False, "fp32"), (False, "cuda", True, "fp32"),
        (True, "mps", True, "fp32"),
    ],
)  # fmt: skip
def test_auto_precision_is_bf16_where_it_is_native_and_faster(monkeypatch, native, kind, is_convolutional, expected):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: native, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert choose_precision("auto", torch.device(kind), is_convolutional) == expected
    assert choose_precision("fp32", torch.device(kind), is_convolutional) == "fp32"
    assert choose_precision("bf16", torch.device(kind), is_convolutional) == "bf16"


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_device_is_a_gpu_where_there_is_one(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert torch_utils.choose_device("auto").type == expected
    assert torch_utils.choose_device("cpu").type == "cpu"


def test_bf16_multiplies_in_bfloat16_and_fp32_does_not():
    layer = nn.Linear(3, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with torch_utils.autocast(torch.device("cpu"), precision):
            assert layer(torch.ones(1, 3)).dtype == dtype
