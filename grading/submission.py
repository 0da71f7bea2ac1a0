"""Finds the course's five files in a folder that somebody handed in, and reads what belongs to them."""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from grading.scheme import FILES

MAX_FILE_BYTES, MAX_TOTAL_BYTES, MAX_FILES, MAX_DEPTH = 2 << 20, 20 << 20, 150, 6
MAX_SEEN, MAX_NEAR = 20_000, 5
MANY = 3  # folders with the same file are submissions, and no longer drafts of one
NEVER = {"__pycache__", "__MACOSX", "node_modules", "venv"}
SELDOM = {"cifar10", "results", "report", "tests"}
INSTALLED = ("torch", "numpy", "torchvision", "matplotlib", "tqdm")


class SubmissionError(Exception):
    """The folder cannot be read; the message says what to do."""


@dataclass
class Submission:
    """A folder's files.

    Attributes:
        path: of the folder.
        found: `{course file name: path within the folder}`.
        files: `{path within the folder: bytes}`, what the submission's process gets to see.
        folders: those that hold the course's files, the one with most of them first.
        notes: what a teaching assistant should know, a sentence each.
    """

    path: Path
    found: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    folders: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def read_submission(path):
    """Return the `Submission` in the folder `path`. Links are not followed, nothing is run.

    Raises:
        SubmissionError: there is no such folder, it is a link, or it holds several submissions, or runs.
    """
    path = Path(path)
    if path.is_symlink():
        raise SubmissionError("it is a link, perhaps to another's folder: name the folder itself")
    if not path.is_dir():
        raise SubmissionError(f"{path} is not a folder: name a folder with {', '.join(FILES)}, or a run folder")
    submission = Submission(path)
    sizes = _list(path, submission)
    _refuse_collection(path, sizes)
    _choose(submission, sizes)
    total = 0
    course = set(submission.found.values())
    # The course's own files first, then those beside them: limits fall on what is furthest away.
    for name in sorted(sizes, key=lambda n: (n not in course, str(Path(n).parent) not in submission.folders, n)):
        if sizes[name] > MAX_FILE_BYTES or total + sizes[name] > MAX_TOTAL_BYTES or len(submission.files) >= MAX_FILES:
            if name in course:
                submission.notes.append(f"{name} was not read: it has {sizes[name]:,} bytes")
                del submission.found[Path(name).name]
            continue
        try:
            submission.files[name] = (path / name).read_bytes()
            total += sizes[name]
        except OSError as error:
            submission.notes.append(f"{name} was not read: {error.strerror}")
            submission.found = {k: v for k, v in submission.found.items() if v != name}
    _note_hiding(submission)
    return submission


def _list(path, submission):
    """Return `{path within the folder: size}` of plain files, without hidden ones and data.

    Folders that seldom hold an answer are searched where nothing else holds one.
    """
    for skipped in (NEVER | SELDOM, NEVER):
        sizes, near, errors = {}, [], []
        for folder, folders, names in os.walk(path, onerror=errors.append):
            inner = Path(folder).relative_to(path)
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in skipped)
            if len(inner.parts) >= MAX_DEPTH and folders:
                near.append(f"{inner / folders[0]} was not searched: it lies {MAX_DEPTH + 1} folders deep")
                folders.clear()
            for name in sorted(names):
                file, is_course = Path(folder, name), name in FILES
                if name.startswith(".") or not (is_course or len(sizes) < MAX_SEEN):
                    continue
                if file.is_symlink() or not file.is_file():
                    near += [f"{inner / name} was not read: it is a link, or no plain file"] * is_course
                    continue
                size = file.stat().st_size
                if is_course or size <= MAX_FILE_BYTES:
                    sizes[str(inner / name)] = size
                near += _near_misses(inner / name)
        found = {Path(name).name for name in sizes} & set(FILES)
        if found:
            break
    submission.notes += map(str, errors)
    if len(found) < len(FILES):
        submission.notes += near[:MAX_NEAR]
    return sizes


def _refuse_collection(path, sizes):
    """Raise `SubmissionError` where a folder is not one submission but holds several, or runs."""
    for name in FILES:
        holders = {Path(n).parts[0] for n in sizes if Path(n).name == name} - {name}
        if name not in sizes and len(holders) >= MANY:
            raise SubmissionError(f"it holds {len(holders)} folders with a {name}: name each, as in {path}/*")
    runs = [] if {Path(n).name for n in sizes} & set(FILES) else sorted(path.glob("*/metrics.jsonl"))
    if runs:
        raise SubmissionError(f"it holds runs, and no answer: name a run, as in {runs[0].parent}")


def _near_misses(name):
    """Return a sentence on a file that was perhaps meant to be one of the course's, or to hold them."""
    if name.name.lower().endswith((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")):
        return [f"there is {name}: unpack it"]
    letters = re.sub(r"[^a-z]", "", name.name.lower().removeprefix("copy of "))
    meant = [f for f in FILES if letters.startswith(re.sub(r"[^a-z]", "", f[:-3])) and f != name.name]
    return [f"found {name}, expected {f}" for f in meant]


def _choose(submission, sizes):
    """Choose among files of one name: from the folder with most of the course's files, then from the shallowest."""
    places = {name: [n for n in sizes if Path(n).name == name] for name in FILES}
    count = {}
    for names in places.values():
        for name in names:
            count[Path(name).parent] = count.get(Path(name).parent, 0) + 1
    for name, names in places.items():
        if names:
            best = min(names, key=lambda n: (-count[Path(n).parent], len(Path(n).parts), n))
            submission.found[name] = best
            if len(names) > 1:
                submission.notes.append(f"{name} is there {len(names)} times; graded: {best}")
    if not submission.found and not submission.notes:
        submission.notes.append(f"none of {', '.join(FILES)} was found")
    folders = dict.fromkeys(str(Path(n).parent) for n in submission.found.values())
    submission.folders = sorted(folders, key=lambda f: (-count[Path(f)], f)) or ["."]
    if submission.folders != ["."]:
        submission.notes.append(f"found in {', '.join(submission.folders)}")


def _note_hiding(submission):
    """Note files and folders that Python would import in place of an installed module."""
    for folder in submission.folders:
        for name in sorted(submission.files):
            parts = Path(name).relative_to(folder).parts if folder == "." or name.startswith(folder + "/") else ()
            is_module = len(parts) == 1 and parts[0].endswith(".py")
            if not is_module and not (len(parts) == 2 and parts[1] == "__init__.py"):
                continue
            module = parts[0].removesuffix(".py")
            if module in INSTALLED or module in sys.stdlib_module_names:
                submission.notes.append(
                    f"{name} hides the module {module!r}, which Python or the course provides: rename it"
                )
