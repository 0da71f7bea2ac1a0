"""How the five-layer network wakes up and how it collapses: what recorded gradients and single steps show."""

import numpy as np

from report.claims import CLAIMS, collapses, measures
from report.records import ADAM_EPS, INITS, read_records, whole_runs

AWAKE = 1e-8  # Adam's ε by default, which the gradients of a network that learns are above
BETA2 = 0.999  # Adam's by default
EARLY, LATE = slice(400, 500), slice(-100, None)  # steps of which lengths are compared
SPIKE = 10  # times the median of the 100 gradients before it: what a collapse begins with

# Figure 11's run in each configuration.
LONG_RUNS = {
    "the course's weights, bfloat16": "fig11_five_layers_adam_long",
    "the course's weights": "precision_five_layers",
    "PyTorch's own weights": "pytorch_fig11",
    "He et al.'s weights": "kaiming_fig11",
    "standardised pixels": "standardize_fig11",
}
COURSES_AND_PYTORCHS = ("fig11_five_layers_adam_long", "precision_five_layers", "pytorch_fig11")
LONG_AFTER = 5_000  # steps after the last collapse
# Its first 5,000 steps in float32, with one change each.
CONTROLS = {
    "none": "collapses_none",
    "He et al.'s weights": "collapses_kaiming",
    "standardised pixels": "collapses_standardize",
    "learning rate 2e-4, not 2e-3": "collapses_rate_2e-4",
    "gradient's norm at most 1": "collapses_clip_1",
    "Adam's ε 1e-4, not 1e-8": "collapses_eps_1e-4",
    "Adam's ε 1e-16": "collapses_eps_1e-16",
    "Adam's β₂ 0.99, not 0.999": "collapses_beta2_0.99",
}
# Those of which every step is recorded, and what they are called in the figure of the lengths of their steps.
STEP_LENGTHS = {"none": "the course's weights", "kaiming": "He et al.'s weights", "standardize": "standardised pixels"}
# Of spikes, digits behind the point; what each number is stands at `spikes`.
SPIKE_DIGITS = {
    "gradient": 0,
    "length": 1,
    "next_gradient": 1,
    "next_loss": 1,
    "highest_loss": 1,
    "usual": 2,
    "again": 0,
    "hundredfold": 0,
    "shorter": 3,
    "foretold": 2,
}


def gradients(record):
    """Return the steps of a run's evaluations but the first, and of each layer's weights and bias the gradients there.

    They are root mean squares over the entries, which is what Adam's ε is to be compared with: (n_layers, n_steps).
    """
    sizes = [3072, *record.config["flags"]["dnn_hidden_units"], 10]
    metrics = record.metrics[1:]  # before the first step there is no gradient
    found = []
    for name, n_entries in (("weight", np.multiply(sizes[:-1], sizes[1:])), ("bias", np.array(sizes[1:]))):
        norms = [[m[f"{name}_{layer}_gradient"] for m in metrics] for layer in range(1, len(sizes))]
        found.append(np.array(norms) / np.sqrt(n_entries)[:, None])
    return [m["step"] for m in metrics], *found


def gradient_numbers():
    """Return what the recorded gradients show, in numbers.

    `wake.1e-8` is the step at which the weights' gradients of all layers have come above `AWAKE` with an ε of 1e-8;
    `gradients.least_ratio` by how much, under SGD, those from other initial weights are larger than from the course's;
    `gradients.last.first` and `late` the gradient of the last layer's weights at the first step and the largest one in
    the second half of 2,000 steps of SGD, from the course's.
    """
    found = {}
    for eps in ADAM_EPS:
        for record in read_records(f"wake_eps_{eps}"):
            steps, weights, _ = gradients(record)
            above = (weights >= AWAKE).all(axis=0)
            if above.any():
                found[f"wake.{eps}"] = str(steps[above.argmax()])
            found["gradients.last.first"] = f"{weights[-1, 0]:.0e}"  # before a step, and so with any ε
    normal, *others = (read_records(f"gradients_{init}_sgd") for init in INITS)
    if normal and all(others):
        _, weights, _ = gradients(normal[0])
        ratios = [gradients(other)[1] / weights for (other,) in others]
        digits, exponent = f"{np.min(ratios):e}".split("e")
        found["gradients.least_ratio"] = f"{digits[0]}e{int(exponent)}"  # rounded down: it is at least that
        late = f"{weights[-1, weights.shape[1] // 2 :].max():e}".split("e")
        found["gradients.last.late"] = f"{np.ceil(float(late[0])):.0f}e{late[1]}"  # rounded up: it is at most that
    return found


def read_steps(name):
    """Return (record, steps) of the whole runs of an experiment with `--every_step`.

    The steps are `{'gradient_norms': array, …}`, in which the first value is of step 1.
    """
    names = ("batch_losses", "gradient_norms", "step_lengths")
    return [
        (record, {name: np.concatenate([m[name] for m in record.metrics[1:]]) for name in names})
        for record in whole_runs(name)
    ]


def spike_steps(steps):
    """Return the steps after 500, where the network has long woken up, with a `SPIKE`."""
    norms = steps["gradient_norms"]
    if len(norms) <= 500:
        return []
    usual = np.median(np.lib.stride_tricks.sliding_window_view(norms[400:-1], 100), axis=1)
    return [int(step) for step in 501 + np.flatnonzero(norms[500:] >= SPIKE * usual)]


def from_step(at, steps):
    """Return what `steps` holds from step `at` on, over the medians of the 100 steps before it, and these medians."""
    usual = {name: np.median(values[at - 101 : at - 1]) for name, values in steps.items()}
    return {name: values[at - 1 :] / usual[name] for name, values in steps.items()}, usual


def foretold_lengths(steps):
    """Return each gradient's norm over the root of Adam's average of such squares: how long that alone makes a step."""
    average, found = 0.0, []
    for step, norm in enumerate(steps["gradient_norms"], 1):
        average = BETA2 * average + (1 - BETA2) * norm**2
        found.append(norm / np.sqrt(average / (1 - BETA2**step)))
    return np.array(found)


def spikes(runs):
    """Return what the first spikes of runs from `read_steps` were like, `{key of SPIKE_DIGITS: [value, …]}`.

    Over the medians of the 100 steps before: the gradient, the step's length, gradient and loss of the batch after it,
    and the highest loss of the 60 after it. `usual` is that median of lengths, in learning rates, and `again` the
    number of steps until the next spike. Of runs that collapse, too: `hundredfold`, the number of steps until a loss
    is that; `shorter`, the median length from 500 to 1,000 steps after it over the usual one; and what the gradients'
    norms have `foretold` of that.
    """
    seen = {quantity: [] for quantity in SPIKE_DIGITS}
    for record, steps in runs:
        at, *others = spike_steps(steps) or [None]
        if at is None:
            continue
        times, usual = from_step(at, steps)
        norms, losses, lengths = (times[name] for name in ("gradient_norms", "batch_losses", "step_lengths"))
        seen["gradient"].append(norms[0])
        seen["length"].append(lengths[0])
        seen["usual"].append(usual["step_lengths"])
        seen["again"] += [step - at for step in others[:1]]
        if len(norms) > 1:
            seen["next_gradient"].append(norms[1])
            seen["next_loss"].append(losses[1])
            seen["highest_loss"].append(losses[1:61].max())
        if collapses(record.metrics) and len(lengths) >= 1000:
            seen["hundredfold"] += list(np.flatnonzero(losses >= 100)[:1])
            seen["shorter"].append(np.median(lengths[500:1000]))
            foretold = foretold_lengths(steps)
            seen["foretold"].append(np.median(foretold[at + 499 : at + 999]) / np.median(foretold[at - 101 : at - 1]))
    return seen


def collapse_numbers():
    """Return what the runs of 5,000 steps show of collapses, in numbers.

    `thinned.peak` is how much lower at most a peak is where every fifth evaluation alone counts. `spike.none.n` is how
    many of the unchanged runs have a spike, and `spike.none.gradient` and so on are those of `spikes`.
    `steps.none.early` and `late` are the median lengths of steps 401 to 500 and of the last 100, `growth` is the second
    over the first, and `foretold` what of that the gradients' norms foretell. `second.before` and so on are those of
    `second_collapse`.
    """
    peaks = [[m["test_accuracy"] for m in r.metrics] for name in CONTROLS.values() for r in read_records(name)]
    found = {"thinned.peak": f"{max(max(accuracy) - max(accuracy[::5]) for accuracy in peaks):.3f}"} if peaks else {}
    for control in STEP_LENGTHS:
        runs = read_steps(f"collapses_{control}")
        seen = spikes(runs)
        found[f"spike.{control}.n"] = str(len(seen["gradient"]))
        for quantity, digits in SPIKE_DIGITS.items():
            found |= ends(f"spike.{control}.{quantity}", seen[quantity], digits)
        early, late = ([np.median(steps["step_lengths"][part]) for _, steps in runs] for part in (EARLY, LATE))
        found |= ends(f"steps.{control}.early", early, 3) | ends(f"steps.{control}.late", late, 3)
        found |= ends(f"steps.{control}.growth", np.divide(late, early), 0)
        foretold = [foretold_lengths(steps) for _, steps in runs]
        growth = [np.median(lengths[LATE]) / np.median(lengths[EARLY]) for lengths in foretold]
        found |= ends(f"steps.{control}.foretold", growth, 0)
        if control == "none":
            found |= second_collapse(runs)
    return found


def long_run_numbers():
    """Return when long runs collapse and peak and what they end at, in numbers.

    `early.NAME` is how many of an experiment's runs peak early, and `first.NAME` the evaluations that show their first
    collapses; `first.peaks_early` and `first.peaks_late` are these of the runs that do and do not, of those from
    `COURSES_AND_PYTORCHS` weights. `end.long_after` is the test accuracy at the end of the runs whose last collapse was
    more than `LONG_AFTER` steps before it, and `end.soon_after` that of the others that collapse.
    """
    (peaks_early,) = (claim for claim in CLAIMS["fig11_five_layers_adam_long"] if claim.quantity == "best_step")
    found, first, end = {}, {"peaks_early": [], "peaks_late": []}, {"long_after": [], "soon_after": []}
    for name in LONG_RUNS.values():
        runs = [(r.metrics[-1], collapses(r.metrics), measures(r.metrics)["best_step"]) for r in whole_runs(name)]
        found[f"early.{name}"] = str(sum(peaks_early.happens(best_step) for *_, best_step in runs))
        collapsed = [run for run in runs if run[1]]
        found |= ends(f"first.{name}", [steps[0] for _, steps, _ in collapsed], 0)
        for last, steps, best_step in collapsed:
            long_after = last["step"] - steps[-1] > LONG_AFTER
            end["long_after" if long_after else "soon_after"].append(last["test_accuracy"])
            if name in COURSES_AND_PYTORCHS:
                first["peaks_early" if peaks_early.happens(best_step) else "peaks_late"].append(steps[0])
    for group, seen, digits in (("first", first, 0), ("end", end, 3)):
        for kind, values in seen.items():
            found |= {f"{group}.{kind}.n": str(len(values))} | ends(f"{group}.{kind}", values, digits)
    return found


def second_collapse(runs):
    """Return numbers of the one second collapse in some runs from `read_steps`, or none of several or none.

    Test accuracy `before` and after it, and of the longest step between the two evaluations, as in `spikes`: the
    gradient, the step's `length`, the highest loss. Longest is over the usual length.
    """
    seconds = [(record, steps, step) for record, steps in runs for step in collapses(record.metrics)[1:]]
    if len(seconds) != 1:
        return {}
    ((record, steps, step),) = seconds
    accuracy = {m["step"]: m["test_accuracy"] for m in record.metrics}
    every = record.config["flags"]["eval_freq"]
    at = max(range(step - every + 1, step + 1), key=lambda i: from_step(i, steps)[0]["step_lengths"][0])
    times, _ = from_step(at, steps)
    return {
        "second.before": f"{accuracy[step - every]:.3f}",
        "second.after": f"{accuracy[step]:.3f}",
        "second.gradient": f"{times['gradient_norms'][0]:.1f}",
        "second.length": f"{times['step_lengths'][0]:.0f}",
        "second.highest_loss": f"{times['batch_losses'][1:61].max():.1f}",
    }


def ends(name, values, digits):
    """Return `{'name.min': text, 'name.max': text}` of some values, or nothing of none."""
    return {f"{name}.{end.__name__}": f"{end(values):.{digits}f}" for end in (min, max)} if len(values) else {}
