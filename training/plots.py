"""The figures of a run. Functions import Matplotlib themselves, because the import is slow."""

import contextlib

import numpy as np

from training.files import write_atomically

# Different line styles and markers, for colour-blind readers and for grey print.
SPLIT_STYLES = {
    "train": {"color": "#0072B2", "ls": "--", "marker": "o"},
    "validation": {"color": "#009E73", "ls": ":", "marker": "^"},
    "test": {"color": "#D55E00", "ls": "-", "marker": "s"},
}
LARGE_LOSS = 20  # above it, a loss axis is logarithmic: one large loss would flatten the rest


@contextlib.contextmanager
def default_style():
    """Use Matplotlib's default style in this block instead of the user's matplotlibrc."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        yield


def save_figure(figure, path):
    """Write a PNG file atomically."""
    with default_style():
        write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


@default_style()
def draw_curve(metrics, quantity, title):
    """Return a figure of 'accuracy' or 'loss' over steps, with a curve for each split in `metrics`."""
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    steps = [m["step"] for m in metrics]
    for split, style in SPLIT_STYLES.items():
        if f"{split}_{quantity}" in metrics[0]:
            axes.plot(steps, [m[f"{split}_{quantity}"] for m in metrics], label=split, markersize=3.5, **style)
    axes.set(xlabel="training step", ylabel="accuracy" if quantity == "accuracy" else "cross-entropy loss", title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if quantity == "loss" and axes.get_ylim()[1] > LARGE_LOSS:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


@default_style()
def draw_confusion_matrix(counts, class_names, title):
    """Return a figure of a confusion matrix, `counts` of shape (n_classes, n_classes), one row per true class."""
    figure = _figure(7, 6.6)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=45, ha="right")
    axes.set_yticks(ticks, class_names)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


@default_style()
def draw_weights(weights, title):
    """Return a figure of the first 100 weights of a layer, shape (n, 3, height, width), as images.

    Each is scaled to its own range.
    """
    weights = weights[:100]
    low, high = (f(weights, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    images = (weights - low) / np.maximum(high - low, np.finfo(weights.dtype).tiny)
    n_columns = int(np.ceil(np.sqrt(len(images))))
    n_rows = -(-len(images) // n_columns)
    n, n_channels, height, width = images.shape
    sheet = np.ones((n_rows * n_columns, height + 1, width + 1, n_channels), images.dtype)  # white lines between images
    sheet[:n, :height, :width] = images.transpose(0, 2, 3, 1)
    sheet = sheet.reshape(n_rows, n_columns, height + 1, width + 1, n_channels).swapaxes(1, 2)
    figure = _figure(6, 6.3 * n_rows / n_columns)
    axes = figure.subplots()
    axes.imshow(sheet.reshape(n_rows * (height + 1), n_columns * (width + 1), n_channels), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)
    return figure


@default_style()
def draw_mistakes(images, labels, probabilities, class_names, title):
    """Return a figure of the 32 misclassified examples with the lowest probability of the true class, lowest first.

    Args:
        images: uint8, shape (n, 3, height, width).
        labels: class numbers, shape (n,).
        probabilities: shape (n, n_classes).
        class_names: sequence of n_classes names.
        title: title of the figure.
    """
    n_columns, n_rows = 8, 4
    predicted = probabilities.argmax(axis=1)
    true_probability = probabilities[np.arange(len(labels)), labels]
    mistakes = np.flatnonzero(predicted != labels)
    worst = mistakes[np.argsort(true_probability[mistakes], kind="stable")][: n_columns * n_rows]
    figure = _figure(1.25 * n_columns, 1.55 * n_rows)
    figure.suptitle(title)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, worst, strict=False):
        axes.imshow(images[i].transpose(1, 2, 0))
        truth, guess = class_names[labels[i]], class_names[predicted[i]]
        axes.set_title(f"{truth}\nas {guess} {probabilities[i, predicted[i]]:.0%}", fontsize=7)
    return figure
