"""Batches of images in PyTorch: how they are scaled, augmented, and whitened."""

import numpy as np
import torch
import torch.nn.functional as F


class DeviceImages:
    """One split on the device, as uint8; batches become floating point as they are made.

    Args:
        dataset: a `cifar10_utils.DataSet`.
        device: where to.
        dtype: of the images handed out.
        mean, scale: images are handed out as (pixels − mean) · scale; float32, on any device, shapes
            that go with (n, 3, 32, 32).
        memory_format: of the images handed out.
    """

    def __init__(self, dataset, device, dtype, mean, scale, memory_format=torch.contiguous_format):
        self.pixels = torch.from_numpy(dataset.pixels).to(device)
        self.labels = torch.from_numpy(dataset.classes).to(device)
        self.mean, self.scale = mean.to(device), scale.to(device)
        self.dtype = dtype
        self.memory_format = memory_format

    def __len__(self):
        return len(self.labels)

    def batch(self, index, **places):
        """Return images, (n, 3, 32, 32), and labels, int64 (n,), of the examples at `index`, int64 (n,).

        Args:
            index: of the examples.
            places: from `augmentation`, for these examples, where they are to be augmented.
        """
        index = torch.as_tensor(index, device=self.labels.device)
        places = {name: torch.as_tensor(part, device=index.device) for name, part in places.items()}
        pixels = self.pixels[index]
        if "maps" in places:
            grid = F.affine_grid(places["maps"], pixels.shape, align_corners=False)
            pixels = F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
        elif places:
            pixel_places = (places["rows"][:, :, None] * 32 + places["columns"][:, None, :]).flatten(1)[:, None]
            # To index by rows and columns at once takes four times as long on a CPU.
            pixels = pixels.flatten(2).gather(2, pixel_places.expand(-1, 3, -1)).view(pixels.shape)
        images = ((pixels.float() - self.mean) * self.scale).to(self.dtype, memory_format=self.memory_format)
        return images, self.labels[index]


def preprocessing(dataset, how):
    """Return `mean` and `scale` for `DeviceImages`, both float32, from the training split.

    Args:
        dataset: a `cifar10_utils.DataSet`, the training split.
        how: 'mean_image', which gives shapes (3, 32, 32) and (), or 'standardize', which gives (3, 1, 1) twice.
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


def mirrored_alternately(index, position, mirrored_first):
    """Return which examples of a batch to mirror, bool (n,): each image in every second pass over all of them.

    Alternating flips are K. Jordan's, 2024, https://arxiv.org/abs/2404.00498.

    Args:
        index: of the examples, int64 (n,).
        position: how many examples have been drawn before them.
        mirrored_first: which images are mirrored in the first pass, bool (n_images,).
    """
    n_passes = (position + np.arange(len(index))) // len(mirrored_first)
    return mirrored_first[index] ^ (n_passes % 2 == 1)


def _mirrored(n, rng, is_mirrored):
    """Return which of n images are mirrored, bool (n,): as said, or half of them by chance."""
    drawn = rng.random(n) < 0.5  # in any case, so that nothing else is drawn otherwise
    return drawn if is_mirrored is None else is_mirrored


def augmentation(how, n, rng, shift=4, is_mirrored=None):
    """Return from where in n images their pixels come, `{name: array}`: nothing for 'none'.

    'flip' and 'flip_crop' give the `rows` and `columns` to take of each, int64 (n, 32): each image is mirrored or not,
    and for 'flip_crop' shifted by up to `shift` pixels each way, by a draw of its own. What a shift uncovers is filled
    with the mirror image of what is there. 'flip_affine' gives `maps`, those of `affine_maps`.

    Args:
        how: 'none', 'flip', 'flip_crop' or 'flip_affine'.
        n: number of images.
        rng: a NumPy generator.
        shift: in pixels, at least 0.
        is_mirrored: which images are, bool (n,), where it is not left to `rng`.
    """
    if how == "none":
        return {}
    if how == "flip_affine":
        return {"maps": affine_maps(n, rng, shift, is_mirrored)}
    is_mirrored = _mirrored(n, rng, is_mirrored)
    places = np.tile(np.arange(32), (n, 1))
    rows, columns = places, np.where(is_mirrored[:, None], 31 - places, places)
    if how == "flip_crop":
        rows, columns = (31 - abs(31 - abs(x + rng.integers(-shift, shift + 1, (n, 1)))) for x in (rows, columns))
    return {"rows": rows, "columns": columns}


def affine_maps(n, rng, shift, is_mirrored=None):
    """Return maps of n images' places, float32 (n, 2, 3), as `F.affine_grid` takes them.

    Each mirrors or not, by a draw or as `is_mirrored` says, turns by up to 15 degrees, scales each side by a factor
    from exp(-0.15) to exp(0.15) and shifts by up to `shift` pixels each way.
    """
    angle = rng.uniform(-1, 1, n) * np.radians(15)
    mirror, one = np.where(_mirrored(n, rng, is_mirrored), -1, 1), np.ones(n)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.exp(rng.uniform(-0.15, 0.15, (2, 1, n)))
    shifts = rng.uniform(-shift, shift, (2, 1, n)) / 16  # half a side is 1
    maps = np.concatenate([turn * scale * [mirror, one], shifts], axis=1)
    return maps.transpose(2, 0, 1).astype(np.float32)


def whitening(images, n_components, eps=0.1):
    """Return the state dict of a linear layer that whitens, in float32.

    That is `weight`, (n_components, n_pixels), and `bias`, (n_components,). What comes out are the first principal
    components of the images, each divided by √(λ + eps), where λ is its variance.

    Args:
        images: `DeviceImages`, of the training split.
        n_components: at most n_pixels.
        eps: which keeps components that hardly vary from being blown up.
    """
    n_pixels = images.pixels[0].numel()
    total, products = torch.zeros(n_pixels), torch.zeros(n_pixels, n_pixels)
    for start in range(0, len(images), 1000):
        rows = images.batch(torch.arange(start, min(start + 1000, len(images))))[0].flatten(1).cpu().float()
        total += rows.sum(dim=0)
        products += rows.T @ rows
    mean = total / len(images)
    variances, components = torch.linalg.eigh(products / len(images) - mean.outer(mean))  # ascending
    variances, components = variances[-n_components:].clamp(min=0), components[:, -n_components:]
    weight = (components / (variances + eps).sqrt()).T
    return {"weight": weight, "bias": -weight @ mean}
