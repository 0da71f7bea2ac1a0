"""Shared fixtures: files in CIFAR-10's format, small runs, the grader's sandbox. A summary of omitted slow tests."""

import collections
import functools
import os
import pickle

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads slow down networks as small as the tests'

import numpy as np
import pytest
import runs

import cifar10_utils

omitted = collections.Counter()


def pytest_deselected(items):
    omitted.update(item.path.name for item in items if item.get_closest_marker("slow"))


def pytest_terminal_summary(terminalreporter):
    if omitted:
        files = ", ".join(f"{name} ({n})" for name, n in sorted(omitted.items()))
        terminalreporter.write_line(f"omitted {omitted.total()} slow tests: {files}")
        terminalreporter.write_line('to run all tests: python -m pytest -m "slow or not slow"')


@pytest.fixture(scope="session")
def official_folder(tmp_path_factory):
    """A directory in CIFAR-10's format. Image i has pixels of value i % 251 and label i % 10."""
    directory = tmp_path_factory.mktemp("official")
    for number, (name, batch_label, _) in enumerate(cifar10_utils.FILES):
        index = np.arange(10_000) + 10_000 * number
        pixels = np.repeat((index % 251).astype(np.uint8)[:, None], 3072, axis=1)
        batch = {b"batch_label": batch_label, b"labels": (index % 10).tolist(), b"data": pixels}
        (directory / name).write_bytes(pickle.dumps(batch, protocol=4))
    return directory


@pytest.fixture(scope="session")
def synthetic_flags(tmp_path_factory):
    """Flags for training on a few synthetic images."""
    data_dir = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    return ["--dataset=synthetic", "--synthetic_size=500", f"--data_dir={data_dir}"]


@pytest.fixture(scope="session")
def reference(synthetic_flags, tmp_path_factory):
    """Call with a script's name and flags to get the directory of a small uninterrupted run."""

    @functools.cache
    def directory(script, *more, draw=False):
        directory = tmp_path_factory.mktemp("runs") / script
        done = runs.run(script, *synthetic_flags, *runs.SMALL[script], *more, "--out_dir", directory, draw=draw)
        assert done.status == 0, done.err
        return directory

    return directory


@pytest.fixture(scope="session")
def shared_sandbox():
    """The grader's sandbox. Tests are skipped if submissions cannot run here."""
    yield from sandbox_or_skip()


@pytest.fixture(scope="session")
def under_limits():
    """The grader's sandbox without bubblewrap, as on Gradescope. For root, user nobody must be able to read Python."""
    yield from sandbox_or_skip(limits_only=True)


def sandbox_or_skip(**kwargs):
    from grading.sandbox import Sandbox, SandboxError

    try:
        sandbox = Sandbox(**kwargs)
    except SandboxError as error:
        pytest.skip(str(error))
    with sandbox:
        yield sandbox
