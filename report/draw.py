"""The figures of the report, from recorded runs. Text is 7 to 8 pt where the report prints them."""

import math

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from report.claims import CHANCE, CLAIMS
from report.finite_differences import chosen_step, relative_error
from report.numbers import gradients, numbers
from report.records import read_records
from report.runs import ADAM_RATES, EXPERIMENTS, SEED, SGD_RATES, WIDTHS
from training.plots import LARGE_LOSS, SPLIT_STYLES

matplotlib.style.use("default")  # whatever the user's matplotlibrc says
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": "medium", "legend.fontsize": "medium", "legend.frameon": False,
    "legend.columnspacing": 1, "axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.05,  # or a label of the right panel looks like one of the left
})  # fmt: skip
GREY = "#555555"
DASHED, DOTTED = (0, (6, 4)), (0, (2, 2))
# Hollow and filled markers tell curves apart in grey, too.
STYLES = {
    split: style | {"mfc": style["color"] if split == "test" else "white", "markersize": 3.5}
    for split, style in SPLIT_STYLES.items()
}
SPLITS = {"train": "training", "test": "test"}  # and their names in legends
YLABELS = {"accuracy": "accuracy", "loss": "cross-entropy loss"}
FULL, HALF = 6.7, 3.3  # inches
LAYER_COLOURS = ("#0072B2", "#7F4F24", "#009E73", "#E69F00", "#D55E00", "#CC79A7")  # from the input to the output

# ---- Parts of a figure ---------------------------------------------------------------------------


def new_panels(width, height, rows=1, columns=1, **shared):
    """Return a figure and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def add_legend(figure, n_columns):
    """Add one legend below all panels, each name once."""
    named = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=n_columns)


def curves(name, quantity, seeds=slice(None)):
    """Return the steps of the evaluations and a quantity, (seeds, steps), up to the end of the shortest run."""
    runs = [record.metrics for record in read_records(name)[seeds]]
    n = min(map(len, runs))
    return [m["step"] for m in runs[0][:n]], np.array([[m[quantity] for m in metrics[:n]] for metrics in runs])


def draw_claims(axes, name, quantity):
    """Draw the original report's numbers as dashed lines."""
    for claim in CLAIMS.get(name, ()):
        is_number = claim.relation == "about" and not isinstance(claim.expected, str)
        if is_number and claim.quantity.endswith(f"test_{quantity}"):
            axes.axhline(claim.expected, color=GREY, ls=DASHED, lw=1, zorder=3, label="original report, test")


def set_range(axes, quantity):
    """Show accuracies from 0; losses on a log scale if one collapse would flatten the rest."""
    low, high = axes.get_ylim()
    if quantity == "accuracy":
        axes.set_ylim(0, max(high, 0.2))
    elif high - low < 0.1:  # rounding would fill the panel
        axes.set_ylim((low + high) / 2 - 0.1, (low + high) / 2 + 0.1)
    elif high > LARGE_LOSS:
        axes.set_yscale("log")


def draw_curves(axes, name, quantity, seeds=slice(None), is_change=False):
    """Draw training and test curves over the original report's numbers: single seeds thin, and their mean thick.

    Args:
        seeds: a slice of the recorded ones.
        is_change: draw the change since the start.
    """
    draw_claims(axes, name, quantity)
    for turn, (split, words) in enumerate(SPLITS.items()):
        steps, values = curves(name, f"{split}_{quantity}", seeds)
        values = values - values[:, :1] if is_change else values
        gap = max(2, len(steps) // 10)  # about ten markers, which alternate with those of the other curve
        style = STYLES[split] | {"label": words, "markevery": (turn * gap // 2, gap)}
        axes.plot(steps, values.T, color=style["color"], lw=0.4, alpha=0.4)
        axes.plot(steps, values.mean(axis=0), lw=1.2, zorder=2.5, **style)


def draw_points(axes, places, names, quantity, **style):
    """Draw a point per experiment: the mean over seeds, a bar from the lowest to the highest; none if all diverged."""
    found = [(place, numbers(name)) for place, name in zip(places, names, strict=True)]
    found = [(place, values[quantity]) for place, values in found if quantity in values]
    means = np.array([v["mean"] for _, v in found])
    bars = [means - [v["min"] for _, v in found], [v["max"] for _, v in found] - means]
    axes.errorbar([place for place, _ in found], means, bars, capsize=3, **style)


# ---- Figures -------------------------------------------------------------------------------------


def draw_runs(*names, titles=("",), seeds=slice(None), is_change=False):
    """Return a figure with a row per experiment: accuracy on the left, loss or its change on the right."""
    figure, panels = new_panels(FULL, 1.55 * len(names) + 0.3, len(names), 2, sharex=len(names) > 1)
    for row, name, title in zip(panels, names, titles, strict=True):
        for axes, quantity in zip(row, YLABELS, strict=True):
            moved = is_change and quantity == "loss"
            draw_curves(axes, name, quantity, seeds, moved)
            if not moved:
                set_range(axes, quantity)
            axes.set(title=title, ylabel="change of the loss" if moved else YLABELS[quantity])
    for axes in panels[-1]:
        axes.set_xlabel("training step")
    add_legend(figure, 3)
    return figure


def draw_long_runs():
    """Return a figure with a column per seed: accuracy and loss of five layers and Adam, by kind of pixels."""
    names = {"fig11_five_layers_adam_long": "standardised", "course_fig11": "the course's"}
    n_seeds = len(read_records(next(iter(names))))
    figure, panels = new_panels(FULL, 1.8 * len(names) + 0.4, 2 * len(names), n_seeds, sharex=True, sharey="row")
    rows = [(name, quantity) for name in names for quantity in YLABELS]
    for row, (name, quantity) in zip(panels, rows, strict=True):
        for i, axes in enumerate(row):
            draw_curves(axes, name, quantity, slice(i, i + 1))
            axes.set_title(f"seed {SEED + i}" if quantity == "accuracy" else "")
        set_range(row[0], quantity)
        row[0].set_ylabel(f"{names[name]}\n{quantity}")
    for axes in panels[-1]:
        axes.set_xlabel("step")
        axes.set_xticks((0, 50_000), ("0", "50,000"))
    add_legend(figure, 3)
    return figure


def draw_run(experiment, metrics):
    """Return a figure of the curves of one more run, black, over an experiment's recorded runs."""
    figure, panels = new_panels(10, 4, 1, 2)
    for axes, quantity in zip(panels[0], YLABELS, strict=True):
        draw_curves(axes, experiment, quantity)
        for split, words in SPLITS.items():
            style = {"color": "black", "ls": STYLES[split]["ls"], "label": f"{words}, this run"}
            axes.plot([m["step"] for m in metrics], [m[f"{split}_{quantity}"] for m in metrics], **style)
        set_range(axes, quantity)
        title = f"{experiment}: this run and the recorded ones"
        axes.set(title=title, xlabel="training step", ylabel=YLABELS[quantity])
    add_legend(figure, 5)
    return figure


def draw_learning_rates():
    """Return a figure of accuracy after 1,500 steps over the learning rate, of SGD and of Adam."""
    figure, panels = new_panels(FULL, 2.3, 1, 2, sharey=True)
    for axes, title, names in (
        (panels[0, 0], "SGD", {rate: f"learning_rate_{rate}" for rate in SGD_RATES} | {2e-3: "fig03_mlp_pytorch"}),
        (panels[0, 1], "Adam", {rate: f"adam_{rate}" for rate in ADAM_RATES} | {2e-3: "fig05_adam"}),
    ):
        rates = dict(sorted((float(rate), name) for rate, name in names.items()))
        for split, name in SPLITS.items():
            draw_points(axes, rates, rates.values(), f"{split}_accuracy", **STYLES[split] | {"label": name})
        diverged = [rate for rate, name in rates.items() if numbers(name)["n_diverged"]]
        axes.plot(diverged, [0.02] * len(diverged), "x", color="black", label="diverged")
        axes.axhline(CHANCE, color=GREY, lw=1, ls=":", label="chance")
        axes.axvline(2e-3, color=GREY, lw=1, ls="-.", label="the course's default")
        axes.set(title=title, xlabel="learning rate", xscale="log", ylim=(0, 0.65))
    panels[0, 0].set_ylabel("accuracy after 1,500 steps")
    add_legend(figure, 5)
    return figure


def draw_depths():
    """Return a figure of test accuracy after 1,500 steps of SGD over the number of hidden layers."""
    figure, panels = new_panels(HALF, 2.4)
    for init, words, style in (
        ("normal", "N(0, 0.0001²)", STYLES["test"]),
        ("kaiming", "He et al.", STYLES["train"]),
        ("pytorch", "PyTorch", STYLES["validation"]),
    ):
        names = [f"depth_{n}_{init}" for n in range(1, len(WIDTHS) + 1)]
        names = [name if name in EXPERIMENTS else "fig07_five_layers" for name in names]
        draw_points(panels[0, 0], range(1, len(WIDTHS) + 1), names, "test_accuracy", **style | {"label": words})
    panels[0, 0].axhline(CHANCE, color=GREY, lw=1, ls=":", label="chance")
    panels[0, 0].set(xlabel="hidden layers", ylabel="test accuracy", ylim=(0, 0.6))
    add_legend(figure, 2)
    return figure


def draw_gradients():
    """Return a figure of the size of each layer's weight gradient over the steps, by initial weights and optimiser."""
    figure, panels = new_panels(FULL, 3.1, 2, 2, sharex=True)
    for column, (init, words) in enumerate((("normal", "the course's weights"), ("pytorch", "PyTorch's weights"))):
        for row, by in enumerate(("sgd", "adam")):
            axes = panels[row, column]
            steps, weights, biases = gradients(f"gradients_{init}_{by}")
            for layer, (values, colour) in enumerate(zip(weights, LAYER_COLOURS, strict=True), 1):
                axes.plot(steps, values, color=colour, lw=1, label=f"layer {layer}")
            axes.plot(steps, biases[-1], color="black", ls=":", lw=1, label="bias of layer 6")
            axes.plot(steps, biases[-2], color=GREY, ls=":", lw=1, label="bias of layer 5")
            axes.axhline(1e-8, color=GREY, ls=DASHED, lw=1, label="Adam's ε")
            axes.set_yscale("log")
            if (init, by) != ("normal", "sgd"):  # which has its own range
                axes.set_ylim(3e-9, 30)
            axes.set(title=f"{words}, {'SGD' if by == 'sgd' else 'Adam'}", ylabel="r.m.s. gradient")
            axes.set_xlabel("training step" if row == 1 else "")
    add_legend(figure, 5)
    return figure


def draw_wrong_gradients():
    """Return a figure of the NumPy MLP's test accuracy, trained by right and by wrong gradients."""
    figure, panels = new_panels(HALF, 2.0)
    for turn, (name, words, style) in enumerate((
        ("fig01_mlp_numpy", "right", STYLES["test"]),
        ("wrong_bias_averaged", "bias averaged", STYLES["train"]),
        ("wrong_slope_of_wrong_sign", "slope of wrong sign", STYLES["validation"]),
        ("wrong_cross_terms_lost", "cross terms lost", {"color": "#CC79A7", "ls": "-.", "marker": "D"}),
    )):  # fmt: skip
        steps, values = curves(name, "test_accuracy")
        style = style | {"label": words, "markevery": (turn, 3)}
        panels[0, 0].plot(steps, values.mean(axis=0), lw=1.2, **style)
        panels[0, 0].fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.12, lw=0)
    panels[0, 0].set(xlabel="training step", ylabel="test accuracy", ylim=(0, 0.6))
    add_legend(figure, 2)
    return figure


def draw_differences():
    """Return a figure of the error of a central difference over its step."""
    figure, panels = new_panels(HALF, 2.0)
    for dtype, style in ((np.float32, STYLES["train"]), (np.float64, STYLES["test"])):
        steps = 2.0 ** np.arange(round(math.log2(np.finfo(dtype).eps)) + 3, 1)
        errors = [relative_error(dtype, h) for h in steps]
        panels[0, 0].plot(steps, errors, lw=1, **style | {"marker": ".", "label": dtype.__name__})
        panels[0, 0].axvline(chosen_step(dtype), color=GREY, lw=1, ls=":", label="cube root of u")
    panels[0, 0].set(xscale="log", yscale="log", xlabel="step h", ylabel="relative error")
    add_legend(figure, 3)
    return figure


# What draws each figure; those that are shown in README.md are written as PNG, too.
FIGURES = {
    "defaults": lambda: draw_runs(
        "fig01_mlp_numpy", "fig03_mlp_pytorch", titles=("NumPy MLP, 15 seeds", "PyTorch MLP, 15 seeds")
    ),
    "learning_rate": draw_learning_rates,
    "adam": lambda: draw_runs("fig05_adam"),
    "five_layers": lambda: draw_runs("fig07_five_layers", is_change=True),  # the losses coincide otherwise
    "gradients": draw_gradients,
    "depth": draw_depths,
    "long": lambda: draw_runs("fig09_long"),
    "combined": lambda: draw_runs(
        "fig11_five_layers_adam_long", "best_mlp", titles=("five layers, Adam", "the better MLP"), seeds=slice(1)
    ),
    "combined_all": draw_long_runs,
    "convnet": lambda: draw_runs("fig13_convnet"),
    "best_convnet": lambda: draw_runs("best_convnet"),
    "wrong": draw_wrong_gradients,
    "differences": draw_differences,
}
README_FIGURES = ("defaults", "convnet")
