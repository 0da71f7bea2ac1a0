"""The report's figures, each from recorded runs, all in one style."""

import hashlib
import math

import numpy as np

from figures import SPLIT_STYLES
from report.claims import CLAIMS
from report.records import EXPERIMENTS, LADDER, read_records
from report.tables import numbers

GREY = "#555555"
# Hollow markers and filled ones: in grey the colours are nearly one.
STYLES = {
    split: style | {"mfc": style["color"] if split == "test" else "white"} for split, style in SPLIT_STYLES.items()
}
FONT_SIZE = 8  # in points; the report shows figures at about their size, so that text is 7 to 8 there
GUESSING = {"accuracy": 0.1, "loss": math.log(10)}  # of ten classes, each as likely
# What the table of the report's ladder calls the rungs, in fewer words.
RUNG_LABELS = {
    "0_start": "Figure 11's network",
    "1_kaiming": "+ He et al.'s weights",
    "2_batch_norm": "+ batch norm",
    "3_onecycle": "+ one-cycle",
    "4_augment": "+ mirrored, shifted",
    "5_dropout": "+ dropout 0.1",
    "6_width": "− dropout, twice the width",
}
# Number of the figure of accuracy, of which the next is that of loss, its experiment, and a title.
RUNS = [
    (1, "fig01_mlp_numpy", "NumPy MLP"),
    (3, "fig03_mlp_pytorch", "PyTorch MLP"),
    (5, "fig05_adam", "Adam"),
    (7, "fig07_five_layers", "five hidden layers, SGD"),
    (9, "fig09_long", "50,000 steps"),
    (11, "fig11_five_layers_adam_long", "five hidden layers, Adam, 50,000 steps"),
    (13, "fig13_convnet", "ConvNet"),
]


def new_figure(width, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(labelsize=FONT_SIZE)
    axes.grid(alpha=0.3)
    return figure, axes


def label(figure, title, xlabel, ylabel, legend_columns=2):
    """Name a figure and its axes, with a legend below them, where it hides no curve."""
    axes = figure.axes[0]
    axes.set_title(title, fontsize=FONT_SIZE)
    axes.set_xlabel(xlabel, fontsize=FONT_SIZE)
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE)
    legend = {"fontsize": FONT_SIZE, "frameon": False, "handlelength": 2, "columnspacing": 1, "handletextpad": 0.5}
    figure.legend(loc="outside lower center", ncols=legend_columns, **legend)


def fingerprint(figure):
    """Return a hash of what a figure shows, by which to tell whether a file of it is old.

    Numbers count to six digits, so that it does not depend on the machine.
    """
    from matplotlib.ticker import FixedLocator

    axes = figure.axes[0]
    shown = [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
    if isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        shown += [tick.get_text() for tick in axes.get_xticklabels()]
    for line in axes.lines:
        shown += [line.get_label() if line.get_label()[0] != "_" else "", line.get_linestyle(), str(line.get_marker())]
        shown += [f"{value:.6g}" for values in line.get_data() for value in values]
    return hashlib.sha256("\n".join(shown).encode()).hexdigest()


def curves(name, quantity):
    """Return the steps of an experiment's evaluations, and a quantity at them, of shape (n_seeds, n_steps).

    They go as far as the shortest run: one that diverges ends where it does.
    """
    runs = [record.metrics for record in read_records(name)]
    n = min(len(metrics) for metrics in runs)
    return [m["step"] for m in runs[0][:n]], np.array([[m[quantity] for m in metrics[:n]] for metrics in runs])


def markers(n_steps, turn, n_turns):
    """Return the style of some ten markers on a curve, by turns with those of others: they show where it is hidden."""
    every = max(n_turns, n_steps // 10)
    return {"markersize": 3.5, "markevery": (turn * every // n_turns, every)}


def draw_run(name, quantity, title):
    """Return a figure of accuracy or loss over the steps: mean and spread over seeds, claims dashed."""
    figure, axes = new_figure(3.3, 2.6)
    claimed = {claim.quantity: claim.number for claim in CLAIMS[name]}
    for of, what, dashes in (
        (f"test_{quantity}", "test, original report", (6, 4)),
        (f"best_test_{quantity}", "best test, original report", (6, 2, 1, 2)),
        (f"best_train_{quantity}", "best train, original report", (2, 2)),
    ):
        if claimed.get(of) is not None:
            axes.axhline(claimed[of], color=GREY, ls=(0, dashes), lw=1, zorder=3, label=f"{what}: {claimed[of]:.3g}")
    if "off_chance" in claimed:
        chance = GUESSING[quantity]
        axes.axhline(chance, color=GREY, ls=(0, (6, 4)), lw=1, zorder=3, label=f"chance level: {chance:.3g}")
    for turn, split in enumerate(("train", "test")):
        steps, values = curves(name, f"{split}_{quantity}")
        style = STYLES[split] | markers(len(steps), turn, 2)
        axes.plot(steps, values.mean(axis=0), label=split, lw=1.2, **style)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        axes.plot(steps, values.T, color=style["color"], lw=0.4, alpha=0.5)  # the mean is smoother than any seed
    if quantity == "accuracy":
        axes.set_ylim(0, 1)
    elif np.ptp(axes.get_ylim()) < 0.1:  # rounding would fill the figure
        axes.set_ylim(np.mean(axes.get_ylim()) + np.array([-0.1, 0.1]))
    elif axes.get_ylim()[1] > 20:  # one collapse would flatten all the rest
        axes.set_yscale("log")
    seeds = [record.seed for record in read_records(name)]
    title += f", {len(seeds)} seeds" if len(seeds) > 1 else f", seed {seeds[0]}"
    ylabel = "accuracy" if quantity == "accuracy" else "cross-entropy loss"
    n_named = len(axes.get_legend_handles_labels()[0])
    label(figure, title, "training step", ylabel, legend_columns=3 if n_named <= 3 else 2)
    return figure


def draw_points(axes, places, names, quantity, **style):
    """Draw an experiment a point, but for those that all diverged: mean over seeds, bar from lowest to highest."""
    found = {place: numbers(name) for place, name in zip(places, names, strict=True)}
    values = {place: of_run[quantity] for place, of_run in found.items() if quantity in of_run}
    means = np.array([v["mean"] for v in values.values()])
    bars = [means - [v["min"] for v in values.values()], [v["max"] for v in values.values()] - means]
    axes.errorbar(list(values), means, bars, capsize=3, markersize=4, **style)


def draw_learning_rates():
    """Return a figure of what SGD reaches in 1,500 steps over its learning rate."""
    figure, axes = new_figure(3.6, 2.7)
    rates = {float(name.removeprefix("learning_rate_")): name for name in EXPERIMENTS if name.startswith("learning_")}
    rates = dict(sorted((rates | {2e-3: "fig03_mlp_pytorch"}).items()))
    for split in ("train", "test"):
        draw_points(axes, rates, rates.values(), f"{split}_accuracy", label=split, **STYLES[split])
    diverged = [rate for rate, name in rates.items() if numbers(name)["n_diverged"]]
    axes.plot(diverged, [0.02] * len(diverged), "x", color="black", label="diverged")
    axes.axhline(GUESSING["accuracy"], color=GREY, lw=1, ls=":", label="guessing")
    axes.axvline(2e-3, color=GREY, lw=1, ls="-.", label="the course's default")
    axes.set(xscale="log", ylim=(0, 0.6))
    label(figure, "SGD, one hidden layer of 100, 1,500 steps", "learning rate", "accuracy, last evaluation")
    return figure


def draw_depths():
    """Return a figure of what SGD reaches in 1,500 steps over the number of hidden layers."""
    figure, axes = new_figure(3.4, 2.6)
    course = [f"depth_{n}_normal" for n in range(5)] + ["fig07_five_layers"]
    he = [f"depth_{n}_kaiming" for n in range(6)]
    for names, whose, style in (
        (course, "weights from N(0, 0.0001²)", STYLES["test"]),
        (he, "He et al.'s weights", STYLES["train"]),
    ):
        draw_points(axes, range(6), names, "test_accuracy", label=whose, **style)
    axes.axhline(GUESSING["accuracy"], color=GREY, lw=1, ls=":", label="guessing")
    axes.set_ylim(0, 0.6)
    title = "SGD, learning rate 0.002, 1,500 steps"
    label(figure, title, "hidden layers: the first of 900, 500, 350, 150, 50", "test accuracy")
    return figure


def draw_ladder():
    """Return a figure of the improved MLP's rungs: what each change gives on images held out, and on the test set."""
    figure, axes = new_figure(2.8, 3.0)
    for split, offset in (("validation", -0.06), ("test", 0.06)):
        style = STYLES[split] | {"ls": "none"}
        places = [i + offset for i in range(len(LADDER))]
        draw_points(axes, places, [f"ladder_{rung}" for rung in LADDER], f"{split}_accuracy", label=split, **style)
    axes.set_xticks(
        range(len(LADDER)), [RUNG_LABELS[rung] for rung in LADDER], rotation=45, ha="right", rotation_mode="anchor"
    )
    label(figure, "Adam, 5,000 steps", "", "accuracy")
    return figure


def draw_wrong_gradients():
    """Return a figure of the NumPy MLP's test accuracy, trained by its gradients and by wrong ones."""
    figure, axes = new_figure(3.6, 2.7)
    for name, which, turn, style in (
        ("fig01_mlp_numpy", "right", 0, STYLES["test"]),
        ("wrong_bias_averaged", "bias gradient averaged", 1, STYLES["train"]),
        ("wrong_slope_of_wrong_sign", "slope of the wrong sign", 2, STYLES["validation"]),
        ("wrong_cross_terms_lost", "cross terms lost: diverges", 0, {"color": "#CC79A7", "ls": "-.", "marker": "D"}),
    ):
        steps, values = curves(name, "test_accuracy")
        axes.plot(steps, values.mean(axis=0), label=which, lw=1.2, **markers(len(steps), turn, 3), **style)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, lw=0)
    axes.set_ylim(0, 0.6)
    label(figure, "NumPy MLP, defaults, right and wrong gradients", "training step", "test accuracy")
    return figure


def figures():
    """Yield (name, figure) of all that can be drawn from what is recorded."""
    for number, name, title in RUNS:
        if read_records(name):
            for n, quantity in ((number, "accuracy"), (number + 1, "loss")):
                yield f"fig{n:02d}_{name.split('_', 1)[1]}_{quantity}", draw_run(name, quantity, title)
    studies = {  # of the experiments that have its name, and one more
        "learning_rate": (draw_learning_rates, "fig03_mlp_pytorch"),
        "depth": (draw_depths, "fig07_five_layers"),
        "ladder": (draw_ladder, None),
        "wrong": (draw_wrong_gradients, "fig01_mlp_numpy"),
    }
    for study, (draw, other) in studies.items():
        if all(read_records(name) for name in EXPERIMENTS if name.startswith(f"{study}_") or name == other):
            yield f"study_{study}", draw()
