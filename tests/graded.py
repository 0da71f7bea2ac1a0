"""Grades submissions written for tests: the project's files with a part replaced, or files of their own."""

import functools
from pathlib import Path

from grading.all_checks import ALL_CHECKS
from grading.check import Grading
from grading.checks_training import Training
from grading.reference import Reference
from grading.sandbox import ROOT, Session
from grading.scheme import FILES
from grading.submission import Submission

PROJECT = {name: (ROOT / name).read_text() for name in FILES}
NO_TRAINING = Training(None, "this is a test")
CHECKS = [check for check in ALL_CHECKS if not check.name.endswith(".training")]
MAX_POINTS = sum(check.points for check in CHECKS)
reference = functools.cache(Reference)


def replaced(text, right, wrong):
    """Return `text` with `right`, which stands in it once, replaced by `wrong`."""
    assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times, expected once"
    return text.replace(right, wrong)


def project_with(file, right, wrong):
    """Return the project's files with `right`, which stands once in `file`, replaced by `wrong`."""
    return PROJECT | {file: replaced(PROJECT[file], right, wrong)}


def grade(server, files, lenient=False, total_seconds=600, least_seconds=2):
    """Return `{check name: outcome}` of a submission's files, all checks but the training ones, and the `Grading`."""
    found = {name: name for name in FILES if name in files}
    raw = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    submission = Submission(Path("submission"), found, raw, ["."])
    with Session(server, raw, ["."], lenient, total_seconds, least_seconds=least_seconds) as session:
        grading = Grading(session, reference(), submission, NO_TRAINING)
        grading.import_all()
        outcomes = {check.name: grading.run(check) for check in CHECKS}
    return outcomes, grading


def lost(outcomes):
    """Return the names of the checks that did not pass."""
    return [name for name, outcome in outcomes.items() if not outcome.passed]


def points(outcomes):
    return sum(check.points for check in CHECKS if outcomes[check.name].passed)
