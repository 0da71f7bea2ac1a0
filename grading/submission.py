"""Finds the course's five files in a folder that somebody handed in, and reads what belongs to them."""

import codecs
import importlib.util
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from grading import archives
from grading.archives import MANY, MAX_FILE_BYTES, SubmissionError, is_archive, is_hidden
from grading.scheme import FILES

MAX_TOTAL_BYTES, MAX_FILES, MAX_DEPTH = 20 << 20, 150, 6
MAX_NEAR = 5  # sentences on what was perhaps meant
MAX_PACKED = 2  # archives in one another
SELDOM = {"cifar10", "results", "report", "tests"}
NOT_SEARCHED = f"the folders {', '.join(sorted(SELDOM))} are not searched where others hold an answer"
INSTALLED = ("torch", "numpy", "torchvision", "matplotlib", "tqdm")


@dataclass
class Submission:
    """A folder's files.

    Attributes:
        path: of the folder.
        found: `{course file name: path within the folder}`.
        files: `{path within the folder: bytes}`, what the submission's process gets to see.
        folders: those that hold the course's files, the one with most of them first.
        notes: what a teaching assistant should know, a sentence each.
        left_out: `{path within the folder: why it was}`.
    """

    path: Path
    found: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    folders: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    left_out: dict = field(default_factory=dict)


def read_submission(path):
    """Return the `Submission` in a folder, or at a path into an archive. Links are not followed, nothing is run.

    Raises:
        SubmissionError: there is none, it is a link, it holds several submissions or runs, the archive is damaged.
    """
    path = Path(path)
    if path.is_symlink():
        raise SubmissionError("it is a link, perhaps to another's folder: name the folder itself")
    submission, near = Submission(path), []
    files = _in_folder(submission, near) if path.is_dir() else archives.read(path)
    files = _without_links_and_data(files, submission, near)
    packed = [name for name in files if is_archive(name)]
    if len(packed) == 1 and not _course_files(files) and sum(map(is_archive, path.parts)) < MAX_PACKED:
        submission = read_submission(path / packed[0])
        submission.path = path
        submission.notes.insert(0, f"read from {packed[0]}")
        return submission
    _refuse_collection(path, files)
    _choose(submission, files)
    _read(submission, files)
    _note_hiding(submission)
    _note_encodings(submission)
    return submission


def _course_files(names):
    return {Path(name).name for name in names} & set(FILES)


def _in_folder(submission, near):
    """Return `{path within the folder: (size, None)}` as `archives.read` does, before anything is read."""
    errors, files = [], {}
    for folder, folders, names in os.walk(submission.path, onerror=errors.append):
        inner = Path(folder).relative_to(submission.path)
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        if len(inner.parts) >= MAX_DEPTH and folders:
            near.append(f"{inner / folders[0]} was not searched: it lies {MAX_DEPTH + 1} folders deep")
            folders.clear()
        near += [f"{inner / f} was not read: it is a link" for f in folders if Path(folder, f).is_symlink()]
        for name in names:
            file, is_known = Path(folder, name), name in FILES or len(files) < archives.MAX_MEMBERS
            if is_known and not is_hidden(name):
                size = None if file.is_symlink() or not file.is_file() else file.stat().st_size
                files[str(inner / name)] = size, None
    submission.notes += map(str, errors)
    return files


def _without_links_and_data(files, submission, near):
    """Return those that can be read, without folders that seldom hold an answer where another holds one.

    Where not all of the course's files are there, sentences in `near` become notes.
    """
    links = sorted(name for name, (size, _) in files.items() if size is None)
    near += [f"{name} was not read: it is a link, or no plain file" for name in links if Path(name).name in FILES]
    submission.left_out = dict.fromkeys(links, "it is a link, or no plain file")
    files = {name: files[name] for name in sorted(files.keys() - links)}
    usual = {name: file for name, file in files.items() if not SELDOM.intersection(Path(name).parts[:-1])}
    if _course_files(usual):
        submission.left_out |= dict.fromkeys(files.keys() - usual.keys(), NOT_SEARCHED)
        files = usual
    if len(_course_files(files)) < len(FILES):
        near += [sentence for name in files for sentence in _near_misses(Path(name))]
        submission.notes += near[:MAX_NEAR]
    return files


def _refuse_collection(path, files):
    """Raise `SubmissionError` where a folder is not one submission but holds several, or runs."""
    name, holders = archives.holders(files)
    if len(holders) >= MANY:
        raise SubmissionError(f"it holds {len(holders)} folders with a {name}: name each, as in {path}/*")
    runs = [] if _course_files(files) else sorted(path.glob("*/metrics.jsonl"))
    if runs:
        raise SubmissionError(f"it holds runs, and no answer: name a run, as in {runs[0].parent}")


def _near_misses(name):
    """Return a sentence on a file that was perhaps meant to be one of the course's, or to hold them."""
    if name.name.lower().endswith((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")):
        return [f"there is {name}: unpack it"]  # one of several, or of a kind that is not read
    letters = re.sub(r"[^a-z]", "", name.name.lower().removeprefix("copy of "))
    meant = [f for f in FILES if letters.startswith(re.sub(r"[^a-z]", "", f[:-3])) and f != name.name]
    return [f"found {name}, expected {f}" for f in meant]


def _choose(submission, files):
    """Choose among files of one name: from the folder with most of the course's files, then from the shallowest."""
    places = {name: [n for n in files if Path(n).name == name] for name in FILES}
    count = Counter(str(Path(n).parent) for names in places.values() for n in names)
    for name, names in places.items():
        if names:
            best = min(names, key=lambda n: (-count[str(Path(n).parent)], len(Path(n).parts), n))
            submission.found[name] = best
        if len(names) > 1:
            submission.notes.append(f"{name} is there {len(names)} times; graded: {best}")
    notebooks = [name for name in files if name.endswith(".ipynb")]
    if notebooks and not submission.found:
        submission.notes.append(
            f"there are only notebooks ({', '.join(notebooks[:MAX_NEAR])}), and files are graded: "
            f"ask for the answer in {', '.join(FILES)}"
        )
    if not submission.found and not submission.notes:
        submission.notes.append(f"none of {', '.join(FILES)} was found")
    folders = {str(Path(n).parent) for n in submission.found.values()}
    submission.folders = sorted(folders, key=lambda f: (-count[f], f)) or ["."]
    if submission.folders != ["."]:
        submission.notes.append(f"found in {', '.join(submission.folders)}")


def _read(submission, files):
    """Read what the submission's process gets to see, and note what is left out.

    The course's own files come first, then those beside them: limits fall on what is furthest away.
    """
    total, course = 0, set(submission.found.values())
    for name in sorted(files, key=lambda n: (n not in course, str(Path(n).parent) not in submission.folders, n)):
        (size, raw), why = files[name], None
        if size > MAX_FILE_BYTES:
            why = f"it has {size:,} bytes, more than {MAX_FILE_BYTES:,}"
        elif total + size > MAX_TOTAL_BYTES or len(submission.files) >= MAX_FILES:
            why = f"there are more than {MAX_FILES} files, or {MAX_TOTAL_BYTES:,} bytes in all"
        else:
            try:
                submission.files[name] = (submission.path / name).read_bytes() if raw is None else raw
                total += size
            except OSError as error:
                why = error.strerror
        if why:
            submission.left_out[name] = why
        if why and name in course:
            submission.notes.append(f"{name} was not read: {why}")
            del submission.found[Path(name).name]


def _note_hiding(submission):
    """Note files and folders that Python would import in place of an installed module."""
    for name in sorted(submission.files):
        place = Path(name).parent if Path(name).name == "__init__.py" else Path(name)
        module = place.name.removesuffix(".py")
        is_found = name.endswith(".py") and str(place.parent) in submission.folders
        if is_found and (module in INSTALLED or module in sys.stdlib_module_names):
            submission.notes.append(
                f"{name} hides the module {module!r}, which Python or the course provides: rename it"
            )


def _note_encodings(submission):
    """Note which of the course's files Python cannot decode, and what to do about it."""
    wrong = {}
    for name in submission.found.values():
        raw = submission.files[name]
        try:
            if "\0" in importlib.util.decode_source(raw):
                raise SyntaxError
        except (SyntaxError, UnicodeDecodeError):
            is_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw
            what = "in UTF-16, or no text" if is_16 else "not in the encoding that the first lines name, or else UTF-8"
            wrong.setdefault(what, []).append(name)
    submission.notes += [
        f"{what}, which Python does not run: {', '.join(names)}; save as UTF-8" for what, names in wrong.items()
    ]
