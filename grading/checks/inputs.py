"""What submissions are sent: inputs, gradients, weights and labels, the same for all."""

import itertools

import numpy as np


def draw(rng, *shape, scale=1.0):
    """Return numbers that float32 represents exactly, so that no layer's dtype changes what goes in."""
    return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)


def linear_input(n, n_in, n_out, seed):
    rng = np.random.default_rng(seed)
    arrays = {"weight0": draw(rng, n_out, n_in), "bias0": draw(rng, n_out)}
    return arrays | {"x": draw(rng, n, n_in), "dout": draw(rng, n, n_out)}


def activation_input(n, seed):
    """Inputs away from 0, where a leaky ReLU has no derivative; some are smaller than its slope."""
    rng = np.random.default_rng(seed)
    x = draw(rng, n, 6)
    return {"x": x + np.sign(x) / 64, "dout": draw(rng, n, 6)}


def large_input(seed):
    """Logits that overflow or underflow, row by row: far from 0 and close to one another, then far apart."""
    arrays = activation_input(5, seed)
    x = arrays["x"] * np.array([[1], [1], [1], [1000], [1000]]) + np.array([[1000], [-1000], [3000], [0], [0]])
    return arrays | {"x": x.astype(np.float32).astype(np.float64)}


def entropy_input(n, seed):
    rng = np.random.default_rng(seed)
    x = np.round(rng.dirichlet(np.ones(6), n) * 50 + 4) / 64
    return {"x": x, "y": np.eye(6)[rng.integers(6, size=n)]}


def mlp_input(n_hidden, seed, n_steps=None):
    """Return arrays of an MLP of 6 inputs and 4 classes; for training, a batch of 16 for each of `n_steps`."""
    rng, arrays = np.random.default_rng(seed), {}
    for l, (n, m) in enumerate(itertools.pairwise([6, *n_hidden, 4])):
        arrays |= {f"weight{l}": draw(rng, m, n, scale=np.sqrt(2 / n)), f"bias{l}": draw(rng, m, scale=0.3)}
    if n_steps:
        return arrays | {"x": draw(rng, n_steps, 16, 6), "y": np.eye(4)[rng.integers(4, size=(n_steps, 16))]}
    return arrays | {"x": draw(rng, 7, 6), "dout": draw(rng, 7, 4)}


def norm_input(n_batch, seed, gamma=None, scale=1.5):
    rng = np.random.default_rng(seed)
    arrays = {"gamma": draw(rng, 4) if gamma is None else np.array(gamma), "beta": draw(rng, 4)}
    return arrays | {"x": draw(rng, n_batch, 4, scale=scale) + 0.5, "dout": draw(rng, n_batch, 4)}


def images(n, n_channels, seed):
    return {"x": np.random.default_rng(seed).normal(size=(n, n_channels, 32, 32)).astype(np.float32)}
