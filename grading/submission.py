"""Finds the submissions in a directory or an archive, and reads the files of one."""

import re
import textwrap
from collections import Counter
from dataclasses import dataclass

from grading.archives import MAX_FILE_BYTES, TOO_LARGE, Tree, is_archive, list_tree, open_file
from grading.scheme import FILES

MAX_TOTAL_BYTES, MAX_FILES = 20 << 20, 150
TOO_MANY = f"there are more than {MAX_FILES} files, or {MAX_TOTAL_BYTES:,} bytes in all"
MANY = 3  # directories with the same file are students; two may be drafts
SELDOM = {"cifar10", "grading", "handout", "report", "results", "tests"}  # searched only if the answer is nowhere else
# Gradescope, Moodle and Brightspace export a directory per student; Canvas and Moodle also files named after students.
STUDENT = re.compile(r"submission_\d+$|.+_assignsubmission_file$|\d+-\d+ - ")
STUDENT_FILE = re.compile(r"(.+?_\d+)_(?:\d+|assignsubmission_file)_(.+?)(?:-\d+)?((?:\.\w+)+)")


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
    children, exported = _children(tree)
    found, error = {}, None
    for name, child in children.items():
        if course_files(child):
            try:
                found[name] = find_submissions(child)
            except SubmissionError as unclear:  # `read_submission` raises it again
                found[name], error = [child], unclear
    single = [name for name in found if found[name] == [children[name]]]
    several = [name for name in found if name not in single]
    copies = max(([name for name in single if file in course_files(children[name])] for file in FILES), key=len)
    if exported:
        found |= {name: [children[name]] for name in exported}
    elif error and len(copies) < MANY:
        raise error
    elif (single and several) or 1 < len(copies) < MANY:
        which = textwrap.shorten(", ".join(several + single if several else copies), 200)
        raise SubmissionError(f"{which} in {tree.path} may be students, or one student's drafts: name those to grade")
    elif len(copies) >= MANY:
        found = {name: [child] for name, child in children.items()}
    elif not several:
        return [tree]
    return [submission for name in sorted(found) for submission in found[name]]


def _children(tree):
    """Return `{name: Tree}` of what may be submissions, and the names of those that a course platform has exported.

    Files that a platform has named after students become a directory per student, with the names that they had.
    """
    matches = {name: match for name in [*tree.files, *tree.children] if (match := STUDENT_FILE.fullmatch(name))}
    students = {match[1]: Tree(tree.path / match[1]) for match in matches.values()}
    for name, match in matches.items():
        kind = "files" if name in tree.files else "children"
        getattr(students[match[1]], kind)[match[2] + match[3]] = getattr(tree, kind)[name]
    if len(students) < 2 or not any(student.children or course_files(student) for student in students.values()):
        students = matches = {}
    children = {name: child for name, child in tree.children.items() if name not in matches} | students
    return children, [name for name in children if name in students or STUDENT.match(name)]


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
        SubmissionError: it cannot be read, or contains several submissions, or runs.
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
    if len(found) < len(FILES):
        notes += [note for path in contents for note in _near_misses(path)]
    if not found:
        notes.append(f"none of {', '.join(FILES)} was found")
        for path, why in left_out.items():
            if path.name in FILES or why not in (TOO_LARGE, TOO_MANY):  # the answer may be in it
                raise SubmissionError(f"{path}: {why}")
        if runs := [path.parent for path in contents if path.name == "metrics.jsonl"]:
            raise SubmissionError(f"it has runs and no answer: name a run, as {tree.path / runs[0]}")
    if left_out:
        which = "; ".join(f"{path}: {why}" for path, why in left_out.items())
        notes.append(f"left out: {textwrap.shorten(which, 500)}")
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


def _near_misses(path):
    """Return sentences on a file that was perhaps meant to be one of the course's."""
    letters = re.sub(r"[^a-z]", "", path.name.lower().removeprefix("copy of "))
    meant = [f for f in FILES if letters.startswith(re.sub(r"[^a-z]", "", f[:-3])) and f != path.name]
    return [f"found {path}, expected {f}" for f in meant or ["files that end in .py"] * (path.suffix == ".ipynb")]
