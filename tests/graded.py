"""Grades submissions written for tests: the project's files with a part replaced, or files of their own."""

import functools
import json
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

from grade import main
from grading.all_checks import ALL_CHECKS
from grading.check import Grading
from grading.checks_training import Training
from grading.handout import blanked
from grading.reference import Reference, run_here
from grading.runs import read_runs
from grading.scheme import FILES
from grading.session import ROOT, Answer, Session
from grading.submission import Submission

PROJECT = {name: (ROOT / name).read_text() for name in FILES}
NO_TRAINING = Training(None, "this is a test")
CHECKS = [check for check in ALL_CHECKS if not check.name.endswith(".training")]
MAX_POINTS = sum(check.points for check in CHECKS)
TEMPLATES = {name: blanked(text) for name, text in PROJECT.items()}
reference = functools.cache(Reference)


def replaced(text, right, wrong):
    """Return `text` with `right`, which stands in it once, replaced by `wrong`."""
    assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times, expected once"
    return text.replace(right, wrong)


def project_with(file, right, wrong):
    """Return the project's files with `right`, which stands once in `file`, replaced by `wrong`."""
    return PROJECT | {file: replaced(PROJECT[file], right, wrong)}


def checks_of(file):
    """Return the checks that `file` has a part in: a mistake in it can cost no other."""
    return [check for check in CHECKS if file in check.files]


def grade(sandbox, files, checks=CHECKS, lenient=False, total_seconds=600, least_seconds=2):
    """Return `{check name: outcome}` of a submission's files, all checks but the training ones, and the `Grading`."""
    found = {name: name for name in FILES if name in files}
    raw = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    submission = Submission(Path("submission"), found, raw, ["."])
    with Session(sandbox, raw, ["."], lenient, total_seconds, least_seconds=least_seconds) as session:
        grading = Grading(session, reference(), submission, NO_TRAINING)
        grading.import_all()
        outcomes = {check.name: grading.run(check) for check in checks}
    return outcomes, grading


def answer_here(load, op, params, arrays):
    """Return the `Answer` to an operation on what `load(module, name)` returns, in this process."""
    out, error = {}, None
    try:
        run_here(op, load, params, arrays, out)
    except Exception as raised:
        error = {"type": type(raised).__name__, "message": str(raised), "where": ""}
    return Answer(out, error and f"{error['type']}: {error['message']}", error and "error", error or {}, 0.01)


def grade_here(files, checks=CHECKS):
    """Return `{check name: outcome}` of files that are no danger, graded in this process: no start of another."""
    modules = {}
    with mock.patch.dict(sys.modules, modules):
        for name in [name for name in FILES if name in files]:
            module = sys.modules[name[:-3]] = modules[name[:-3]] = types.ModuleType(name[:-3])
            exec(compile(files[name], name, "exec"), vars(module))

    def ask(op, params, arrays=None, seconds=None):
        if op == "import_module":
            return Answer()
        return answer_here(lambda module, name: getattr(modules[module], name), op, params, arrays or {})

    raw = {name: text.encode() for name, text in files.items()}
    submission = Submission(Path("submission"), {name: name for name in files}, raw, ["."])
    grading = Grading(types.SimpleNamespace(ask=ask), reference(), submission, NO_TRAINING)
    grading.import_all()
    return {check.name: grading.run(check) for check in checks}


def lost(outcomes):
    """Return the names of the checks that did not pass."""
    return [name for name, outcome in outcomes.items() if not outcome.passed]


def points(outcomes):
    return sum(check.points for check in CHECKS if outcomes[check.name].passed)


def write(folder, files):
    """Write `{name: text}` into a new folder and return it."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def run_grade(*args):
    """Run grade.py as a user does, and return the finished process."""
    command = [sys.executable, str(ROOT / "grade.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def call_grade(*args):
    """Call grade.py's `main` in this process and return its exit status."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as end:
        return end.code


def write_run(folder, config, metrics):
    """Write a run folder with its config.json and metrics.jsonl and return it."""
    files = {"config.json": json.dumps(config), "metrics.jsonl": "".join(json.dumps(m) + "\n" for m in metrics)}
    return write(folder, files)


def a_run(folder, change=lambda config, metrics: None, experiment="fig01_mlp_numpy"):
    """Write a recorded run as a run folder. `change(config, metrics)` alters them, or returns other metrics."""
    run = read_runs(experiment)[0]
    config, metrics = json.loads(json.dumps(run.config)), [dict(m) for m in run.metrics]
    return write_run(folder, config, change(config, metrics) or metrics)
