"""Grades submissions written for tests: the project's files with a part replaced, or files of their own."""

import json
from pathlib import Path

from grade import main
from grading.checks import ALL_CHECKS
from grading.checks.check import Grading
from grading.checks.local import Local
from grading.scheme import FILES, ROOT

PROJECT = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
TEMPLATES = {name: (ROOT / "handout" / name).read_text(encoding="utf-8") for name in FILES}
CHECKS = [check for check in ALL_CHECKS if not check.name.endswith(".training")]
MAX_POINTS = sum(check.points for check in CHECKS)


class Classes:
    """Takes the place of a `load.Loader`: the project's classes, some of them replaced.

    Args:
        classes: `{'modules.LinearModule': class}`; None for one that is not written.
    """

    def __init__(self, classes):
        self.classes, self.kept, self.failed = classes, {}, {}

    def __call__(self, target):
        module, name = target.split(".")
        found = self.classes.get(target, getattr(self.import_module(module), name))
        if found is None:
            raise NotImplementedError(f"There is no class {name} in {module}.py")
        return found

    def import_module(self, name):
        return __import__(name)

    def is_own(self, file):
        return Path(file).name in (*FILES, "wrong_layers.py", "variants.py")


def grade_classes(classes, checks=CHECKS):
    """Return `{check name: Result}` of the project with some classes replaced, in this process."""
    grading = Grading(Local(Classes(classes)).ask, FILES)
    return {check.name: grading.run(check) for check in checks}


def grade(sandbox, files, checks=CHECKS):
    """Return `{check name: Result}` of a submission's files, `{name: text or bytes}`, graded in the sandbox."""
    raw = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    with sandbox.worker(raw, ["."]) as worker:
        grading = Grading(worker.ask, raw)
        return {check.name: grading.run(check) for check in checks}


def lost(results):
    """Return the names of the checks that did not pass."""
    return [name for name, result in results.items() if not result.passed]


def points(results):
    return sum(check.points for check in CHECKS if check.name in results and results[check.name].passed)


def write(directory, files):
    """Write `{name: text}` into a new directory and return it."""
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def call_grade(*args):
    """Call grade.py's `main` in this process and return its exit status."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as end:
        return end.code


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
