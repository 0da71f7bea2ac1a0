"""Submissions in archives, as course platforms hand them out: read in memory, nothing is unpacked to disk.

A path may lead into an archive, and through one into another: `export.zip/submission_7/answer.tar.gz/code`.
"""

import functools
import gzip
import io
import re
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from grading.scheme import FILES

SUFFIXES = (".zip", ".tar.gz", ".tgz")
MAX_UNPACKED_BYTES, MAX_KEPT_BYTES, MAX_MEMBERS = 2 << 30, 256 << 20, 20_000
MAX_FILE_BYTES, MAX_INNER_BYTES = 2 << 20, 64 << 20  # of a file, and of an archive in an archive
NEVER = {"__pycache__", "__MACOSX", "node_modules", "venv"}
MANY = 3  # folders with the same file are submissions, and no longer drafts of one
# A folder for each submission, as Gradescope, Moodle and Brightspace name it.
PLATFORMS = re.compile(r"submission_\d+$|.+_assignsubmission_file|\d+-\d+ - ")


class SubmissionError(Exception):
    """What was handed in cannot be read; the message says what to do."""


class ArchiveError(SubmissionError):
    """The archive cannot be read; the message says why."""


def is_archive(path):
    return str(path).lower().endswith(SUFFIXES)


def is_hidden(name):
    """Return whether a path within a submission is that of something that nobody wrote as an answer."""
    return any(part.startswith(".") or part in NEVER for part in PurePosixPath(name).parts)


def read(path):
    """Return `{name: (size, bytes or None)}` of what lies at a path into an archive.

    Bytes are None where a file is larger than `MAX_FILE_BYTES`, size is None for a link.

    Raises:
        ArchiveError: it is none, damaged, encrypted, too large, or has a name that leads out of it.
    """
    path = Path(path)
    outer = next((place for place in (path, *path.parents) if place.is_file()), None)
    if outer is None:
        raise ArchiveError(f"{path} is neither a folder nor an archive: name a folder with {', '.join(FILES)}")
    files, folder = _read_file(outer), ""
    for part in path.relative_to(outer).parts:
        name = folder + part
        if name in files and is_archive(name):
            size, raw = files[name]
            if raw is None:
                raise ArchiveError(f"{name} has {size:,} bytes, more than {MAX_INNER_BYTES:,}: unpack it")
            files, folder = _unpack(io.BytesIO(raw), name), ""
        else:
            folder = f"{name}/"
    return {name.removeprefix(folder): file for name, file in files.items() if name.startswith(folder)}


@functools.lru_cache(maxsize=1)  # of the many submissions in an export, one follows the other
def _read_file(path):
    with path.open("rb") as file:
        return _unpack(file, path.name)


def _unpack(file, name):
    files, kept = {}, 0
    try:
        for member, size, stream in _zip(file) if name.lower().endswith(".zip") else _tar(file):
            place = PurePosixPath(member.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts:
                raise ArchiveError(f"{name} has a file {member!r}, which leads out of it")
            if is_hidden(place):
                continue
            if len(files) == MAX_MEMBERS:
                raise ArchiveError(f"{name} holds more than {MAX_MEMBERS:,} files: unpack it, and name the folders")
            largest = MAX_INNER_BYTES if is_archive(member) else MAX_FILE_BYTES
            raw = None
            if size is not None and size <= largest:
                with stream() as opened:
                    raw = opened.read(largest + 1)
                kept += len(raw)
                if kept > MAX_KEPT_BYTES:
                    raise ArchiveError(f"{name} unpacks to more than {MAX_KEPT_BYTES:,} bytes: unpack it yourself")
            files[str(place)] = size, raw
    except ArchiveError:
        raise
    except Exception as error:  # a damaged or encrypted archive raises nearly anything
        raise ArchiveError(f"{name} cannot be read ({type(error).__name__}: {error}): ask for it again") from error
    return files


def _zip(file):
    """Yield name, size (None of a link) and what opens it, of each file in a zip archive."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                yield info.filename, None if is_link else info.file_size, functools.partial(archive.open, info)


def _tar(file):
    """Yield the same of a tar archive."""
    with tarfile.open(fileobj=_Limited(gzip.open(file)), mode="r|") as archive:
        for info in archive:
            if not info.isdir():
                yield info.name, info.size if info.isreg() else None, functools.partial(archive.extractfile, info)


class _Limited:
    """A stream that ends with an error once more has been read from it than an answer can have."""

    def __init__(self, file):
        self.file, self.left = file, MAX_UNPACKED_BYTES

    def read(self, n):
        self.left -= n
        if self.left < 0:
            raise ArchiveError(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes: unpack it yourself")
        return self.file.read(n)


def holders(names):
    """Return the file of the course that most folders hold and the top does not, and those folders of the top."""
    tops = {file: {n.split("/")[0] for n in names if PurePosixPath(n).name == file} for file in FILES}
    return max(((file, tops[file] if file not in names else set()) for file in FILES), key=lambda pair: len(pair[1]))


def submissions_in(path):
    """Return the paths of the submissions in an archive: its own, or one for each folder or archive in an export.

    Raises:
        ArchiveError: as of `read`.
    """
    top = path = Path(path)
    files = read(path)
    while len(tops := {name.split("/")[0] for name in files}) == 1 and not files.keys() & tops:
        top = top / tops.pop()
        files = read(top)
    folders = {name.split("/")[0] for name in files if "/" in name}
    inner = {name for name in files if "/" not in name and is_archive(name)}
    is_export = (
        any(PLATFORMS.match(folder) for folder in folders)
        or (len(inner) > 1 and not files.keys() & set(FILES))
        or len(holders(files)[1]) >= MANY
    )
    return [top / name for name in sorted(folders | inner)] if is_export else [path]
