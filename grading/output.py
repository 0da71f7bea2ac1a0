"""Writes what graders and students read: the table, results.json, report.html and grades.csv."""

import csv
import io
import json
import os
import re
import statistics
import textwrap
from collections import Counter
from pathlib import Path

from jinja2 import Template

from grading.scheme import BY_HAND, BY_HAND_POINTS, EQUATIONS, QUESTIONS, ROOT
from grading.worker.load import NOT_WRITTEN

MARKS = {"passed": "✓", "failed": "✗", "not written": "✗", "not run": "-", "not decided": "?"}
REMARKS = {"not written": "not found", "not run": "not run", "not decided": "to be decided by hand"}
BY_HAND_QUESTIONS = f"{', '.join(BY_HAND[:-1])} and {BY_HAND[-1]}"
BY_HAND_TEXT = f"The other {BY_HAND_POINTS} points, for the derivations of {BY_HAND_QUESTIONS}, are graded by hand."
PAGES = json.loads((ROOT / "report" / "equations.json").read_text(encoding="utf-8"))  # of the equations in report.pdf


def printable(text):
    """Return a text in one line, with a question mark for each character that could control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


def file_name(path):
    """Return the name of a directory or an archive as one for results."""
    name = re.sub(r"(?i)\.(zip|tar\.gz|tgz)$", "", os.path.basename(os.path.abspath(path)))
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_"


def result_folders(paths, out_dir):
    """Return `{path: directory for its results}`: ada, or hw1_ada if there is another ada, or ada@1."""
    names, count = {}, Counter(["grades.csv"] * 2)
    for number, path in enumerate(paths, 1):
        parts = [file_name(part) for part in Path(os.path.abspath(path)).parts]
        names[path] = ["_".join(parts[-n:]) for n in range(1, len(parts) + 1)] + [f"{parts[-1]}@{number}"]
        count.update(name.casefold() for name in names[path])
    return {path: Path(out_dir, next(n for n in names[path] if count[n.casefold()] == 1)) for path in names}


# ---- A submission: rows are pairs of a check and its result --------------------------------------


def sentences(result):
    """Return what a student should read about a result: what was called, the problem, a note."""
    is_called = result.status in ("failed", "not decided") and not result.called.startswith("import ")
    lines = [result.called * is_called, result.problem * (not is_unwritten(result)), result.note]
    return [printable(line) for line in lines if line]


def remark_on(result):
    return "not written yet" if is_unwritten(result) else REMARKS.get(result.status, "")


def is_unwritten(result):
    return result.status == "not written" and result.problem == f"{NOT_WRITTEN}."


def citations(check, result):
    """Return sentences on the report's equations that a failed check should follow."""
    if result.status != "failed" or result.is_error:
        return []
    return [f"See Eq. ({name}) on page {PAGES[name]} of report.pdf." for name in EQUATIONS.get(check.name, ())]


def earned(check, result):
    return check.points if result.passed else 0


def points_text(rows):
    """Return the points, out of those that were decided; then those that were not, and why."""
    left = Counter()
    for check, result in rows:
        if result.status in ("not run", "not decided"):
            left[result.status] += check.points
    score, total = sum(earned(*row) for row in rows), sum(check.points for check, _ in rows)
    more = "".join(f"; {points:g} of {total:g} {why}" for why, points in left.items())
    return f"{score:g} of {total - left.total():g} points{more}"


def by_question(rows, equations):
    """Yield question, title, points and lines, which are check, result, a remark and sentences.

    If a check above has the same sentences, the remark says so instead. `equations`: cite the report's.
    """
    for question, title in QUESTIONS.items():
        part, lines, first = [row for row in rows if row[0].question == question], [], {}
        for check, result in part:
            remark, own = remark_on(result), sentences(result)
            above = first.setdefault(tuple(own), check.name)
            if own and above != check.name:
                remark, own = f"as {above}, above", []
            lines.append((check, result, remark, own + citations(check, result) * equations))
        yield question, title, points_text(part), lines


def results_json(rows, notes, visibility="visible", equations=False, **extra):
    """Return Gradescope's results. `extra_data` is for the grader, students do not see it.

    Args:
        visibility: when students see checks and notes, one of `scheme.VISIBILITIES`.
        equations: cite the report's equations.
        extra: more `extra_data`.
    """
    tests = []
    for check, result in rows:
        if result.status != "not run":
            lines = [remark_on(result) or result.status, *sentences(result)]
            name = f"{check.question} {check.name}: {check.title}"
            test = {"name": name, "score": earned(check, result), "max_score": check.points, "visibility": visibility}
            test["output"] = "\n".join(lines + citations(check, result) * equations)
            if result.status != "not decided":
                test["status"] = "passed" if result.passed else "failed"
            tests.append(test)
    checks = [{"name": c.name, "question": c.question, "points": c.points, "status": r.status} for c, r in rows]
    return {
        "score": sum(earned(*row) for row in rows),
        "output": "\n".join([*(notes if visibility == "visible" else ()), BY_HAND_TEXT]),  # students always see it
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": extra | {"notes": notes, "checks": checks},
    }


def table(name, rows, notes):
    """Return the points of a submission as text, with the report's equations."""
    lines = [f"{name}: {points_text(rows)}", ""]
    for question, title, points, part in by_question(rows, equations=True):
        lines.append(f"{question:<5} {title:<42} {points}")
        for check, result, remark, own in part:
            points = f"{earned(check, result):>5g} of {check.points:<5g}"
            title = check.title + f" ({remark})" * bool(remark)
            lines.append(f"  {MARKS[result.status]} {check.name:<28} {points} {title}")
            for line in own:
                lines += [f"        {part}" for part in textwrap.wrap(line, 92, break_on_hyphens=False)]
    return "\n".join([*lines, BY_HAND_TEXT, *(f"Note: {note}" for note in notes)])


def page(name, rows, notes, equations=False):
    """Return report.html as text. `equations`: cite the report's."""
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"), autoescape=True).render(
        title=f"Grade of {name}",
        points=points_text(rows),
        notes=[BY_HAND_TEXT, *notes],
        questions=by_question(rows, equations),
        earned=earned,
        marks=MARKS,
    )


# ---- Many submissions --------------------------------------------------------------------------


def grades_csv(graded, paths):
    """Return grades.csv as text: points in all and by question, points that are open, notes, path.

    Args:
        graded: `{name: content of results.json}`.
        paths: `{name: path of the submission}`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["submission", "score", "out_of", *QUESTIONS, "not_run", "not_decided", "notes", "path"])
    for name, results in sorted(graded.items()):
        points, extra = Counter(), results["extra_data"]
        for check in extra["checks"]:
            points[check["question"] if check["status"] == "passed" else check["status"]] += check["points"]
        out_of = sum(check["points"] for check in extra["checks"]) - points["not run"]
        columns = [results["score"], out_of, *(points[column] for column in (*QUESTIONS, "not run", "not decided"))]
        texts = [name, "; ".join(extra["notes"]), printable(paths[name])]
        name, *texts = (f"'{text}" if text[:1] in tuple("=+-@") else text for text in texts)  # no formulas
        writer.writerow([name, *(f"{p:g}" for p in columns), *texts])
    return text.getvalue()


def in_short(results):
    """Return the points of a submission, of those that were decided."""
    decided = [c["points"] for c in results["extra_data"]["checks"] if c["status"] not in ("not run", "not decided")]
    return f"{results['score']:g} of {sum(decided):g} points"


def summary(graded, seconds):
    """Return a text on many submissions, contents of results.json: their points, and which checks most have failed."""
    scores = [results["score"] for results in graded] or [0]
    spread = f"{min(scores):g} to {max(scores):g} points, median {statistics.median(scores):g}"
    checks = [check for results in graded for check in results["extra_data"]["checks"]]
    failed = Counter(check["name"] for check in checks if check["status"] in ("failed", "not written"))
    often = ", ".join(f"{name} ({n})" for name, n in failed.most_common(5))
    return f"{len(graded)} graded in {seconds:.0f} s: {spread}" + f"\nfailed most often: {often}" * bool(failed)
