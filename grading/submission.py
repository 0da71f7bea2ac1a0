"""Finds the course's five files in a folder that somebody handed in, and reads what belongs to them."""

import codecs
import io
import os
import re
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

from grading import archives
from grading.archives import MANY, MAX_FILE_BYTES, is_archive, is_hidden
from grading.scheme import FILES

MAX_TOTAL_BYTES, MAX_FILES, MAX_DEPTH = 20 << 20, 150, 6
MAX_SEEN, MAX_NEAR = 20_000, 5
MAX_PACKED = 2  # archives in one another
SELDOM = {"cifar10", "results", "report", "tests"}
NOT_SEARCHED = f"the folders {', '.join(sorted(SELDOM))} are not searched where others hold an answer"
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
    try:
        archived = None if path.is_dir() else archives.read(path)
    except archives.ArchiveError as error:
        raise SubmissionError(str(error)) from error
    if archived is None and not path.is_dir():
        raise SubmissionError(f"{path} is not a folder: name a folder with {', '.join(FILES)}, or a run folder")
    submission = Submission(path)
    sizes = _list(path, archived, submission)
    packed = [name for name in sizes if is_archive(name)]
    if len(packed) == 1 and not _course_files(sizes) and sum(map(is_archive, path.parts)) < MAX_PACKED:
        submission = read_submission(path / packed[0])
        submission.path = path
        submission.notes.insert(0, f"read from {packed[0]}")
        return submission
    _refuse_collection(path, sizes)
    _choose(submission, sizes)
    total = 0
    course = set(submission.found.values())
    # The course's own files first, then those beside them: limits fall on what is furthest away.
    for name in sorted(sizes, key=lambda n: (n not in course, str(Path(n).parent) not in submission.folders, n)):
        try:
            if sizes[name] > MAX_FILE_BYTES:
                raise OSError(0, f"it has {sizes[name]:,} bytes, more than {MAX_FILE_BYTES:,}")
            if total + sizes[name] > MAX_TOTAL_BYTES or len(submission.files) >= MAX_FILES:
                raise OSError(0, f"there are more than {MAX_FILES} files, or {MAX_TOTAL_BYTES:,} bytes in all")
            submission.files[name] = archived[name][1] if archived else (path / name).read_bytes()
            total += sizes[name]
        except OSError as error:
            submission.left_out[name] = error.strerror
            if name in course:
                submission.notes.append(f"{name} was not read: {error.strerror}")
                del submission.found[Path(name).name]
    _note_hiding(submission)
    _note_encodings(submission)
    return submission


def _course_files(names):
    return {Path(name).name for name in names} & set(FILES)


def _list(path, archived, submission):
    """Return `{path within the folder: size}` of plain files, without hidden ones and data.

    Folders that seldom hold an answer count where nothing else holds one.
    """
    sizes, near = {}, []
    for name, size in _in_folder(path, near, submission) if archived is None else _in_archive(archived):
        if size is None and Path(name).name in FILES:
            near.append(f"{name} was not read: it is a link, or no plain file")
        elif size is not None and (Path(name).name in FILES or len(sizes) < MAX_SEEN):
            sizes[name] = size
    usual = {name: size for name, size in sizes.items() if not SELDOM.intersection(Path(name).parts[:-1])}
    if _course_files(usual):
        submission.left_out = dict.fromkeys(sizes.keys() - usual.keys(), NOT_SEARCHED)
        sizes = usual
    if len(_course_files(sizes)) < len(FILES):
        near += [sentence for name in sizes for sentence in _near_misses(Path(name))]
        submission.notes += near[:MAX_NEAR]
    return sizes


def _in_archive(archived):
    return sorted((name, size) for name, (size, _) in archived.items())


def _in_folder(path, near, submission):
    """Yield path within the folder, and size or None of what is no plain file, of all that may be an answer."""
    errors = []
    for folder, folders, names in os.walk(path, onerror=errors.append):
        inner = Path(folder).relative_to(path)
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        if len(inner.parts) >= MAX_DEPTH and folders:
            near.append(f"{inner / folders[0]} was not searched: it lies {MAX_DEPTH + 1} folders deep")
            folders.clear()
        for name in sorted(names):
            file = Path(folder, name)
            if not is_hidden(name):
                yield str(inner / name), None if file.is_symlink() or not file.is_file() else file.stat().st_size
    submission.notes += map(str, errors)


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
        return [f"there is {name}: unpack it"]  # one of several, or of a kind that is not read
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
    notebooks = [name for name in sizes if name.endswith(".ipynb")]
    if notebooks and not submission.found:
        submission.notes.append(
            f"there are only notebooks ({', '.join(notebooks[:MAX_NEAR])}), and files are graded: "
            f"ask for the answer in {', '.join(FILES)}"
        )
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


def _note_encodings(submission):
    """Note which of the course's files Python cannot decode, and what to do about it."""
    wrong = {}
    for name in submission.found.values():
        raw = submission.files[name]
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            if b"\0" in raw.decode(encoding).encode():
                raise SyntaxError
        except (SyntaxError, UnicodeDecodeError):
            is_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw
            what = "in UTF-16, or no text" if is_16 else "not in the encoding that the first lines name, or else UTF-8"
            wrong.setdefault(what, []).append(name)
    submission.notes += [
        f"{what}, which Python does not run: {', '.join(names)}; save as UTF-8" for what, names in wrong.items()
    ]
