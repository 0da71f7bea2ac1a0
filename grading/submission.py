"""Chooses the course's files in a submission, and reads them and what belongs to them."""

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from grading.archives import MAX_FILE_BYTES, SELDOM, SubmissionError, course_files, find_submissions, is_archive
from grading.scheme import FILES

MAX_TOTAL_BYTES, MAX_FILES = 20 << 20, 150
MAX_NOTES = 5  # of one kind


@dataclass
class Submission:
    """The files of a submission.

    Attributes:
        found: `{course file name: relative path}`.
        files: `{relative path: bytes}`, all that the submission's process sees.
        folders: directories of the course's files, the one with most of them first.
        notes: sentences for a teaching assistant.
    """

    found: dict
    files: dict
    folders: list
    notes: list


def read_submission(tree):
    """Return the `Submission` in an `archives.Tree`. Nothing of it is run.

    Raises:
        SubmissionError: it cannot be read, or contains several submissions, or runs.
    """
    if problem := tree.directories.get("."):
        raise SubmissionError(problem)
    if (several := find_submissions(tree)) != [()]:
        raise SubmissionError(f"it has {len(several)} submissions: name each, as {tree.path.joinpath(*several[0])}")
    packed = [name for name in tree.files if is_archive(name)]
    if len(packed) == 1 and not course_files(tree.files):
        submission = read_submission(tree.below(*packed[0].split("/")))
        submission.notes.insert(0, f"read from {packed[0]}")
        return submission
    paths = {name: PurePosixPath(name) for name in tree.files}
    usual = {name: path for name, path in paths.items() if not SELDOM.intersection(path.parts[:-1])}
    paths = usual if course_files(usual) else paths
    found, folders, notes = _choose([paths[name] for name in course_files(paths)])
    # Limits leave out what is furthest from the course's files.
    files, problems = {}, {name: why for name, why in tree.directories.items() if why}
    for name in sorted(paths, key=lambda n: (n not in found.values(), str(paths[n].parent) not in folders, n)):
        try:
            files[name] = _read(tree.files[name], files)
        except OSError as error:
            problems[name] = error.strerror or str(error)
            if name in found.values():
                del found[paths[name].name]
    if len(found) < len(FILES):
        notes += [note for path in paths.values() for note in _near_misses(path)][:MAX_NOTES]
    if not found:
        notes += _why_empty(tree, problems)
    notes += [f"{name} was left out: {why}" for name, why in problems.items()][:MAX_NOTES]
    notes += [f"{len(problems) - MAX_NOTES} more were left out"] * (len(problems) > MAX_NOTES)
    for name in found.values():
        try:
            importlib.util.decode_source(files[name])
        except (SyntaxError, UnicodeDecodeError):
            notes.append(f"{name} is not in UTF-8, nor in an encoding that its first lines name: save it as UTF-8")
    return Submission(found, files, folders, notes)


def _choose(paths):
    """Choose among files of the same name: the directory with most of the course's files comes first, then the top.

    Returns:
        found, folders, notes of a `Submission`.
    """
    count = Counter(path.parent for path in paths)
    found, notes = {}, []
    for path in sorted(paths, key=lambda path: (-count[path.parent], len(path.parts), path)):
        found.setdefault(path.name, path)
    copies = sorted(str(path) for path in paths if path not in found.values())
    notes += [f"other files of the same names were not graded: {', '.join(copies)}"] * bool(copies)
    folders = sorted({path.parent for path in found.values()}, key=lambda folder: (-count[folder], folder))
    folders = [*map(str, folders)] or ["."]
    notes += [f"found in {', '.join(folders)}"] * (folders != ["."])
    return {name: str(path) for name, path in found.items()}, folders, notes


def _read(file, others):
    """Return the bytes of a file.

    Raises:
        OSError: it cannot be read, or is too large.
    """
    with file.open() as opened:
        data = opened.read(MAX_FILE_BYTES)  # it may have grown
    if len(others) == MAX_FILES or len(data) + sum(map(len, others.values())) > MAX_TOTAL_BYTES:
        raise OSError(f"there are more than {MAX_FILES} files, or {MAX_TOTAL_BYTES:,} bytes in all")
    return data


def _near_misses(path):
    """Return sentences on a file that was perhaps meant to be one of the course's, or to contain them."""
    if is_archive(path):
        return [f"there is {path}: unpack it"]
    letters = re.sub(r"[^a-z]", "", path.name.lower().removeprefix("copy of "))
    meant = [f for f in FILES if letters.startswith(re.sub(r"[^a-z]", "", f[:-3])) and f != path.name]
    return [f"found {path}, expected {f}" for f in meant]


def _why_empty(tree, problems):
    """Return notes on a submission with none of the course's files.

    Raises:
        SubmissionError: they may be in what cannot be read, or it contains runs.
    """
    denied = [f"{name}: {why}" for name, why in problems.items() if course_files([name]) or name in tree.directories]
    if denied:
        raise SubmissionError(denied[0])
    if runs := [name for name in tree.files if name.endswith("/metrics.jsonl")]:
        raise SubmissionError(f"it has runs and no answer: name a run, as {(tree.path / runs[0]).parent}")
    is_notebook = any(name.endswith(".ipynb") for name in tree.files)
    notebooks = ", but notebooks: ask for .py files" * is_notebook
    return [f"none of {', '.join(FILES)} was found{notebooks}"]
