"""Lists directories and archives, and finds the submissions in them. Archives are read in memory, never unpacked."""

import functools
import io
import os
import re
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from grading.scheme import FILES

MAX_UNPACKED_BYTES, MAX_KEPT_BYTES, MAX_MEMBERS = 2 << 30, 256 << 20, 20_000
MAX_FILE_BYTES, MAX_INNER_BYTES = 2 << 20, 64 << 20  # of a file, and of an archive inside an archive
MAX_DEPTH, MAX_NESTED = 12, 2  # directories, and archives, inside one another
MANY = 3  # directories with the same file are students; two may be drafts
NEVER = {"__pycache__", "__MACOSX", "node_modules", "venv"}
SELDOM = {"cifar10", "grading", "handout", "report", "results", "tests"}  # searched only if the answer is nowhere else
LINK = "it is a link, or not a regular file"
# Gradescope, Moodle and Brightspace export a directory per student; Canvas and Moodle also files named after students.
STUDENT = re.compile(r"submission_\d+$|.+_assignsubmission_file|\d+-\d+ - ")
STUDENT_FILE = re.compile(r"(?P<student>.+?_\d+)_(\d+|assignsubmission_file)_(?P<stem>.+?)(-\d+)?(?P<suffix>(\.\w+)+)")


class SubmissionError(Exception):
    """A submission cannot be graded; the message says why and what to do."""


@dataclass
class File:
    """A file that was handed in.

    Attributes:
        content: bytes, or the `Path` of a file on disk.
        problem: why it cannot be read, or empty.
    """

    content: object = b""
    problem: str = ""

    def open(self):
        """Return a binary stream, or raise an OSError."""
        if self.problem:
            raise OSError(self.problem)
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


@dataclass
class Tree:
    """The files and directories in a directory or an archive, except hidden ones.

    Attributes:
        path: its path, which may continue inside an archive: export.zip/submission_7.
        files: `{relative path: File}`.
        directories: `{relative path: why it cannot be read, or ''}`; '.' is the top.
    """

    path: Path
    files: dict
    directories: dict

    @property
    def children(self):
        """Names of the directories and archives at the top."""
        names = {name.split("/")[0] for name in [*self.files, *self.directories]} - {"."}
        return sorted(name for name in names if name not in self.files or is_archive(name))

    def below(self, *names):
        """Return the `Tree` of a child, of a child's child, and so on; students in `by_student` are children, too."""
        if not names:
            return self
        name, path = names[0], self.path / names[0]
        if name in self.files:
            tree = list_archive(path, self.files[name])
        elif name in self.children:
            parts = self.files, self.directories
            cut = ({n[len(name) + 1 :] or ".": v for n, v in part.items() if n.split("/")[0] == name} for part in parts)
            tree = Tree(path, *cut)
        else:
            tree = Tree(path, self.by_student()[name], {})
        return tree.below(*names[1:])

    def by_student(self):
        """Return `{student: {file name: File}}` if this is an export of files that are named after their students."""
        students = {}
        for match in filter(None, map(STUDENT_FILE.fullmatch, self.files)):
            if "/" not in match[0]:
                files, name = students.setdefault(match["student"], {}), match["stem"] + match["suffix"]
                files[match[0] if name in files else name] = self.files[match[0]]
        names = [name for files in students.values() for name in files]
        is_export = len(students) > 1 and any(name in FILES or is_archive(name) for name in names)
        return students if is_export and not course_files(self.files) else {}


def course_files(names):
    """Return the paths of files that have one of the course's names."""
    return [name for name in names if PurePosixPath(name).name in FILES]


def is_archive(name):
    """Return whether a file name is that of an archive, of a kind that can be read or not."""
    return re.search(r"(?i)\.(zip|tgz|7z|rar|tar(\.\w+)?)$", str(name)) is not None


# ---- Where the submissions are -----------------------------------------------------------------


def find_submissions(tree):
    """Return the submissions in a tree, each as the names of the directories that lead to it; [()] if it is one itself.

    Raises:
        SubmissionError: it is not clear what a submission is.
    """
    return _survey(tree)[1] or [()]


def _survey(tree):
    """Return the set of the course's files in a tree, and the submissions below it, [] if it is one itself."""
    files = {PurePosixPath(name).name for name in course_files(tree.files)}
    if files & tree.files.keys():
        return files, []
    if tree.directories.get(".") and is_archive(tree.path):
        return set(FILES), []  # it may have any
    found = {name: _survey(tree.below(name)) for name in tree.children}
    usual = [name for name in found if name not in SELDOM]
    names = usual if any(found[name][0] for name in usual) else [*found]
    unpacked = {name for name in names if name not in tree.files and found[name][0]}
    names = [name for name in names if name not in tree.files or name.split(".")[0] not in unpacked]
    files.update(*(found[name][0] for name in names))
    single = [name for name in names if found[name][0] and not found[name][1]]
    several = [name for name in names if found[name][1]]
    copies = max(([name for name in single if file in found[name][0]] for file in FILES), key=len)
    unclear = single + several if several and single else copies if 1 < len(copies) < MANY else []
    if exported := {*tree.by_student()} or {*filter(STUDENT.match, names)}:
        others = {name for name in single if not STUDENT_FILE.fullmatch(name)}
        return files, [(name,) for name in sorted(exported | others)]
    if unclear:
        which = ", ".join(unclear[:8]) + f" and {len(unclear) - 8} more" * (len(unclear) > 8)
        raise SubmissionError(f"{which} in {tree.path} may be students, or one student's drafts: name those to grade")
    if several:
        return files, [(name, *rest) for name in several for rest in found[name][1]]
    return files, [(name,) for name in usual if name in names] if len(copies) >= MANY else []


# ---- Listing -----------------------------------------------------------------------------------


def list_tree(path):
    """Return the `Tree` of a directory or an archive; if it cannot be read, its top has a problem."""
    if os.path.islink(path):
        return Tree(path, {}, {".": "it is a link, perhaps to somebody else's directory: name the directory itself"})
    return _list_directory(path) if os.path.isdir(path) else list_archive(path, File(path))


def _is_left_out(path):
    return any(part.startswith(".") or part in NEVER for part in path.parts) or len(path.parts) > MAX_DEPTH


def _list_directory(path):
    """Return the `Tree` of a directory. Links are not followed, nothing is opened."""
    tree = Tree(path, {}, {".": ""})

    def note(error):
        tree.directories[Path(error.filename).relative_to(path).as_posix()] = f"it cannot be read: {error.strerror}"

    for folder, folders, names in os.walk(path, onerror=note):
        inner = PurePosixPath(Path(folder).relative_to(path).as_posix())
        folders[:] = sorted(name for name in folders if not _is_left_out(inner / name))
        tree.directories |= {str(inner / n): LINK if os.path.islink(Path(folder, n)) else "" for n in folders}
        for name in names:
            if not _is_left_out(inner / name) and (name in FILES or len(tree.files) < MAX_MEMBERS):
                tree.files[str(inner / name)] = _on_disk(Path(folder, name))
    return tree


def _on_disk(path):
    try:
        found = path.lstat()
    except OSError as error:
        return File(path, f"it cannot be read: {error.strerror}")
    largest = MAX_UNPACKED_BYTES if is_archive(path) else MAX_FILE_BYTES
    return File(path, _problem(found.st_size if stat.S_ISREG(found.st_mode) else None, largest))


def _problem(size, largest):
    """Return why a file cannot be read, or an empty text; the size of a link is None."""
    return LINK if size is None else f"it has {size:,} bytes, more than {largest:,}" * (size > largest)


def list_archive(path, file):
    """Return the `Tree` of an archive; if it is damaged, encrypted, too large or unsafe, its top has a problem."""
    try:
        if sum(map(is_archive, path.parts)) > MAX_NESTED:
            raise SubmissionError("is an archive in an archive in an archive: unpack it")
        with file.open() as opened:
            return Tree(path, *_unpack(_zip(opened) if path.name.lower().endswith(".zip") else _tar(opened)))
    except SubmissionError as error:
        problem = f"{path.name} {error}"
    except Exception as error:  # a damaged or encrypted archive raises nearly anything
        problem = f"{path.name} cannot be read ({str(error).partition(chr(10))[0]}): unpack it, or ask for it again"
    return Tree(path, {}, {".": problem})


def _unpack(members):
    """Return files and directories of a `Tree`.

    Args:
        members: of an archive; yields path, whether it is a directory, size (None of a link), function that opens it.
    """
    files, directories, unpacked, kept = {}, {".": ""}, 0, 0
    for name, is_directory, size, open_member in members:
        place = PurePosixPath(name.replace("\\", "/"))
        unpacked += size or 0
        if place.is_absolute() or ".." in place.parts:
            raise SubmissionError(f"has a file {name!r}, which leads out of it: ask for another")
        if len(files) + len(directories) > MAX_MEMBERS or unpacked > MAX_UNPACKED_BYTES or kept > MAX_KEPT_BYTES:
            raise SubmissionError(f"has more than {MAX_MEMBERS:,} files or {MAX_KEPT_BYTES:,} bytes: unpack it")
        if is_directory:
            directories |= {} if _is_left_out(place) else {str(place): ""}
        elif not _is_left_out(place):
            largest = MAX_INNER_BYTES if is_archive(place) else MAX_FILE_BYTES
            file = files[str(place)] = File(problem=_problem(size, largest))
            if not file.problem:
                with open_member() as opened:
                    file.content = opened.read(largest)
                kept += size
    return files, directories


def _zip(file):
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            size = None if stat.S_ISLNK(info.external_attr >> 16) else info.file_size
            yield info.filename, info.is_dir(), size, functools.partial(archive.open, info)


def _tar(file):
    with tarfile.open(fileobj=file) as archive:  # of any compression
        for info in archive:
            size = info.size if info.isreg() else None
            yield info.name, info.isdir(), size, functools.partial(archive.extractfile, info)
