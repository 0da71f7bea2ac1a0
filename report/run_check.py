"""Compare a run directory with the report: its claims, and the recorded runs that have the same flags."""

import json
import os
import sys
from typing import NamedTuple

from grading.output import printable
from grading.scheme import FILES
from report.claims import CLAIMS, REPRODUCED, Claim, interval, judge, measures
from report.records import UNRECORDED_FLAGS, whole_runs
from training.files import RunError, read_metrics, write_text

# Flags that do not change what is compared, or that differ between the recorded runs.
FREE_FLAGS = UNRECORDED_FLAGS | {
    "device", "precision", "eval_freq", "synthetic_size", "compile", "tensorboard", "pictures"
}  # fmt: skip


class Row(NamedTuple):
    """One claim of the original report, compared with a run.

    Attributes:
        value: the run's value of the claim's quantity.
        expected: the values for which the claim passes, in words.
        evidence: what the recorded runs show.
        verdict: 'pass', 'FAIL', or 'undecided' if the recorded runs do not reproduce the claim.
    """

    claim: Claim
    value: float
    expected: str
    evidence: str
    verdict: str


def is_run(path):
    """Return whether `path` is a run directory. A directory with one of the course's files is a submission."""
    names = ["config.json", "metrics.jsonl"]
    return [name for name in (*names, *FILES) if os.path.isfile(os.path.join(path, name))] == names


def compare_run(path, out_dir):
    """Print a run's verdicts, and write table.txt and curves.png to `out_dir`.

    Returns:
        False if the run cannot be compared; one line on standard error says why.
    """
    try:
        experiment, metrics, rows = check_run(path)
        from report.draw import draw_run  # Matplotlib takes time to import

        out_dir.mkdir(parents=True, exist_ok=True)
        write_text(out_dir / "table.txt", table(path, experiment, rows))
        draw_run(experiment, metrics).savefig(out_dir / "curves.png", dpi=140)
    except (RunError, OSError) as error:
        print(f"grade.py: error: {printable(error)}", file=sys.stderr)
        return False
    print(f"{table(path, experiment, rows)}curves: {out_dir / 'curves.png'}\n")
    return True


def check_run(path):
    """Return the name of the run's experiment, the run's evaluations, and a `Row` for each claim.

    Raises:
        RunError: the run is on synthetic images, incomplete, damaged, or has the flags of no experiment.
    """
    try:
        config, metrics = json.loads((path / "config.json").read_text()), read_metrics(path)
        if config["dataset"]["is_synthetic"]:
            raise RunError(f"{path} was trained on synthetic images, expected CIFAR-10: train with --dataset cifar10")
        experiment = find_experiment(path, config["flags"])
        recorded = whole_runs(experiment)
        # Additional evaluations do not count: the best of more is better, and more of them are dips.
        steps = [m["step"] for m in recorded[0].metrics]
        compared = [m for m in metrics if m["step"] in steps]
        if [m["step"] for m in compared] != steps:
            at = f"is at step {metrics[-1]['step'] if metrics else 0}, expected evaluations every {steps[1]} steps to"
            raise RunError(f"{path} {at} {steps[-1]}: resume it, or train again with --eval_freq {steps[1]}")
        values, others = measures(compared), [measures(run.metrics) for run in recorded]
        return experiment, metrics, [make_row(claim, values[claim.quantity], others) for claim in CLAIMS[experiment]]
    except RunError:
        raise
    except Exception as error:  # somebody else wrote these files: they may contain anything
        raise RunError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): train again") from error


def find_experiment(path, flags):
    """Return the experiment whose recorded runs have these flags.

    Raises:
        RunError: there is none; the message names the nearest and what differs.
    """
    candidates = []
    for experiment in CLAIMS:
        theirs = dict.fromkeys(flags) | whole_runs(experiment)[0].config["flags"]
        # Flags that are newer than the recorded runs are off by default.
        differing = [k for k in flags if flags[k] != theirs[k] and (flags[k] or theirs[k]) and k not in FREE_FLAGS]
        if theirs["script"] == flags["script"]:
            difference = ", ".join(f"--{k} {flags[k]} instead of {theirs[k]}" for k in differing)
            candidates.append((len(differing), experiment, difference))
    if not candidates:
        raise RunError(f"{path} is a run of {flags['script']}.py, and the report has no figure of such a run")
    n_differing, experiment, difference = min(candidates)
    if n_differing:
        raise RunError(f"{path} has the flags of no figure; the nearest is {experiment}, but this run has {difference}")
    return experiment


def make_row(claim, value, recorded):
    """Return the `Row` of a claim.

    A number passes within the claim's margin, or within the 95% prediction interval of the recorded runs.

    Args:
        value: the run's value of the claim's quantity.
        recorded: `measures` of the recorded runs, a list of at least two.
    """
    finding, values = judge(claim, recorded), [run[claim.quantity] for run in recorded]
    if claim.relation == "about":
        low, high, evidence = interval(values, 0.95)
        low, high = min(low, claim.bound - claim.margin), max(high, claim.bound + claim.margin)
        expected, is_met = f"{max(low, 0):.4f} to {high:.4f}", low <= value <= high
    else:
        expected, is_met = f"{claim.relation} {claim.bound:.4g}", claim.is_shown(value)
        evidence = f"{sum(map(claim.is_shown, values))} of {len(values)} recorded runs show it"
    verdict = "undecided" if finding != REPRODUCED else "pass" if is_met else "FAIL"
    return Row(claim, value, expected, f"{evidence} ({finding})", verdict)


def table(path, experiment, rows):
    """Return a run's verdicts as text."""
    n_passed, n_undecided = (sum(row.verdict == verdict for row in rows) for verdict in ("pass", "undecided"))
    undecided = f", {n_undecided} undecided" if n_undecided else ""
    lines = [f"{printable(path)}: {experiment}, {n_passed} of {len(rows)} claims pass{undecided}", ""]
    for claim, value, expected, evidence, verdict in rows:
        lines.append(f"  figure {claim.figure:<3} {claim.says:<48} {value:>8.4g}  {expected:<18}  {verdict}")
        lines.append(f"             evidence: {evidence}")
    return "\n".join(lines) + "\n"
