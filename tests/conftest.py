"""What many tests need, made once: files in CIFAR-10's format, small runs, the grader's sandbox; what is left out."""

import collections
import contextlib
import functools
import os
import struct

import numpy as np
import pytest
import runs

import cifar10_files

left_out = collections.Counter()


def pytest_deselected(items):
    left_out.update(item.path.name for item in items if item.get_closest_marker("slow"))


def pytest_terminal_summary(terminalreporter):
    if left_out:
        files = ", ".join(f"{name} ({n})" for name, n in sorted(left_out.items()))
        terminalreporter.write_line(f"left out {left_out.total()} slow tests: {files}")
        terminalreporter.write_line('to run them as well: python -m pytest -m "slow or not slow"')


def py2_string(raw):
    """Pickle opcodes of a Python 2 str."""
    return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw


def py2_int(n):
    return b"K" + bytes([n]) if 0 <= n < 256 else b"J" + struct.pack("<i", n)


def py2_array(array):
    """Pickle opcodes of a two-dimensional array as NumPy under Python 2 wrote them, with align and copy as ints."""
    raw = array.tobytes()
    kind = array.dtype.str[1:].encode()
    order = b"|" if array.dtype.itemsize == 1 else b"<"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01("
        + b"".join(py2_int(n) for n in array.shape)
        + b"tcnumpy\ndtype\n("
        + py2_string(kind)
        + b"K\x00K\x01tR(K\x03"
        + py2_string(order)
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + py2_string(raw)
        + b"tb"
    )


def py2_batch(label, pixels, labels):
    """The bytes of an official batch file."""
    items = {
        b"batch_label": py2_string(label),
        b"labels": b"](" + b"".join(map(py2_int, labels)) + b"e",
        b"data": py2_array(pixels),
    }
    return b"\x80\x02}(" + b"".join(py2_string(key) + value for key, value in items.items()) + b"u."


def py2_files(images_per_file):
    """`{file name: bytes}` of a whole data set in the official format; image i has the pixels i % 251, label i % 10."""
    files = {}
    for number, (name, label, _) in enumerate((*cifar10_files.TRAIN_FILES, cifar10_files.TEST_FILE)):
        index = np.arange(number * images_per_file, (number + 1) * images_per_file)
        pixels = np.repeat((index % 251).astype(np.uint8)[:, None], 3072, axis=1)
        files[name] = py2_batch(label, pixels, (index % 10).tolist())
    return files


@pytest.fixture(scope="session")
def official_files():
    return py2_files(10_000)


@pytest.fixture(scope="session")
def official_folder(official_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    for name, raw in official_files.items():
        (folder / name).write_bytes(raw)
    return folder


@pytest.fixture
def data_dir(official_folder, tmp_path):
    """A folder of those files, for a test to damage: links, which `replace` replaces and never writes through."""
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for path in official_folder.iterdir():
        os.link(path, folder / path.name)
    return folder


def replace(path, raw):
    path.unlink()
    path.write_bytes(raw)


@pytest.fixture(scope="session")
def synthetic_flags(tmp_path_factory):
    """Flags that make a script train on a few synthetic images, cached for the session."""
    data_dir = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    return ["--dataset=synthetic", "--synthetic_size=500", f"--data_dir={data_dir}"]


@pytest.fixture(scope="session")
def reference(synthetic_flags, tmp_path_factory):
    """Call with a script's name, and more flags: the folder, without curves, of a small run that nobody disturbed."""

    @functools.cache
    def folder(script, *more):
        folder = tmp_path_factory.mktemp("runs") / script
        done = runs.run(script, *synthetic_flags, *runs.SMALL[script], *more, "--out_dir", folder)
        assert done.status == 0, done.err
        return folder

    return folder


@pytest.fixture(scope="session")
def shared_sandbox():
    """The grader's sandbox; a test that needs it is skipped where root has neither bubblewrap nor another user."""
    from grading.walls import Sandbox, SandboxError

    with contextlib.ExitStack() as stack:
        try:
            sandbox = stack.enter_context(Sandbox())
        except SandboxError as error:
            pytest.skip(str(error))
        yield sandbox
