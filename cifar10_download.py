"""Find CIFAR-10's files on disk, unpack them from an archive that lies there, or download them."""

import contextlib
import errno
import fnmatch
import hashlib
import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from cifar10_files import FILES, DataError, DataUnavailableError, known_by_content

ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_NAME = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
TIMEOUT_SECONDS = 15
# What a disk says in the middle of a download, and no network does.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

FOLDER_NAME = "cifar-10-batches-py"  # as in the archive
WORK_FOLDER = ".cifar-10-download-"  # how the name begins of a folder that a download works in
UNFINISHED = ".cifar-10-unfinished"  # lies in a folder while files are moved into it
# What a desktop or a file system puts into an empty folder, beside names with a dot in front.
CLUTTER = ("Thumbs.db", "desktop.ini", "lost+found")
# What people have in place of CIFAR-10's version for Python, and names that give it away.
OTHER_DATA = {
    "CIFAR-100": ("cifar-100-*", "meta", "fine_label_names.txt"),
    "the binary version of CIFAR-10": ("cifar-10-binary*", "cifar-10-batches-bin", "data_batch_*.bin"),
    "the Matlab version of CIFAR-10": ("cifar-10-matlab*", "cifar-10-batches-mat", "data_batch_*.mat"),
    "the archive without its compression, which `tar -xf` unpacks": ("cifar-10-python.tar",),
}


# ---- What lies on disk ---------------------------------------------------------------------------


def find_cifar10(data_dir, download=True):
    """Return the folder of CIFAR-10's files: `data_dir`, filled first where it is empty or not there and `download`.

    It is filled from the archive in it, beside it or named by `data_dir` itself, else by a download,
    and so is one that a killed download left half full. Nothing that lies there is replaced.

    Raises:
        DataError: something else lies there, the archive is not the published one, or the disk fails.
        DataUnavailableError: nothing is there, and nothing can be downloaded.
    """
    if data_dir.name == ARCHIVE_NAME and os.path.isfile(data_dir):
        data_dir = data_dir.parent / FOLDER_NAME
    names, missing = _look_into(data_dir)
    if not missing:
        return data_dir
    if download and (names <= {ARCHIVE_NAME} or (data_dir / UNFINISHED).exists()):
        try:
            _fill(data_dir)
        except DataError:
            if _look_into(data_dir)[1]:  # else another process was faster
                raise
        (data_dir / UNFINISHED).unlink(missing_ok=True)
        return data_dir
    inner = [path.parent for depth in ("*", f"*/{FOLDER_NAME}") for path in data_dir.glob(f"{depth}/test_batch")]
    others = [data_dir / name for name in (FOLDER_NAME, *[ARCHIVE_NAME] * download) if name in names]
    better = (inner + others + ["the folder that holds all of it"])[0]
    raise DataError(
        f"{data_dir} is not the whole of CIFAR-10: {', '.join(missing)} missing{_lying_there(names)}. Name {better} "
        "with --data_dir, or "
        + ("one that is not there yet to have it downloaded." if download else "let a training script fill it.")
    )


def _look_into(data_dir):
    """Return the names in `data_dir`, a set without clutter, and which of CIFAR-10's files are missing, a list."""
    try:
        with os.scandir(data_dir) as entries:
            is_file = {entry.name: entry.is_file() for entry in entries}
    except FileNotFoundError:
        is_file = {}
    except OSError as error:
        raise DataError(
            f"{data_dir} cannot be read as a folder: {error.strerror}{_lying_there([data_dir.name])}. Name the folder "
            "of CIFAR-10's files with --data_dir, or one that is not there yet to have it downloaded."
        ) from error
    names = {name for name in is_file if not name.startswith(".") and name not in CLUTTER}
    return names, [name for name, *_ in FILES if not is_file.get(name)]


def _lying_there(names):
    """Return ' (there lies NAME: what it is)' of the first name that is known for other data, else ''."""
    for kind, patterns in OTHER_DATA.items():
        for name in sorted(names):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                return f" (there lies {name}: {kind})"
    return ""


# ---- The download -------------------------------------------------------------------------------


def _fill(data_dir):
    """Put CIFAR-10's files into `data_dir` from an archive that lies there, or a download.

    A folder that is not there yet appears whole or not at all. One that is there may be a mount
    point, which cannot be renamed to: each of its files appears whole, and a process that is killed
    between two of them leaves `UNFINISHED` there, which tells the next one to go on.
    """
    place = Path(os.path.realpath(data_dir))  # where a link leads, even if nothing is there
    archive = next(filter(os.path.isfile, (data_dir / ARCHIVE_NAME, data_dir.parent / ARCHIVE_NAME)), None)
    if not archive:
        with _network_errors_named(data_dir):  # before a folder is made, or torchvision imported
            request = urllib.request.Request(ARCHIVE_URL, method="HEAD")
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    try:
        if archive:
            _check_md5(archive)
        work_in = place if place.is_dir() else place.parent  # either is on the file system of the renames below
        work_in.mkdir(parents=True, exist_ok=True)
        for left_behind in work_in.glob(f"{WORK_FOLDER}*"):  # by a process that was killed
            with contextlib.suppress(FileNotFoundError):  # one that lives may be removing its own
                if time.time() - left_behind.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(left_behind, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=WORK_FOLDER, dir=work_in) as folder:
            if not archive:
                with _network_errors_named(data_dir):
                    archive = _fetch_archive(folder)
            unpacked = Path(folder, FOLDER_NAME)
            unpacked.mkdir()
            with tarfile.open(archive) as tar:
                for name, *_ in FILES:
                    with tar.extractfile(f"{FOLDER_NAME}/{name}") as member, open(unpacked / name, "wb") as file:
                        shutil.copyfileobj(member, file)
            if work_in != place:
                os.replace(unpacked, place)
                return
            (place / UNFINISHED).touch()
            for name, *_ in FILES:
                if not (place / name).exists():
                    os.replace(unpacked / name, place / name)
            for no_longer_needed in place.glob(f"{WORK_FOLDER}*"):
                shutil.rmtree(no_longer_needed, ignore_errors=True)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DataError(
            f"CIFAR-10 could not be put into {data_dir} ({error}). Make room there (400 MB) and see that you may write "
            "there, or name another place with --data_dir; then the same command goes on."
        ) from error


@contextlib.contextmanager
def _network_errors_named(data_dir):
    """Raise `DataUnavailableError` for what a network raises, and what the disk says as it is."""
    try:
        yield
    except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
        cause = error
        while cause:  # torchvision's helper tries again after a full disk, too, and raises what comes of that
            if type(cause) is OSError and cause.errno in DISK_ERRORS:
                raise cause from None
            cause = cause.__context__
        parent = data_dir.parent
        by_hand = _lying_there([path.name for path in parent.glob("cifar-10*")])
        raise DataUnavailableError(
            f"CIFAR-10 could not be downloaded into {data_dir} ({error}). Next: try again; or put {ARCHIVE_NAME} "
            f"(md5 {ARCHIVE_MD5}) into {parent} by hand and try again{by_hand}; "
            "or pass --dataset synthetic."
        ) from error


def _check_md5(archive):
    raw = archive.read_bytes()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != ARCHIVE_MD5:
        raise DataError(
            f"{archive} has md5 {found}, expected {ARCHIVE_MD5}: it is "
            f"{known_by_content(raw) or 'not the published archive, or not all of it'}. Fetch it again, or delete "
            "it to have it downloaded."
        )


def _fetch_archive(folder):
    """Download the archive into `folder` through torchvision's helper, which shows progress and checks the md5."""
    from torchvision.datasets.utils import download_url  # takes seconds and a few hundred MB

    with _https_with_timeout():
        download_url(ARCHIVE_URL, folder, ARCHIVE_NAME, ARCHIVE_MD5)
    return Path(folder, ARCHIVE_NAME)


class _NoPlainHTTP(urllib.request.HTTPHandler):
    def http_open(self, request):
        raise urllib.error.URLError("the download over https failed, and plain http is refused")


@contextlib.contextmanager
def _https_with_timeout():
    """Have urllib time out, and refuse the plain http that torchvision's helper falls back to where https fails."""
    timeout, opener = socket.getdefaulttimeout(), urllib.request._opener
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    urllib.request.install_opener(urllib.request.build_opener(_NoPlainHTTP))
    try:
        yield
    finally:
        urllib.request.install_opener(opener)
        socket.setdefaulttimeout(timeout)
