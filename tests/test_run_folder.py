"""A run's folder: what is in it, that nothing of it is overwritten or half written, and what is resumed from it."""

import json
import os
import shutil
import signal
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import torch
from runs import (
    CONVNET,
    FOLDER_FILES,
    MLP,
    NUMPY,
    ROOT,
    SCRIPTS,
    SMALL,
    assert_same_run,
    checkpoint,
    contents,
    run,
    run_process,
)

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


@pytest.mark.parametrize("script", SCRIPTS)
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


@pytest.mark.parametrize("script", [MLP, CONVNET])
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

    assert run_folder.git_commit(tmp_path) is None
    git("init")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "numbers.tex").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    commit = run_folder.git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "numbers.tex").write_text("2\n")
    assert run_folder.git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("x = 2\n")
    assert run_folder.git_commit(tmp_path) == f"{commit}-dirty"


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
def test_run_that_another_process_is_training_is_refused(half_run):
    lock = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", lock, half_run / "config.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        before = contents(half_run)
        refused = run(NUMPY, "--resume", half_run)
        other.communicate(b"\n")
    assert refused.status == 1
    assert "is in use by a process that trains in it" in refused.err
    assert contents(half_run) == before
    assert run(NUMPY, "--resume", half_run).status == 0


# ---- Resuming ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_run(synthetic_flags, tmp_path_factory):
    """A run folder that stopped between evaluations, by a signal."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"

    def stop_in_step_8(mlp, learning_rate):
        sgd_step(mlp, learning_rate)
        steps.append(mlp)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        sgd_step, steps = train_mlp_numpy.sgd_step, []
        patch.setattr(train_mlp_numpy, "sgd_step", stop_in_step_8)
        done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", folder)
    assert done.status == 128 + signal.SIGTERM
    return folder


@pytest.fixture
def half_run(stopped_run, tmp_path):
    """A copy of that folder, for a test to damage."""
    return shutil.copytree(stopped_run, tmp_path / "half")


def refusal_to_resume(folder, script=NUMPY):
    """Return the one line with which a run is not resumed, and assert that nothing was written."""
    before = contents(folder)
    done = run(script, "--resume", folder)
    assert done.status == 1
    assert contents(folder) == before
    return done.error


def test_resume_repeats_an_evaluation_whose_checkpoint_was_not_written(half_run, reference):
    step = int(checkpoint(half_run)["step"])
    with open(half_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step + 3, "test_loss": 0}) + "\n" + '{"step": 99, "test_lo')
    assert run(NUMPY, "--resume", half_run).status == 0
    assert_same_run(half_run, reference(NUMPY))


def test_run_killed_before_its_first_checkpoint_begins_at_step_0(half_run, reference):
    (half_run / "checkpoint.npz").unlink()
    (half_run / "metrics.jsonl").write_text(json.dumps(read_metrics(half_run)[0]) + "\n")
    assert run(NUMPY, "--resume", half_run).status == 0
    assert_same_run(half_run, reference(NUMPY))


def test_run_that_has_lost_its_checkpoint_is_left_as_it_is(half_run):
    (half_run / "checkpoint.npz").unlink()
    with open(half_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 3, "test_loss": 0}) + "\n")
    assert "checkpoint.npz is missing" in refusal_to_resume(half_run)


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_resuming_a_complete_run_writes_nothing(reference, tmp_path, with_checkpoint):
    folder = shutil.copytree(reference(NUMPY), tmp_path / "complete")
    if not with_checkpoint:  # as somebody keeps it who needs the space
        (folder / "checkpoint.npz").unlink()
    before = contents(folder)
    done = run(NUMPY, "--resume", folder)
    assert done.status == 0, done.err
    assert "complete already" in done.out
    assert contents(folder) == before


def test_flags_may_be_repeated_on_resume_but_not_changed(half_run):
    done = run(NUMPY, "--resume", half_run, "--seed", 42, "--learning_rate", 0.01)
    assert done.status == 2
    assert "argument --learning_rate: got 0.01, but" in done.err
    assert "was started with 0.002" in done.err
    assert run(NUMPY, "--resume", half_run, "--seed", 42, "--quiet").status == 0


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "foreign", "cut off"])
def test_damaged_checkpoint_is_named(half_run, content):
    path = half_run / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert "checkpoint.npz is damaged or no checkpoint" in refusal_to_resume(half_run)


def test_checkpoint_beyond_the_end_is_named(half_run):
    np.savez(half_run / "checkpoint.npz", **checkpoint(half_run) | {"step": 41, "seconds": 0.0, "step_seconds": 0.0})
    assert "damaged or no checkpoint (it is of step 41 of 40)" in refusal_to_resume(half_run)


@pytest.mark.parametrize("content", ["", "[1]\n", '{"a": 1}\n', "\xff\n", "no json\n"])
def test_damaged_metrics_are_named(half_run, content):
    (half_run / "metrics.jsonl").write_text(content, encoding="latin-1")
    line = refusal_to_resume(half_run)
    assert "metrics.jsonl is damaged" in line or "metrics.jsonl lacks evaluations" in line


def test_checkpoint_of_another_run_is_named(half_run, reference):
    shutil.copy(reference(NUMPY) / "checkpoint.npz", half_run)
    assert "damaged or no checkpoint (it is of another run)" in refusal_to_resume(half_run)


def test_checkpoint_of_another_network_is_named(half_run):
    state = checkpoint(half_run) | {"seconds": 0.0, "step_seconds": 0.0, "linear2.weight": np.zeros((3, 3))}
    np.savez(half_run / "checkpoint.npz", **state)
    line = refusal_to_resume(half_run)
    assert "is not of this run: linear2.weight has shape (3, 3), expected (10, 20)" in line


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_checkpoint_that_would_run_code_does_not(half_run, tmp_path):
    payload = np.array([Payload(tmp_path / "ran")])
    np.savez(
        half_run / "checkpoint.npz",
        **checkpoint(half_run) | {"seconds": 0.0, "step_seconds": 0.0, "linear1.bias": payload},
    )
    refusal_to_resume(half_run)
    assert not (tmp_path / "ran").exists()


def test_resume_on_other_data_is_refused(half_run):
    config = json.loads((half_run / "config.json").read_text())
    config["dataset"]["fingerprint"] = "0" * 32
    (half_run / "config.json").write_text(json.dumps(config))
    assert "was trained on" in refusal_to_resume(half_run)


def test_run_of_another_script_is_refused(half_run):
    config = json.loads((half_run / "config.json").read_text())
    config["flags"]["script"] = CONVNET
    (half_run / "config.json").write_text(json.dumps(config))
    done = run_process("python", ROOT / f"{NUMPY}.py", "--resume", half_run)
    assert done.status == 2
    assert "is a run of train_convnet_pytorch.py" in done.err


# ---- Resuming PyTorch's runs -------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_torch_run(synthetic_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    assert run(MLP, *synthetic_flags, *SMALL[MLP], "--max_steps=3", "--out_dir", folder).status == 0
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture
def half_torch_run(stopped_torch_run, tmp_path):
    """A run folder that has a checkpoint but no end, for a test to damage."""
    return shutil.copytree(stopped_torch_run, tmp_path / "half")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "foreign", "cut off"])
def test_damaged_pytorch_checkpoint_is_named(half_torch_run, content):
    path = half_torch_run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert "checkpoint.pt is damaged or no checkpoint" in refusal_to_resume(half_torch_run, MLP)


def save_state(folder, state):
    """Write a checkpoint that says that it is of the run in `folder`."""
    run_id = json.loads((folder / "config.json").read_text())["id"]
    own = {"run": run_id, "step": 3, "seconds": 1.0, "step_seconds": 1.0}
    torch.save(own | state if isinstance(state, dict) else state, folder / "checkpoint.pt")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1, 2], "holds a list"),
        ({"run": "another", "network": {}}, "it is of another run"),
        ({"step": None}, "damaged or no checkpoint"),
        ({"network": {}}, "is not of this run: Error(s) in loading state_dict for MLP"),
        ({"network": torch.ones(3)}, "is not of this run"),
        ({}, "is not of this run: 'network'"),
    ],
    ids=["a list", "another run", "no step", "another network", "no state", "no network"],
)
def test_foreign_pytorch_checkpoint_is_named(half_torch_run, state, message):
    save_state(half_torch_run, state)
    assert message in refusal_to_resume(half_torch_run, MLP)


def test_pytorch_checkpoint_that_would_run_code_does_not(half_torch_run, tmp_path):
    save_state(half_torch_run, {"network": Payload(tmp_path / "ran")})
    assert "damaged or no checkpoint" in refusal_to_resume(half_torch_run, MLP)
    assert not (tmp_path / "ran").exists()


def test_run_is_resumed_by_as_many_processes_as_began_it(half_torch_run):
    config = json.loads((half_torch_run / "config.json").read_text())
    assert config["processes"] == 1
    (half_torch_run / "config.json").write_text(json.dumps(config | {"processes": 2}))
    line = refusal_to_resume(half_torch_run, MLP)
    assert "was begun by 2 processes, got 1: resume it by torchrun with 2" in line
