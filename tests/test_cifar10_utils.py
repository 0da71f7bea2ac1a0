"""What `get_cifar10` makes of the images, the batches drawn from them, and the synthetic stand-in."""

import numpy as np
import pytest
import torch

import cifar10_files
import cifar10_utils
import synthetic_data
from cifar10_utils import DataSet, get_cifar10
from synthetic_data import synthetic_images


@pytest.fixture(scope="module")
def as_read(official_folder):
    """The files' contents, read once for all of these tests."""
    with pytest.warns(UserWarning, match="not the official CIFAR-10 files"):
        return cifar10_files.read_cifar10(official_folder)


@pytest.fixture
def data_dir(official_folder, as_read, monkeypatch):
    monkeypatch.setattr(cifar10_utils, "read_cifar10", {official_folder: as_read}.get)
    return official_folder


def test_images_are_float32_less_the_training_mean(data_dir):
    data = get_cifar10(data_dir)
    mean = np.float32(np.mean(np.arange(50_000) % 251))
    images = data["test"].images
    assert images.shape == (10_000, 3, 32, 32)
    assert images.dtype == np.float32
    # One rounding of the mean and one of the difference, of numbers below 256.
    np.testing.assert_allclose(images[:, 1, 2, 3], np.arange(50_000, 60_000) % 251 - mean, atol=256 * 2**-23)
    assert data["test"].pixels.dtype == np.uint8


def test_labels_are_one_hot_or_class_numbers(data_dir):
    one_hot, numbers = (get_cifar10(data_dir, one_hot=one_hot)["test"] for one_hot in (True, False))
    assert one_hot.labels.shape == (10_000, 10)
    assert one_hot.labels.dtype == np.float32
    assert (one_hot.labels.sum(axis=1) == 1).all()
    assert numbers.labels.dtype == np.int64
    assert (one_hot.labels.argmax(axis=1) == numbers.labels).all()
    assert (one_hot.next_batch(7)[1].argmax(axis=1) == numbers.next_batch(7)[1]).all()


def test_validation_takes_the_last_training_examples_and_they_are_never_trained_on(data_dir):
    data = get_cifar10(data_dir, validation_size=1000)
    train, validation = data["train"], data["validation"]
    assert (train.num_examples, validation.num_examples) == (49_000, 1000)
    assert (validation.pixels[:, 0, 0, 0] == np.arange(49_000, 50_000) % 251).all()
    assert not np.shares_memory(train.pixels, validation.pixels)
    mean = np.float32(np.mean(np.arange(49_000) % 251))
    np.testing.assert_allclose(train.mean_image, mean, rtol=2**-23)
    assert train.pixels[train._epoch_order(0)].shape[0] == 49_000


@pytest.mark.parametrize("size", [-1, 50_000])
def test_impossible_validation_size_is_refused(data_dir, size):
    with pytest.raises(ValueError, match=f"validation_size is {size}, expected 0 to 49999"):
        get_cifar10(data_dir, validation_size=size)


@pytest.mark.parametrize("size", [-5, 0, 9])
def test_impossible_synthetic_size_is_refused(data_dir, size):
    with pytest.raises(ValueError, match=f"synthetic_size is {size}, expected at least 10"):
        get_cifar10(data_dir, dataset="synthetic", synthetic_size=size)


def test_unknown_dataset_is_refused(data_dir):
    with pytest.raises(ValueError, match="'mnist', expected 'auto', 'cifar10' or 'synthetic'"):
        get_cifar10(data_dir, dataset="mnist")


# ---- Batches -----------------------------------------------------------------------------------


def numbered(n, seed=0):
    """A data set whose image i has the pixels i."""
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, 32, 32))
    return DataSet(pixels, np.arange(n) % 10, np.zeros((3, 32, 32), np.float32), seed=seed)


def drawn(dataset, batch_size, n_batches):
    return np.concatenate([dataset.next_batch(batch_size)[0][:, 0, 0, 0] for _ in range(n_batches)]).astype(int)


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own():
    order = drawn(numbered(60), 7, 60).reshape(7, 60)  # 60 batches of 7 are 7 epochs, and run over their ends
    for epoch in order:
        assert sorted(epoch) == list(range(60))
    assert len({tuple(epoch) for epoch in [*order, range(60)]}) == 8


def test_batch_larger_than_what_is_left_runs_over_into_the_next_epoch():
    dataset = numbered(10)
    drawn(dataset, 7, 1)
    assert len(drawn(dataset, 7, 1)) == 7
    assert dataset.position == 14


def test_order_is_a_function_of_seed_and_position():
    whole = drawn(numbered(50, seed=3), 8, 20)
    resumed = numbered(50, seed=3)
    resumed.position = 8 * 13
    assert (drawn(resumed, 8, 7) == whole[8 * 13 :]).all()
    assert (drawn(numbered(50, seed=4), 8, 20) != whole).any()


@pytest.mark.parametrize("size", [0, -1, 11])
def test_impossible_batch_is_refused(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}, expected 1 to 10"):
        numbered(10).next_batch(size)


def test_images_and_labels_stay_together():
    images, labels = numbered(60).next_batch(60)
    assert (images[:, 2, 31, 31] % 10 == labels.argmax(axis=1)).all()


@pytest.mark.parametrize(("limit", "expected"), [(0, 10), (7, 7), (10, 10), (99, 10)])
def test_batches_go_through_the_first_examples_once_in_stored_order(limit, expected):
    images = np.concatenate([images for images, _ in numbered(10).batches(4, limit)])
    assert (images[:, 0, 0, 0] == np.arange(expected)).all()


# ---- The synthetic stand-in --------------------------------------------------------------------


def test_synthetic_images_are_a_function_of_their_seed():
    images, labels = synthetic_images(500, seed=1)
    again, labels_again = synthetic_images(500, seed=1)
    others, _ = synthetic_images(500, seed=2)
    assert images.shape == (500, 3, 32, 32)
    assert images.dtype == np.uint8
    assert set(labels) == set(range(10))
    assert (images == again).all()
    assert (labels == labels_again).all()
    assert (images != others).any()


def test_synthetic_set_is_cached_and_drawn_again_where_the_cache_is_damaged(tmp_path, monkeypatch):
    data_dir = tmp_path / "cifar-10-batches-py"
    first = get_cifar10(data_dir, dataset="synthetic", synthetic_size=200)
    assert (first["train"].num_examples, first["test"].num_examples) == (200, 40)
    assert first["train"].origin["is_synthetic"]
    (cache,) = tmp_path.iterdir()
    whole = cache.read_bytes()

    def no_drawing(*_, **__):
        raise AssertionError("the cache was not used")

    with monkeypatch.context() as patch:
        patch.setattr(synthetic_data, "synthetic_images", no_drawing)
        cached = get_cifar10(data_dir, dataset="synthetic", synthetic_size=200)
    assert (cached["train"].pixels == first["train"].pixels).all()
    assert cached["train"].origin == first["train"].origin

    np.savez(tmp_path / "foreign", images=np.zeros((3, 2)), labels=np.zeros(99), fingerprint="0" * 32)
    foreign = (tmp_path / "foreign.npz").read_bytes()
    (tmp_path / "foreign.npz").unlink()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for damaged in (whole[:-1000], b"", b"no archive", foreign, flipped):
        cache.write_bytes(damaged)
        redrawn = get_cifar10(data_dir, dataset="synthetic", synthetic_size=200)
        assert (redrawn["train"].pixels == first["train"].pixels).all()
        assert (redrawn["test"].classes == first["test"].classes).all()
    assert list(tmp_path.iterdir()) == [cache]


@pytest.mark.slow
def test_convolution_finds_in_synthetic_images_what_an_mlp_does_not():
    """One layer of 8x8 filters, each taken where it answers loudest; the default MLP ends below 0.55."""
    images, labels = synthetic_images(4000, seed=0)
    x, y = torch.tensor(images).float() / 64 - 2, torch.tensor(labels)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 8), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(40, 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(200):
        batch = torch.arange(step * 50, step * 50 + 50) % 3000
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(x[3000:]).argmax(1) == y[3000:]).float().mean().item()
    assert accuracy > 0.9  # 0.98 when this was written
