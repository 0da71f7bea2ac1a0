"""What the original report claims, and the one rule by which runs are held against it.

A claimed number holds where it lies in the 95% interval for one more run of ours. Where it does, but all our runs lie
on one side of it, they are too few to tell, and it is undecided. A claimed event holds in k of n runs.
"""

import math
import statistics
from itertools import pairwise
from typing import NamedTuple

from report.records import whole_runs

# Two-sided quantiles of Student's t for 1, 2, … degrees of freedom; of more than 30, that of 30, which is wider.
# fmt: off
STUDENT_T = {
    0.95: (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
           2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
    0.99: (63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947,
           2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750),
}
# fmt: on


def prediction_interval(values, confidence=0.95):
    """Return where one more value is expected: mean ∓ t · s · √(1 + 1/n), Student's interval for a new observation.

    It takes the values for normally distributed. Of one value it is all numbers.

    Args:
        values: one a run, at least one.
        confidence: a key of `STUDENT_T`.
    """
    n, mean = len(values), statistics.mean(values)
    if n == 1:
        return -math.inf, math.inf
    quantiles = STUDENT_T[confidence]
    half = quantiles[min(n - 2, len(quantiles) - 1)] * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


# ---- What is measured of a run -------------------------------------------------------------------

CHANCE = 0.1  # accuracy of guessing one of ten classes
# From one evaluation to the next: falls of test accuracy, small and large, and a rise of test loss.
DIP, COLLAPSE, JUMP = 0.02, 0.1, 0.1
FLAT = 0.95  # of the highest test accuracy: where it first comes so near, a curve flattens


def collapses(metrics):
    """Return the steps of the evaluations whose test accuracy is `COLLAPSE` or more below that of the one before."""
    return [
        after["step"]
        for before, after in pairwise(metrics)
        if before["test_accuracy"] - after["test_accuracy"] >= COLLAPSE
    ]


def measures(metrics):
    """Return what a run gave, `{quantity: number}`, from its evaluations.

    `test_accuracy` and the like are of the last evaluation; dips, jumps and peaks depend on how often it is evaluated.
    """
    accuracy, loss = ([m[key] for m in metrics] for key in ("test_accuracy", "test_loss"))
    steps = [m["step"] for m in metrics]
    last = {key: value for key, value in metrics[-1].items() if key.endswith(("_loss", "_accuracy"))}
    if "validation_accuracy" in last:
        last["validation_gap"] = last["train_accuracy"] - last["validation_accuracy"]
    return last | {
        "best_test_accuracy": max(accuracy),
        "best_train_accuracy": max(m["train_accuracy"] for m in metrics),
        "least_test_loss": min(loss),
        "loss_change": max(abs(value - loss[0]) for value in loss),
        "off_chance": abs(accuracy[-1] - CHANCE),
        "gap": metrics[-1]["train_accuracy"] - accuracy[-1],
        "n_falls": sum(before - after >= DIP for before, after in pairwise(accuracy)),
        "n_jumps": sum(after - before >= JUMP for before, after in pairwise(loss)),
        "n_collapses": len(collapses(metrics)),
        "first_train_loss": metrics[0]["train_loss"],
        "flat_from": next(step for step, value in zip(steps, accuracy, strict=True) if value >= FLAT * max(accuracy)),
        "best_step": steps[accuracy.index(max(accuracy))],
    }


def measured(name):
    """Return the `measures` of an experiment's recorded runs, but for those that diverged, in the order of seeds."""
    return [measures(record.metrics) for record in whole_runs(name)]


# ---- Claims ----------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """One claim of the original report.

    Attributes:
        figure: its number.
        says: the claim, in words.
        quantity: that it is about, a key of `measures`.
        relation: 'about' a number, or an event: 'at least' or 'at most' one.
        number: of the original report where it gives one; else what the words are taken to mean. None where it is the
            upper end of the interval for one more run of the experiment `of`.
    """

    figure: int
    says: str
    quantity: str
    relation: str
    number: float | None
    of: str = ""

    @property
    def bound(self):
        if self.number is not None:
            return self.number
        return prediction_interval([run[self.quantity] for run in measured(self.of)])[1]

    def happens(self, value):
        """Return whether a run with this value shows the event."""
        return value >= self.bound if self.relation == "at least" else value <= self.bound


def _defaults(figure):
    return (
        Claim(figure, "test accuracy about 0.46", "test_accuracy", "about", 0.46),
        Claim(figure, "train and test accuracy part", "gap", "at least", 0.01),
        Claim(figure + 1, "test loss about 1.6", "test_loss", "about", 1.6),
    )


# Many: a fifth of 15 evaluations; early: the first fifth of 50,000 steps.
CLAIMS = {
    "fig01_mlp_numpy": _defaults(1),
    "fig03_mlp_pytorch": _defaults(3),
    "fig05_adam": (
        Claim(5, "accuracy dips at many evaluations", "n_falls", "at least", 3),
        Claim(6, "loss jumps at many evaluations", "n_jumps", "at least", 3),
    ),
    "fig07_five_layers": (
        Claim(7, "accuracy as good as random", "off_chance", "at most", 0.01),
        Claim(8, "loss barely moves", "loss_change", "at most", 0.01),
    ),
    "fig09_long": (
        Claim(9, "no better test accuracy than figure 3", "test_accuracy", "at most", None, "fig03_mlp_pytorch"),
        Claim(9, "flattens early", "flat_from", "at most", 10_000),
    ),
    "fig11_five_layers_adam_long": (
        Claim(11, "test accuracy peaks at about 0.54", "best_test_accuracy", "about", 0.54),
        Claim(11, "peaks early", "best_step", "at most", 10_000),
        Claim(11, "ends about 0.53", "test_accuracy", "about", 0.53),
        Claim(11, "train accuracy over 0.95", "best_train_accuracy", "at least", 0.95),
    ),
    "fig13_convnet": (
        Claim(13, "test accuracy about 0.76", "test_accuracy", "about", 0.76),
        Claim(14, "test loss about 0.75", "test_loss", "about", 0.75),
    ),
}

HOLDS, UNDECIDED, FAILS = "holds", "undecided", "does not hold"


def judge(claim, runs):
    """Return what runs say of a claim: `HOLDS`, `UNDECIDED` or `FAILS`; of an event 'k of n'.

    Args:
        claim: a `Claim`.
        runs: their `measures`, a list.
    """
    values = [run[claim.quantity] for run in runs]
    if claim.relation != "about":
        return f"{sum(claim.happens(value) for value in values)} of {len(values)}"
    low, high = prediction_interval(values)
    if not low <= claim.number <= high:
        return FAILS
    half_a_digit = 0.5 * 10 ** -len(f"{claim.number}".split(".")[1])  # what is claimed is a rounded number
    if max(values) < claim.number - half_a_digit or min(values) > claim.number + half_a_digit:
        return UNDECIDED
    return HOLDS


def is_borne_out(claim, runs):
    """Return whether a claimed number holds, or a claimed event in every run."""
    return judge(claim, runs) in (HOLDS, f"{len(runs)} of {len(runs)}")
