"""Holds a run that a training script wrote against the recorded runs of the same experiment."""

import itertools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grading import pages
from grading.runs import MIN_RUNS, interval, read_runs
from grading.scheme import FILES
from run_folder import RunError, read_metrics

# Flags that change no number that is compared, or that every run has of its own.
FREE_FLAGS = {
    "seed", "out_dir", "data_dir", "quiet", "dataset", "eval_freq", "train_eval_size", "device", "precision", "resume",
    "synthetic_size", "compile", "tensorboard", "pictures",
}  # fmt: skip
RUN_FILES = ("config.json", "metrics.jsonl")
MAX_FILE_BYTES = 4 << 20  # 500 evaluations have 0.1 MB
N_LATE = 10  # evaluations at a run's end


class RunRefusedError(Exception):
    """The run cannot be held against the report; the message says why, and what to do."""


@dataclass(frozen=True)
class Claim:
    """What the report says of a figure.

    Attributes:
        figure: its number.
        says: the claim, in the report's words.
        quantity: takes a run's evaluations, returns the number that it is about.
        possible: the lowest and the highest that this can be.
        guess: what it is where a network guesses, or None where the claim holds of that too.
        side: 'at least' or 'at most', where the claim is about one side.
        of: the experiment from whose runs the tolerance comes, where it is another.
        is_ratio: whether the quantity spreads by factors, so that its logarithm is what is averaged.
        least: half width of the tolerance at the least, where the recorded runs hardly differ; with its reason.
    """

    figure: int
    says: str
    quantity: Callable
    possible: tuple = (0, 1)
    guess: float | None = 0.1
    side: str = ""
    of: str = ""
    is_ratio: bool = False
    least: float = 0.0
    reason: str = ""


@dataclass
class Row:
    """A claim held against a run: its number, and what was expected."""

    figure: int
    says: str
    low: float
    high: float
    side: str
    tolerance: str
    decides: bool
    value: float

    @property
    def passed(self):
        return self.decides and self.low <= self.value <= self.high

    @property
    def verdict(self):
        """'pass', 'fail' or 'undecided'."""
        return "undecided" if not self.decides else "pass" if self.passed else "fail"

    @property
    def expected(self):
        bounds = {"at least": f"at least {self.low:.4f}", "at most": f"at most {self.high:.4f}"}
        return bounds.get(self.side, f"{self.low:.4f} to {self.high:.4f}")


def last(key):
    return lambda metrics: metrics[-1][key]


def best(key):
    return lambda metrics: max(m[key] for m in metrics)


def gap(metrics):
    return metrics[-1]["train_accuracy"] - metrics[-1]["test_accuracy"]


def falls(metrics):
    """All that test accuracy loses from one evaluation to the next, added up."""
    return sum(max(0.0, a["test_accuracy"] - b["test_accuracy"]) for a, b in itertools.pairwise(metrics))


def worst_loss(metrics):
    """The highest test loss after the first step."""
    return max(m["test_loss"] for m in metrics[1:])


def gain_after_a_fifth(metrics):
    """By how much the mean test accuracy of the last fifth exceeds that of the second tenth."""
    n = len(metrics)
    accuracy = [m["test_accuracy"] for m in metrics]
    return float(np.mean(accuracy[-max(1, n // 5) :]) - np.mean(accuracy[n // 10 : max(n // 5, n // 10 + 1)]))


def loss_moved(metrics):
    return metrics[0]["test_loss"] - metrics[-1]["test_loss"]


_GUESS = 3 * math.sqrt(0.1 * 0.9 / 10_000)
_LOSS = {"possible": (0, math.inf), "guess": math.log(10)}
_PART = {"possible": (-1, 1), "guess": 0, "side": "at least"}


def _default_claims(figure):
    return (
        Claim(figure, "test accuracy about 0.46", last("test_accuracy")),
        Claim(figure, "train and test accuracy part as steps grow", gap, **_PART),
        Claim(figure + 1, "test loss about 1.6", last("test_loss"), **_LOSS),
    )


CLAIMS = {
    "fig01_mlp_numpy": _default_claims(1),
    "fig03_mlp_pytorch": _default_claims(3),
    "fig05_adam": (
        Claim(5, "accuracy dips at many evaluations (sum of its falls)", falls,
              possible=(0, math.inf), guess=0, side="at least", is_ratio=True),
        Claim(5, "test accuracy at the end", last("test_accuracy")),
        Claim(6, "loss jumps (highest test loss)", worst_loss, **_LOSS, side="at least", is_ratio=True),
    ),
    "fig07_five_layers": (
        Claim(7, "accuracy as good as random", last("test_accuracy"), guess=None, least=_GUESS,
              reason="at least 3 standard errors of guessing 10,000 images"),
        Claim(8, "loss barely moves (first less last)", loss_moved, possible=(-math.inf, math.inf), guess=None,
              least=1e-3, reason="at least 0.001, which no figure shows"),
    ),
    "fig09_long": (
        Claim(9, "no better test accuracy than figure 3", last("test_accuracy"),
              guess=None, side="at most", of="fig03_mlp_pytorch"),
        Claim(9, "it flattens early (last fifth less second tenth)", gain_after_a_fifth,
              possible=(-1, 1), guess=None, side="at most"),
        Claim(10, "test loss at the end", last("test_loss"), **_LOSS, is_ratio=True),
    ),
    "fig11_five_layers_adam_long": (
        Claim(11, "test accuracy peaks at 0.54", best("test_accuracy")),
        Claim(11, "and ends about 0.53", last("test_accuracy")),
        Claim(11, "highest train accuracy over 0.95", best("train_accuracy"), side="at least"),
        Claim(12, "test loss at the end", last("test_loss"), **_LOSS, is_ratio=True),
    ),
    "fig13_convnet": (
        Claim(13, "test accuracy about 0.76", last("test_accuracy")),
        Claim(13, "train and test accuracy part as steps grow", gap, **_PART),
        Claim(14, "test loss about 0.75", last("test_loss"), **_LOSS),
    ),
}  # fmt: skip


def is_run(path):
    """Return whether `path` is a folder that a training script has begun, and holds none of the course's files."""
    return all((path / name).is_file() for name in RUN_FILES) and not any((path / name).exists() for name in FILES)


def hold_run(path, folder):
    """Hold a run against the report, print the table and write report.html. Return whether it could be done."""
    try:
        experiment, metrics, rows = grade_run(path)
        print(pages.run_table(path, experiment, rows))
        folder.mkdir(parents=True, exist_ok=True)
        pages.write_text(folder / "report.html", pages.run_page(path, experiment, metrics, rows))
    except (RunRefusedError, OSError) as error:
        print(f"grade.py: error: {pages.printable(error)[:500]}", file=sys.stderr)
        return False
    print(f"curves: {folder / 'report.html'}\n")
    return True


def grade_run(path):
    """Return the experiment's name, the run's evaluations, and a `Row` for each claim.

    Raises:
        RunRefusedError: a synthetic run, an incomplete or damaged one, or one of other flags.
    """
    try:
        return _grade_run(Path(path))
    except RunRefusedError:
        raise
    except RunError as error:
        raise RunRefusedError(str(error)) from error
    except Exception as error:  # its files are somebody else's, and may hold anything
        raise RunRefusedError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): train again") from error


def _grade_run(path):
    for name in RUN_FILES:
        if (size := (path / name).stat().st_size) > MAX_FILE_BYTES:
            raise ValueError(f"{name} has {size:,} bytes, a run's has at most {MAX_FILE_BYTES:,}")
    config = json.loads((path / "config.json").read_text())
    flags, is_synthetic = config["flags"], config["dataset"]["is_synthetic"]
    metrics = read_metrics(path)
    for m in metrics:
        for name in {"train_accuracy", "test_accuracy", "train_loss", "test_loss"} & m.keys():
            if type(m[name]) not in (int, float) or not math.isfinite(m[name]):
                raise ValueError(f"{name} at step {m['step']} is {m[name]!r}, a run's are numbers")
    if is_synthetic:
        raise RunRefusedError(
            f"{path} was trained on synthetic images, of which the report says nothing: train with --dataset cifar10"
        )
    experiment = match(path, flags)
    if not metrics or metrics[-1].get("step") != flags.get("max_steps"):
        step = metrics[-1].get("step") if metrics else 0
        raise RunRefusedError(
            f"{path} is at step {step} of {flags.get('max_steps')}: go on with {flags.get('script')}.py --resume {path}"
        )
    rows = []
    for claim in CLAIMS[experiment]:
        value = float(claim.quantity(metrics))
        rows.append(Row(claim.figure, claim.says, *_tolerance(claim, read_runs(claim.of or experiment)), value))
    return experiment, metrics, rows


def _tolerance(claim, recorded):
    """Return the lowest and the highest expected, the side, how that was found, and whether it decides anything."""
    transform, back = (math.log, math.exp) if claim.is_ratio else (float, float)
    values, late = [transform(claim.quantity(run.metrics)) for run in recorded], []
    for run in recorded if len(recorded) < MIN_RUNS else ():
        ends = range(max(3, len(run.metrics) - N_LATE + 1), len(run.metrics) + 1)
        late.append([transform(claim.quantity(run.metrics[:end])) for end in ends])
    low, high, text = interval(values, late)
    middle = (low + high) / 2
    if high - middle < claim.least:
        low, high, text = middle - claim.least, middle + claim.least, f"{text}; {claim.reason}"
    low, high, (lowest, highest) = back(low), back(high), claim.possible
    low = lowest if claim.side == "at most" else max(low, lowest)
    high = highest if claim.side == "at least" else min(high, highest)
    text += ", of its logarithm" * claim.is_ratio + f", of {claim.of}" * bool(claim.of)
    # Where a network that guesses would pass, a pass says nothing.
    decides = (low, high) != claim.possible if claim.guess is None else not low <= claim.guess <= high
    if not decides:
        text += "; the recorded runs differ so much that this decides nothing"
    return low, high, claim.side, text, decides


def match(path, flags):
    """Return the experiment whose recorded runs have these flags.

    Raises:
        RunRefusedError: there is none; the message names the nearest and what differs.
    """
    nearest = None
    for experiment in CLAIMS:
        recorded = read_runs(experiment)
        if not recorded or recorded[0].config["flags"]["script"] != flags.get("script"):
            continue
        theirs = recorded[0].config["flags"]
        differing = [k for k in theirs if k in flags and k not in FREE_FLAGS and flags[k] != theirs[k]]
        if not differing:
            return experiment
        if nearest is None or len(differing) < len(nearest[1]):
            nearest = experiment, differing, theirs
    if nearest is None:
        raise RunRefusedError(f"{path} is a run of {flags.get('script')}.py, of which the report has no figure")
    experiment, differing, theirs = nearest
    difference = ", ".join(f"--{k} {flags[k]} for {theirs[k]}" for k in differing)
    raise RunRefusedError(
        f"{path} has the flags of no figure, and is held against none; nearest is {experiment}, with {difference}"
    )
