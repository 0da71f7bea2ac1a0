"""Synthetic images of CIFAR-10's shape, for where CIFAR-10 is neither on disk nor available for download."""

import contextlib
import hashlib
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np


def synthetic_images(n_images, seed):
    """Draw images that teach what CIFAR-10 teaches, where that cannot be had.

    An image is a cloudy random background, plus its class's layout of colours, faint but always in
    the same place, plus its class's motif, a small clear pattern that may be anywhere, plus noise.
    An MLP finds the layouts, and on 50,000 images ends near where it does on CIFAR-10 and begins to
    overfit; the motifs are left for a convolution to find.

    Args:
        n_images: how many.
        seed: of the images. Layouts and motifs are the same for all seeds.

    Returns:
        images, uint8 (n_images, 3, 32, 32), and class numbers, int64 (n_images,).
    """
    n_classes, n_waves, n_chunk, motif_size = 10, 16, 1000, 8
    # Two-dimensional cosine waves, the slower the stronger, as in photographs.
    waves = np.cos(np.pi / 32 * np.outer(np.arange(n_waves), np.arange(32) + 0.5)).astype(np.float32)
    frequency = np.hypot(*np.indices((n_waves, n_waves)))
    strength = ((1 + frequency) ** -1.2).astype(np.float32)

    rng = np.random.default_rng(0)
    layouts = rng.standard_normal((n_classes, 3, n_waves, n_waves), np.float32) * (frequency < 6)
    motifs = rng.choice(np.float32([-30, 30]), (n_classes, 4, 4)).repeat(2, axis=1).repeat(2, axis=2)
    motifs -= motifs.mean(axis=(1, 2), keepdims=True)  # no trace in the mean colour, which an MLP would see

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


def cached_synthetic_images(folder, n_images):
    """Return `synthetic_images` and their fingerprint, from `folder` where they were drawn before."""
    path = folder / f"synthetic-2-{n_images}.npz"
    # Whatever a damaged archive raises, the images are drawn again.
    with contextlib.suppress(Exception), open(path, "rb") as file, np.load(file, allow_pickle=False) as cached:
        images, labels, fingerprint = cached["images"], cached["labels"], str(cached["fingerprint"])
        if fingerprint == _fingerprint(images, labels):
            return images, labels, fingerprint
    images, labels = synthetic_images(n_images, seed=0)
    fingerprint = _fingerprint(images, labels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".synthetic-", dir=folder) as unfinished:
            np.savez(Path(unfinished, path.name), images=images, labels=labels, fingerprint=fingerprint)
            os.replace(Path(unfinished, path.name), path)
    except OSError as error:
        warnings.warn(f"the synthetic images could not be kept for next time: {error}", stacklevel=3)
    return images, labels, fingerprint


def _fingerprint(images, labels):
    """Return the md5 over images and labels, their shapes included."""
    md5 = hashlib.md5(f"{images.shape} {labels.shape}".encode(), usedforsecurity=False)
    md5.update(images)
    md5.update(labels)
    return md5.hexdigest()
