"""CIFAR-10: finding, downloading, reading, splitting and batching it; the synthetic substitute."""

import errno
import http.client
import io
import os
import pickle
import shutil
import socket
import struct
import sys
import urllib.error

import numpy as np
import pytest

import cifar10_utils
from cifar10_utils import ARCHIVE_NAME, DIRECTORY_NAME, FILES, DataError, DataSet, get_cifar10, synthetic_images

# The test files have the official format, not the official content.
pytestmark = pytest.mark.filterwarnings("ignore:md5 sums differ")


def raises(error):
    def function(*_, **__):
        raise error

    return function


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", raises(AssertionError("a download was started")))


@pytest.fixture
def data_dir(official_folder, tmp_path):
    """A directory of links to the files in `official_folder`. Only `replace` may change them."""
    return shutil.copytree(official_folder, tmp_path / "cifar10" / DIRECTORY_NAME, copy_function=os.link)


def replace(path, raw):
    path.unlink()
    path.write_bytes(raw)


# ---- Find and download -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("images", "images cannot be read as a directory: Not a directory."),
        ("images/.hidden", f"--data_dir .*/images/{DIRECTORY_NAME}"),
        ("images/test_batch", "which is not empty but lacks data_batch_1, .*, data_batch_5. Name"),
    ],
)
def test_incomplete_data_dir_raises_with_auto(tmp_path, file, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(DataError, match=message):
        get_cifar10(tmp_path / "images", dataset="auto")


@pytest.mark.parametrize("exists", [True, False])
def test_download_fills_a_missing_or_empty_directory(official_folder, tmp_path, monkeypatch, exists):
    def download(root, download):
        assert socket.getdefaulttimeout() == 30
        shutil.copytree(official_folder, root / DIRECTORY_NAME, copy_function=os.link, dirs_exist_ok=exists)

    if exists:
        (tmp_path / DIRECTORY_NAME).mkdir()
    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    assert get_cifar10(tmp_path / DIRECTORY_NAME)["test"].num_examples == 10_000
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), http.client.IncompleteRead(b""), ConnectionResetError("reset"), TimeoutError()],
    ids=repr,
)
def test_auto_without_network_warns_and_is_synthetic(tmp_path, monkeypatch, error):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", raises(error))
    with pytest.warns(UserWarning, match=r"could not be downloaded: .*Continuing with synthetic images\.$"):
        data = get_cifar10(tmp_path / DIRECTORY_NAME, dataset="auto", synthetic_size=100)
    assert data["train"].origin["is_synthetic"]
    assert data["test"].num_examples == 20


def test_damaged_archive_raises_with_auto(tmp_path, monkeypatch):
    (tmp_path / ARCHIVE_NAME).touch()
    monkeypatch.setattr("torchvision.datasets.CIFAR10", raises(TimeoutError()))
    with pytest.raises(DataError, match=f"{ARCHIVE_NAME} is damaged and could not be downloaded"):
        get_cifar10(tmp_path / DIRECTORY_NAME, dataset="auto")


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
RETRY_WITHOUT_NETWORK = urllib.error.URLError("no route")
RETRY_WITHOUT_NETWORK.__context__ = FULL_DISK


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ("auto", FULL_DISK, "could not be written to .*No space left on device"),
        ("auto", RETRY_WITHOUT_NETWORK, "could not be written to .*No space left on device"),
        ("auto", PermissionError(errno.EACCES, "Permission denied"), "could not be written to .*Permission denied"),
        ("auto", RuntimeError("File corrupted."), f"download .* is damaged: .*Delete .*{ARCHIVE_NAME} and try again"),
        ("cifar10", TimeoutError(), f"put {ARCHIVE_NAME} into .*, or use --dataset synthetic"),
    ],
)
def test_other_download_failure_raises(tmp_path, monkeypatch, dataset, error, message):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", raises(error))
    with pytest.raises(DataError, match=message):
        get_cifar10(tmp_path / DIRECTORY_NAME, dataset=dataset)


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError"])
def test_broken_torchvision_raises_with_auto(tmp_path, monkeypatch, error):
    (tmp_path / "torchvision.py").write_text(f"raise {error}('broken\\ninstallation')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DataError, match=r"imported: broken installation\. Install it with `pip install"):
        get_cifar10(tmp_path / DIRECTORY_NAME, dataset="auto")


# ---- Read --------------------------------------------------------------------------------------


def test_get_cifar10_reads_images_and_labels_in_order(data_dir):
    data = get_cifar10(data_dir)
    assert {split: d.num_examples for split, d in data.items()} == {"train": 50_000, "validation": 0, "test": 10_000}
    assert (data["test"].pixels.dtype, data["test"].pixels.shape) == (np.uint8, (10_000, 3, 32, 32))
    assert (data["train"].pixels[:, 1, 2, 3] == np.arange(50_000) % 251).all()
    assert (data["test"].classes == np.arange(50_000, 60_000) % 10).all()
    assert (data["test"].origin["name"], data["test"].origin["is_synthetic"]) == ("CIFAR-10", False)


def py2_batch(batch_label, pixels, labels):
    """Return the bytes of a file written by Python 2 and its NumPy, with integers for align and copy."""
    string = lambda raw: b"T" + struct.pack("<i", len(raw)) + raw  # noqa: E731
    shape = b"".join(b"J" + struct.pack("<i", n) for n in pixels.shape)
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(" + shape + b"t" + dtype
    data = string(b"data") + array + b"\x89" + string(pixels.tobytes()) + b"tb"
    labels = string(b"labels") + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + string(b"batch_label") + string(batch_label) + labels + data + b"u."


def test_get_cifar10_reads_python_2_files(data_dir):
    pixels = np.random.default_rng(0).integers(256, size=(10_000, 3072), dtype=np.uint8)
    replace(data_dir / "test_batch", py2_batch(FILES[-1][1], pixels, np.arange(10_000) % 7))
    test = get_cifar10(data_dir)["test"]
    assert (test.pixels.reshape(10_000, 3072) == pixels).all()
    assert (test.classes == np.arange(10_000) % 7).all()


def test_unofficial_files_cause_one_warning(data_dir):
    replace(data_dir / "test_batch", py2_batch(FILES[-1][1], PIXELS, LABELS))  # NumPy 2.4.0 to 2.4.4 may warn
    with pytest.warns(UserWarning, match=f"md5 sums differ .*: all files in {data_dir}") as caught:
        get_cifar10(data_dir)
    assert len(caught) == 1


PIXELS, LABELS = np.zeros((10_000, 3072), np.uint8), [0] * 10_000


def batch(**changes):
    items = {"batch_label": FILES[0][1], "data": PIXELS, "labels": LABELS} | changes
    return pickle.dumps({key.encode(): value for key, value in items.items()}, protocol=4)


DAMAGED = {
    "empty": (b"", "Ran out of input"),
    "truncated": (batch()[:-20_000], "truncated|exhausted"),
    "not a pickle": (b"<html>404 Not Found</html>", "invalid load key"),
    "not a dict": (pickle.dumps([1, 2]), "it contains a list, expected a dict"),
    "another batch": (batch(batch_label=FILES[1][1]), "batch_label is b'training batch 2 of 5', expected"),
    "half the images": (batch(data=PIXELS[:5000]), r"data is \(5000, 3072\), expected uint8 \(10000, 3072\)"),
    "no data": (batch(data=None), "data is NoneType"),
    "floats": (batch(data=PIXELS[:10].astype(np.float32)), "dtype 'f4', expected 'u1'"),
    "too few labels": (batch(labels=LABELS[:-1]), "labels are 9999 labels, expected a list of 10000"),
    "label 10": (batch(labels=[10, *LABELS[1:]]), "it contains the label 10, expected integers from 0 to 9"),
    "label 0.5": (batch(labels=[0.5, *LABELS[1:]]), "it contains the label 0.5"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_raises_one_line_with_its_name(data_dir, name):
    raw, message = DAMAGED[name]
    replace(data_dir / "data_batch_1", raw)
    with pytest.raises(DataError, match=rf"^{data_dir}/data_batch_1 is damaged: .*({message}).*--data_dir\.$"):
        get_cifar10(data_dir, dataset="auto")


def test_unreadable_file_raises_one_line_with_its_name(data_dir):
    (data_dir / "data_batch_1").unlink()
    (data_dir / "data_batch_1").mkdir()
    with pytest.raises(DataError, match=r"data_batch_1 cannot be read: Is a directory\..*--data_dir\.$"):
        get_cifar10(data_dir, dataset="auto")


class Reduce:
    def __init__(self, *value):
        self.value = value

    def __reduce__(self):
        return self.value


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickle_raises_and_does_not_run(data_dir, protocol):
    marker = data_dir / "executed"
    raw = pickle.dumps({b"data": Reduce(exec, (f"open({str(marker)!r}, 'w').close()",))}, protocol)
    pickle.loads(raw)
    marker.unlink()  # fails unless the pickle is malicious
    replace(data_dir / "data_batch_1", raw)
    with pytest.raises(DataError, match="data_batch_1 is damaged: it contains"):
        get_cifar10(data_dir)
    assert not marker.exists()


def test_pickle_cannot_modify_uint8():
    state = (3, "|", None, ("x",), {"x": (np.dtype("u1"), 0)}, 1, 1, 63)
    raw = pickle.dumps(Reduce(np.dtype, ("u1", False, True), state))
    assert pickle.loads(raw).names == ("x",)
    assert cifar10_utils._BatchUnpickler(io.BytesIO(raw)).load().names is None


# ---- Split and draw batches --------------------------------------------------------------------


def test_images_are_float32_minus_training_mean(data_dir):
    images = get_cifar10(data_dir, validation_size=1000)["test"].images
    expected = np.arange(50_000, 60_000) % 251 - np.mean(np.arange(49_000) % 251)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[:, 1, 2, 3], expected, atol=256 * 2**-23)


def test_validation_set_is_end_of_training_set(data_dir):
    data = get_cifar10(data_dir, validation_size=1000)
    assert (data["train"].num_examples, data["validation"].num_examples) == (49_000, 1000)
    assert (data["validation"].pixels[:, 0, 0, 0] == np.arange(49_000, 50_000) % 251).all()


@pytest.mark.parametrize(("name", "value"), [("validation_size", -1), ("validation_size", 100), ("dataset", "mnist")])
def test_get_cifar10_raises_for_invalid_arguments(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected"):
        get_cifar10(tmp_path, **{"dataset": "synthetic", "synthetic_size": 100} | {name: value})


def numbered(**kwargs):
    """Return a data set of 60 images. Image i has pixels of value i."""
    pixels = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 3, 32, 32))
    return DataSet(pixels, np.arange(60) % 10, np.zeros((3, 32, 32), np.float32), **kwargs)


def drawn(dataset, batch_size, n_batches):
    return np.concatenate([dataset.next_batch(batch_size)[0][:, 0, 0, 0] for _ in range(n_batches)])


def test_next_batch_visits_each_example_once_per_epoch():
    epochs = drawn(numbered(), 7, 60).reshape(7, 60)  # some batches span two epochs
    assert (np.sort(epochs) == np.arange(60)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 7


def test_state_dict_restores_batch_order():
    dataset, resumed = numbered(seed=3), numbered(seed=3)
    drawn(dataset, 8, 13)
    resumed.load_state_dict({name: np.array(value) for name, value in dataset.state_dict().items()})
    assert (resumed.position, type(resumed.position)) == (8 * 13, int)
    assert (drawn(resumed, 8, 20) == drawn(dataset, 8, 20)).all()


def test_seed_changes_batch_order():
    assert (drawn(numbered(seed=4), 60, 1) != drawn(numbered(seed=3), 60, 1)).any()


@pytest.mark.parametrize("size", [0, -1, 61])
def test_next_batch_raises_for_invalid_size(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}, expected 1 to 60"):
        numbered().next_batch(size)


@pytest.mark.parametrize("one_hot", [True, False])
def test_next_batch_returns_labels_of_its_images(one_hot):
    images, labels = numbered(one_hot=one_hot).next_batch(60)
    assert (labels.dtype, labels.shape) == ((np.float32, (60, 10)) if one_hot else (np.int64, (60,)))
    assert ((labels.argmax(axis=1) if one_hot else labels) == images[:, 2, 31, 31] % 10).all()


@pytest.mark.parametrize(("limit", "expected"), [(0, 60), (7, 7), (99, 60)])
def test_batches_visits_first_examples_in_order(limit, expected):
    images = np.concatenate([images for images, _ in numbered().batches(8, limit)])
    assert (images[:, 0, 0, 0] == np.arange(expected)).all()


# ---- Synthetic substitute ----------------------------------------------------------------------


def test_synthetic_images_depend_only_on_seed():
    (images, labels), again, others = (synthetic_images(500, seed) for seed in (1, 1, 2))
    assert (images.shape, images.dtype, set(labels)) == ((500, 3, 32, 32), np.uint8, set(range(10)))
    assert (images == again[0]).all()
    assert (labels == again[1]).all()
    assert (images != others[0]).any()
