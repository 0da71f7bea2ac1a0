"""The files of CIFAR-10: read them, verify them, and refuse what is anything else."""

import concurrent.futures
import hashlib
import io
import math
import pickle
import warnings

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
N_TEST = 10_000
IMAGES_PER_FILE = 10_000
MAX_FILE_BYTES = 64_000_000

# Each file's name, the label that it carries inside, and its published md5.
TRAIN_FILES = (
    ("data_batch_1", b"training batch 1 of 5", "c99cafc152244af753f735de768cd75f"),
    ("data_batch_2", b"training batch 2 of 5", "d4bba439e000b95fd0a9bffe97cbabec"),
    ("data_batch_3", b"training batch 3 of 5", "54ebc095f3ab1f0389bbae665268c751"),
    ("data_batch_4", b"training batch 4 of 5", "634d18415352ddfa80567beed471001a"),
    ("data_batch_5", b"training batch 5 of 5", "482c414d41f54cd18b22e5b47cb7c3cb"),
)
TEST_FILE = ("test_batch", b"testing batch 1 of 1", "40351d587109b95175f43aff81a1287e")

FILES = (*TRAIN_FILES, TEST_FILE)


class DataError(Exception):
    """The data set on disk is damaged, incomplete or not CIFAR-10."""


class DataUnavailableError(DataError):
    """CIFAR-10 is neither on disk nor available for download."""


def read_cifar10(data_dir):
    """Return all images, uint8 (60000, 3, 32, 32), their class numbers, (60000,), and the md5 over the files' md5 sums.

    Warns of files that are not the official ones.

    Raises:
        DataError: a file cannot be read, or is no batch of CIFAR-10.
    """
    images = np.empty((len(FILES), IMAGES_PER_FILE, *IMAGE_SHAPE), np.uint8)

    def read_file(i):
        name, batch_label, _ = FILES[i]
        try:
            size = (data_dir / name).stat().st_size
            if size > MAX_FILE_BYTES:
                raise ValueError(f"it has {size:,} bytes, expected about 31,000,000")
            raw = (data_dir / name).read_bytes()
            images[i], labels = _parse_batch(raw, batch_label)
        except OSError as error:
            raise DataError(
                f"{data_dir / name} cannot be read: {error.strerror}. See to its permissions and its disk, or name "
                "another folder with --data_dir."
            ) from error
        except ValueError as error:
            raise DataError(
                f"{data_dir / name} cannot be used: {error}. Move {data_dir} away to have it downloaded anew."
            ) from error
        return labels, hashlib.md5(raw, usedforsecurity=False).hexdigest()

    # Reading, hashing and copying release the interpreter: two threads take two thirds of the time of one.
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        labels, md5_sums = zip(*pool.map(read_file, range(len(FILES))), strict=True)
    unofficial = [name for (name, _, md5), found in zip(FILES, md5_sums, strict=True) if md5 != found]
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
        detail = known_by_content(raw) or f"{type(error).__name__}: {str(error)!r:.100}"
        raise ValueError(f"it is damaged or no pickle ({detail})") from error
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


def known_by_content(raw):
    """Return what lies in place of a file after a clone or a download that went wrong; '' where that is not known."""
    start = raw[:1000].lstrip().lower()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, and `git lfs pull` fetches the file"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, as a server sends in place of a file"
    return ""


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
