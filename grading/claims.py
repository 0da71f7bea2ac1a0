"""Holds a run that a training script wrote against the report: its claims, and the recorded runs of the same flags."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from grading import pages
from grading.runs import interval, read_runs
from grading.scheme import FILES
from report.claims import CLAIMS, UNDECIDED, is_borne_out, judge, measures
from training.files import RunError, read_metrics, write_text

# Flags that change no number that is compared, or that every run has of its own.
FREE_FLAGS = {
    "seed", "out_dir", "data_dir", "quiet", "dataset", "device", "precision", "resume",
    "synthetic_size", "compile", "tensorboard", "pictures",
}  # fmt: skip
# Flags that the scripts have had since these runs were recorded, with the values by which they change nothing.
SINCE = {"whiten": 0, "shift": 4, "alternate": False}
RUN_FILES = ("config.json", "metrics.jsonl")
MAX_FILE_BYTES = 4 << 20  # 500 evaluations have 0.1 MB


@dataclass
class Row:
    """A claim of the original report held against a run.

    Attributes:
        figure, says: of the claim.
        expected: of this run, where the report bears the claim out.
        tolerance: where that comes from.
        decides: whether the recorded runs bear the claim out; a run can say nothing of one that they do not.
        value: of this run.
        is_met: whether that is as expected.
    """

    figure: int
    says: str
    expected: str
    tolerance: str
    decides: bool
    value: float
    is_met: bool

    @property
    def passed(self):
        return self.decides and self.is_met

    @property
    def value_text(self):
        """The value as it is printed: numbers of steps and of dips are whole."""
        return f"{self.value:.4f}" if isinstance(self.value, float) else str(self.value)

    @property
    def verdict(self):
        """'pass', 'fail' or 'undecided'."""
        return "undecided" if not self.decides else "pass" if self.is_met else "fail"


def is_run(path):
    """Return whether `path` is a folder that a training script has begun, and holds none of the course's files."""
    return all((path / name).is_file() for name in RUN_FILES) and not any((path / name).exists() for name in FILES)


def hold_run(path, folder):
    """Hold a run against the report, print the table and write report.html. Return whether it could be done."""
    try:
        experiment, metrics, rows = grade_run(path)
        print(pages.run_table(path, experiment, rows))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.html", pages.run_page(path, experiment, metrics, rows))
    except (RunError, OSError) as error:
        print(f"grade.py: error: {pages.printable(error)[:500]}", file=sys.stderr)
        return False
    print(f"curves: {folder / 'report.html'}\n")
    return True


def grade_run(path):
    """Return the experiment's name, the run's evaluations, and a `Row` for each claim.

    Raises:
        RunError: a synthetic run, an incomplete or damaged one, or one of other flags.
    """
    try:
        return _grade_run(Path(path))
    except RunError:
        raise
    except Exception as error:  # its files are somebody else's, and may hold anything
        raise RunError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): train again") from error


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
        raise RunError(
            f"{path} was trained on synthetic images, of which the report says nothing: train with --dataset cifar10"
        )
    experiment = match(path, flags)
    if not metrics or metrics[-1].get("step") != flags.get("max_steps"):
        step = metrics[-1].get("step") if metrics else 0
        raise RunError(
            f"{path} is at step {step} of {flags.get('max_steps')}: go on with {flags.get('script')}.py --resume {path}"
        )
    # Of more evaluations more dip, and one is the best by luck: only those count that the recorded runs have, too.
    steps = [m["step"] for m in read_runs(experiment)[0].metrics]
    compared = [m for m in metrics if m["step"] in steps]
    if [m["step"] for m in compared] != steps or not all(0 <= m["step"] <= steps[-1] for m in metrics):
        raise ValueError(f"it has evaluations at other steps than the recorded runs' {steps[0]}, {steps[1]}, …")
    found = measures(compared)
    recorded = [measures(run.metrics) for run in read_runs(experiment)]
    return experiment, metrics, [_row(claim, found[claim.quantity], recorded) for claim in CLAIMS[experiment]]


def _row(claim, value, recorded):
    """Return the `Row` of a claim for a run's value, and the `measures` of the recorded runs."""
    verdict, decides = judge(claim, recorded), is_borne_out(claim, recorded)
    if claim.relation == "about":
        low, high, tolerance = interval([run[claim.quantity] for run in recorded], 0.95)
        expected, is_met = f"{max(low, 0):.4f} to {high:.4f}", low <= value <= high
        tolerance += "" if decides else f"; by these the claim {'is ' * (verdict == UNDECIDED)}{verdict}"
    else:
        bound = claim.bound if isinstance(claim.bound, int) else f"{claim.bound:.4g}"
        expected, is_met = f"{claim.relation} {bound}", claim.happens(value)
        tolerance = f"{verdict} recorded runs"
    return Row(claim.figure, claim.says, expected, tolerance, decides, value, is_met)


def match(path, flags):
    """Return the experiment whose recorded runs have these flags.

    Raises:
        RunError: there is none; the message names the nearest and what differs.
    """
    nearest = None
    for experiment in CLAIMS:
        recorded = read_runs(experiment)
        if not recorded or recorded[0].config["flags"]["script"] != flags.get("script"):
            continue
        theirs = SINCE | recorded[0].config["flags"]
        differing = [k for k in theirs if k in flags and k not in FREE_FLAGS and flags[k] != theirs[k]]
        if "eval_freq" in differing and theirs["eval_freq"] % flags["eval_freq"] == 0:
            differing.remove("eval_freq")  # it was evaluated at those steps, and at others
        if not differing:
            return experiment
        if nearest is None or len(differing) < len(nearest[1]):
            nearest = experiment, differing, theirs
    if nearest is None:
        raise RunError(f"{path} is a run of {flags.get('script')}.py, of which the report has no figure")
    experiment, differing, theirs = nearest
    difference = ", ".join(f"--{k} {flags[k]} for {theirs[k]}" for k in differing)
    raise RunError(
        f"{path} has the flags of no figure, and is held against none; nearest is {experiment}, with {difference}"
    )
