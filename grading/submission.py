"""Finds the submissions in a directory or an archive, and reads the files of one."""

import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from grading.archives import MAX_FILE_BYTES, TOO_LARGE, Tree, is_archive, list_tree, open_file
from grading.scheme import FILES

MAX_TOTAL_BYTES, MAX_FILES = 20 << 20, 150
TOO_MANY = f"there are more than {MAX_FILES} files, or {MAX_TOTAL_BYTES:,} bytes in all"
MANY = 3  # directories with the same file are students; two may be drafts
SELDOM = {"cifar10", "grading", "handout", "report", "results", "tests"}  # searched only if the answer is nowhere else
VERSION = re.compile(rf"({'|'.join(name.removesuffix('.py') for name in FILES)})\W+\w.*\.py")  # modules (1).py
EXPORTED = re.compile(r"submission_\d+$|.+_assignsubmission_file|\d+-\d+ - ")  # by Gradescope, Moodle, Brightspace


class SubmissionError(Exception):
    """A submission cannot be graded; the message says why and what to do."""


# ---- Where the submissions are -----------------------------------------------------------------


def submissions_in(path):
    """Return the `Tree`s of the submissions in a directory or an archive; its own, if they are not clear."""
    tree = list_tree(path)
    _remove_copies(tree)
    try:
        return find_submissions(tree)
    except SubmissionError:  # `read_submission` raises it again
        return [tree]


def course_files(tree):
    """Return the names of the course's files that are in a tree; any may be in an archive that cannot be read."""
    if tree.problem and is_archive(tree.path):
        return {*FILES}
    return ({*FILES} & tree.files.keys()).union(*map(course_files, tree.children.values()))


def _remove_copies(tree):
    """Remove directories that seldom have an answer, if it is elsewhere, and archives next to their content."""
    for child in tree.children.values():
        _remove_copies(child)
    usual = {name: child for name, child in tree.children.items() if name not in SELDOM}
    children = usual if course_files(Tree(tree.path, tree.files, usual)) else tree.children
    unpacked = {name for name, child in children.items() if not is_archive(name) and course_files(child)}
    tree.children = {n: child for n, child in children.items() if not (is_archive(n) and n.split(".")[0] in unpacked)}


def find_submissions(tree):
    """Return the `Tree`s of the submissions in a `Tree`, or only itself if it is one.

    Raises:
        SubmissionError: it is not clear what a submission is.
    """
    if not tree.files.keys().isdisjoint(FILES):
        return [tree]
    found, error = {}, None
    for name, child in tree.children.items():
        if course_files(child):
            try:
                found[name] = find_submissions(child)
            except SubmissionError as unclear:  # `read_submission` raises it again
                found[name], error = [child], unclear
    single = [name for name in found if found[name] == [tree.children[name]]]
    several = [name for name in found if name not in single]
    copies = max(([name for name in single if file in course_files(tree.children[name])] for file in FILES), key=len)
    if exported := [name for name in tree.children if EXPORTED.match(name)]:
        found |= {name: [tree.children[name]] for name in exported}
    elif error and len(copies) < MANY:
        raise error
    elif (single and several) or 1 < len(copies) < MANY:
        which = textwrap.shorten(", ".join(several + single if several else copies), 200)
        raise SubmissionError(f"{which} in {tree.path} may be students, or one student's drafts: name those to grade")
    elif len(copies) >= MANY:  # a directory without the course's files is a student, too
        found = {name: [child] for name, child in tree.children.items()}
    elif not several:
        return [tree]
    for name in tree.files:
        if name.endswith(".py") and any(file.removesuffix(".py") in name for file in FILES):
            raise SubmissionError(f"{name} is next to submissions: move the files of each student to a directory")
    return [submission for name in sorted(found) for submission in found[name]]


# ---- One submission ----------------------------------------------------------------------------


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
    """Return the `Submission` in a `Tree`. Nothing of it is run.

    Raises:
        SubmissionError: it cannot be read, or contains several submissions.
    """
    if tree.problem:
        raise SubmissionError(tree.problem)
    if (several := find_submissions(tree)) != [tree]:
        raise SubmissionError(f"it has {len(several)} submissions: name each, as {several[0].path}")
    contents = dict(tree.walk())
    found, folders, notes = _choose([path for path in contents if path.name in FILES])
    files, left_out = {}, {}
    # Limits leave out what is furthest from the course's files.
    for path in sorted(contents, key=lambda path: (path not in found.values(), str(path.parent) not in folders, path)):
        try:
            files[str(path)] = _read(contents[path], files)
        except OSError as error:
            left_out[path] = error.strerror or str(error)
    found = {name: str(path) for name, path in found.items() if path not in left_out}
    if left_out:
        which = textwrap.shorten("; ".join(f"{path}: {why}" for path, why in left_out.items()), 500)
        if not found:  # the answer may be in them
            raise SubmissionError(which)
        notes.append(f"left out: {which}")
    missing = [name for name in FILES if name not in found]
    others = [name for name in sorted(files) if name.endswith((".py", ".ipynb")) and name not in found.values()]
    if not missing:  # only those with names such as modules (1).py
        others = [name for name in others if VERSION.match(PurePosixPath(name).name)]
    lists = ("missing", missing), ("other files", others)
    if remarks := [f"{what}: {', '.join(names)}" for what, names in lists if names]:
        notes.append(textwrap.shorten("; ".join(remarks), 400))
    notes += [f"{name} mentions __grader__, the grader's own code: read it"
              for name, data in files.items() if b"__grader__" in data]  # fmt: skip
    return Submission(found, files, folders, notes)


def _choose(paths):
    """Choose among files of the same name: the directory with most of the course's files comes first, then the top.

    Returns:
        `{course file name: path}`, and folders and notes of a `Submission`.
    """
    count = Counter(path.parent for path in paths)
    found = {}
    for path in sorted(paths, key=lambda p: (any(map(is_archive, p.parts)), -count[p.parent], len(p.parts), p)):
        found.setdefault(path.name, path)
    folders = sorted({path.parent for path in found.values()}, key=lambda folder: (-count[folder], folder))
    folders = [*map(str, folders)] or ["."]
    copies = sorted(str(path) for path in paths if path not in found.values())
    notes = [f"other files of the same names were not graded: {', '.join(copies)}"] * bool(copies)
    return found, folders, notes + [f"found in {', '.join(folders)}"] * (folders != ["."])


def _read(content, others):
    """Return the bytes of a file, or raise an `OSError`."""
    with open_file(content) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(TOO_LARGE)
    if len(others) == MAX_FILES or len(data) + sum(map(len, others.values())) > MAX_TOTAL_BYTES:
        raise OSError(TOO_MANY)
    return data
