"""Grades one submission or many, and writes down what came of it as it comes."""

import concurrent.futures
import functools
import hashlib
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from grading import pages
from grading.checks import Grading, Outcome, all_checks
from grading.checks_training import load_training
from grading.reference import Reference
from grading.sandbox import ROOT, SandboxError, Server, Session
from grading.submission import SubmissionError, read_submission

TOTAL_SECONDS, FULL_TOTAL_SECONDS = 500, 8000


def grade_all(paths, args):
    """Grade submissions, `args.jobs` at once, and return for each whether it could be done."""
    names, began = _names(paths), time.monotonic()
    is_one = len(paths) == 1
    out_dir = Path(args.out_dir or Path("results", "grade", *([names[paths[0]]] if is_one else [])))
    folders = {path: out_dir if is_one else out_dir / names[path] for path in paths}
    submissions, done = {}, {}
    for path in paths:
        try:
            submissions[path] = read_submission(path)
        except (SubmissionError, OSError) as error:
            print(f"grade.py: error: {path}: {error}", file=sys.stderr)
    keys = {path: _fingerprint(submission, args) for path, submission in submissions.items()}
    if not args.anew:
        done = {path: r for path in submissions if (r := _finished(folders[path], keys[path]))}
    todo = [path for path in submissions if path not in done]
    for path in todo:
        folders[path].mkdir(parents=True, exist_ok=True)
        _write(
            folders[path], names[path], [(c, _waiting()) for c in all_checks()], [], {"finished": False, "notes": []}
        )
    if todo:
        training = load_training(args.data_dir, not args.no_training, args.full, args.jobs)
        reference = Reference()
        with Server() as server, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            bar = functools.partial(tqdm, unit="check" if is_one else "submission", disable=None, leave=False)
            with bar(total=len(all_checks()) if is_one else len(todo)) as progress:
                grade = functools.partial(grade_one, server, reference, training, lenient=args.lenient)
                futures = {
                    pool.submit(
                        grade, submissions[p], folders[p], names[p], keys[p], progress.update if is_one else None
                    ): p
                    for p in todo
                }
                try:
                    for future in concurrent.futures.as_completed(futures):
                        done[futures[future]] = future.result()
                        if not is_one:
                            progress.update()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    for path in paths:
        if path in done and is_one:
            print((folders[path] / "table.txt").read_text())
            print(f"results: {folders[path] / 'results.json'}, {folders[path] / 'report.html'}")
    if not is_one and done:
        rows = {names[path]: results for path, results in done.items()}
        pages.write_text(out_dir / "grades.csv", pages.grades_csv(rows))
        print(pages.summary(rows, time.monotonic() - began))
        print(f"results: {out_dir / 'grades.csv'}, and a folder for each submission beside it")
    return [path in done for path in paths]


def grade_one(server, reference, training, submission, folder, name, key="", progress=None, lenient=False):
    """Run all checks on a submission and return its results as results.json has them.

    The files in `folder` are written anew after every check.

    Args:
        server: `sandbox.Server`.
        reference: `reference.Reference`.
        training: `checks_training.Training`.
        submission: `submission.Submission`.
        folder: where results go; it exists.
        name: of the submission, for the pages.
        key: noted, to tell whether the same has been graded before.
        progress: called after each check.
        lenient: bring back names that NumPy has dropped.
    """
    outcomes = {check: _waiting() for check in all_checks()}
    total = FULL_TOTAL_SECONDS if training.full else TOTAL_SECONDS
    with Session(server, submission.files, submission.folders, lenient, total, total) as session:
        grading = Grading(session, reference, submission, training)
        grading.import_all()
        for check in outcomes:
            try:
                outcomes[check] = grading.run(check)
            except SandboxError:
                raise
            except Exception as error:  # a submission that trips the grader itself loses this check, not the others
                outcomes[check] = Outcome(False, check.title, f"the grader stumbled: {type(error).__name__}: {error}")
            _write(folder, name, list(outcomes.items()), _notes(grading, lenient), _extra(grading, key, False, lenient))
            if progress:
                progress()
    notes = _notes(grading, lenient)
    results = _write(folder, name, list(outcomes.items()), notes, _extra(grading, key, True, lenient))
    pages.write_text(folder / "table.txt", pages.table(name, list(outcomes.items()), notes) + "\n")
    pictures = {}
    figures = {"steps_numpy": "fig01_mlp_numpy", "steps_pytorch": "fig03_mlp_pytorch", "convnet": "fig13_convnet"}
    for op, curve in grading.measured.items():
        metrics = [{"step": step, "test_accuracy": accuracy} for step, accuracy in curve]
        pictures[f"Test accuracy against {figures[op]}"] = pages.curves(figures[op], "accuracy", metrics)
    pages.write_text(folder / "report.html", pages.submission_page(name, list(outcomes.items()), notes, pictures))
    return results


def protection_note(protection):
    """Return a sentence on what held the submission's process."""
    if not protection:
        return "nothing of the submission was run"
    own = ", as root without its privileges, for want of another user here" if protection.get("is_root") else ""
    if protection.get("namespaces"):
        return f"it ran without a network, in a file system of its own, under limits{own}"
    return (
        f"it ran under limits only ({protection.get('why', 'no namespaces')}){own}: it could reach the network, and "
        "what its user may read or write; for submissions that you do not trust, use a container (README)"
    )


def _notes(grading, lenient):
    notes = list(grading.submission.notes)
    notes += [
        f"old code ({text}): no mistake of the answer; a teaching assistant can grade with --lenient"
        for text in sorted(grading.old_code)
    ]
    if lenient and grading.session.old_names:
        notes.append(
            f"graded leniently: {', '.join(f'numpy.{n}' for n in sorted(grading.session.old_names))} brought back"
        )
    return [*notes, protection_note(grading.session.protection)]


def _extra(grading, key, finished, lenient):
    extra = {"finished": finished, "key": key, "lenient": lenient, "measured": grading.measured}
    return extra | {"notes": _notes(grading, lenient), "mistakes": [m.sentence for m in grading.carried]}


def _waiting():
    return Outcome(False, got=pages.NOT_RUN_YET, was_run=False)


def _write(folder, name, outcomes, notes, extra):
    text = pages.results_json(outcomes, notes, extra)
    pages.write_text(folder / "results.json", text)
    return json.loads(text)


def _finished(folder, key):
    """Return the results in `folder` where they are complete and of the same submission, else None."""
    try:
        results = json.loads((folder / "results.json").read_text())
        return results if results["extra_data"]["finished"] and results["extra_data"]["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(submission, args):
    """Return a digest of all that the score depends on: the submission, the flags, the grader and the reference."""
    digest = hashlib.sha256(repr([args.no_training, args.full, args.lenient, submission.folders]).encode())
    own = [*ROOT.glob("grading/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("grading/*.json")]
    content = {str(p.relative_to(ROOT)): p.read_bytes() for p in own}
    for files in (submission.files, content):
        for name, raw in sorted(files.items()):
            digest.update(f"{name} {len(raw)} ".encode())
            digest.update(raw)
    return digest.hexdigest()


def _names(paths):
    """Return a file name for each path, none twice."""
    names = {}
    for path in paths:
        base = pages.file_name(path)
        name, n = base, 1
        while name in names.values():
            n += 1
            name = f"{base}-{n}"
        names[path] = name
    return names
