"""What submissions are sent: inputs, gradients, weights and labels, drawn once, the same for all."""

import itertools

import numpy as np

N_STEPS = 50  # of the MLPs' training from given weights


def draw(rng, *shape, scale=1.0):
    """Return numbers that float32 holds exactly, so that no layer's dtype changes what goes in."""
    return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)


def in_float32(arrays):
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _one_hot(rng, n, n_classes):
    return np.eye(n_classes)[rng.integers(n_classes, size=n)]


def linear_input(sizes, seed):
    rng = np.random.default_rng(seed)
    arrays = {"weight": draw(rng, 3, 5), "bias": draw(rng, 3)}
    for i, n in enumerate(sizes):
        arrays |= {f"x{i}": draw(rng, n, 5), f"dout{i}": draw(rng, n, 3)}
    return arrays


def activation_input(sizes, seed):
    rng = np.random.default_rng(seed)
    return {f"{name}{i}": draw(rng, n, 6) for i, n in enumerate(sizes) for name in ("x", "dout")}


def large_input(seed):
    """Logits that overflow, or underflow, row by row: far from 0 and close to one another, then far apart."""
    arrays = activation_input([5], seed)
    x = arrays["x0"] * np.array([[1], [1], [1], [1000], [1000]]) + np.array([[1000], [-1000], [3000], [0], [0]])
    return arrays | {"x0": x.astype(np.float32).astype(np.float64)}


def entropy_input(sizes, seed):
    rng = np.random.default_rng(seed)
    arrays = {}
    for i, n in enumerate(sizes):
        arrays |= {f"x{i}": np.round(rng.dirichlet(np.ones(6), n) * 50 + 4) / 64, f"y{i}": _one_hot(rng, n, 6)}
    return arrays


def mlp_input(n_hidden, seed, n_batch=7, n_steps=None):
    rng, n_inputs, n_classes = np.random.default_rng(seed), 6, 4
    sizes = [n_inputs, *n_hidden, n_classes]
    arrays = {}
    for l, (n, m) in enumerate(itertools.pairwise(sizes)):
        arrays |= {f"weight{l}": draw(rng, m, n, scale=np.sqrt(2 / n)), f"bias{l}": draw(rng, m, scale=0.3)}
    steps = () if n_steps is None else (n_steps,)
    arrays["x"] = draw(rng, *steps, n_batch, n_inputs)
    labels = rng.integers(n_classes, size=(*steps, n_batch))
    arrays["y"] = np.eye(n_classes)[labels]
    if n_steps is None:
        arrays["dout"] = draw(rng, n_batch, n_classes)
    params = {"n_inputs": n_inputs, "n_hidden": list(n_hidden), "n_classes": n_classes, "neg_slope": 0.25}
    return params, arrays


def norm_input(sizes, seed, gamma=None, scale=1.5):
    rng = np.random.default_rng(seed)
    arrays = {"gamma": draw(rng, 4) if gamma is None else np.array(gamma), "beta": draw(rng, 4)}
    for i, n in enumerate(sizes):
        arrays |= {f"x{i}": draw(rng, n, 4, scale=scale) + 0.5, f"dout{i}": draw(rng, n, 4)}
    return arrays


def convnet_input(n, n_channels, n_classes, seed):
    rng = np.random.default_rng(seed)
    x, dout = rng.normal(size=(n, n_channels, 32, 32)), rng.normal(size=(n, n_classes))
    return {"x": x.astype(np.float32), "dout": dout.astype(np.float32)}
