"""CIFAR-10 as training and test images, and the batches drawn from them.

`get_cifar10` is the way in. Where there is neither the data set nor a network, a synthetic stand-in
of the same shape serves. The data set: A. Krizhevsky, "Learning Multiple Layers of Features from
Tiny Images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import warnings
from pathlib import Path

import numpy as np

from cifar10_download import find_cifar10
from cifar10_files import CLASSES, IMAGE_SHAPE, N_TEST, DataError, DataUnavailableError, read_cifar10
from synthetic_data import cached_synthetic_images

__all__ = ["CLASSES", "IMAGE_SHAPE", "DataError", "DataSet", "DataUnavailableError", "get_cifar10"]


def get_cifar10(
    data_dir, one_hot=True, validation_size=0, *, dataset="cifar10", seed=0, synthetic_size=50_000, download=True
):
    """Return CIFAR-10 as `{'train': DataSet, 'validation': DataSet, 'test': DataSet}`.

    Args:
        data_dir: folder of `data_batch_1` … `test_batch`; downloaded into where it is empty or not there.
        one_hot: labels as float32 rows of 10, else as int64 class numbers.
        validation_size: how many of the last training examples to set aside as `'validation'`.
        dataset: 'cifar10'; 'synthetic' for the stand-in, cached beside `data_dir`; 'auto' for
            CIFAR-10, and the stand-in, with a warning, where nothing is there and nothing can be downloaded.
        seed: of the order in which training batches are drawn.
        synthetic_size: training images of the stand-in; it has a fifth as many test images.
        download: False to take only what lies on disk, unpacked.

    Raises:
        DataError: a file is damaged, missing or foreign, or the disk fails; 'auto' does not hide that.
        DataUnavailableError: not on disk, and the download failed.
        ValueError: an argument is out of range.
    """
    data_dir = Path(data_dir)
    if dataset not in ("auto", "cifar10", "synthetic"):
        raise ValueError(f"dataset is {dataset!r}, expected 'auto', 'cifar10' or 'synthetic'")
    if synthetic_size < 10:
        raise ValueError(f"synthetic_size is {synthetic_size}, expected at least 10")
    if dataset != "synthetic":
        try:
            images, labels, fingerprint = read_cifar10(find_cifar10(data_dir, download))
            n_test = N_TEST
        except DataUnavailableError as error:
            if dataset == "cifar10":
                raise
            warnings.warn(f"{error} Going on with synthetic images.", stacklevel=2)
            dataset = "synthetic"
    if dataset == "synthetic":
        n_test = synthetic_size // 5
        images, labels, fingerprint = cached_synthetic_images(data_dir.parent, synthetic_size + n_test)
    is_synthetic = dataset == "synthetic"
    origin = {
        "name": "SYNTHETIC IMAGES, not CIFAR-10" if is_synthetic else "CIFAR-10",
        "fingerprint": fingerprint,
        "is_synthetic": is_synthetic,
    }

    n_train = len(images) - n_test
    if not 0 <= validation_size < n_train:
        raise ValueError(f"validation_size is {validation_size}, expected 0 to {n_train - 1}")
    bounds = {
        "train": slice(0, n_train - validation_size),
        "validation": slice(n_train - validation_size, n_train),
        "test": slice(n_train, None),
    }
    # The sum is exact in 32 bits: 50,000 · 255 < 2³².
    mean_image = (images[bounds["train"]].sum(axis=0, dtype=np.uint32) / (n_train - validation_size)).astype(np.float32)
    return {
        split: DataSet(images[rows], labels[rows], mean_image, one_hot=one_hot, seed=seed, origin=origin)
        for split, rows in bounds.items()
    }


class DataSet:
    """Images and labels of one split, and the batches drawn from it.

    Images stay uint8 in memory and become float32, less the mean image, as they are asked for.

    Args:
        images: uint8, shape (n, 3, 32, 32).
        labels: class numbers, shape (n,).
        mean_image: float32, shape (3, 32, 32), of the training split.
        one_hot: hand labels out as float32 rows of 10, else as int64 class numbers.
        seed: of the order of `next_batch`.
        origin: of the data that this is a part of: `{'name': …, 'fingerprint': md5, 'is_synthetic': bool}`.

    Attributes:
        position: how many examples `next_batch` has drawn. Set it to go on from there: the order is
            a function of seed and position alone.
    """

    def __init__(self, images, labels, mean_image, *, one_hot=True, seed=0, origin=None):
        self.pixels = images
        self.classes = np.asarray(labels, np.int64)
        self.mean_image = mean_image
        self.one_hot = one_hot
        self.seed = seed
        self.origin = origin
        self.position = 0
        self._epoch = self._order = None

    @property
    def num_examples(self):
        return len(self.pixels)

    @property
    def images(self):
        """All images as float32, (n, 3, 32, 32), mean image subtracted: 614 MB for 50,000, made anew at each call."""
        return self._batch(slice(None))[0]

    @property
    def labels(self):
        """All labels: float32 (n, 10) where `one_hot`, else int64 (n,)."""
        return self._batch_labels(slice(None))

    def next_batch(self, batch_size):
        """Draw the next `batch_size` examples, those that `next_index` names.

        Returns:
            images, float32 (batch_size, 3, 32, 32), mean image subtracted; labels as in `labels`.

        Raises:
            ValueError: a batch below 1 or larger than the data set.
        """
        return self._batch(self.next_index(batch_size))

    def next_index(self, batch_size):
        """Return the places of the next `batch_size` examples, int64 (batch_size,).

        Every epoch visits each example once, in an order of its own. A batch may run over into the
        next epoch, so none is dropped.

        Raises:
            ValueError: a batch below 1 or larger than the data set.
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
        """Yield the first `limit` examples (0: all) once, in stored order, as `next_batch` returns them."""
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
        return images, self._batch_labels(index)

    def _batch_labels(self, index):
        labels = self.classes[index]
        return np.eye(len(CLASSES), dtype=np.float32)[labels] if self.one_hot else labels
