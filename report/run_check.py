"""Compare a run directory with the report: its claims, and the recorded runs that have the same flags."""

import base64
import io
import json
import os
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from jinja2 import Template

from grading.output import printable
from grading.scheme import FILES
from report.claims import CLAIMS, MIN_RUNS, REPRODUCED, interval, judge, measures
from report.records import whole_runs
from training.files import RunError, read_metrics, write_text

# Flags that do not change what is compared, or that differ between the recorded runs.
FREE_FLAGS = {
    "seed", "out_dir", "data_dir", "quiet", "dataset", "device", "precision", "resume",
    "synthetic_size", "compile", "tensorboard", "pictures",
}  # fmt: skip


class Row(NamedTuple):
    """One claim of the original report, compared with a run.

    Attributes:
        figure, says: number and words of the claim.
        value: the run's value.
        expected: the values for which the claim passes, in words.
        evidence: what the recorded runs show.
        verdict: 'pass', 'fail', or 'undecided' if the recorded runs do not reproduce the claim.
    """

    figure: int
    says: str
    value: float
    expected: str
    evidence: str
    verdict: str

    @property
    def value_text(self):
        return f"{self.value:.4f}" if isinstance(self.value, float) else str(self.value)


def is_run(path):
    """Return whether `path` is a run directory. A directory with one of the course's files is a submission."""
    names = ["config.json", "metrics.jsonl"]
    return [name for name in (*names, *FILES) if os.path.isfile(os.path.join(path, name))] == names


def compare_run(path, out_dir):
    """Print a run's verdicts and write report.html into `out_dir`.

    Returns:
        False if the run cannot be compared; one line on standard error says why.
    """
    try:
        experiment, metrics, rows = check_run(path)
        print(table(path, experiment, rows))
        out_dir.mkdir(parents=True, exist_ok=True)
        write_text(out_dir / "report.html", page(path, experiment, metrics, rows))
    except (RunError, OSError) as error:
        print(f"grade.py: error: {printable(error)}", file=sys.stderr)
        return False
    print(f"curves: {out_dir / 'report.html'}\n")
    return True


# ---- Comparison ----------------------------------------------------------------------------------


def check_run(path):
    """Return the name of the run's experiment, the run's evaluations, and a `Row` for each claim.

    Raises:
        RunError: the run is on synthetic images, incomplete, damaged, or has the flags of no experiment.
    """
    try:
        config, metrics = json.loads((path / "config.json").read_text()), read_metrics(path)
        if config["dataset"]["is_synthetic"]:
            raise RunError(f"{path} was trained on synthetic images, expected CIFAR-10: train with --dataset cifar10")
        flags = config["flags"]
        experiment = find_experiment(path, flags)
        if not metrics or metrics[-1]["step"] != flags["max_steps"]:
            at = f"is at step {metrics[-1]['step'] if metrics else 0} of {flags['max_steps']}"
            raise RunError(f"{path} {at}: resume it with {flags['script']}.py --resume {path}")
        values = measures(_at_recorded_steps(metrics, experiment))
        recorded = [measures(run.metrics) for run in whole_runs(experiment)]
        return experiment, metrics, [make_row(claim, values[claim.quantity], recorded) for claim in CLAIMS[experiment]]
    except RunError:
        raise
    except Exception as error:  # somebody else wrote these files: they may contain anything
        raise RunError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): train again") from error


def _at_recorded_steps(metrics, experiment):
    """Return the evaluations at the recorded runs' steps.

    Additional evaluations do not count: the best of more is better, and more of them are dips.
    """
    steps = [m["step"] for m in whole_runs(experiment)[0].metrics]
    compared = [m for m in metrics if m["step"] in steps]
    if [m["step"] for m in compared] != steps:
        raise ValueError(f"expected evaluations at the recorded runs' steps, {steps[0]}, {steps[1]}, …, {steps[-1]}")
    return compared


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
        if "eval_freq" in differing and theirs["eval_freq"] % flags["eval_freq"] == 0:
            differing.remove("eval_freq")  # it was evaluated at their steps, and at others
        if theirs["script"] == flags["script"]:
            difference = ", ".join(f"--{k} {_as_flag(flags[k])} instead of {_as_flag(theirs[k])}" for k in differing)
            candidates.append((len(differing), experiment, difference))
    if not candidates:
        raise RunError(f"{path} is a run of {flags['script']}.py, and the report has no figure of such a run")
    n_differing, experiment, difference = min(candidates)
    if n_differing:
        raise RunError(f"{path} has the flags of no figure; the nearest is {experiment}, but this run has {difference}")
    return experiment


def _as_flag(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def make_row(claim, value, recorded):
    """Return the `Row` of a claim.

    A number passes within the claim's margin, or in the 95% prediction interval of at least `MIN_RUNS` recorded runs if
    that reaches further.

    Args:
        value: the run's value of the claim's quantity.
        recorded: `measures` of the recorded runs, a list.
    """
    finding, values = judge(claim, recorded), [run[claim.quantity] for run in recorded]
    if claim.relation == "about":
        low, high = claim.bound - claim.margin, claim.bound + claim.margin
        evidence = f"{len(values)} recorded runs, {statistics.mean(values):.4g}"
        if len(values) >= MIN_RUNS:
            *ends, evidence = interval(values, 0.95)
            low, high = min(low, ends[0]), max(high, ends[1])
        expected, is_met = f"{max(low, 0):.4f} to {high:.4f}", low <= value <= high
    else:
        bound = claim.bound if isinstance(claim.bound, int) else f"{claim.bound:.4g}"
        expected, is_met = f"{claim.relation} {bound}", claim.is_shown(value)
        evidence = f"{sum(map(claim.is_shown, values))} of {len(values)} recorded runs show it"
    verdict = "undecided" if finding != REPRODUCED else "pass" if is_met else "fail"
    return Row(claim.figure, claim.says, value, expected, f"{evidence} ({finding})", verdict)


# ---- Output --------------------------------------------------------------------------------------


def table(path, experiment, rows):
    """Return a run's verdicts as text for the terminal."""
    lines = [f"{printable(path)}: {experiment}, {_summary(rows)}", ""]
    for row in rows:
        mark, verdict = {"pass": (" ", "pass"), "fail": ("✗", "FAIL"), "undecided": ("-", "undecided")}[row.verdict]
        numbers = f"{row.value_text:>8}  {row.expected:<18}"
        lines.append(f"  {mark} figure {row.figure:<3} {row.says:<54} {numbers}  {verdict}")
        lines.append(f"               evidence: {row.evidence}")
    return "\n".join(lines)


def page(path, experiment, metrics, rows):
    """Return report.html: verdicts, and the run's curves over those of the recorded runs."""
    text = Path(__file__).with_name("run_page.html").read_text(encoding="utf-8")
    return Template(text, autoescape=True, trim_blocks=True, keep_trailing_newline=True).render(
        title=f"{printable(path.name)} compared with {experiment}",
        summary=_summary(rows),
        rows=rows,
        pictures={name: base64.b64encode(curves(experiment, name, metrics)).decode() for name in ("accuracy", "loss")},
    )


def curves(experiment, quantity, metrics):
    """Return a PNG, as bytes, of an experiment's recorded runs with the curves of another run over them.

    Args:
        quantity: 'accuracy' or 'loss'.
        metrics: evaluations of the other run.
    """
    from report import draw

    figure, ((axes,),) = draw.new_panels(6, 3.8)
    draw.draw_claims(axes, experiment, quantity)
    for split in ("train", "test"):
        key, style = f"{split}_{quantity}", draw.STYLES[split]
        steps, values = draw.curves(experiment, key)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        dots = {"marker": "." if len(steps) < 20 else ""}  # nothing was measured between few evaluations
        axes.plot(steps, values.mean(axis=0), lw=0.9, label=f"{split}, recorded", **style | dots)
        own = [(m["step"], m[key]) for m in metrics]
        axes.plot(*zip(*own, strict=True), lw=1.8, label=f"{split}, this run", **style)
    draw.set_range(axes, quantity)
    title = f"{experiment}: mean and spread of {len(values)} recorded runs"
    draw.label(axes, title, "training step", draw.YLABELS[quantity])
    draw.add_legend(figure, 2)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=140)
    return raw.getvalue()


def _summary(rows):
    n_passed, n_undecided = (sum(row.verdict == verdict for row in rows) for verdict in ("pass", "undecided"))
    return f"{n_passed} of {len(rows)} claims pass" + (f", {n_undecided} undecided" if n_undecided else "")
