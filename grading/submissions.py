"""Grades submissions, several at once, and writes their results."""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from grading import output
from grading.archives import SubmissionError
from grading.checks import ALL_CHECKS
from grading.checks.check import Grading, Result
from grading.checks.training import load_training
from grading.sandbox import Sandbox, SandboxError
from grading.scheme import FILES, ROOT
from grading.submission import read_submission
from grading.worker.old_names import restores
from training.files import write_text

UNFINISHED = "Grading has not ended: this is not a grade yet."
WAITING = Result("not run")
FREE_FLAGS = {"paths", "out_dir", "jobs", "regrade"}  # they change no result


def grade_all(trees, folders, args, out_dir=None):
    """Grade submissions and return whether all could be graded. One that could not gets 0 points and a reason.

    Args:
        trees: `{path: (archives.Tree, names for Tree.below)}`.
        folders: `{path: directory for its results}`.
        args: flags of grade.py.
        out_dir: directory of grades.csv; None for a single submission.
    """
    began, todo, results, errors = time.monotonic(), {}, {}, {}
    names = {path: folders[path].name if out_dir else output.file_name(path) for path in trees}
    for path, (tree, inner) in trees.items():
        try:
            submission = read_submission(tree.below(*inner))
            key = _key(submission, args)
            if args.regrade or not (found := _finished(folders[path], key, args)):
                todo[path] = names[path], submission, folders[path], key
            else:
                results[path] = found
        except Exception as error:
            errors[path] = error
    if results:
        print(f"{len(results)} of {len(trees)} already have results (--regrade grades them again)")
    total, unit = (len(todo), "submission") if out_dir else (len(ALL_CHECKS), "check")
    progress = tqdm(total=total, unit=unit, disable=None if todo else True, leave=False)
    try:
        with progress, contextlib.closing(_grade(todo, folders, args, None if out_dir else progress)) as ended:
            for n, (path, future) in enumerate(ended, 1):
                try:
                    results[path], seconds = future.result()
                    said = f"{results[path]['score']:g} points, {seconds:.1f} s"
                except Exception as error:
                    errors[path], said = error, "could not be graded"
                if out_dir:
                    tqdm.write(f"{n}/{len(todo)} {names[path]}: {said}")
                    progress.update()
    except SandboxError as error:
        print(f"grade.py: error: {output.printable(error)}", file=sys.stderr)
        return False
    graded = [results[path] for path in trees if path in results]
    results |= {path: _give_up(path, folders[path], error, args) for path, error in errors.items()}
    if out_dir:
        write_text(out_dir / "grades.csv", output.grades_csv({names[path]: results[path] for path in trees}))
        print(output.summary(graded, time.monotonic() - began))
        if errors:
            print(f"could not be graded: {', '.join(names[path] for path in errors)}")
        print(f"results: {out_dir / 'grades.csv'}, and a directory for each submission next to it")
    elif graded:
        (folder,) = folders.values()
        print((folder / "table.txt").read_text(encoding="utf-8"))
        print(f"results: {folder / 'results.json'}, {folder / 'report.html'}")
    return not errors


def _grade(todo, folders, args, progress):
    """Yield path and future of each submission in `todo`, the arguments of `grade_one`, when it has been graded."""
    if not todo:
        return
    training = load_training(args.data_dir, not args.no_training, args.jobs)
    with Sandbox((*args.paths, *folders.values()), args.limits_only) as sandbox:
        if not sandbox.has_bubblewrap:
            print(f"grade.py: warning: {sandbox.protection}", file=sys.stderr)
        if any(os.path.realpath(path) != str(ROOT) for path in todo):
            check_project(sandbox)
        for path in todo:
            _begin(folders[path], _no_results(UNFINISHED, args))
        pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
        try:
            grade = functools.partial(grade_one, sandbox, training, args, progress)
            waiting = {pool.submit(grade, *what): path for path, what in todo.items()}
            while waiting:  # with a timeout, so that Ctrl-C is noticed
                for future in concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED).done:
                    yield waiting.pop(future), future
        except BaseException:
            sandbox.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def check_project(sandbox):
    """Run the checks on the project's own files. If one does not pass, no submission can be graded fairly.

    Raises:
        SandboxError: one does not pass.
    """
    with sandbox.worker({name: (ROOT / name).read_bytes() for name in FILES}, ["."]) as worker:
        grading = Grading(worker.ask, FILES)
        for check in ALL_CHECKS:
            result = grading.run(check)
            if result.status not in ("passed", "not run"):
                raise SandboxError(
                    f"the project's own files fail {check.name} here, so nothing was graded: {result.problem} "
                    "Compare the installed packages with requirements.txt"
                )


def grade_one(sandbox, training, args, progress, name, submission, folder, key):
    """Run all checks on a submission and write its results. Return the content of results.json, and seconds.

    results.json is also written after each check: if a platform ends the grader, what has passed so far counts.
    """
    began, results = time.monotonic(), dict.fromkeys(ALL_CHECKS, WAITING)
    with sandbox.worker(submission.files, submission.folders, args.lenient) as worker:
        grading = Grading(worker.ask, submission.found, training)
        for check in ALL_CHECKS:
            try:
                results[check] = grading.run(check)
            except SandboxError:
                raise
            except Exception as error:  # a submission that makes the grader fail loses this check, not the others
                results[check] = Result("failed", check.title, f"The grader failed: {type(error).__name__}: {error}")
            is_finished = check is ALL_CHECKS[-1]
            extra = {"finished": is_finished, "key": key, "was_cut_off": worker.was_cut_off}
            notes = [*submission.notes, *_notes_on_old_code(grading, worker), sandbox.protection]
            notes = [output.printable(note) for note in [UNFINISHED] * (not is_finished) + notes]
            rows = [*results.items()]
            if is_finished:
                write_text(folder / "table.txt", output.table(name, rows, notes) + "\n")
                write_text(folder / "report.html", output.page(name, rows, notes, folder, args.equations))
            text = output.results_json(rows, notes, extra, args.visibility, args.equations)
            write_text(folder / "results.json", text)
            if progress is not None:
                progress.update()
    return json.loads(text), time.monotonic() - began


def _notes_on_old_code(grading, worker):
    if worker.old_names:
        return [f"graded with --lenient, which restored {', '.join(sorted(worker.old_names))}"]
    old = sorted({error.split(". ")[0] for error in grading.errors if restores(error)})
    return [f"old code, which --lenient can run: {error}" for error in old]


def _no_results(note, args, **extra):
    """Return results.json without results, as text."""
    extra |= {"finished": False}
    return output.results_json([(check, WAITING) for check in ALL_CHECKS], [note], extra, args.visibility)


def _begin(folder, text):
    """Write results.json, and remove what an earlier grading has written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", text)
    for name in ("table.txt", "report.html"):
        (folder / name).unlink(missing_ok=True)


def _give_up(path, folder, error, args):
    """Report that a submission could not be graded, and write and return its results, which have 0 points."""
    is_expected = isinstance(error, (SubmissionError, SandboxError, OSError))
    why = output.printable(error if is_expected else f"{type(error).__name__}: {error}")
    print(f"grade.py: error: {output.printable(path)} could not be graded: {why}", file=sys.stderr)
    text = _no_results(f"Could not be graded: {why}", args, error=why)
    with contextlib.suppress(OSError):
        _begin(folder, text)
    return json.loads(text)


def _key(submission, args):
    """Return a digest of what results depend on: the submission's files and the flags."""
    flags = sorted((name, str(value)) for name, value in vars(args).items() if name not in FREE_FLAGS)
    files = sorted((name, hashlib.sha256(raw).hexdigest()) for name, raw in submission.files.items())
    return hashlib.sha256(repr((flags, submission.folders, files)).encode(errors="backslashreplace")).hexdigest()


def _finished(folder, key, args):
    """Return the results in a directory if they are complete and have this key, else None.

    If a check was cut off, or training images were missing, another grading may give more points.
    """
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        extra = results["extra_data"]
        is_open = not args.no_training and any(check["status"] == "not run" for check in extra["checks"])
        is_whole = extra["finished"] and all(Path(folder, name).is_file() for name in ("table.txt", "report.html"))
        return results if is_whole and extra["key"] == key and not extra["was_cut_off"] and not is_open else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
