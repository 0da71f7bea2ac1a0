"""A run's folder: what is in it, that nothing of it is overwritten or half written, and what is resumed from it."""

import json
import os
import subprocess
import sys

import matplotlib.image
import pytest
import torch
from runs import (
    CONVNET,
    FOLDER_FILES,
    MLP,
    NUMPY,
    ROOT,
    SMALL,
    contents,
    run,
    slow_convnet,
)

import machine
import run_folder
import torch_utils
import train_mlp_numpy
import train_utils
from figures import draw_curve
from run_folder import read_metrics, write_atomically

# ---- What is in it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(synthetic_flags, tmp_path_factory):
    """Call with a script's name: the folder of a small run with all of its pictures."""
    folders = {}

    def folder(script):
        if script not in folders:
            folders[script] = tmp_path_factory.mktemp("runs") / script
            flags = [*synthetic_flags, *SMALL[script], *["--pictures"] * (script != NUMPY), "--eval_freq=20"]
            assert run(script, *flags, "--out_dir", folders[script], draw=True).status == 0
        return folders[script]

    return folder


@pytest.mark.parametrize("script", [NUMPY, MLP, slow_convnet])
def test_run_folder_holds_what_it_should(drawn, script):
    folder = drawn(script)
    pictures = set() if script == NUMPY else {"first_layer.png", "worst_mistakes.png"}
    assert {path.name for path in folder.iterdir()} == FOLDER_FILES[script] | pictures
    for path in folder.glob("*.png"):
        assert matplotlib.image.imread(path).std() > 0.05, f"{path.name} is blank"
    metrics = read_metrics(folder)
    max_steps = {NUMPY: 40, MLP: 24, CONVNET: 6}[script]
    assert [m["step"] for m in metrics] == [*range(0, max_steps, 20), max_steps]
    seconds = [m["seconds"] for m in metrics]
    assert seconds == sorted(seconds)
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset"]["is_synthetic"] is True
    assert len(config["dataset"]["fingerprint"]) == 32
    assert (config["seed"], config["device"]) == (42, "cpu")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["last"] == metrics[-1]
    assert summary["best"]["test_accuracy"]["value"] == max(m["test_accuracy"] for m in metrics)
    assert summary["best"]["test_loss"]["value"] == min(m["test_loss"] for m in metrics)
    assert summary["images_per_second"] > 0


def test_config_says_what_the_numpy_mlp_was_trained_with(reference):
    config = json.loads((reference(NUMPY) / "config.json").read_text())
    assert config["flags"]["dnn_hidden_units"] == [20, 10]
    assert config["precision"] == "float32"
    metrics = read_metrics(reference(NUMPY))
    assert [m["step"] for m in metrics] == [*range(0, 40, 3), 40]
    assert list(metrics[0]) == [
        "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "images_seen", "seconds",
    ]  # fmt: skip
    assert metrics[-1]["images_seen"] == 40 * 30


@pytest.mark.parametrize("script", [MLP, slow_convnet])
def test_config_says_in_which_precision_pytorch_trained(reference, script):
    config = json.loads((reference(script) / "config.json").read_text())
    assert config["precision"] == torch_utils.choose_precision("auto", torch.device("cpu"), True)
    assert set(config["versions"]) >= {"python", "numpy", "torch"}


def test_figures_are_pictures_and_name_the_data_set(reference):
    (axes,) = draw_curve(read_metrics(reference(NUMPY)), "loss", "here on there").axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "here on there",
        "training step",
        "cross-entropy loss",
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "test"]


def test_figures_of_a_run_show_all_evaluations_and_name_the_data_set(synthetic_flags, tmp_path, monkeypatch):
    drawn = []

    def draw(metrics, quantity, title):
        drawn.append((quantity, [m["step"] for m in metrics], title))
        return draw_curve(metrics, quantity, title)

    monkeypatch.setattr(train_utils, "draw_curve", draw)
    small = ["--max_steps=4", "--eval_freq=2", "--quiet", f"--out_dir={tmp_path / 'run'}"]
    assert run(NUMPY, *synthetic_flags, *small, draw=True).status == 0
    title = "train_mlp_numpy on SYNTHETIC IMAGES, not CIFAR-10"
    assert drawn[-2:] == [("accuracy", [0, 2, 4], title), ("loss", [0, 2, 4], title)]


def test_file_whose_writing_fails_halfway_stays_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"the last good one")

    def write(file):
        file.write(b"half of")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write)
    assert path.read_bytes() == b"the last good one"


def test_file_is_not_written_through_a_link_at_its_temporary_name(tmp_path):
    (tmp_path / "other").write_text("somebody's")
    (tmp_path / "metrics.jsonl.tmp").symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "metrics.jsonl", lambda file: file.write(b"ours"))
    assert (tmp_path / "other").read_text() == "somebody's"
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"ours"


def test_commit_is_dirty_where_code_differs_and_nothing_else(tmp_path):
    def git(*command):
        settings = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *settings, *command], cwd=tmp_path, check=True, capture_output=True)

    assert machine.git_commit(tmp_path) is None
    git("init")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "numbers.tex").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    commit = machine.git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "numbers.tex").write_text("2\n")
    assert machine.git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("x = 2\n")
    assert machine.git_commit(tmp_path) == f"{commit}-dirty"


# ---- No run writes over another ----------------------------------------------------------------


def test_default_folder_is_named_after_script_and_time_and_never_taken_twice(synthetic_flags, tmp_path):
    flags = [*synthetic_flags, "--max_steps", "1", "--quiet"]
    runs = [
        subprocess.Popen([sys.executable, ROOT / f"{NUMPY}.py", *flags], cwd=tmp_path, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait() for process in runs] == [0, 0, 0]
    folders = list((tmp_path / "results" / NUMPY).iterdir())
    assert len(folders) == 3
    assert all({path.name for path in folder.iterdir()} == FOLDER_FILES[NUMPY] for folder in folders)


def test_existing_run_is_not_overwritten(synthetic_flags, reference):
    before = contents(reference(NUMPY))
    done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", reference(NUMPY))
    assert done.status == 2
    assert "exists already and is not overwritten" in done.err
    assert f"--resume {reference(NUMPY)}" in done.err
    assert contents(reference(NUMPY)) == before


def test_folder_that_another_run_took_meanwhile_is_left_to_it(synthetic_flags, tmp_path, monkeypatch):
    get_cifar10 = train_mlp_numpy.get_cifar10

    def while_another_run_starts(*args, **kwargs):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("of the other")
        return get_cifar10(*args, **kwargs)

    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", while_another_run_starts)
    done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", tmp_path / "run")
    assert done.status == 1
    assert "is taken by a run that has just begun" in done.err
    assert contents(tmp_path / "run") == {"config.json": b"of the other"}


@pytest.mark.skipif(run_folder.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_folder_that_another_process_works_in_is_refused_with_its_number(tmp_path):
    with (
        run_folder.only_process_in(tmp_path / "out"),
        pytest.raises(run_folder.RunError, match=rf"out is in use by process {os.getpid()}; wait for it, or stop it"),
        run_folder.only_process_in(tmp_path / "out"),
    ):
        pytest.fail("two were let in")
    with run_folder.only_process_in(tmp_path / "out"):
        pass
