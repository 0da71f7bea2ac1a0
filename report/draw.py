"""The report's figures, each from recorded runs, all in one style."""

import numpy as np
from records import CLAIMS, EXPERIMENTS, numbers, read_records

from figures import SPLIT_STYLES

GREY = "#555555"
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


def new_figure(width=5.0, height=3.4):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def draw_run(name, quantity, title):
    """Return a figure of accuracy or loss over the steps: mean and spread over seeds, claim dashed."""
    figure, axes = new_figure()
    records = read_records(name)
    steps = [m["step"] for m in records[0].metrics]
    for split in ("train", "test"):
        values = np.array([[m[f"{split}_{quantity}"] for m in record.metrics] for record in records])
        style = SPLIT_STYLES[split] | ({"marker": ""} if len(steps) > 30 else {})
        axes.plot(steps, values.mean(axis=0), label=split, markersize=3.5, **style)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        axes.plot(steps, values.T, color=style["color"], lw=0.4, alpha=0.5)  # the mean is smoother than any seed
    for claimed, label in ((f"test_{quantity}", "test"), (f"best_test_{quantity}", "its best")):
        claim = CLAIMS.get(name, {}).get(claimed)
        if claim is not None:
            ls = (0, (6, 4)) if label == "test" else (0, (6, 2, 1, 2))
            axes.axhline(claim, color=GREY, ls=ls, lw=1, label=f"{label}, original report: {claim:.3g}")
    n = len(records)
    axes.set(
        xlabel="training step",
        ylabel="accuracy" if quantity == "accuracy" else "cross-entropy loss",
        title=f"{title}, {n} seeds" if n > 1 else f"{title}, seed {records[0].seed}",
    )
    if quantity == "accuracy":
        axes.set_ylim(0, 1)
    elif np.ptp(axes.get_ylim()) < 0.1:  # rounding would fill the figure
        axes.set_ylim(np.mean(axes.get_ylim()) + np.array([-0.1, 0.1]))
    elif axes.get_ylim()[1] > 20:  # one collapse would flatten all the rest
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_points(axes, places, names, quantity, **style):
    """Draw an experiment a point: mean over seeds, bar from lowest to highest."""
    values = [numbers(name)[quantity] for name in names]
    means = [v["mean"] for v in values]
    bars = [[v["mean"] - v["min"] for v in values], [v["max"] - v["mean"] for v in values]]
    axes.errorbar(places, means, bars, capsize=3, markersize=4, **style)


def draw_learning_rates():
    """Return a figure of what SGD reaches in 1,500 steps over its learning rate."""
    figure, axes = new_figure()
    rates = {float(name.removeprefix("learning_rate_")): name for name in EXPERIMENTS if name.startswith("learning_")}
    rates = dict(sorted((rates | {2e-3: "fig03_mlp_pytorch"}).items()))
    for quantity, label in (("train_accuracy", "train"), ("test_accuracy", "test")):
        whole = {rate: name for rate, name in rates.items() if quantity in numbers(name)}
        draw_points(
            axes, list(whole), whole.values(), quantity, label=f"{label}, last evaluation", **SPLIT_STYLES[label]
        )
    diverged = [rate for rate, name in rates.items() if numbers(name)["n_diverged"]]
    axes.plot(diverged, [0.02] * len(diverged), "x", color="black", label="diverged")
    axes.axhline(0.1, color=GREY, lw=1, ls=":", label="guessing")
    axes.axvline(2e-3, color=GREY, lw=1, ls="-.", label="the course's default")
    axes.set(xscale="log", xlabel="learning rate", ylabel="accuracy", title="SGD, one hidden layer of 100, 1,500 steps")
    axes.set_ylim(0, 0.6)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def draw_depths():
    """Return a figure of what SGD reaches in 1,500 steps over the number of hidden layers."""
    figure, axes = new_figure()
    course = [f"depth_{n}_normal" for n in range(5)] + ["fig07_five_layers"]
    he = [f"depth_{n}_kaiming" for n in range(6)]
    for names, label, style in (
        (course, "weights from N(0, 0.0001²)", SPLIT_STYLES["test"]),
        (he, "weights from N(0, 2/((1 + a²) n)), He et al.", SPLIT_STYLES["train"]),
    ):
        draw_points(axes, range(6), names, "test_accuracy", label=label, **style)
    axes.axhline(0.1, color=GREY, lw=1, ls=":", label="guessing")
    axes.set(xlabel="hidden layers: the first of 900, 500, 350, 150, 50", ylabel="test accuracy")
    axes.set(title="SGD, learning rate 0.002, 1,500 steps", ylim=(0, 0.7))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return figure


def draw_ladder():
    """Return a figure of the improved MLP's rungs: what each change gives on images held out, and on the test set."""
    figure, axes = new_figure()
    names = [name for name in EXPERIMENTS if name.startswith("ladder_")]
    for split, offset in (("validation", -0.06), ("test", 0.06)):
        style = SPLIT_STYLES[split] | {"ls": "none"}
        places = [i + offset for i in range(len(names))]
        draw_points(axes, places, names, f"{split}_accuracy", label=f"{split}, last evaluation", **style)
    labels = [name.split("_", 2)[2].replace("_", " ") for name in names]
    labels = [labels[0], *(f"+ {label}" for label in labels[1:-1]), f"− dropout, + {labels[-1]}"]
    axes.set_xticks(range(len(names)), labels, rotation=30, ha="right")
    axes.set(ylabel="accuracy", title="Adam, 5,000 steps, one change at a time")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def draw_wrong_gradients():
    """Return a figure of the NumPy MLP's test accuracy, trained by its gradients and by wrong ones."""
    figure, axes = new_figure()
    for name, label, style in (
        ("fig01_mlp_numpy", "right", SPLIT_STYLES["test"]),
        ("wrong_bias_averaged", "bias gradient averaged", {"color": "#0072B2", "ls": "--", "marker": "o"}),
        ("wrong_slope_of_wrong_sign", "slope of the wrong sign", {"color": "#009E73", "ls": ":", "marker": "^"}),
        (
            "wrong_cross_terms_lost",
            "softmax's cross terms lost: diverges",
            {"color": "#CC79A7", "ls": "-.", "marker": "D"},
        ),
    ):
        seeds = [record.metrics for record in read_records(name)]
        n = min(len(metrics) for metrics in seeds)  # those that diverge end where they do
        values = np.array([[m["test_accuracy"] for m in metrics[:n]] for metrics in seeds])
        steps = [m["step"] for m in seeds[0][:n]]
        axes.plot(steps, values.mean(axis=0), label=label, markersize=3.5, **style)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, lw=0)
    axes.set(xlabel="training step", ylabel="test accuracy", title="NumPy MLP, defaults, right and wrong gradients")
    axes.set_ylim(0, 0.6)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def figures():
    """Yield (name, figure) of all that can be drawn from what is recorded."""
    for number, name, title in RUNS:
        if read_records(name):
            for n, quantity in ((number, "accuracy"), (number + 1, "loss")):
                yield f"fig{n:02d}_{name.split('_', 1)[1]}_{quantity}", draw_run(name, quantity, title)
    studies = {
        "learning_rate": draw_learning_rates,
        "depth": draw_depths,
        "ladder": draw_ladder,
        "wrong": draw_wrong_gradients,
    }
    for study, draw in studies.items():
        if all(read_records(name) for name in EXPERIMENTS if name.startswith(f"{study}_")):
            yield f"study_{study}", draw()
