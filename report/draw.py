"""The report's figures, each from recorded runs, all in one style."""

import hashlib
import math

import numpy as np

from cifar10_utils import CLASSES
from report.claims import CLAIMS
from report.finite_differences import chosen_step, relative_error
from report.five_layers import AWAKE, STEP_LENGTHS, gradients, read_steps, spike_steps
from report.records import ADAM_EPS, EXPERIMENTS, read_records
from report.tables import RUNS, numbers
from training.plots import SPLIT_STYLES, show_confusion_matrix, show_weights

GREY = "#555555"
# Hollow markers and filled ones: in grey the colours are nearly one.
STYLES = {
    split: style | {"mfc": style["color"] if split == "test" else "white"} for split, style in SPLIT_STYLES.items()
}
FONT_SIZE = 8  # in points; the report shows figures at about their size, so that text is 7 to 8 there
YLABELS = {"accuracy": "accuracy", "loss": "cross-entropy loss"}
GUESSING = {"accuracy": 0.1, "loss": math.log(10)}  # of ten classes, each as likely
# What is drawn of each step: its name, and the style of its line.
EVERY_STEP = {
    "batch_losses": ("loss of the batch", "-", "#440154"),
    "gradient_norms": ("norm of the gradient", "--", "#22A884"),
    "step_lengths": ("length of the step", ":", "black"),
}
LAYER_COLOURS = ("#440154", "#414487", "#2A788E", "#22A884", "#7AD151", "#C9B400")  # from the input to the output


def new_panels(width, height, rows, columns, sharex=True, sharey=True):
    """Return a figure and its axes, (rows, columns), which share their scales unless said otherwise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for axes in panels.flat:
        axes.tick_params(labelsize=FONT_SIZE)
        axes.grid(alpha=0.3)
    return figure, panels


def new_figure(width, height):
    figure, panels = new_panels(width, height, 1, 1)
    return figure, panels[0, 0]


def label(figure, title, xlabel, ylabel, legend_columns=2):
    """Name a figure of one panel and its axes, with a legend below, where it hides no curve."""
    axes = figure.axes[0]
    axes.set_title(title, fontsize=FONT_SIZE)
    axes.set_xlabel(xlabel, fontsize=FONT_SIZE)
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE)
    add_legend(figure, legend_columns)


def label_panels(figure, panels, titles, xlabel, ylabel, legend_columns):
    """Name the columns of a figure's panels and their axes, with one legend below."""
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=FONT_SIZE)
    for axes in panels[-1]:
        axes.set_xlabel(xlabel, fontsize=FONT_SIZE)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel, fontsize=FONT_SIZE)
    add_legend(figure, legend_columns)


def add_legend(figure, n_columns):
    """Add a legend of all panels' lines below them, each name once."""
    named = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    style = {"fontsize": FONT_SIZE, "frameon": False, "handlelength": 2, "columnspacing": 1, "handletextpad": 0.5}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=n_columns, **style)


def fingerprint(figure):
    """Return a hash of what a figure shows, by which to tell whether a file of it is old.

    Numbers count to six digits, so that it does not depend on the machine.
    """
    from matplotlib.ticker import FixedLocator

    shown = []
    for axes in figure.axes:
        shown += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        if isinstance(axes.xaxis.get_major_locator(), FixedLocator):
            shown += [tick.get_text() for tick in axes.get_xticklabels()]
        for line in axes.lines:
            name = line.get_label() if line.get_label()[0] != "_" else ""
            shown += [name, line.get_linestyle(), str(line.get_marker())]
            shown += [f"{value:.6g}" for values in line.get_data() for value in values]
        shown += [patch.get_label() for patch in axes.patches]  # a band's says where it lies
        for image in axes.images:
            shown += [f"{value:.3f}" for value in image.get_array().ravel()]
        shown += [text.get_text() for text in axes.texts]
        shown += [f"{value:.6g}" for value in axes.get_ylim()]
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
    """Return a figure of accuracy or loss over the steps: mean, single seeds thin, claims dashed."""
    # Nothing moves in figures 7 and 8: they need little room.
    figure, axes = new_figure(3.3, 1.7 if name == "fig07_five_layers" else 2.25)
    draw_claims(axes, name, quantity)
    for turn, split in enumerate(("train", "test")):
        steps, values = curves(name, f"{split}_{quantity}")
        style = STYLES[split] | markers(len(steps), turn, 2)
        axes.plot(steps, values.mean(axis=0), label=split, lw=1.2, **style)
        axes.plot(steps, values.T, color=style["color"], lw=0.4, alpha=0.6)  # the mean is smoother than any seed
    set_range(axes, quantity)
    seeds = [record.seed for record in read_records(name)]
    title += f", {len(seeds)} seeds" if len(seeds) > 1 else f", seed {seeds[0]}"
    n_named = len(axes.get_legend_handles_labels()[0])
    label(figure, title, "training step", YLABELS[quantity], legend_columns=3 if n_named <= 3 else 2)
    return figure


def draw_claims(axes, name, quantity):
    """Draw what the original report claims as dashed lines: its numbers, or the chance level.

    Two numbers of test accuracy, at the end and at its best, would lie on each other: they are one band.
    """
    claimed = {claim.quantity: claim.number for claim in CLAIMS[name]}
    for split, dashes in (("test", (6, 4)), ("train", (2, 2))):
        found = [claimed.get(f"{split}_{quantity}"), claimed.get(f"best_{split}_{quantity}")]
        found = [f"{value:.3g}" for value in found if value is not None]
        what = f"{split}, original report: {' to '.join(found)}"
        if len(found) == 1:
            axes.axhline(float(found[0]), color=GREY, ls=(0, dashes), lw=1, zorder=3, label=what)
        elif found:
            axes.axhspan(*map(float, found), color=GREY, alpha=0.6, lw=0, zorder=3, label=what)
    if "off_chance" in claimed:
        chance = GUESSING[quantity]
        axes.axhline(chance, color=GREY, ls=(0, (6, 4)), lw=1, zorder=3, label=f"chance level: {chance:.3g}")


def set_range(axes, quantity):
    """Let curves fill their axes: accuracies from 0 up, losses as they are, but no rounding and no one collapse."""
    low, high = axes.get_ylim()
    if quantity == "accuracy":
        axes.set_ylim(0, max(high, 0.2))
    elif high - low < 0.1:  # rounding would fill the figure
        axes.set_ylim((low + high) / 2 - 0.1, (low + high) / 2 + 0.1)
    elif high > 20:  # one collapse would flatten all the rest
        axes.set_yscale("log")


def draw_seeds(name, quantity, also):
    """Return a figure of accuracy or loss over the steps with a panel a run: its dips are not averaged away.

    Args:
        also: an experiment of the same run in float32, whose runs follow.
    """
    from matplotlib.ticker import MultipleLocator

    runs = [(f"seed {record.seed},\nbfloat16", record) for record in read_records(name)]
    runs += [(f"seed {record.seed},\nfloat32", record) for record in read_records(also)]
    figure, panels = new_panels(6.5, 1.8 if quantity == "accuracy" else 1.7, 1, len(runs))
    for axes, (_, record) in zip(panels[0], runs, strict=True):
        draw_claims(axes, name, quantity)
        steps = [m["step"] / 1000 for m in record.metrics]
        for split in ("train", "test"):
            style = {"color": STYLES[split]["color"], "ls": STYLES[split]["ls"]}
            axes.plot(steps, [m[f"{split}_{quantity}"] for m in record.metrics], label=split, lw=0.8, **style)
    set_range(panels[0, 0], quantity)
    if quantity == "accuracy":
        panels[0, 0].yaxis.set_major_locator(MultipleLocator(0.2))
    titles = [title for title, _ in runs]
    label_panels(figure, panels, titles, "10³ steps", YLABELS[quantity], legend_columns=4)
    return figure


def draw_gradients():
    """Return a figure of how large an entry of each layer's gradient is over the steps: weights by optimiser.

    From the course's weights under SGD, top left, all but one are so small that that panel has a scale of its own.
    """
    names = {"normal": "the course's weights", "kaiming": "He et al.'s weights", "pytorch": "PyTorch's own weights"}
    figure, panels = new_panels(6.5, 3.4, 2, 3, sharey=False)
    for row, optimizer in zip(panels, ("sgd", "adam"), strict=True):
        for axes, init in zip(row, names, strict=True):
            (record,) = read_records(f"gradients_{init}_{optimizer}")
            steps, weights, biases = gradients(record)
            for layer, (values, colour) in enumerate(zip(weights, LAYER_COLOURS, strict=True), 1):
                axes.plot(steps, values, color=colour, lw=1, label=f"layer {layer}")
            axes.plot(steps, biases[-1], color="black", ls=":", lw=1, label="last layer's bias")
            if optimizer == "adam":
                axes.axhline(AWAKE, color=GREY, ls=(0, (6, 4)), lw=1, label="Adam's ε")
    for axes in panels.flat:
        axes.set_yscale("log")
    for axes in panels.flat[1:]:
        axes.set_ylim(3e-9, 30)
    for axes in panels[:, 2]:  # their scale stands at the panels to their left
        axes.tick_params(labelleft=False)
    for row, optimizer in zip(panels, ("SGD", "Adam"), strict=True):
        row[-1].annotate(
            optimizer, (1.03, 0.5), xycoords="axes fraction", fontsize=FONT_SIZE, rotation=270, va="center"
        )
    label_panels(figure, panels, names.values(), "training step", "r.m.s. of the gradient", legend_columns=4)
    return figure


def draw_waking():
    """Return a figure of the first hundred steps of Adam, for three values of its ε."""
    figure, panels = new_panels(6.5, 2.35, 1, len(ADAM_EPS))
    for axes, eps in zip(panels[0], ADAM_EPS, strict=True):
        (record,) = read_records(f"wake_eps_{eps}")
        steps, weights, biases = gradients(record)
        for layer, (weight, bias, colour) in enumerate(zip(weights, biases, LAYER_COLOURS, strict=True), 1):
            axes.plot(steps, weight, color=colour, lw=1, label=f"weights {layer}")
            axes.plot(steps, bias, color=colour, lw=1, ls=":", label=f"bias {layer}")
        axes.axhline(float(eps), color=GREY, ls=(0, (6, 4)), lw=1, label="ε")
    panels[0, 0].set_yscale("log")
    titles = [rf"$\epsilon = 10^{{{round(math.log10(float(eps)))}}}$" for eps in ADAM_EPS]
    label_panels(figure, panels, titles, "training step", "r.m.s. of the gradient", legend_columns=7)
    return figure


def draw_collapses():
    """Return a figure of the steps around each run's first spike, and of how long steps are all along."""
    found = [(record.seed, steps, spike_steps(steps)[:1]) for record, steps in read_steps("collapses_none")]
    found = [(seed, steps, at) for seed, steps, first in found for at in first if at + 60 <= len(steps["step_lengths"])]
    figure, panels = new_panels(6.5, 2.2, 1, len(found) + 1, sharex=False, sharey=False)
    *close, whole = panels[0]
    for axes, (seed, steps, at) in zip(close, found, strict=True):
        for name, values in steps.items():
            called, dashes, colour = EVERY_STEP[name]
            around = values[at - 31 : at + 60] / np.median(values[at - 101 : at - 1])
            axes.plot(range(-30, 61), around, lw=1, color=colour, ls=dashes, label=called)
        axes.set_title(f"seed {seed}", fontsize=FONT_SIZE)
        axes.set_xlabel(f"steps from {at}", fontsize=FONT_SIZE)
    panels[0, 0].set_ylabel("times the median before", fontsize=FONT_SIZE)
    for (control, called), style in zip(STEP_LENGTHS.items(), STYLES.values(), strict=True):
        (record, steps), *_ = read_steps(f"collapses_{control}")
        every = record.config["flags"]["eval_freq"]
        medians = np.median(steps["step_lengths"].reshape(-1, every), axis=1)
        middles = every * (np.arange(len(medians)) + 0.5)
        whole.plot(middles, medians, label=called, lw=1, **style | markers(len(medians), 0, 1))
    whole.set_title("length of a step", fontsize=FONT_SIZE)
    whole.set_xlabel("training step", fontsize=FONT_SIZE)
    whole.set_ylabel("learning rates", fontsize=FONT_SIZE)
    for axes in panels[0]:
        axes.set_yscale("log")
    for axes in close:
        axes.set_ylim(0.3, 3000)
    for axes in close[1:]:
        axes.tick_params(labelleft=False)
    add_legend(figure, 3)
    return figure


def draw_differences():
    """Return a figure of the error of a finite difference over its step, with the step that the tests take."""
    figure, axes = new_figure(3.3, 2.1)
    for dtype, name, style in ((np.float32, "float32", STYLES["train"]), (np.float64, "float64", STYLES["test"])):
        steps = 2.0 ** np.arange(round(math.log2(np.finfo(dtype).eps)) + 3, 1)
        errors = [relative_error(dtype, h) for h in steps]
        axes.plot(steps, errors, lw=1, label=name, **style | {"marker": "."})
        axes.axvline(chosen_step(dtype), color=GREY, lw=1, ls=":", label="cube root of u")
    axes.set(xscale="log", yscale="log")
    label(figure, "central differences of batch norm", "step h", "relative error", legend_columns=3)
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
    figure, axes = new_figure(3.6, 2.3)
    rates = {float(name.removeprefix("learning_rate_")): name for name in EXPERIMENTS if name.startswith("learning_")}
    rates = dict(sorted((rates | {2e-3: "fig03_mlp_pytorch"}).items()))
    for split in ("train", "test"):
        draw_points(axes, rates, rates.values(), f"{split}_accuracy", label=split, **STYLES[split])
    diverged = [rate for rate, name in rates.items() if numbers(name)["n_diverged"]]
    axes.plot(diverged, [0.02] * len(diverged), "x", color="black", label="diverged")
    axes.axhline(GUESSING["accuracy"], color=GREY, lw=1, ls=":", label="chance level")
    axes.axvline(2e-3, color=GREY, lw=1, ls="-.", label="the course's default")
    axes.set(xscale="log", ylim=(0, 0.6))
    label(figure, "SGD, one hidden layer of 100, 1,500 steps", "learning rate", "accuracy at the end", legend_columns=3)
    return figure


def draw_depths():
    """Return a figure of what SGD reaches in 1,500 steps over the number of hidden layers."""
    figure, axes = new_figure(2.9, 2.35)
    course = [f"depth_{n}_normal" for n in range(5)] + ["fig07_five_layers"]
    for names, whose, style in (
        (course, "weights from N(0, 0.0001²)", STYLES["test"]),
        ([f"depth_{n}_kaiming" for n in range(6)], "He et al.'s weights", STYLES["train"]),
        ([f"depth_{n}_pytorch" for n in range(6)], "PyTorch's own weights", STYLES["validation"]),
    ):
        draw_points(axes, range(6), names, "test_accuracy", label=whose, **style)
    axes.axhline(GUESSING["accuracy"], color=GREY, lw=1, ls=":", label="chance level")
    axes.set_ylim(0, 0.6)
    title = "SGD, learning rate 0.002, 1,500 steps"
    label(figure, title, "hidden layers", "test accuracy", legend_columns=1)
    return figure


def draw_wrong_gradients():
    """Return a figure of the NumPy MLP's test accuracy, trained by its gradients and by wrong ones."""
    figure, axes = new_figure(3.3, 2.1)
    for name, which, turn, style in (
        ("fig01_mlp_numpy", "right", 0, STYLES["test"]),
        ("wrong_bias_averaged", "bias averaged", 1, STYLES["train"]),
        ("wrong_slope_of_wrong_sign", "slope of wrong sign", 2, STYLES["validation"]),
        ("wrong_cross_terms_lost", "cross terms lost: diverges", 0, {"color": "#CC79A7", "ls": "-.", "marker": "D"}),
    ):
        steps, values = curves(name, "test_accuracy")
        axes.plot(steps, values.mean(axis=0), label=which, lw=1.2, **markers(len(steps), turn, 3), **style)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, lw=0)
    axes.set_ylim(0, 0.6)
    label(figure, "NumPy MLP, right and wrong gradients", "training step", "test accuracy")
    return figure


def draw_answers():
    """Return a figure of a ConvNet's first layer, a kernel a square, and of what it takes test images for."""
    from matplotlib.figure import Figure

    (record,) = read_records("answers_convnet")
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    kernels, matrix = figure.subplots(1, 2, width_ratios=(0.75, 1))
    show_weights(kernels, np.array(record.summary["first_layer"], np.float32), n_columns=8)
    show_confusion_matrix(matrix, np.array(record.summary["confusion_matrix"]), CLASSES, FONT_SIZE - 1)
    for axes, title in ((kernels, "first layer, 64 kernels of 3×3"), (matrix, "test images")):
        axes.set_title(title, fontsize=FONT_SIZE)
        axes.tick_params(labelsize=FONT_SIZE)
        axes.xaxis.label.set_fontsize(FONT_SIZE)
        axes.yaxis.label.set_fontsize(FONT_SIZE)
    return figure


def figures():
    """Yield (name, figure) of all that can be drawn from what is recorded."""
    for name, title in RUNS.items():
        if read_records(name):
            for n, quantity in enumerate(("accuracy", "loss"), CLAIMS[name][0].figure):
                if name == "fig11_five_layers_adam_long":
                    figure = draw_seeds(name, quantity, also="precision_five_layers")
                else:
                    figure = draw_run(name, quantity, title)
                yield f"fig{n:02d}_{name.split('_', 1)[1]}_{quantity}", figure
    studies = {  # of the experiments that have its name, and one more
        "learning_rate": (draw_learning_rates, "fig03_mlp_pytorch"),
        "depth": (draw_depths, "fig07_five_layers"),
        "gradients": (draw_gradients, None),
        "wake": (draw_waking, None),
        "collapses": (draw_collapses, None),
        "answers": (draw_answers, None),
        "wrong": (draw_wrong_gradients, "fig01_mlp_numpy"),
    }
    for study, (draw, other) in studies.items():
        if all(read_records(name) for name in EXPERIMENTS if name.startswith(f"{study}_") or name == other):
            yield f"study_{study}", draw()
    yield "study_differences", draw_differences()
