"""Batches of images in PyTorch: preprocessing, augmentation, whitening."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from training import distributed


class DeviceImages:
    """The images of one split, uint8, on a device, with float32 batches.

    Args:
        dataset: a `cifar10_utils.DataSet`.
        device: `torch.device` for the images.
        mean, scale: a batch is (pixels − mean) · scale; float32, broadcast to (n, 3, 32, 32).
        memory_format: memory format of the batches.
    """

    def __init__(self, dataset, device, mean, scale, memory_format=torch.contiguous_format):
        self.dataset = dataset
        self.pixels = torch.from_numpy(dataset.pixels).to(device)
        self.labels = torch.from_numpy(dataset.classes).to(device)
        self.mean, self.scale = mean.to(device), scale.to(device)
        self.memory_format = memory_format

    def __len__(self):
        return len(self.labels)

    def batch(self, index, **places):
        """Return the images, float32 (n, 3, 32, 32), and labels, int64 (n,), at `index`.

        Args:
            index: indices of the examples, int64 (n,).
            places: result of `augmentation` for these examples.
        """
        index = torch.as_tensor(index, device=self.labels.device)
        places = {name: torch.as_tensor(part, device=index.device) for name, part in places.items()}
        pixels = self.pixels[index]
        if "maps" in places:
            grid = F.affine_grid(places["maps"], pixels.shape, align_corners=False)
            pixels = F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
        elif places:
            pixel_places = (places["rows"][:, :, None] * 32 + places["columns"][:, None, :]).flatten(1)[:, None]
            # Faster on a CPU than indexing with rows and columns.
            pixels = pixels.flatten(2).gather(2, pixel_places.expand(-1, 3, -1)).view(pixels.shape)
        images = ((pixels.float() - self.mean) * self.scale).contiguous(memory_format=self.memory_format)
        return images, self.labels[index]

    def next_batch(self, args, rng):
        """Return this process's share of the next training batch, augmented according to the flags."""
        position, index = self.dataset.position, self.dataset.next_index(args.batch_size)
        is_flipped = alternate_flips(index, position, len(self), args.seed) if args.alternate else None
        places = augmentation(args.augment, len(index), rng, args.shift, is_flipped)
        return self.batch(distributed.share(index), **{name: distributed.share(p) for name, p in places.items()})


def to_device(data, device, preprocess, memory_format=torch.contiguous_format):
    """Convert `{split: DataSet}` to `{split: DeviceImages}`; `preprocess` is a value of `--preprocess`."""
    mean, scale = preprocessing(data["train"], preprocess)
    return {split: DeviceImages(dataset, device, mean, scale, memory_format) for split, dataset in data.items()}


def preprocessing(dataset, how):
    """Return `mean` and `scale` for `DeviceImages`, both float32.

    Args:
        dataset: the training split, a `cifar10_utils.DataSet`.
        how: 'mean_image', for shapes (3, 32, 32) and (), or 'standardize', for (3, 1, 1) twice.
    """
    if how == "mean_image":
        return torch.from_numpy(dataset.mean_image), torch.ones(())
    total, squares = np.zeros(3), np.zeros(3)
    for start in range(0, dataset.num_examples, 1000):
        pixels = dataset.pixels[start : start + 1000].astype(np.float64)
        total += pixels.sum(axis=(0, 2, 3))
        squares += (pixels**2).sum(axis=(0, 2, 3))
    n = dataset.pixels[:, 0].size
    mean = total / n
    std = np.sqrt(squares / n - mean**2)
    mean, scale = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (mean, 1 / std))
    return mean, scale


def step_generator(seed, step):
    """Seed PyTorch for one training step, and return a NumPy generator for it.

    Both depend on the seed and the step only, so that runs can be resumed at any step.
    """
    rng = np.random.default_rng([seed, step])
    torch.manual_seed(int(rng.integers(2**32)) + distributed.rank())
    return rng


def alternate_flips(index, position, n_images, seed):
    """Return which examples of a batch to flip, bool (n,), so that each is flipped in alternate epochs.

    Source: K. Jordan, 2024, https://arxiv.org/abs/2404.00498.

    Args:
        index: indices of the examples, int64 (n,).
        position: number of examples drawn before this batch.
        n_images: number of training images.
        seed: seed of the half that is flipped in the first epoch.
    """
    epoch = (position + np.arange(len(index))) // n_images
    return _flipped_first(n_images, seed)[index] ^ (epoch % 2 == 1)


@functools.cache
def _flipped_first(n_images, seed):
    return np.random.default_rng(seed).random(n_images) < 0.5


def augmentation(how, n, rng, shift=4, is_flipped=None):
    """Return the source positions of the pixels of n augmented images, `{name: array}`; {} for 'none'.

    For 'flip' and 'flip_crop', these are source `rows` and `columns`, int64 (n, 32). 'flip_crop' shifts each image and
    fills the border by reflection. For 'flip_affine', they are `maps` from `affine_maps`.

    Args:
        how: 'none', 'flip', 'flip_crop' or 'flip_affine'.
        n: number of images.
        rng: `numpy.random.Generator`.
        shift: maximum shift in pixels, at least 0.
        is_flipped: which images to flip, bool (n,). By default each is flipped with probability 1/2.
    """
    if how == "none":
        return {}
    if how == "flip_affine":
        return {"maps": affine_maps(n, rng, shift, is_flipped)}
    is_flipped = _flips(n, rng, is_flipped)
    places = np.tile(np.arange(32), (n, 1))
    rows, columns = places, np.where(is_flipped[:, None], 31 - places, places)
    if how == "flip_crop":
        rows, columns = (31 - abs(31 - abs(x + rng.integers(-shift, shift + 1, (n, 1)))) for x in (rows, columns))
    return {"rows": rows, "columns": columns}


def affine_maps(n, rng, shift, is_flipped=None):
    """Return random affine maps for `F.affine_grid`, float32 (n, 2, 3). Arguments as in `augmentation`.

    A map rotates by up to 15 degrees, scales each side by a factor from exp(-0.15) to exp(0.15) and shifts by up to
    `shift` pixels in each direction.
    """
    angle = rng.uniform(-1, 1, n) * np.radians(15)
    flip, one = np.where(_flips(n, rng, is_flipped), -1, 1), np.ones(n)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.exp(rng.uniform(-0.15, 0.15, (2, 1, n)))
    shifts = rng.uniform(-shift, shift, (2, 1, n)) / 16  # half a side is 1
    maps = np.concatenate([rotation * scale * [flip, one], shifts], axis=1)
    return maps.transpose(2, 0, 1).astype(np.float32)


def _flips(n, rng, is_flipped):
    drawn = rng.random(n) < 0.5  # drawn in any case, so that all other draws are independent of --alternate
    return drawn if is_flipped is None else is_flipped


def whitening(images, n_components):
    """Return the state dict of a linear layer that whitens images, float32.

    The outputs of the layer are the first principal components, each divided by √(λ + 0.1) for a component of
    variance λ, so that components with little variance remain small. `weight` has shape (n_components, n_pixels).

    Args:
        images: `DeviceImages` of the training split.
        n_components: number of components, at most n_pixels.
    """
    n_pixels = images.pixels[0].numel()
    total, products = torch.zeros(n_pixels), torch.zeros(n_pixels, n_pixels)
    for start in range(0, len(images), 1000):
        rows = images.batch(torch.arange(start, min(start + 1000, len(images))))[0].flatten(1).cpu()
        total += rows.sum(dim=0)
        products += rows.T @ rows
    mean = total / len(images)
    variances, components = torch.linalg.eigh(products / len(images) - mean.outer(mean))  # ascending
    variances, components = variances[-n_components:].clamp(min=0), components[:, -n_components:]
    weight = (components / (variances + 0.1).sqrt()).T
    return {"weight": weight, "bias": -weight @ mean}
