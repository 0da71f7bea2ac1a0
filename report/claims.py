"""What the original report claims, and the rule by which our runs reproduce it.

There must be at least five runs. A claimed number is reproduced if their mean is within a fixed margin of it, a claimed
event if at least 80% of them show it.
"""

import math
import statistics
from itertools import pairwise
from typing import NamedTuple

from report.records import whole_runs

MARGINS = {"accuracy": 0.02, "loss": 0.1}
MIN_RUNS, MIN_SHARE = 5, 0.8
REPRODUCED, NOT_REPRODUCED, TOO_FEW = "reproduced", "not reproduced", "too few runs"

# ---- Measures of a run ---------------------------------------------------------------------------

CHANCE = 0.1  # accuracy of guessing one of ten classes
COLLAPSE = 0.1  # fall of test accuracy from one evaluation to the next
HEAVY_GAP = 0.1  # between training and test accuracy
FLAT = 0.95  # of the highest test accuracy


def measures(metrics):
    """Return `{quantity: number}` of a run from its evaluations, a list of dicts.

    `test_accuracy` and the like are those of the last evaluation. `n_falls`, `n_jumps`, `n_collapses` and the best
    values depend on the number of evaluations. `gap_from` is infinite if the gap stays small.
    """
    accuracy, loss = ([m[key] for m in metrics] for key in ("test_accuracy", "test_loss"))
    gaps = [m["train_accuracy"] - m["test_accuracy"] for m in metrics]
    steps, last = [m["step"] for m in metrics], metrics[-1]
    falls = [before - after for before, after in pairwise(accuracy)]
    train_falls = [before["train_accuracy"] - after["train_accuracy"] for before, after in pairwise(metrics)]
    return {
        **{key: value for key, value in last.items() if key.endswith(("_loss", "_accuracy"))},
        "best_test_accuracy": max(accuracy),
        "best_step": steps[accuracy.index(max(accuracy))],
        "best_train_accuracy": max(m["train_accuracy"] for m in metrics),
        "least_test_loss": min(loss),
        "first_train_loss": metrics[0]["train_loss"],
        "loss_change": max(abs(value - loss[0]) for value in loss),
        "off_chance": abs(accuracy[-1] - CHANCE),
        "accuracy_gap": gaps[-1],
        "loss_gap": last["test_loss"] - last["train_loss"],
        "gap_from": next((step for step, gap in zip(steps, gaps, strict=True) if gap >= HEAVY_GAP), math.inf),
        "flat_from": next(step for step, value in zip(steps, accuracy, strict=True) if value >= FLAT * max(accuracy)),
        "test_fall": max(falls, default=0.0),
        "train_fall": max(train_falls, default=0.0),
        "n_falls": sum(fall >= MARGINS["accuracy"] for fall in falls),
        "n_jumps": sum(after - before >= MARGINS["loss"] for before, after in pairwise(loss)),
        "n_collapses": sum(fall >= COLLAPSE for fall in falls),
    }


def measured(name):
    """Return the `measures` of the recorded runs of an experiment that did not diverge."""
    return [measures(record.metrics) for record in whole_runs(name)]


# ---- Claims --------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """One claim of the original report.

    Attributes:
        figure: its number there.
        says: the claim, in words.
        quantity: a key of `measures`.
        relation: 'about' for a number, 'at least' or 'at most' for an event.
        expected: a number, or the name of an experiment whose mean is taken.
    """

    figure: int
    says: str
    quantity: str
    relation: str
    expected: float | str

    @property
    def bound(self):
        if isinstance(self.expected, str):
            return statistics.mean(run[self.quantity] for run in measured(self.expected))
        return self.expected

    @property
    def margin(self):
        """How far from a claimed number a mean may be; None for events."""
        return MARGINS[self.quantity.rsplit("_", 1)[1]] if self.relation == "about" else None

    def is_shown(self, value):
        """Return whether a run with this value has the claimed number, within the margin, or shows the event."""
        if self.relation == "about":
            return abs(value - self.bound) <= self.margin
        return value >= self.bound if self.relation == "at least" else value <= self.bound


def judge(claim, runs):
    """Return `REPRODUCED`, `NOT_REPRODUCED` or `TOO_FEW`.

    Args:
        runs: list of `measures`.
    """
    values = [run[claim.quantity] for run in runs]
    if len(values) < MIN_RUNS:
        return TOO_FEW
    if claim.relation == "about":
        return REPRODUCED if claim.is_shown(statistics.mean(values)) else NOT_REPRODUCED
    return REPRODUCED if sum(map(claim.is_shown, values)) >= MIN_SHARE * len(values) else NOT_REPRODUCED


NUMPY, PYTORCH = "fig01_mlp_numpy", "fig03_mlp_pytorch"
COMBINED = (
    Claim(11, "test accuracy peaks at 0.54", "best_test_accuracy", "about", 0.54),
    Claim(11, "accuracies drift apart heavily after few steps", "gap_from", "at most", 5000),
    Claim(11, "training accuracy over 0.95 at step 50,000", "train_accuracy", "at least", 0.95),
    Claim(11, "test accuracy about 0.53 at step 50,000", "test_accuracy", "about", 0.53),
)
CLAIMS = {
    NUMPY: (
        Claim(1, "test accuracy about 0.46", "test_accuracy", "about", 0.46),
        Claim(1, "accuracies drift apart", "accuracy_gap", "at least", 0.02),
        Claim(2, "test loss about 1.6", "test_loss", "about", 1.6),
        Claim(2, "losses drift apart", "loss_gap", "at least", 0.1),
    ),
    PYTORCH: (
        Claim(3, "test accuracy as in figure 1", "test_accuracy", "about", NUMPY),
        Claim(3, "test accuracy flattens quickly", "flat_from", "at most", 1000),
        Claim(4, "test loss as in figure 2", "test_loss", "about", NUMPY),
    ),
    "fig05_adam": (
        Claim(5, "accuracy dips at many evaluations", "n_falls", "at least", 3),
        Claim(6, "loss jumps at many evaluations", "n_jumps", "at least", 3),
    ),
    "fig07_five_layers": (
        Claim(7, "accuracy as good as random", "off_chance", "at most", 0.01),
        Claim(8, "loss barely decreases", "loss_change", "at most", 0.01),
    ),
    "fig09_long": (
        Claim(9, "test accuracy not above figure 3, at the end", "test_accuracy", "at most", PYTORCH),
        Claim(9, "test accuracy not above figure 3, at the peak", "best_test_accuracy", "at most", PYTORCH),
    ),
    "fig11_five_layers_adam_long": COMBINED,
    "course_fig11": COMBINED,
    "fig13_convnet": (
        Claim(13, "test accuracy about 0.76", "test_accuracy", "about", 0.76),
        Claim(13, "test accuracy much higher than the MLP's", "test_accuracy", "at least", 0.56),
        Claim(14, "test loss about 0.75", "test_loss", "about", 0.75),
    ),
}

# ---- Where one more run is expected --------------------------------------------------------------

# Two-sided quantiles of Student's t for 1, 2, … degrees of freedom; for more than 30, that of 30, which is wider.
# fmt: off
STUDENT_T = {
    0.95: (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
           2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
    0.99: (63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947,
           2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750),
}
# fmt: on


def interval(values, confidence):
    """Return the prediction interval for one more value: its ends, and a description of where they come from.

    It is mean ∓ t · s · √(1 + 1/n), for normally distributed values. The training checks use 99%, so that about one
    in a hundred right answers fails by chance.

    Args:
        values: one per run, at least two.
        confidence: 0.95 or 0.99.
    """
    n, quantiles = len(values), STUDENT_T[confidence]
    mean, sd = statistics.mean(values), statistics.stdev(values)
    half = quantiles[min(n - 2, len(quantiles) - 1)] * sd * math.sqrt(1 + 1 / n)
    text = f"{n} recorded runs, {mean:.4g} ± {sd:.2g}; {confidence:.0%} prediction interval"
    return mean - half, mean + half, text
