"""The training checks: the same batches and result for every submission, on any number of cores; and their curves."""

import os

import numpy as np
import pytest
from graded import PROJECT, reference

import cifar10_utils
from cifar10_utils import DataSet
from grading import checks_training, pages
from grading.check import Grading
from grading.checks_training import MAX_THREADS, Training, load_training, parts, start_weights
from grading.session import Session


def small_data():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (300, 3, 32, 32)).astype(np.uint8), rng.integers(0, 10, 300)
    mean = images.mean(axis=0).astype(np.float32)
    return {split: DataSet(images, labels, mean) for split in ("train", "test")}


def test_submissions_that_train_at_once_get_the_same_batches():
    data = small_data()
    both = zip(parts(data, 6, 100, 2), parts(data, 6, 100, 2), strict=True)
    assert all(np.array_equal(one["labels"], other["labels"]) for (_, one), (_, other) in both)


@pytest.mark.parametrize("content", [None, "cifar-10-python.tar.gz"])
def test_grading_downloads_and_unpacks_nothing(content, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_utils, "_download", lambda archive: pytest.fail("it was downloaded"))
    if content:
        (tmp_path / content).touch()
    training = load_training(tmp_path, True, False)
    assert training.data is None
    assert f"CIFAR-10 is not in {tmp_path}" in training.why_not


@pytest.mark.slow
def test_threads_are_shared_among_jobs_and_never_too_many_for_the_sandbox(official_folder, monkeypatch, shared_sandbox):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert load_training(official_folder, True, False).threads == MAX_THREADS
    assert load_training(official_folder, True, False, jobs=32).threads == 2
    _, arrays = next(parts(small_data(), 1, 8, 1))
    params = {"learning_rate": 1e-4, "batch_size": 8, "threads": MAX_THREADS, "seed": 1, "is_first": True}
    with Session(shared_sandbox, {"convnet_pytorch.py": PROJECT["convnet_pytorch.py"].encode()}, ["."]) as session:
        assert session.ask("convnet_train", params, arrays, 120).error is None


def test_training_in_parts_is_the_same_and_leaves_a_curve(shared_sandbox, monkeypatch):
    for name, value in {"N_STEPS": 6, "EVERY": 2, "BATCH_SIZE": 20, "CURVE_IMAGES": 100}.items():
        monkeypatch.setattr(checks_training, name, value)
    asked = []
    with Session(
        shared_sandbox, {name: PROJECT[name].encode() for name in ("mlp_numpy.py", "modules.py")}, ["."]
    ) as session:
        grading = Grading(session, reference(), None, Training(small_data()))
        ask = session.ask
        monkeypatch.setattr(session, "ask", lambda op, params, *rest: asked.append(ask(op, params, *rest)) or asked[-1])
        checks_training.CHECKS[0].run(grading)
        curve = grading.measured["steps_numpy"]
        _, arrays = next(parts(small_data(), 6, 20, 6))
        params = {"n_inputs": 3072, "n_hidden": [100], "n_classes": 10, "neg_slope": 0.02}
        whole = ask("steps_numpy", params | {"learning_rate": 2e-3, "batch_size": 20}, arrays | start_weights())
    assert [step for step, _ in curve] == [2, 4, 6]
    assert all(np.array_equal(whole.arrays[name], asked[-1].arrays[name]) for name in whole.arrays)


def test_curve_of_a_submission_is_drawn_over_the_recorded_ones(monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *args, **kwargs: drawn.append(args) or plot(self, *args, **kwargs))
    metrics = [{"step": step, "test_accuracy": 0.1} for step in (100, 200)]
    assert pages.curves("fig13_convnet", "accuracy", metrics).startswith(b"\x89PNG")
    assert ((100, 200), (0.1, 0.1)) in drawn
