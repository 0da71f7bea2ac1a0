"""Official files are read; whatever else is in their place is refused by name, and nothing of it is run."""

import contextlib
import hashlib
import os
import pickle
import warnings

import numpy as np
import pytest
from conftest import py2_array, py2_batch, py2_int, py2_string, replace

import cifar10_files
from cifar10_utils import DataError, DataUnavailableError, get_cifar10

# The test files have the official format, not the official content, which the loader is right to say.
unofficial = pytest.mark.filterwarnings("ignore:not the official CIFAR-10 files")


def test_official_files_are_read_and_only_their_md5_is_remarked_upon(data_dir):
    with pytest.warns(UserWarning, match="not the official CIFAR-10 files.*data_batch_1") as caught:
        data = get_cifar10(data_dir)
    assert len(caught) == 1  # NumPy 2.4 would add one for each Python 2 dtype
    assert {split: d.num_examples for split, d in data.items()} == {"train": 50_000, "validation": 0, "test": 10_000}
    assert (data["train"].pixels[:, 0, 0, 0] == np.arange(50_000) % 251).all()
    assert (data["test"].classes == np.arange(50_000, 60_000) % 10).all()
    assert data["train"].origin["name"] == "CIFAR-10"
    assert not data["train"].origin["is_synthetic"]


def test_official_md5_sums_bring_no_warning(data_dir, monkeypatch):
    def with_own_md5(entry):
        return (*entry[:2], hashlib.md5((data_dir / entry[0]).read_bytes()).hexdigest())

    monkeypatch.setattr(cifar10_files, "FILES", tuple(map(with_own_md5, cifar10_files.FILES)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_cifar10(data_dir)


@unofficial
def test_files_pickled_again_by_todays_numpy_are_read(data_dir, official_files):
    batch = pickle.loads(official_files["test_batch"], encoding="bytes")
    replace(data_dir / "test_batch", pickle.dumps(batch, protocol=4))
    assert (get_cifar10(data_dir)["test"].classes == np.arange(50_000, 60_000) % 10).all()


# ---- Refusing everything else ------------------------------------------------------------------

# The damaged file is the first one, so that few whole ones are read before it.
PIXELS = np.zeros((10_000, 3072), np.uint8)
LABELS = [0] * 10_000
LABEL = b"training batch 1 of 5"

WHOLE = py2_batch(LABEL, PIXELS, LABELS)
HEAD = b"\x80\x02}(" + py2_string(b"batch_label") + py2_string(LABEL) + py2_string(b"data")

BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"<html>404 Not Found</html>", "damaged or no pickle"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged or no pickle"),
    "a pickled list": (pickle.dumps([1, 2, 3]), "holds a list, expected a dict"),
    "an empty dict": (pickle.dumps({}), "batch_label is missing"),
    "the test batch": (py2_batch(b"testing batch 1 of 1", PIXELS, LABELS), "batch_label is b'testing batch 1 of 1'"),
    "another batch": (py2_batch(b"training batch 2 of 5", PIXELS, LABELS), "expected b'training batch 1 of 5'"),
    "half the images": (py2_batch(LABEL, PIXELS[:5000], LABELS[:5000]), r"data is \(5000, 3072\), expected uint8"),
    "grey images": (py2_batch(LABEL, PIXELS[:, :1024], LABELS), r"data is \(10000, 1024\)"),
    "float images": (py2_batch(LABEL, PIXELS[:10].astype(np.float32), LABELS), "an array that is not uint8"),
    "more shape than bytes": (WHOLE.replace(py2_int(10_000), py2_int(10_016)), "cannot reshape"),
    "too few labels": (py2_batch(LABEL, PIXELS, LABELS[:-1]), "labels are not a list of 10000"),
    "a label of 10": (py2_batch(LABEL, PIXELS, [10, *LABELS[1:]]), "whole numbers from 0 to 9"),
    "a label of -1": (py2_batch(LABEL, PIXELS, [-1, *LABELS[1:]]), "whole numbers from 0 to 9"),
    "no data": (WHOLE.replace(b"U\x04data", b"U\x04dada"), "data is no array"),
    "labels as in CIFAR-100": (WHOLE.replace(b"U\x06labels", b"U\x06coarse"), "labels are not a list"),
    "a dtype for data": (HEAD + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tRu.", "data is no array"),
    "an array never filled": (
        HEAD + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btRu.",
        "data is no array",
    ),
}


@pytest.mark.parametrize(("name", "dataset"), [*((name, "cifar10") for name in BAD_FILES), ("half the images", "auto")])
def test_bad_file_is_named_and_nothing_is_loaded(data_dir, name, dataset):
    raw, message = BAD_FILES[name]
    replace(data_dir / "data_batch_1", raw)
    with pytest.raises(DataError, match=f"data_batch_1 cannot be used: .*{message}") as error:
        get_cifar10(data_dir, dataset=dataset)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, DataUnavailableError)


TUPLES = b"N\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(40))  # (x, x), 40 times within itself
# Small files that would cost an unpickler gigabytes, minutes or the process.
BOMBS = {
    "a place far out in the memo": (b"\x80\x02]r\xff\xff\xff\x1f.", "holds a list"),
    "2^40 tuples for a label": (
        b"\x80\x04}(" + py2_string(b"batch_label") + TUPLES + b"u.",
        "batch_label is tuple, expected",
    ),
    "2^40 tuples for a key": (b"\x80\x04}(" + TUPLES + b"Nu.", "a dict has a tuple as a key"),
    "a million tuples, one in another": (b"\x80\x02}(N" + b"\x85" * 1_000_000 + b"Nu.", "a dict has a tuple as a key"),
    "a label of 5 MB": (py2_batch(b"x" * 5_000_000, PIXELS[:1], [0]), "batch_label is b'xxx"),
    "a name of 5 MB with control characters": (b"c\x1b[2J" + b"x" * 5_000_000 + b"\ny\n.", r"asks for '\\x1b\[2Jxxx"),
    "bytes behind the end": (WHOLE + b"\x00" * 10, "goes on after the pickle's end"),
    "65 MB": (bytes(65_000_000), "has 65,000,000 bytes, expected about 31,000,000"),
    "an opcode that no file has": (b"\x80\x02(lp0\n.", "damaged or no pickle"),
    "2^40 tuples in a set": (b"\x80\x04(" + TUPLES + b"\x91.", "damaged or no pickle"),
    "a bytearray of 64 GB": (b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b".", "damaged or no pickle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_file_that_would_exhaust_an_unpickler_is_refused_briefly(data_dir, name):
    raw, message = BOMBS[name]
    replace(data_dir / "data_batch_1", raw)
    with pytest.raises(DataError, match=f"data_batch_1 cannot be used: .*{message}") as error:
        get_cifar10(data_dir)
    assert len(str(error.value).replace(str(data_dir), "")) < 400
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("name", "kept"),
    [*(("data_batch_1", kept) for kept in (1, 2, 40, 10_000, 15_000_000, -30_000, -2, -1)), ("test_batch", -1)],
)
def test_truncated_file_is_named(data_dir, official_files, name, kept):
    replace(data_dir / name, official_files[name][:kept])
    with pytest.raises(DataError, match=f"{name} cannot be used"):
        get_cifar10(data_dir)


@pytest.mark.parametrize("dataset", ["cifar10", "auto"])
def test_missing_files_are_named_and_not_downloaded_over(data_dir, dataset):
    (data_dir / "data_batch_2").unlink()
    (data_dir / "test_batch").unlink()
    with pytest.raises(DataError, match="not the whole of CIFAR-10: data_batch_2, test_batch missing"):
        get_cifar10(data_dir, dataset=dataset)
    assert (data_dir / "data_batch_1").exists()


def test_folder_around_the_data_set_is_told_from_it(data_dir):
    with pytest.raises(DataError, match=r"Name .*cifar-10-batches-py with --data_dir"):
        get_cifar10(data_dir.parent)


def test_folder_in_place_of_a_file_is_named(data_dir):
    (data_dir / "data_batch_4").unlink()
    (data_dir / "data_batch_4").mkdir()
    with pytest.raises(DataError, match="data_batch_4 missing"):
        get_cifar10(data_dir)


def hostile_pickles(marker):
    """`{name: (bytes, what they ask for)}`: pickles that make the file `marker` when `pickle.load` reads them."""

    class ByReduce:
        def __init__(self, *call):
            self.call = call

        def __reduce__(self):
            return self.call

    command = f"open({str(marker)!r}, 'w').close()"
    text = command.encode()
    call_exec = b"cbuiltins\nexec\n(" + py2_string(text) + b"tR"
    import_os = b"(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR"
    return {
        "exec, protocol 0": (pickle.dumps(ByReduce(exec, (command,)), protocol=0), "__builtin__.exec"),
        "exec, protocol 2": (pickle.dumps(ByReduce(exec, (command,)), protocol=2), "__builtin__.exec"),
        "exec, protocol 5": (pickle.dumps({b"data": ByReduce(exec, (command,))}, protocol=5), "builtins.exec"),
        "os.system": (pickle.dumps(ByReduce(os.system, (f"touch '{marker}'",))), r"\w+.system"),
        "INST opcode": (b"(" + py2_string(text) + b"ibuiltins\nexec\n.", "builtins.exec"),
        "OBJ opcode": (b"(cbuiltins\nexec\n" + py2_string(text) + b"o.", "builtins.exec"),
        "getattr": (b"cbuiltins\ngetattr\n" + import_os + f"(Vtouch '{marker}'\ntR.".encode(), "builtins.getattr"),
        "behind a whole batch": (WHOLE[:-1] + call_exec + b".", "builtins.exec"),
    }


@pytest.mark.parametrize("name", hostile_pickles("marker"))
def test_file_that_would_run_code_is_refused_by_name_and_runs_nothing(data_dir, tmp_path, name):
    marker = tmp_path / "code ran"
    raw, asked_for = hostile_pickles(marker)[name]
    with contextlib.suppress(Exception):
        pickle.loads(raw, encoding="latin1")
    assert marker.exists(), "this pickle is harmless, so the test would prove nothing"
    marker.unlink()

    replace(data_dir / "data_batch_1", raw)
    with pytest.raises(DataError, match=f"data_batch_1 cannot be used: refused: it asks for '{asked_for}'"):
        get_cifar10(data_dir)
    assert not marker.exists()


def test_file_cannot_change_the_reader_for_the_next_file(data_dir):
    """BUILD on a stand-in class, with attributes of the file's own."""
    build = b"\x80\x02cnumpy\ndtype\n(NN}" + py2_string(b"__setstate__") + py2_string(b"x") + b"stb."
    replace(data_dir / "data_batch_1", build)
    before = vars(cifar10_files._PickledDtype).copy()
    with pytest.raises(DataError, match="data_batch_1 cannot be used"):
        get_cifar10(data_dir)
    assert vars(cifar10_files._PickledDtype) == before


def test_array_of_objects_is_refused(data_dir):
    raw = py2_array(PIXELS[:2]).replace(b"U\x02u1", b"U\x02O8")
    replace(data_dir / "data_batch_1", b"\x80\x02" + raw + b".")
    with pytest.raises(DataError, match="an array that is not uint8"):
        get_cifar10(data_dir)
