"""Grades one submission or many, and writes down what came of it as it comes."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import re
import sys
import time
from pathlib import Path

from tqdm import tqdm

from grading import pages
from grading.all_checks import ALL_CHECKS
from grading.check import Grading, Outcome
from grading.checks_training import load_training
from grading.gradescope import PARTS
from grading.reference import Reference
from grading.right_answer import demand_full_points
from grading.session import Session
from grading.submission import NOT_SEARCHED, SubmissionError, read_submission
from grading.walls import INSTALL, ROOT, Sandbox, SandboxError
from training.files import write_text

TOTAL_SECONDS, FULL_TOTAL_SECONDS = 500, 8000
# How Python, NumPy and PyTorch say that a file or a module is not there.
MISSED = re.compile(
    r"No such file or directory: '([^']+)'|No module named '([^']+)'|(\S+) not found\.|there is no (\w+\.py)"
)
UNFINISHED = "grading has not ended: this is no grade yet"
WAITING = Outcome(False, got="not run yet", was_run=False)


def grade_all(folders, args, out_dir=None):
    """Grade submissions, `args.jobs` at once, and return for each whether it could be done.

    One that could not says so in a line and has 0 in each check; the others go on.

    Args:
        folders: `{path: folder for its results}`.
        args: the flags of grade.py.
        out_dir: where grades.csv goes; None where one path was given.

    Raises:
        SandboxError: no submission can be graded here.
    """
    began, graders_own = time.monotonic(), _graders_own(args)
    todo, results, took = {}, {}, {}
    for path, folder in folders.items():
        try:
            submission = read_submission(path)
            key = _digest(graders_own, submission.folders, sorted(submission.files.items()))
            results[path] = None if args.anew else _finished(folder, key)
            if results[path] is None:
                _begin(folder, _no_results([UNFINISHED], args.visibility))
                todo[path] = submission, folder, key
        except Exception as error:
            results[path] = _give_up(path, folder, error, args.visibility)
    if todo:
        total, unit = (len(todo), "submission") if out_dir else (len(ALL_CHECKS), "check")
        progress = tqdm(total=total, unit=unit, disable=None, leave=False)
        after_check = None if out_dir else progress.update
        with progress, contextlib.closing(_grade(todo, folders, args, after_check)) as ended:
            for n, (path, future) in enumerate(ended, 1):
                name = folders[path].name
                try:
                    results[path], took[name] = future.result()
                except Exception as error:
                    results[path] = _give_up(path, folders[path], error, args.visibility)
                if out_dir:
                    tqdm.write(f"{n}/{len(todo)} {name}: {results[path]['score']:g} points")
                    progress.update()
    graded = {path: "error" not in results[path]["extra_data"] for path in folders}
    if out_dir:
        rows = {folders[path].name: results[path] for path in folders}
        write_text(out_dir / "grades.csv", pages.grades_csv(rows))
        print(pages.summary([results[path] for path in folders if graded[path]], time.monotonic() - began, took))
        if not all(graded.values()):
            print(f"could not be graded: {', '.join(folders[path].name for path in folders if not graded[path])}")
        print(f"results: {out_dir / 'grades.csv'}, and a folder for each submission beside it")
    elif all(graded.values()):
        (folder,) = folders.values()
        print((folder / "table.txt").read_text(encoding="utf-8"))
        print(f"results: {folder / 'results.json'}, {folder / 'report.html'}")
    return list(graded.values())


def _grade(todo, folders, args, after_check):
    """Yield path and future of `grade_one` as they end.

    Args:
        todo: `{path: arguments of grade_one}`.
        folders: as of `grade_all`.
        after_check: called after each check, or None.

    Raises:
        SandboxError: as of `grade_all`.
    """
    training, reference = load_training(args.data_dir, not args.no_training, args.full, args.jobs), Reference()
    # Of a path into an archive, the archive.
    handed_in = (next(p for p in (path, *path.parents) if p.exists()) for path in folders)
    hidden = (*handed_in, *folders.values())
    with Sandbox(hidden, args.require_sandbox) as sandbox, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        if not sandbox.has_walls:
            why = f"no bubblewrap here: {sandbox.why_not}"
            print(f"grade.py: warning: submissions run under limits only ({why}); {INSTALL}", file=sys.stderr)
        if any(path.resolve() != ROOT for path in todo):  # else it is what is graded
            demand_full_points(sandbox, reference)
        grade = functools.partial(grade_one, sandbox, reference, training, args, after_check)
        try:  # from the first on, or Ctrl-C would wait for all that are handed in
            waiting = {pool.submit(grade, *what): path for path, what in todo.items()}
            while waiting:  # for half a second: a Ctrl-C that comes just as one wait begins is seen when it ends
                for future in concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED).done:
                    yield waiting.pop(future), future
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            sandbox.stop()
            raise


def grade_one(sandbox, reference, training, args, after_check, submission, folder, key):
    """Run all checks on a submission; return its results as results.json has them, and how many seconds they took.

    results.json in `folder` is written anew after every check, and says that it is finished when all else is written.

    Args:
        sandbox: `walls.Sandbox`.
        reference: `reference.Reference`.
        training: `checks_training.Training`.
        args: the flags of grade.py.
        after_check: called after each, or None.
        submission: `submission.Submission`.
        folder: where results go; it exists.
        key: noted, to tell whether the same has been graded before.
    """
    began, name = time.monotonic(), pages.file_name(submission.path)
    outcomes = dict.fromkeys(ALL_CHECKS, WAITING)
    total = FULL_TOTAL_SECONDS if training.full else TOTAL_SECONDS
    with Session(sandbox, submission.files, submission.folders, args.lenient, total) as session:
        grading = Grading(session, reference, submission, training)
        grading.import_all()
        for check in outcomes:
            try:
                outcomes[check] = grading.run(check)
            except SandboxError:
                raise
            except Exception as error:  # a submission that trips the grader itself loses this check, not the others
                got = pages.printable(f"the grader stumbled: {type(error).__name__}: {error}")
                outcomes[check] = Outcome(False, check.title, got)
            notes = [UNFINISHED, *_notes(grading, outcomes)]
            _write(folder, grading, outcomes, notes, key, args, finished=False)
            if after_check:
                after_check()
    notes = _notes(grading, outcomes)
    write_text(folder / "table.txt", pages.table(name, list(outcomes.items()), notes) + "\n")
    pictures = {}
    figures = {"steps_numpy": "fig01_mlp_numpy", "steps_pytorch": "fig03_mlp_pytorch", "convnet": "fig13_convnet"}
    for op, curve in grading.measured.items():
        metrics = [{"step": step, "test_accuracy": accuracy} for step, accuracy in curve]
        pictures[f"Test accuracy against {figures[op]}"] = pages.curves(figures[op], "accuracy", metrics)
    page = pages.submission_page(name, list(outcomes.items()), notes, pictures, folder)
    write_text(folder / "report.html", page)
    results = _write(folder, grading, outcomes, notes, key, args, finished=True)
    return results, time.monotonic() - began


def _notes(grading, outcomes):
    notes = [*grading.submission.notes, *_what_was_missed(outcomes, grading.submission)]
    notes += [
        f"old code ({text}): no mistake of the answer; a teaching assistant can grade with --lenient"
        for text in sorted(grading.old_code)
    ]
    if old := sorted(grading.session.old_names):
        notes.append(f"graded leniently: {', '.join(f'numpy.{name}' for name in old)} brought back")
    return [pages.printable(note) for note in (*notes, grading.session.protection)]


def _what_was_missed(outcomes, submission):
    """Return a sentence on each file or module that a check did not find, with what that cost and why it is not there.

    And one on what else was left out.
    """
    lost, left_out = {}, dict(submission.left_out)
    for check, outcome in outcomes.items():
        found = MISSED.search(outcome.got)
        if found and pages.status(outcome) == "fail":
            name = next(filter(None, found.groups()))
            lost[name] = lost.get(name, 0) + check.points
    notes = []
    for name, points in lost.items():
        ends = (Path(name).name, f"{name.rpartition('.')[2]}.py")
        files = [file for file in left_out if Path(file).name in ends]
        why = "not handed in, hidden, or not installed here"
        if files:
            why = f"{files[0]} was left out: {left_out.pop(files[0])}"
        notes.append(f"{points:g} points are lost where {name} is missed ({why})")
    left_out = {name: why for name, why in left_out.items() if why != NOT_SEARCHED}
    if left_out:
        name, why = next(iter(left_out.items()))
        others = f", and {len(left_out) - 1} more files" if len(left_out) > 1 else ""
        notes.append(f"{name} was left out ({why}){others}; no check says that it misses that")
    return notes


def _write(folder, grading, outcomes, notes, key, args, finished):
    """Write results.json, and return what is in it."""
    extra = {"finished": finished, "key": key, "lenient": args.lenient, "measured": grading.measured}
    extra |= {"was_cut_off": grading.session.was_cut_off, "notes": notes}
    extra["mistakes"] = [mistake.sentence for mistake in grading.carried]
    text = pages.results_json(list(outcomes.items()), notes, extra, args.visibility)
    write_text(folder / "results.json", text)
    return json.loads(text)


def _no_results(notes, visibility, **extra):
    """Return results.json with 0 in each check."""
    outcome = dataclasses.replace(WAITING, got=f"not run: {extra['error']}") if "error" in extra else WAITING
    outcomes = [(check, outcome) for check in ALL_CHECKS]
    return pages.results_json(outcomes, notes, {"finished": False, "notes": list(notes)} | extra, visibility)


def _begin(folder, text):
    """Write results.json, and take away what an earlier time wrote beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", text)
    for name in ("table.txt", "report.html"):
        (folder / name).unlink(missing_ok=True)


def _give_up(path, folder, error, visibility):
    """Say that a submission could not be graded, write results with 0 in each check, and return them."""
    is_ours = isinstance(error, (SubmissionError, SandboxError, OSError))
    why = pages.printable(error if is_ours else f"{type(error).__name__}: {error}")
    tqdm.write(f"grade.py: error: {pages.printable(path)} could not be graded: {why}", file=sys.stderr)
    text = _no_results([f"could not be graded: {why}"], visibility, error=why)
    with contextlib.suppress(OSError):
        _begin(folder, text)
    return json.loads(text)


def _finished(folder, key):
    """Return the results in `folder` where they are complete and of the same submission, else None.

    Where a check was stopped or its process died, the same may come out better on a machine with less to do.
    """
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        extra = results["extra_data"]
        is_whole = extra["finished"] and (folder / "table.txt").is_file() and (folder / "report.html").is_file()
        return results if is_whole and extra["key"] == key and not extra["was_cut_off"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _graders_own(args):
    """Return a digest of what every score depends on: flags, grader, reference, runs, images, and what is installed."""
    data = [] if args.no_training else sorted((p.name, p.stat().st_size) for p in Path(args.data_dir).glob("*"))
    flags = [args.no_training, args.full, args.lenient, args.visibility, args.require_sandbox]
    own = {str(path.relative_to(ROOT)): path.read_bytes() for part in PARTS for path in ROOT.glob(part)}
    packages = sorted(str((found.name, found.version)) for found in importlib.metadata.distributions())
    return _digest(flags, data, sys.version, packages, sorted(own.items()))


def _digest(*what):
    return hashlib.sha256(repr(what).encode()).hexdigest()
