"""Lists the files in directories and archives. Archives are read in memory, never unpacked to disk."""

import io
import os
import re
import stat
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

MAX_MEMBERS, MAX_BYTES = 20_000, 2 << 30  # of an archive, with the archives in it
MAX_FILE_BYTES, MAX_INNER_BYTES = 2 << 20, 256 << 20  # of a file, and of an archive in an archive
MAX_DEPTH = 50  # parts of a path
NEVER = {"__pycache__", "__MACOSX", "venv"}
TOO_LARGE = f"it has more than {MAX_FILE_BYTES:,} bytes"


@dataclass
class Tree:
    """A directory or an archive, without hidden files.

    Attributes:
        path: its path, which may continue inside an archive: export.zip/submission_7.
        files: `{name: content}`, which is bytes, the `Path` of a file on disk, or why it cannot be read, an `OSError`.
        children: `{name: Tree}` of directories and archives.
        problem: why it cannot be read, or empty.
    """

    path: Path
    files: dict = field(default_factory=dict)
    children: dict = field(default_factory=dict)
    problem: str = ""

    def walk(self):
        """Yield relative path and content of each file; for a directory that cannot be read, an `OSError`."""
        if self.problem:
            yield PurePosixPath("."), OSError(self.problem)
        for name, content in self.files.items():
            yield PurePosixPath(name), content
        for name, child in self.children.items():
            yield from ((PurePosixPath(name, path), content) for path, content in child.walk())


def is_archive(name):
    """Return whether a file name is that of an archive, of a kind that can be read or not."""
    return re.search(r"(?i)\.(zip|tgz|7z|rar|tar(\.\w+)?)$", str(name)) is not None


def open_file(content):
    """Return a file in a `Tree` as a stream of bytes, or raise an `OSError`."""
    if isinstance(content, OSError):
        raise content
    if isinstance(content, bytes):
        return io.BytesIO(content)
    if not stat.S_ISREG(content.lstat().st_mode):
        raise OSError("it is a link, or not a regular file")
    return content.open("rb")


def list_tree(path, content=None, spent=None):
    """Return the `Tree` of a directory or an archive. Links are not followed.

    Args:
        content: of an archive inside an archive, as in `Tree.files`.
        spent: number of files and bytes in the archives around it, a `Counter`.
    """
    tree = Tree(path)
    try:
        if len(path.parts) > MAX_DEPTH:
            raise ValueError("it is in too many directories")
        if content is not None or not os.path.isdir(path) or os.path.islink(path):
            with open_file(path if content is None else content) as file:
                _add_members(tree, file, Counter() if spent is None else spent)
        else:
            for name in filter(_is_visible, sorted(os.listdir(path))):
                if os.path.isdir(path / name) or is_archive(name):
                    tree.children[name] = list_tree(path / name)
                else:
                    tree.files[name] = path / name
    except Exception as error:  # a damaged or encrypted archive raises nearly anything
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        advice = ": unpack it, or ask for it again" * is_archive(path)
        tree = Tree(path, problem=f"it cannot be read ({why}){advice}")
    return tree


def _is_visible(name):
    return not name.startswith(".") and name not in NEVER


def _add_members(tree, file, spent):
    """Add the members of an archive, a stream of bytes, to its tree, and their number and size to `spent`."""
    for name, size, open_member in (_zip if tree.path.suffix.lower() == ".zip" else _tar)(file):
        folders = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        is_wanted = all(map(_is_visible, folders)) and len(folders) <= MAX_DEPTH  # .. is hidden, too
        spent.update(members=is_wanted, bytes=size)
        if spent["members"] > MAX_MEMBERS or spent["bytes"] > MAX_BYTES:
            raise ValueError(f"more than {MAX_MEMBERS:,} files, or {MAX_BYTES:,} bytes")
        if not is_wanted:
            continue
        name, parent = folders.pop() if open_member else "", tree
        for folder in folders:
            parent = parent.children.setdefault(folder, Tree(parent.path / folder))
        if name:
            is_large = size > (MAX_INNER_BYTES if is_archive(name) else MAX_FILE_BYTES)
            content = OSError(TOO_LARGE) if is_large else open_member().read(size)
            if is_archive(name):
                parent.children[name] = list_tree(parent.path / name, content, spent)
            else:
                parent.files[name] = content


def _zip(file):
    """Yield name, size and a function that opens it, of each file in an archive; of a directory it is None."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            yield info.filename, info.file_size, None if info.is_dir() else partial(archive.open, info)


def _tar(file):
    with tarfile.open(fileobj=file) as archive:  # of any compression
        for info in archive:
            if info.isreg() or info.isdir():  # no links or devices
                yield info.name, info.size, None if info.isdir() else partial(archive.extractfile, info)
