"""The files of CIFAR-10: download them, verify them, read them, and refuse what is anything else."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import io
import math
import os
import pickle
import shutil
import socket
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
N_TEST = 10_000
IMAGES_PER_FILE = 10_000
MAX_FILE_BYTES = 64_000_000

ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_NAME = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
TIMEOUT_SECONDS = 15

# Each file's name, the label that it carries inside, and its published md5.
TRAIN_FILES = (
    ("data_batch_1", b"training batch 1 of 5", "c99cafc152244af753f735de768cd75f"),
    ("data_batch_2", b"training batch 2 of 5", "d4bba439e000b95fd0a9bffe97cbabec"),
    ("data_batch_3", b"training batch 3 of 5", "54ebc095f3ab1f0389bbae665268c751"),
    ("data_batch_4", b"training batch 4 of 5", "634d18415352ddfa80567beed471001a"),
    ("data_batch_5", b"training batch 5 of 5", "482c414d41f54cd18b22e5b47cb7c3cb"),
)
TEST_FILE = ("test_batch", b"testing batch 1 of 1", "40351d587109b95175f43aff81a1287e")


class DataError(Exception):
    """The data set on disk is damaged, incomplete or not CIFAR-10."""


class DataUnavailableError(DataError):
    """CIFAR-10 is neither on disk nor to be had from the network."""


def holds_files(data_dir):
    """Return whether there is anything at `data_dir` that a download must not replace."""
    return any(data_dir.iterdir()) if data_dir.is_dir() else data_dir.exists()


# ---- The download -------------------------------------------------------------------------------


def download(data_dir):
    """Fetch the archive, or take the one that lies beside `data_dir`, and put `data_dir` in place, whole or not at all.

    Raises:
        DataError: an archive placed by hand is not the published one.
        DataUnavailableError: the network, or the disk, says no.
    """
    parent = data_dir.parent
    archive = parent / ARCHIVE_NAME
    try:
        if archive.exists():
            _check_md5(archive)
        else:
            _ask_server()
        parent.mkdir(parents=True, exist_ok=True)
        for left_behind in parent.glob(".cifar-10-download-*"):  # by a process that was killed
            with contextlib.suppress(FileNotFoundError):  # one that lives may be removing its own
                if time.time() - left_behind.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(left_behind, ignore_errors=True)
        # Beside its destination, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(prefix=".cifar-10-download-", dir=parent) as folder:
            if not archive.exists():
                archive = _fetch_archive(folder)
            unpacked = Path(folder, "cifar-10-batches-py")
            unpacked.mkdir()
            with tarfile.open(archive) as tar:
                for name, *_ in (*TRAIN_FILES, TEST_FILE):
                    with tar.extractfile(f"cifar-10-batches-py/{name}") as member, open(unpacked / name, "wb") as file:
                        shutil.copyfileobj(member, file)
            try:
                with contextlib.suppress(FileNotFoundError):  # none there, or another process was faster
                    data_dir.rmdir()  # an empty folder, or `get_cifar10` would have read it
                os.replace(unpacked, data_dir)
            except OSError:
                if not holds_files(data_dir):  # else another process was faster
                    raise
    except (OSError, RuntimeError, ImportError, KeyError, http.client.HTTPException, tarfile.TarError) as error:
        raise DataUnavailableError(
            f"CIFAR-10 could not be downloaded into {data_dir} ({error}). Next: try again; or put {ARCHIVE_NAME} "
            f"(md5 {ARCHIVE_MD5}) into {parent} by hand and try again; or pass --dataset synthetic."
        ) from error


def _check_md5(archive):
    found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    if found != ARCHIVE_MD5:
        raise DataError(
            f"{archive} has md5 {found}, expected {ARCHIVE_MD5}: it is not the published archive, or not all "
            "of it. Fetch it again, or delete it to have it downloaded."
        )


def _ask_server():
    """Raise `OSError` where the server does not offer the archive, before a folder is made or torchvision imported."""
    urllib.request.urlopen(urllib.request.Request(ARCHIVE_URL, method="HEAD"), timeout=TIMEOUT_SECONDS).close()


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


# ---- The files on disk --------------------------------------------------------------------------


def read_cifar10(data_dir):
    """Return all images, uint8 (60000, 3, 32, 32), their class numbers, and the md5 over the files' md5 sums."""
    files = (*TRAIN_FILES, TEST_FILE)
    missing = [name for name, *_ in files if not (data_dir / name).is_file()]
    if missing:
        inner = data_dir / "cifar-10-batches-py"
        raise DataError(
            f"{data_dir} is not the whole of CIFAR-10: {', '.join(missing)} missing. Name "
            f"{inner if inner.is_dir() else 'the folder that holds all of it'} with --data_dir, or one that is not "
            "there yet to have it downloaded."
        )
    images = np.empty((len(files), IMAGES_PER_FILE, *IMAGE_SHAPE), np.uint8)

    def read_file(i):
        name, batch_label, _ = files[i]
        try:
            size = (data_dir / name).stat().st_size
            if size > MAX_FILE_BYTES:
                raise ValueError(f"it has {size:,} bytes, expected about 31,000,000")
            raw = (data_dir / name).read_bytes()
            images[i], labels = _parse_batch(raw, batch_label)
        except ValueError as error:
            raise DataError(
                f"{data_dir / name} cannot be used: {error}. Move {data_dir} away to have it downloaded anew."
            ) from error
        return labels, hashlib.md5(raw, usedforsecurity=False).hexdigest()

    # Reading, hashing and copying release the interpreter: two threads take two thirds of the time of one.
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        labels, md5_sums = zip(*pool.map(read_file, range(len(files))), strict=True)
    unofficial = [name for (name, _, md5), found in zip(files, md5_sums, strict=True) if md5 != found]
    if unofficial:
        warnings.warn(
            f"not the official CIFAR-10 files, by their md5 sums: {', '.join(unofficial)} in {data_dir}", stacklevel=3
        )
    return (
        images.reshape(-1, *IMAGE_SHAPE),
        np.concatenate(labels),
        hashlib.md5("".join(md5_sums).encode(), usedforsecurity=False).hexdigest(),
    )


def _parse_batch(raw, batch_label):
    """Return pixels, uint8 (10000, 3, 32, 32), and labels, a list, of one official file's bytes.

    Raises:
        ValueError: the bytes are anything else.
    """
    if not raw:
        raise ValueError("the file is empty")
    stream = io.BytesIO(raw)
    try:
        batch = _BatchUnpickler(stream, encoding="bytes").load()
    except _RefusedError:
        raise
    except Exception as error:  # damaged opcodes raise nearly every kind that there is
        raise ValueError(f"it is damaged or no pickle ({type(error).__name__}: {str(error)!r:.100})") from error
    if stream.read(1):
        raise ValueError("it goes on after the pickle's end")
    if type(batch) is not dict:
        raise ValueError(f"it holds a {type(batch).__name__}, expected a dict")
    found = batch.get(b"batch_label")
    if found != batch_label:
        # Only bytes are shown: the repr of tuples within tuples may never end.
        found = f"{found!r:.60}" if type(found) is bytes else "missing" if found is None else type(found).__name__
        raise ValueError(f"its batch_label is {found}, expected {batch_label!r}")
    pixels, labels = getattr(batch.get(b"data"), "pixels", None), batch.get(b"labels")
    expected = (IMAGES_PER_FILE, math.prod(IMAGE_SHAPE))
    if pixels is None or pixels.shape != expected:
        raise ValueError(f"its data is {'no array' if pixels is None else pixels.shape}, expected uint8 {expected}")
    if not isinstance(labels, list) or len(labels) != IMAGES_PER_FILE:
        raise ValueError(f"its labels are not a list of {IMAGES_PER_FILE}")
    if not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise ValueError(f"its labels are not all whole numbers from 0 to {len(CLASSES) - 1}")
    return pixels.reshape(-1, *IMAGE_SHAPE), labels


class _RefusedError(ValueError):
    """A pickle asks for what no CIFAR-10 file holds."""


class _PickledArray:
    """Makes a uint8 array of what a pickle says of an array.

    NumPy's own reconstruction would run on whatever a file hands it, and NumPy 2.4 warns at each
    dtype that Python 2 pickled.
    """

    pixels = None

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        _version, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _PickledDtype) or dtype.name not in (b"u1", "u1"):
            raise _RefusedError("refused: it holds an array that is not uint8")
        self.pixels = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _PickledDtype:
    def __init__(self, name, *_):
        self.name = name

    def __setstate__(self, state):
        """Byte order and alignment, which one byte has no use for."""


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
}
# What Python 2 and 3 write a batch with; each is one byte.
_OPCODES = (
    pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE
    + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.BINSTRING + pickle.SHORT_BINSTRING
    + pickle.BINBYTES + pickle.SHORT_BINBYTES + pickle.BINUNICODE + pickle.SHORT_BINUNICODE
    + pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
    + pickle.EMPTY_LIST + pickle.APPEND + pickle.APPENDS + pickle.EMPTY_DICT
    + pickle.BINPUT + pickle.LONG_BINPUT + pickle.MEMOIZE + pickle.BINGET + pickle.LONG_BINGET
    + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.INST + pickle.REDUCE + pickle.BUILD
)  # fmt: skip


class _BatchUnpickler(pickle._Unpickler):
    """Builds dicts, lists, tuples, strings, numbers and uint8 arrays; nothing that a file names is imported or called.

    The unpickler written in Python: it can do without the other opcodes, no number in a file costs it
    memory, and it copies the pixels once, which takes 20 ms a file where the one in C takes 50.
    """

    dispatch = {opcode: pickle._Unpickler.dispatch[opcode] for opcode in _OPCODES}  # noqa: RUF012

    def load_setitems(self):
        for key in self.stack[::2]:
            if type(key) is not bytes:  # the hash of tuples within tuples may never end
                raise _RefusedError(f"refused: a dict has a {type(key).__name__} as a key, expected strings only")
        super().load_setitems()

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module, name):
        if (module, name) not in _STAND_INS:
            asked_for = f"{f'{module}.{name}'!r:.100}"
            raise _RefusedError(f"refused: it asks for {asked_for}, expected arrays, lists and strings only")
        return _STAND_INS[module, name]
