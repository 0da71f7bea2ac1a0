"""Writes what graders and students read: the table, results.json, report.html and grades.csv."""

import csv
import io
import itertools
import json
import os
import re
import statistics
import textwrap
import urllib.parse
from collections import Counter
from pathlib import Path

from jinja2 import Template

from grading.scheme import BY_HAND, BY_HAND_POINTS, EQUATIONS, QUESTIONS, ROOT

MARKS = {"passed": "✓", "failed": "✗", "not written": "✗", "not run": "-", "not decided": "?"}
REMARKS = {"not written": "not written yet", "not run": "not run", "not decided": "has to be decided by hand"}
BY_HAND_TEXT = f"{BY_HAND_POINTS} points for the derivations of questions {', '.join(BY_HAND)} are given by hand."
WIDTH = 100  # of the table, in characters


def printable(text):
    """Return a text in one line, with a question mark for each character that could control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


def result_folders(paths, out_dir):
    """Return `{path: directory for its results}`; paths that end alike are told apart by the parts before."""
    parts = {path: [file_name(part) for part in Path(os.path.abspath(path)).parts] for path in paths}
    names = {path: parts[path][-1] for path in paths}
    for n in range(2, 1 + max(map(len, parts.values()))):
        count = Counter(name.casefold() for name in names.values())
        names = {
            path: "_".join(parts[path][-n:]) if count[name.casefold()] > 1 else name for path, name in names.items()
        }
    folders, taken = {}, {"grades.csv", "grades.csv.tmp"}
    for path, base in names.items():
        name = next(
            name for n in itertools.count(1) if (name := f"{base}-{n}" if n > 1 else base).casefold() not in taken
        )
        taken.add(name.casefold())
        folders[path] = Path(out_dir, name)
    return folders


def file_name(path):
    """Return the name of a directory or an archive as one for results."""
    name = re.sub(r"(?i)\.(zip|tar\.gz|tgz)$", "", os.path.basename(os.path.abspath(path)))
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_"


# ---- A submission: rows are pairs of a check and its result --------------------------------------


def sentences(check, result):
    """Return what a student should read about a result: what was called, the problem, a note."""
    lines = [result.called, result.problem, result.note]
    if result.passed:
        lines = [result.problem, result.note]
    elif result.status == "not run" or result.called.startswith("import "):
        lines = [result.problem]
    elif result.status == "not written":
        lines = [result.problem * (not result.problem.startswith("NotImplementedError"))]
    return [printable(line) for line in lines if line]


def said_once(rows):
    """Yield check, result, a remark, and `sentences`; if a check above has the same sentences, the remark says so."""
    first = {}
    for check, result in rows:
        remark, lines = REMARKS.get(result.status, ""), sentences(check, result)
        above = first.setdefault(tuple(lines), check.name)
        yield (
            (check, result, f"as {above}, above", [])
            if lines and above != check.name
            else (check, result, remark, lines)
        )


def cited(check, result):
    """Return `{equation: page of report.pdf}` for the right answer of a failed check."""
    if result.status != "failed" or result.called.startswith("import "):
        return {}
    pages = json.loads((ROOT / "report" / "equations.json").read_text(encoding="utf-8"))
    return {name: pages[name] for name in EQUATIONS.get(check.name, ())}


def citation(check, result):
    """Return the same as a list of at most one sentence."""
    pages = ", ".join(f"Eq. ({name}) on page {page}" for name, page in cited(check, result).items())
    return [f"See {pages} of report.pdf."] if pages else []


def earned(check, result):
    return check.points if result.passed else 0


def points_text(rows):
    """Return the points, out of those that were decided; then those that were not, and why."""
    left = Counter()
    for check, result in rows:
        if result.status in ("not run", "not decided"):
            left[result.status] += check.points
    score, total = sum(itertools.starmap(earned, rows)), sum(check.points for check, _ in rows)
    more = "".join(f"; {points:g} {why}" for why, points in left.items())
    return f"{score:g} of {total - left.total():g} points{more}" + f" (of {total:g})" * bool(left)


def by_question(rows):
    """Yield question, title and rows of each question."""
    for question, title in QUESTIONS.items():
        yield question, title, [row for row in rows if row[0].question == question]


def results_json(rows, notes, extra, visibility="visible", equations=False):
    """Return Gradescope's results as text. `extra_data` is for the grader, students do not see it.

    Args:
        visibility: when students see checks and notes, one of `scheme.VISIBILITIES`.
        equations: cite the report's equations.
    """
    statuses = {"passed": "passed", "failed": "failed", "not written": "failed"}
    tests = [
        {
            "name": f"{check.question} {check.name}: {check.title}",
            "score": earned(check, result),
            "max_score": check.points,
            "output": "\n".join(
                [REMARKS.get(result.status, result.status), *sentences(check, result)]
                + citation(check, result) * equations
            ),
            "visibility": visibility,
        }
        | ({"status": statuses[result.status]} if result.status in statuses else {})
        for check, result in rows
        if result.status != "not run"
    ]
    checks = [{"name": c.name, "question": c.question, "points": c.points, "status": r.status} for c, r in rows]
    content = {
        "score": sum(itertools.starmap(earned, rows)),
        "output": "\n".join([*(notes if visibility == "visible" else ()), BY_HAND_TEXT]),  # students always see it
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": extra | {"notes": notes, "checks": checks},
    }
    return json.dumps(content, indent=1) + "\n"


def table(name, rows, notes):
    """Return the points of a submission as text, with the report's equations."""
    lines = [f"{name}: {points_text(rows)}", ""]
    for question, title, part in by_question(rows):
        lines.append(f"{question:<5} {title:<42} {points_text(part)}")
        for check, result, remark, own in said_once(part):
            points = f"{earned(check, result):>5g} of {check.points:<5g}"
            title = check.title + f" ({remark})" * bool(remark)
            lines.append(f"  {MARKS[result.status]} {check.name:<28} {points} {title}")
            for line in own + citation(check, result):
                indent = {"initial_indent": " " * 8, "subsequent_indent": " " * 8}
                lines += textwrap.wrap(line, WIDTH, break_on_hyphens=False, **indent)
    return "\n".join([*lines, BY_HAND_TEXT, *(f"Note: {note}" for note in notes)])


def page(name, rows, notes, folder, equations=False):
    """Return report.html as text.

    Args:
        folder: where the page will be, for links to the report.
        equations: cite the report's equations.
    """
    report = urllib.parse.quote(os.path.relpath(ROOT / "report" / "report.pdf", folder).replace(os.sep, "/"))
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"), autoescape=True).render(
        title=f"Grade of {name}",
        summary=f"{points_text(rows)}.",
        by_hand=BY_HAND_TEXT,
        notes=notes,
        questions=[(q, title, points_text(part), said_once(part)) for q, title, part in by_question(rows)],
        earned=earned,
        marks=MARKS,
        cited=cited if equations else lambda *_: {},
        report=report,
    )


# ---- Many submissions --------------------------------------------------------------------------


def grades_csv(graded):
    """Return grades.csv as text: points in all and by question, points that are open, number of notes.

    Args:
        graded: `{name: content of results.json}`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["submission", "score", *QUESTIONS, "not_run", "not_decided", "notes"])
    for name, results in sorted(graded.items()):
        points, checks = Counter(), results["extra_data"]["checks"]
        for check in checks:
            points[check["question"] if check["status"] == "passed" else check["status"]] += check["points"]
        columns = [results["score"], *(points[column] for column in (*QUESTIONS, "not run", "not decided"))]
        safe = f"'{name}" if name[:1] in "=+-@" else name  # a spreadsheet would take it for a formula
        writer.writerow([safe, *(f"{p:g}" for p in columns), len(results["extra_data"]["notes"])])
    return text.getvalue()


def summary(graded, seconds):
    """Return a text on many submissions, contents of results.json: their points, and which checks most have failed."""
    if not graded:
        return f"No submission was graded in {seconds:.0f} s."
    scores = [results["score"] for results in graded]
    spread = f"{min(scores):g} to {max(scores):g} points, median {statistics.median(scores):g}"
    lines = [f"{len(graded)} submission{'s' * (len(graded) > 1)} in {seconds:.0f} s: {spread}"]
    checks = [check for results in graded for check in results["extra_data"]["checks"]]
    failed = Counter(check["name"] for check in checks if check["status"] in ("failed", "not written"))
    lines += [f"  failed by {n:>3}: {name}" for name, n in failed.most_common(5)]
    lines += [f"  and {len(failed) - 5} more checks that some failed"] * (len(failed) > 5)
    return "\n".join(lines)
