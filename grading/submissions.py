"""Grades submissions, several at once, and writes their results."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from grading import output
from grading.checks import ALL_CHECKS
from grading.checks.check import Grading, Result
from grading.checks.training import load_training
from grading.sandbox import Sandbox, SandboxError
from grading.scheme import FILES, ROOT
from grading.submission import Submission, SubmissionError, read_submission
from training.files import write_json, write_text

UNFINISHED = "Grading has not ended: this is not a grade yet."
WAITING = Result("not run")
FREE_FLAGS = {"paths", "out_dir", "jobs", "regrade"}  # they change no result


@dataclass
class Job:
    """A submission to grade: its name, its files, the directory for its results and a digest of what they depend on."""

    name: str
    submission: Submission
    folder: Path
    digest: str


def grade_all(trees, folders, args, out_dir=None):
    """Grade submissions and return whether all could be graded. The others get 0 points and a reason.

    Args:
        trees: `{path: archives.Tree}`.
        folders: `{path: directory for its results}`.
        args: flags of grade.py.
        out_dir: directory of grades.csv; None for a single submission.

    Raises:
        SandboxError: nothing can be graded here.
    """
    began, jobs, results = time.monotonic(), {}, {}
    names = {path: folders[path].name if out_dir else output.file_name(path) for path in trees}
    for path, tree in trees.items():
        try:
            submission = read_submission(tree)
            if not submission.found and not out_dir:
                raise SubmissionError(f"expected at least one of {', '.join(FILES)}, found none")
            digest = _digest(submission, args)
            if args.regrade or not (reusable := _read_results(folders[path], digest)):
                jobs[path] = Job(names[path], submission, folders[path], digest)
            else:
                results[path] = reusable
        except Exception as error:
            results[path] = error
    if n_reused := sum(isinstance(result, dict) for result in results.values()):
        print(f"{n_reused} of {len(trees)} already have results (--regrade grades them again)")
    results |= _grade(jobs, args, out_dir) if jobs else {}
    errors = {path: error for path, error in results.items() if isinstance(error, Exception)}
    graded = [results[path] for path in trees if path not in errors]
    for path, error in errors.items():
        why = output.printable(error)
        print(f"grade.py: error: {output.printable(path)} could not be graded: {why}", file=sys.stderr)
        results[path] = _write_note(folders[path], f"Could not be graded: {why}", args)
    if out_dir:
        by_name = {names[path]: results[path] for path in trees}
        write_text(out_dir / "grades.csv", output.grades_csv(by_name, {name: path for path, name in names.items()}))
        print(output.summary(graded, time.monotonic() - began))
        print(f"results: {out_dir / 'grades.csv'}, and a directory for each submission next to it")
    elif graded:
        (folder,) = folders.values()
        print((folder / "table.txt").read_text(encoding="utf-8"))
        print(f"results: {folder / 'results.json'}, {folder / 'report.html'}")
    return not errors


def _grade(jobs, args, out_dir):
    """Grade `{path: Job}` in parallel. Return `{path: content of results.json, or what prevented it, an exception}`."""
    training, results = load_training(args.data_dir, not args.no_training, args.jobs), {}
    places = [out_dir] if out_dir else [job.folder for job in jobs.values()]
    with Sandbox((*args.paths, *places), args.limits_only) as sandbox:
        if not sandbox.has_bubblewrap:
            print(f"grade.py: warning: {sandbox.protection}", file=sys.stderr)
        if any(os.path.realpath(path) != str(ROOT) for path in jobs):
            check_project(sandbox)
        for job in jobs.values():
            if not _read_results(job.folder, job.digest):  # what is there, if anything, is of other files or flags
                _write_note(job.folder, UNFINISHED, args)
        pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
        with tqdm(total=len(jobs) * len(ALL_CHECKS), unit="check", disable=None, leave=False) as progress:
            try:
                futures = {pool.submit(grade_one, job, sandbox, training, args, progress): path
                           for path, job in jobs.items()}  # fmt: skip
                for n, future in enumerate(concurrent.futures.as_completed(futures), 1):
                    path, error = futures[future], future.exception()
                    results[path] = error or future.result()
                    if out_dir:
                        said = "could not be graded" if error else output.in_short(results[path])
                        said += "; it has none of the course's files" * (not jobs[path].submission.found)
                        tqdm.write(f"{n}/{len(jobs)} {jobs[path].name}: {said}")
            except BaseException:
                sandbox.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
    return results


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


def grade_one(job, sandbox, training, args, progress):
    """Run all checks on a submission, write its results and return the content of results.json.

    This is also written after each check: if a platform ends the grader, what has passed so far counts.
    """
    _write_note(job.folder, UNFINISHED, args)
    results, submission = dict.fromkeys(ALL_CHECKS, WAITING), job.submission

    def write_results(notes, **extra):
        content = output.results_json([*results.items()], notes, args.visibility, args.equations, **extra)
        write_json(job.folder / "results.json", content)
        return content

    with sandbox.worker(submission.files, submission.folders) as worker:
        grading = Grading(worker.ask, submission.found, training)
        for check in ALL_CHECKS:
            results[check] = grading.run(check)
            write_results([UNFINISHED])
            progress.update()
        notes = [*submission.notes, *sorted(grading.notes)]
        notes, rows = [*map(output.printable, notes)], [*results.items()]
    write_text(job.folder / "table.txt", output.table(job.name, rows, notes) + "\n")
    write_text(job.folder / "report.html", output.page(job.name, rows, notes, args.equations))
    # If a request had no answer, or training images were missing, another grading may give more points.
    is_open = not args.no_training and any(result.status == "not run" for result in results.values())
    extra = {} if worker.unanswered or is_open else {"digest": job.digest}
    return write_results(notes, sandbox=sandbox.protection, **extra)


def _write_note(folder, note, args):
    """Write results.json without results, and remove what an earlier grading has written. Return its content."""
    content = output.results_json([(check, WAITING) for check in ALL_CHECKS], [note], args.visibility)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", content)
        for name in ("table.txt", "report.html"):
            (folder / name).unlink(missing_ok=True)
    return content


def _digest(submission, args):
    """Return a digest of what results depend on: the submission's files and the flags."""
    flags = sorted((name, str(value)) for name, value in vars(args).items() if name not in FREE_FLAGS)
    content = repr((flags, submission.folders, sorted(submission.files.items())))
    return hashlib.sha256(content.encode()).hexdigest()


def _read_results(folder, digest):
    """Return the content of results.json if it is final and of the same files and flags, else None."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        is_whole = (folder / "table.txt").exists() and (folder / "report.html").exists()
        return results if is_whole and results["extra_data"]["digest"] == digest else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
