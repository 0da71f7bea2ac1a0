"""CIFAR-10 as training, validation and test sets, with batches; a synthetic substitute.

`get_cifar10` is the entry point. Source of CIFAR-10: A. Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import concurrent.futures
import errno
import hashlib
import math
import os
import pickle
import warnings
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
IMAGES_PER_FILE = 10_000
# Name, batch label and published md5 sum of each file. The last one is the test set.
FILES = (
    ("data_batch_1", b"training batch 1 of 5", "c99cafc152244af753f735de768cd75f"),
    ("data_batch_2", b"training batch 2 of 5", "d4bba439e000b95fd0a9bffe97cbabec"),
    ("data_batch_3", b"training batch 3 of 5", "54ebc095f3ab1f0389bbae665268c751"),
    ("data_batch_4", b"training batch 4 of 5", "634d18415352ddfa80567beed471001a"),
    ("data_batch_5", b"training batch 5 of 5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ("test_batch", b"testing batch 1 of 1", "40351d587109b95175f43aff81a1287e"),
)
DIRECTORY_NAME = "cifar-10-batches-py"  # torchvision's names
ARCHIVE_NAME = "cifar-10-python.tar.gz"
TIMEOUT_SECONDS = 30  # per network operation
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class DataError(OSError):
    """CIFAR-10 is missing, incomplete or damaged, or cannot be downloaded."""


class _NetworkError(DataError):
    """CIFAR-10 is not on disk, and the network failed."""


def get_cifar10(
    data_dir, one_hot=True, validation_size=0, *, dataset="cifar10", seed=0, synthetic_size=50_000, download=True
):
    """Load CIFAR-10 as `{'train': DataSet, 'validation': DataSet, 'test': DataSet}`.

    Args:
        data_dir: directory with `data_batch_1` … `test_batch`. CIFAR-10 is downloaded to it if it is missing or empty.
        one_hot: whether labels are one-hot rows, float32, or class numbers, int64.
        validation_size: number of training examples, the last ones, that form the validation set.
        dataset: 'cifar10', 'synthetic' or 'auto', which is CIFAR-10, or synthetic images if CIFAR-10 is
            not on disk and the network fails.
        seed: seed of the batch order.
        synthetic_size: number of synthetic training images; the test set has a fifth as many.
        download: whether to download missing files.

    Raises:
        DataError: the data set cannot be loaded. The message is one line and says what to do.
        ValueError: an argument is out of range.
    """
    data_dir = Path(data_dir)
    if dataset not in ("auto", "cifar10", "synthetic"):
        raise ValueError(f"dataset is {dataset!r}, expected 'auto', 'cifar10' or 'synthetic'")
    if dataset != "synthetic":
        try:
            _find_files(data_dir, download)
        except _NetworkError as error:
            if dataset == "cifar10":
                raise
            warnings.warn(f"{error} Continuing with synthetic images.", stacklevel=2)
            dataset = "synthetic"
    if dataset == "synthetic":
        n_test = synthetic_size // 5
        images, labels = synthetic_images(synthetic_size + n_test, seed=0)
        name, fingerprint = "SYNTHETIC IMAGES, not CIFAR-10", _fingerprint(images, labels)
    else:
        n_test = IMAGES_PER_FILE
        images, labels, fingerprint = _read_files(data_dir)
        name = "CIFAR-10"
    origin = {"name": name, "fingerprint": fingerprint, "is_synthetic": dataset == "synthetic"}

    n_train = len(images) - n_test
    if not 0 <= validation_size < n_train:
        raise ValueError(f"validation_size is {validation_size}, expected 0 to {n_train - 1}")
    n_fit = n_train - validation_size
    # The sum is exact in 32 bits: 50,000 · 255 < 2³².
    mean_image = (images[:n_fit].sum(axis=0, dtype=np.uint32) / n_fit).astype(np.float32)
    splits = {"train": slice(n_fit), "validation": slice(n_fit, n_train), "test": slice(n_train, None)}
    return {
        split: DataSet(images[rows], labels[rows], mean_image, one_hot=one_hot, seed=seed, origin=origin)
        for split, rows in splits.items()
    }


# ---- Find or download --------------------------------------------------------------------------


def _find_files(data_dir, download):
    """Check that CIFAR-10 is in `data_dir`; download it if the directory is missing or empty."""
    try:
        found = {name for name in os.listdir(data_dir) if not name.startswith(".")}
    except FileNotFoundError:
        found = set()
    except OSError as error:
        raise DataError(
            f"{data_dir} cannot be read as a directory: {error.strerror}. Name CIFAR-10's directory with --data_dir."
        ) from error
    missing = [name for name, *_ in FILES if name not in found]
    if not missing:
        return
    data_dir = data_dir.resolve()  # tarfile may refuse to unpack through a link
    if found:
        raise DataError(
            f"CIFAR-10 is not in {data_dir}, which is not empty but lacks {', '.join(missing)}. "
            "Name its directory with --data_dir, or move this one away to download CIFAR-10."
        )
    if not download:
        raise DataError(
            f"CIFAR-10 is not in {data_dir}. Name its directory with --data_dir, or let a training script download it."
        )
    if data_dir.name != DIRECTORY_NAME:
        raise DataError(
            f"{data_dir} is missing or empty. Name the directory of CIFAR-10 with --data_dir, or let it be "
            f"downloaded to one called {DIRECTORY_NAME}: --data_dir {data_dir / DIRECTORY_NAME}."
        )
    _download(data_dir.parent / ARCHIVE_NAME)


def _download(archive):
    """Download, verify and unpack CIFAR-10 with torchvision, which uses `archive` if it exists."""
    # Only a download needs these modules.
    import http.client
    import socket
    import ssl
    import urllib.error

    try:
        from torchvision.datasets import CIFAR10
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(
            f"CIFAR-10 is not in {archive.parent / DIRECTORY_NAME}, and torchvision, which downloads it, cannot be "
            f"imported: {_one_line(error)}. Install it with `pip install torch torchvision`."
        ) from error
    had_archive = archive.exists()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        CIFAR10(archive.parent, download=True)
    except (OSError, http.client.HTTPException) as error:
        # torchvision retries after any error, so a full disk may be the context of a network error.
        causes = [error]
        while causes[-1].__context__:
            causes.append(causes[-1].__context__)
        disk_error = next((cause for cause in causes if getattr(cause, "errno", None) in DISK_ERRORS), None)
        network_errors = urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError
        if disk_error or not isinstance(error, network_errors):
            raise DataError(
                f"CIFAR-10 could not be written to {archive.parent}: {_one_line(disk_error or error)}. "
                "Check its permissions and free space (400 MB), or choose another directory with --data_dir."
            ) from error
        problem = f"{archive} is damaged" if had_archive else f"CIFAR-10 is not in {archive.parent / DIRECTORY_NAME}"
        # 'auto' must not hide a damaged archive.
        raise (DataError if had_archive else _NetworkError)(
            f"{problem} and could not be downloaded: {_one_line(error)}. "
            f"Check the network, or put {ARCHIVE_NAME} into {archive.parent}, or use --dataset synthetic."
        ) from error
    except RuntimeError as error:
        raise DataError(
            f"The download of CIFAR-10 is damaged: {_one_line(error).rstrip('.')}. Delete {archive} and try again."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


# ---- Read --------------------------------------------------------------------------------------


def _read_files(data_dir):
    """Read all files.

    Returns:
        images, uint8 (60000, 3, 32, 32), training set first; class numbers, int64 (60000,); fingerprint.
    """
    images = np.empty((len(FILES), IMAGES_PER_FILE, *IMAGE_SHAPE), np.uint8)
    labels = np.empty((len(FILES), IMAGES_PER_FILE), np.int64)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # hashes the files while they are unpickled
        md5_sums = pool.map(_md5_sum, [data_dir / name for name, *_ in FILES])
        for i, (name, batch_label, _) in enumerate(FILES):
            pixels, labels[i] = _read_file(data_dir / name, batch_label)
            images[i] = pixels.reshape(images[i].shape)
        md5_sums = list(md5_sums)
    unofficial = [name for (name, _, md5), found in zip(FILES, md5_sums, strict=True) if md5 != found]
    if unofficial:
        names = "all files" if len(unofficial) == len(FILES) else ", ".join(unofficial)
        changed = f"md5 sums differ from the official CIFAR-10: {names} in {data_dir}"
        warnings.warn(f"{changed}; results may differ slightly", stacklevel=3)
    fingerprint = hashlib.md5("".join(md5_sums).encode(), usedforsecurity=False).hexdigest()
    return images.reshape(-1, *IMAGE_SHAPE), labels.reshape(-1), fingerprint


def _md5_sum(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _read_file(path, batch_label):
    """Return the pixels, uint8 (10000, 3072), and labels, a list of integers, in one file."""
    try:
        with open(path, "rb") as file:
            return _check_batch(_BatchUnpickler(file, encoding="bytes").load(), batch_label)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Fix this, or name another --data_dir.") from error
    except Exception as error:  # a damaged pickle raises almost any type of exception
        raise DataError(
            f"{path} is damaged: {_one_line(error)}. "
            "Delete its directory to download it again, or name another --data_dir."
        ) from error


class _BatchUnpickler(pickle.Unpickler):
    """Unpickler for dicts, lists, strings, numbers and uint8 arrays; anything else is an error."""

    def find_class(self, module, name):
        if (module, name) == ("numpy", "dtype"):
            return _uint8
        if (module.replace("_core", "core"), name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it contains {f'{module}.{name}'!r:.100}, expected arrays, lists and strings")


def _uint8(name, *_):
    """Replace `np.dtype`, whose instances a file could modify. NumPy 2.4.0 to 2.4.4 also warn about Python 2 files."""
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it contains an array of dtype {name!r:.20}, expected 'u1'")
    return np.dtype(np.uint8)


def _check_batch(batch, batch_label):
    """Return the pixels and labels of an unpickled file, or raise ValueError if they are not as expected."""
    if not isinstance(batch, dict):
        raise ValueError(f"it contains a {type(batch).__name__}, expected a dict")
    found = batch.get(b"batch_label")
    if found != batch_label:
        raise ValueError(f"its batch_label is {found!r:.60}, expected {batch_label!r}")
    pixels, labels = batch.get(b"data"), batch.get(b"labels")
    shape = (IMAGES_PER_FILE, math.prod(IMAGE_SHAPE))
    if not isinstance(pixels, np.ndarray) or pixels.shape != shape or pixels.dtype != np.uint8:
        found = getattr(pixels, "shape", type(pixels).__name__)
        raise ValueError(f"its data is {found}, expected uint8 {shape}")
    if not isinstance(labels, list) or len(labels) != IMAGES_PER_FILE:
        found = f"{len(labels)} labels" if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"its labels are {found}, expected a list of {IMAGES_PER_FILE}")
    if wrong := [label for label in labels if type(label) is not int or not 0 <= label < len(CLASSES)]:
        raise ValueError(f"it contains the label {wrong[0]!r:.60}, expected integers from 0 to {len(CLASSES) - 1}")
    return pixels, labels


# ---- Draw batches ------------------------------------------------------------------------------


class DataSet:
    """Images and labels of one split, with batches.

    Pixels stay uint8 in memory. Batches are float32, with the mean image subtracted.

    Args:
        images: uint8, shape (n, 3, 32, 32).
        labels: class numbers, shape (n,).
        mean_image: mean of the training images, float32, shape (3, 32, 32).
        one_hot: whether labels are one-hot rows, float32, or class numbers, int64.
        seed: seed of the batch order.
        origin: `{'name': str, 'fingerprint': md5 sum, 'is_synthetic': bool}` of the whole data set.

    Attributes:
        pixels: all images, uint8 (n, 3, 32, 32).
        classes: all class numbers, int64 (n,).
        labels: all labels, float32 (n, 10) if `one_hot`, otherwise int64 (n,).
        position: number of examples drawn so far. With the seed, it determines all further batches.
    """

    def __init__(self, images, labels, mean_image, *, one_hot=True, seed=0, origin=None):
        self.pixels = images
        self.classes = np.asarray(labels, np.int64)
        self.labels = np.eye(len(CLASSES), dtype=np.float32)[self.classes] if one_hot else self.classes
        self.mean_image = mean_image
        self.seed = seed
        self.origin = origin
        self.position = 0
        self._epoch = self._order = None

    @property
    def num_examples(self):
        return len(self.pixels)

    @property
    def images(self):
        """All images, float32 (n, 3, 32, 32), mean image subtracted; computed at each access, 614 MB for 50,000."""
        return self._batch(slice(None))[0]

    def state_dict(self):
        """Return the position, for a checkpoint."""
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = int(state["position"])

    def next_batch(self, batch_size):
        """Return the next images, float32 (batch_size, 3, 32, 32), mean image subtracted, and their labels.

        Raises:
            ValueError: `batch_size` is below 1 or above the size of the data set.
        """
        return self._batch(self.next_index(batch_size))

    def next_index(self, batch_size):
        """Return the indices of the next examples, int64 (batch_size,).

        Each epoch visits every example once, in a new order. A batch may span two epochs.
        """
        n = self.num_examples
        if not 1 <= batch_size <= n:
            raise ValueError(f"batch_size is {batch_size}, expected 1 to {n}, the size of the data set")
        epoch, start = divmod(self.position, n)
        index = self._epoch_order(epoch)[start : start + batch_size]
        if len(index) < batch_size:
            index = np.concatenate([index, self._epoch_order(epoch + 1)[: batch_size - len(index)]])
        self.position += batch_size
        return index

    def batches(self, batch_size, limit=0):
        """Yield the first `limit` examples (0: all) in stored order, as batches like those of `next_batch`."""
        stop = min(limit or self.num_examples, self.num_examples)
        for start in range(0, stop, batch_size):
            yield self._batch(slice(start, min(start + batch_size, stop)))

    def _epoch_order(self, epoch):
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)
            self._epoch = epoch
        return self._order

    def _batch(self, index):
        images = self.pixels[index].astype(np.float32)
        images -= self.mean_image
        return images, self.labels[index]


# ---- Synthetic substitute ----------------------------------------------------------------------


def synthetic_images(n_images, seed):
    """Return synthetic images that networks can classify, as a substitute for CIFAR-10.

    An image is the sum of a random low-frequency background, a faint colour layout of its class, a
    small high-contrast motif of its class at a random position, and noise. An MLP learns the layouts:
    trained on 50,000 images, it reaches about its accuracy on CIFAR-10 and starts to overfit. Only a
    convolution learns the motifs.

    Args:
        n_images: number of images.
        seed: seed of the images. Layouts and motifs do not depend on it.

    Returns:
        images, uint8 (n_images, 3, 32, 32); class numbers, int64 (n_images,).
    """
    n_classes, n_waves, n_chunk, motif_size = 10, 16, 1000, 8
    # Amplitudes decrease with frequency, as in photographs.
    waves = np.cos(np.pi / 32 * np.outer(np.arange(n_waves), np.arange(32) + 0.5)).astype(np.float32)
    frequency = np.hypot(*np.indices((n_waves, n_waves)))
    strength = ((1 + frequency) ** -1.2).astype(np.float32)

    rng = np.random.default_rng(0)
    layouts = rng.standard_normal((n_classes, 3, n_waves, n_waves), np.float32) * (frequency < 6)
    motifs = rng.choice(np.float32([-30, 30]), (n_classes, 4, 4)).repeat(2, axis=1).repeat(2, axis=2)
    motifs -= motifs.mean(axis=(1, 2), keepdims=True)  # so that the mean colour does not reveal the class

    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(n_classes, size=n_images)
    images = np.empty((n_images, 3, 32, 32), np.uint8)
    for start in range(0, n_images, n_chunk):
        chunk = labels[start : start + n_chunk]
        clouds = rng.standard_normal((len(chunk), 3, n_waves, n_waves), np.float32)
        canvas = waves.T @ (strength * (56 * clouds + 9 * layouts[chunk])) @ waves
        rows, columns = rng.integers(32 - motif_size + 1, size=(2, len(chunk), 1)) + np.arange(motif_size)
        image = np.arange(len(chunk))[:, None, None]
        canvas[image, :, rows[:, :, None], columns[:, None, :]] += motifs[chunk][..., None]
        canvas += 120 + 15 * rng.standard_normal(canvas.shape, np.float32)
        images[start : start + n_chunk] = canvas.clip(0, 255)
    return images, labels


def _fingerprint(images, labels):
    """Return the md5 sum of two arrays and their shapes."""
    md5 = hashlib.md5(f"{images.shape} {labels.shape}".encode(), usedforsecurity=False)
    md5.update(images)
    md5.update(labels)
    return md5.hexdigest()
