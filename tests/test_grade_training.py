"""The training checks: the same batches for every submission, and nothing downloaded."""

import numpy as np
import pytest
from graded import Classes
from variants import NoBias

import cifar10_utils
from cifar10_utils import DataSet
from grading.checks import ALL_CHECKS, training
from grading.checks.check import Answer, Grading
from grading.checks.local import Local
from grading.checks.training import Training, load_training, parts
from grading.scheme import FILES


def small_data():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (300, 3, 32, 32)).astype(np.uint8), rng.integers(0, 10, 300)
    mean = images.mean(axis=0).astype(np.float32)
    return {split: DataSet(images, labels, mean) for split in ("train", "test")}


def test_submissions_that_train_at_once_get_the_same_batches():
    data = small_data()
    both = zip(parts(data, 100, 10), parts(data, 100, 10), strict=True)
    assert all(np.array_equal(one["labels"], other["labels"]) for one, other in both)


@pytest.mark.parametrize("content", [None, "cifar-10-python.tar.gz"])
def test_grading_downloads_and_unpacks_nothing(content, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_utils, "_download", lambda archive: pytest.fail("it was downloaded"))
    if content:
        (tmp_path / content).touch()
    found = load_training(tmp_path, True)
    assert found.data is None
    assert f"CIFAR-10 is not in {tmp_path}" in found.why_not


@pytest.mark.parametrize(("least", "status"), [(0.9, "failed"), (0.0, "passed")])
def test_training_checks_compare_the_accuracy_with_the_expected_one(monkeypatch, least, status):
    """The networks are right, and learn random labels."""
    sizes = {"N_STEPS": 50, "BATCH_SIZE": 20, "CONVNET_STEPS": 50, "CONVNET_BATCH": 2, "CONVNET_TEST_IMAGES": 300}
    for name, value in sizes.items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr("report.claims.interval", lambda *_: (least, 1.0, "recorded runs"))
    grading = Grading(Local(Classes({})).ask, FILES, Training(small_data()))
    results = [grading.run(check) for check in ALL_CHECKS if check.name.endswith(".training")]
    assert [result.status for result in results] == [status] * 3
    assert status == "passed" or all("The test accuracy is" in result.problem for result in results)


def test_network_without_biases_does_not_fail_its_training_check(monkeypatch):
    for name, value in {"N_STEPS": 2, "BATCH_SIZE": 20}.items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr("report.claims.interval", lambda *_: (0.0, 1.0, "recorded runs"))
    grading = Grading(Local(Classes({"modules.LinearModule": NoBias})).ask, FILES, Training(small_data()))
    (check,) = (check for check in ALL_CHECKS if check.name == "mlp_numpy.training")
    assert grading.run(check).passed


def test_mlp_that_hangs_is_not_trained():
    asked = []

    def ask(op, *_):
        asked.append(op)
        return Answer() if op == "import" else Answer(error="It did not finish.", kind="timeout")

    grading = Grading(ask, FILES, Training(small_data()))
    checks = [check for check in ALL_CHECKS if check.name in ("mlp_numpy.training", "mlp_pytorch.training")]
    assert {grading.run(check).status for check in checks} == {"failed"}
    assert "train" not in asked
