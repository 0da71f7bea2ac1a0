"""What is handed out: the table in the terminal, results.json, report.html, grades.csv."""

import base64
import csv
import functools
import io
import itertools
import json
import os
import re
import statistics
import urllib.parse
from collections import Counter
from pathlib import Path

from jinja2 import Template

from grading.scheme import BY_HAND, BY_HAND_POINTS, EQUATIONS, QUESTIONS

DEFAULT_OUT_DIR = Path("results", "grade")
REPORT = Path(__file__).resolve().parents[1] / "report"
N_SLOWEST = 3  # that are named
# Of each status, its mark in the table.
MARKS = {"pass": " ", "fail": "✗", "not run": "-", "not decided": "?"}
BY_HAND_TEXT = f"{BY_HAND_POINTS} points, written derivations of questions {', '.join(BY_HAND)}"


def file_name(path):
    """Return a name for what is written about the folder or archive `path`."""
    name = re.sub(r"(?i)\.(zip|tar\.gz|tgz)$", "", os.path.basename(os.path.abspath(path)))
    return re.sub(r"[^\w.+-]", "_", name) or "submission"


def result_folders(paths, out_dir=None):
    """Return `{path: folder for what is written about it}`, none twice: of one path, `out_dir` itself."""
    if len(paths) == 1 and out_dir:
        return {paths[0]: Path(out_dir)}
    folders, taken = {}, {"grades.csv", "grades.csv.tmp"}
    for path in paths:
        base = file_name(path)
        names = (base if n == 1 else f"{base}-{n}" for n in itertools.count(1))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        folders[path] = Path(out_dir or DEFAULT_OUT_DIR, name)
    return folders


def printable(text):
    """Return a text in one line, with a question mark for each character that a terminal might obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


# ---- A submission ------------------------------------------------------------------------------


def status(outcome):
    """Return a key of `MARKS`."""
    if outcome.passed:
        return "pass"
    return "not run" if not outcome.was_run else "fail" if outcome.is_decided else "not decided"


@functools.cache
def equation_pages():
    """Return `{name of an equation: its page in report.pdf}`, as the report's build wrote them down."""
    return json.loads((REPORT / "equations.json").read_text(encoding="utf-8"))


def cited(check, outcome):
    """Return `{name: page}` of the equations that a failed check's right answer follows from."""
    is_wrong = status(outcome) == "fail" and outcome.is_written and not outcome.called.startswith("import ")
    return {name: equation_pages()[name] for name in EQUATIONS.get(check.name, ()) if is_wrong}


def lines_of(check, outcome):
    """Return (label, text) of what a check has to say: one that passed, its note alone."""
    see = ", ".join(f"Eq. ({name}) on page {page}" for name, page in cited(check, outcome).items())
    rows = [("called", outcome.called), ("got", outcome.got), ("expected", outcome.expected)] * (not outcome.passed)
    rows += [("note", outcome.hint), ("see", see and f"{see} of report.pdf")]
    return [(label, text) for label, text in rows if text]


def said_once(outcomes):
    """Yield check, outcome and `lines_of` it; where a check above has said the same, as of a missing file, its name."""
    said = {}
    for check, outcome in outcomes:
        lines = lines_of(check, outcome)
        above = said.setdefault(tuple(lines), check.name)
        yield check, outcome, [("note", f"as {above}, above")] if lines and above != check.name else lines


def score(outcomes):
    """Return the points of `[(check, outcome)]`."""
    return sum(check.points for check, outcome in outcomes if outcome.passed)


def maximum(outcomes):
    return sum(check.points for check, _ in outcomes)


def of_points(outcomes):
    """Return the points as text, out of those of the checks that were decided; then what was not, and why."""
    left = Counter()
    for check, outcome in outcomes:
        if status(outcome) not in ("pass", "fail"):
            left[status(outcome)] += check.points
    text = f"{score(outcomes):g} of {maximum(outcomes) - sum(left.values()):g} points"
    text += "".join(f"; {points:g} {why}" for why, points in left.items())
    return text + f" (of {maximum(outcomes):g})" * bool(left)


def results_json(outcomes, notes, extra, visibility="visible"):
    """Return Gradescope's results as text: every check is in it with its maximum, run or not.

    Args:
        visibility: one of `scheme.VISIBILITIES`: when students see checks and notes. The rest is the course's alone.
    """
    tests = [
        {
            "name": f"{check.question} {check.name}: {check.title}",
            "score": check.points if outcome.passed else 0,
            "max_score": check.points,
            "status": "passed" if outcome.passed else "failed",
            "output": "\n".join(f"{label}: {text}" for label, text in lines_of(check, outcome)) or status(outcome),
            "visibility": visibility,
        }
        for check, outcome in outcomes
    ]
    content = {
        "score": score(outcomes),
        # Students see this whatever the tests' visibility is.
        "output": "\n".join([*(notes if visibility == "visible" else ()), f"by hand: {BY_HAND_TEXT}"]),
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": extra | {"statuses": [status(outcome) for _, outcome in outcomes]},
    }
    return json.dumps(content, indent=1) + "\n"


def by_question(outcomes):
    """Yield question, title, and `[(check, outcome)]` of each."""
    for question, title in QUESTIONS.items():
        yield question, title, [(check, outcome) for check, outcome in outcomes if check.question == question]


def table(name, outcomes, notes):
    """Return a submission's points as text for the terminal."""
    lines = [f"{name}: {of_points(outcomes)}", ""]
    for question, title, part in by_question(outcomes):
        lines.append(f"{question:<5} {title:<42} {of_points(part)}")
        for check, outcome, own in said_once(part):
            earned = check.points if outcome.passed else 0
            mark = MARKS[status(outcome)]
            lines.append(f"  {mark} {check.name:<30} {earned:>5g} of {check.points:<5g} {check.title}")
            lines += [f"        {label + ':':<10}{text}" for label, text in own]
    return "\n".join([*lines, f"by hand: {BY_HAND_TEXT}", *(f"note: {note}" for note in notes)])


def submission_page(name, outcomes, notes, pictures, folder):
    """Return report.html of a submission, to lie in `folder`, from which equations link to the report."""
    return _page(
        f"Grades of {name}",
        f"{of_points(outcomes)}; by hand: {BY_HAND_TEXT}",
        pictures,
        notes=notes,
        questions=[(f"{q} {title}: {of_points(part)}", said_once(part)) for q, title, part in by_question(outcomes)],
        report=urllib.parse.quote(os.path.relpath(REPORT / "report.pdf", folder).replace(os.sep, "/")),
    )


def _page(title, result, pictures, **more):
    """Return a page of the template `report.html`, with pictures, `{caption: PNG bytes}`, inside."""
    images = {caption: base64.b64encode(raw).decode() for caption, raw in pictures.items()}
    text = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = Template(text, autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    return page.render(title=title, result=result, pictures=images, status=status, cited=cited, **more)


# ---- A run -------------------------------------------------------------------------------------


def _hold(rows):
    decided = [row for row in rows if row.decides]
    undecided = f", {len(rows) - len(decided)} undecided" if len(decided) < len(rows) else ""
    return f"{sum(row.passed for row in decided)} of {len(rows)} claims hold{undecided}"


def run_table(path, experiment, rows):
    """Return a run's claims as text for the terminal."""
    lines = [f"{printable(path)}: {experiment}, {_hold(rows)}", ""]
    for row in rows:
        mark, verdict = {"pass": (" ", "pass"), "fail": ("✗", "FAIL"), "undecided": ("-", "undecided")}[row.verdict]
        lines.append(
            f"  {mark} figure {row.figure:<3} {row.says:<54} {row.value_text:>8}  {row.expected:<18}  {verdict}"
        )
        lines.append(f"               tolerance: {row.tolerance}")
    return "\n".join(lines)


def run_page(path, experiment, metrics, rows):
    """Return report.html of a run."""
    pictures = {f"{quantity.capitalize()} over the recorded runs": curves(experiment, quantity, metrics)
                for quantity in ("accuracy", "loss")}  # fmt: skip
    return _page(f"{printable(Path(path).name)} against {experiment}", _hold(rows), pictures, claims=rows)


def curves(experiment, quantity, metrics):
    """Return a PNG of the recorded runs of an experiment in the report's style, and evaluations over them.

    Args:
        quantity: 'accuracy' or 'loss'.
        metrics: evaluations of a run, or of a submission's network, which has none of training images.
    """
    from report import draw

    figure, axes = draw.new_figure(6, 3.8)
    draw.draw_claims(axes, experiment, quantity)
    for split in ("train", "test"):
        key, style = f"{split}_{quantity}", draw.STYLES[split]
        steps, values = draw.curves(experiment, key)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        dots = {"marker": "." if len(steps) < 20 else ""}  # few evaluations: what is between them is nobody's
        axes.plot(steps, values.mean(axis=0), lw=0.9, label=f"{split}, recorded", **style | dots)
        own = [(m["step"], m[key]) for m in metrics if key in m]
        if own:
            axes.plot(*zip(*own, strict=True), lw=1.8, ms=4, label=f"{split}, graded here", **style)
    if 3 * metrics[-1]["step"] < steps[-1]:  # a short budget would be a dot at the edge
        axes.set_xlim(0, 2 * metrics[-1]["step"])
    draw.set_range(axes, quantity)
    title = f"{experiment}: mean and spread of {len(values)} recorded runs"
    draw.label(figure, title, "training step", draw.YLABELS[quantity])
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=140)
    return raw.getvalue()


# ---- Many submissions --------------------------------------------------------------------------


def _with_status(results):
    """Return each test with its status, which no text of a submission's can pretend to be."""
    return zip(results["tests"], results["extra_data"]["statuses"], strict=True)


def grades_csv(rows):
    """Return grades.csv: a line a submission, its points in all and by question, those open, how many notes.

    Args:
        rows: `{name: results}`, each as results.json holds them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["submission", "score", *QUESTIONS, "not_run", "not_decided", "notes"])
    for name, results in sorted(rows.items()):
        points = [sum(t["score"] for t in results["tests"] if t["name"].startswith(f"{q} ")) for q in QUESTIONS]
        for kind in ("not run", "not decided"):
            points.append(sum(t["max_score"] for t, status in _with_status(results) if status == kind))
        # A name that begins like a formula would be one in a spreadsheet.
        safe = f"'{name}" if name[:1] in "=+-@\t" else name
        writer.writerow([safe, *(f"{p:g}" for p in (results["score"], *points)), len(results["extra_data"]["notes"])])
    return text.getvalue()


def summary(graded, seconds, took):
    """Return what there is to say of many submissions' results together.

    Args:
        graded: their results, as results.json holds them.
        seconds: for all of them.
        took: `{name: seconds}` of those that were graded now.
    """
    if not graded:
        return f"no submission was graded in {seconds:.0f} s"
    scores = [results["score"] for results in graded]
    spread = f"points from {min(scores):g} to {max(scores):g}, median {statistics.median(scores):g}"
    lines = [f"{len(graded)} submission{'s' * (len(graded) > 1)} in {seconds:.0f} s: {spread}"]
    lost = Counter(t["name"] for results in graded for t, status in _with_status(results) if status == "fail")
    most = lost.most_common(5)
    lines += [f"  lost by {n:>3}: {name}" for name, n in most]
    lines += [f"  and {len(lost) - len(most)} more checks that some lost"] * (len(lost) > len(most))
    slowest = sorted(took.items(), key=lambda item: -item[1])[:N_SLOWEST]
    lines += [f"slowest: {', '.join(f'{name} {t:.1f} s' for name, t in slowest)}"] * (len(took) > 1)
    return "\n".join(lines)
