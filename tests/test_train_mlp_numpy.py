"""The training script as its users run it: flags, run folder, interruptions, resuming."""

import json
import os
import shutil
import signal
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from runs import (
    CIFAR10,
    ROOT,
    assert_same_run,
    checkpoint,
    contents,
    kill_and_resume,
    metrics_without_seconds,
    run,
    start,
    wait_for,
)

import run_folder
import train_mlp_numpy
import train_utils
from cifar10_utils import DataSet, synthetic_images
from figures import draw_curve
from run_folder import read_metrics

SCRIPT = "train_mlp_numpy"
# Small enough for a test, with an evaluation every third step, so that a kill may fall into one.
SMALL = ["--dnn_hidden_units", "20,10", "--batch_size", "30", "--max_steps", "40", "--eval_freq", "3"]
FOLDER_FILES = {"config.json", "metrics.jsonl", "accuracy.png", "loss.png", "checkpoint.npz", "summary.json"}


@pytest.fixture(scope="module")
def reference(synthetic_flags, tmp_path_factory):
    """The run folder of a small run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    done = run(SCRIPT, *synthetic_flags, *SMALL, "--out_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


# ---- A run and its folder ----------------------------------------------------------------------


def test_run_folder_holds_what_it_should(reference):
    assert {path.name for path in reference.iterdir()} == FOLDER_FILES
    metrics = read_metrics(reference)
    assert [m["step"] for m in metrics] == [*range(0, 40, 3), 40]
    assert list(metrics[0]) == [
        "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "images_seen", "seconds",
    ]  # fmt: skip
    assert metrics[-1]["images_seen"] == 40 * 30
    seconds = [m["seconds"] for m in metrics]
    assert seconds == sorted(seconds)
    config = json.loads((reference / "config.json").read_text())
    assert config["flags"]["dnn_hidden_units"] == [20, 10]
    assert config["dataset"]["is_synthetic"] is True
    assert len(config["dataset"]["fingerprint"]) == 32
    assert set(config["versions"]) == {"python", "numpy"}
    assert (config["seed"], config["device"], config["precision"]) == (42, "cpu", "float32")
    summary = json.loads((reference / "summary.json").read_text())
    assert summary["last"] == metrics[-1]
    assert summary["best"]["test_accuracy"]["value"] == max(m["test_accuracy"] for m in metrics)
    assert summary["best"]["test_loss"]["value"] == min(m["test_loss"] for m in metrics)
    assert summary["images_per_second"] > 0


def test_first_evaluation_is_of_the_untrained_network(reference):
    # Logits of nearly 0 give every class a tenth.
    assert read_metrics(reference)[0]["test_loss"] == pytest.approx(np.log(10), abs=1e-3)


def test_figures_are_pictures_and_name_the_data_set(reference):
    for name in ("accuracy.png", "loss.png"):
        picture = matplotlib.image.imread(reference / name)
        assert picture.std() > 0.05, f"{name} is blank"
    (axes,) = draw_curve(read_metrics(reference), "loss", "here on there").axes
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
    assert train_mlp_numpy.main([*synthetic_flags, *small]) == 0
    title = "train_mlp_numpy on SYNTHETIC IMAGES, not CIFAR-10"
    assert drawn[-2:] == [("accuracy", [0, 2, 4], title), ("loss", [0, 2, 4], title)]


def test_train_eval_size_limits_the_training_images_and_not_the_test_images(synthetic_flags, tmp_path, monkeypatch):
    seen = []

    def score(mlp, dataset, limit=0):
        seen.append((dataset.num_examples, sum(len(images) for images, _ in dataset.batches(7, limit))))
        return 1.0, 0.5

    monkeypatch.setattr(train_mlp_numpy, "score", score)
    small = ["--max_steps=1", "--quiet"]
    for size, expected in (("20", 20), ("0", 1000)):
        out_dir = f"--out_dir={tmp_path / size}"
        assert train_mlp_numpy.main([*synthetic_flags, *small, f"--train_eval_size={size}", out_dir]) == 0
        assert seen[-2:] == [(1000, expected), (200, 200)]


def test_score_is_the_mean_over_examples_and_not_over_batches():
    images, labels = synthetic_images(1007, seed=0)
    dataset = DataSet(images, labels, np.zeros((3, 32, 32), np.float32))
    mlp = train_mlp_numpy.MLP(3072, [], 10, 0.02, rng=np.random.default_rng(0))
    p = mlp.forward(train_mlp_numpy.flatten(dataset.images))
    for limit in (0, 7):
        n = limit or 1007
        loss, accuracy = train_mlp_numpy.score(mlp, dataset, limit)
        assert loss == pytest.approx(-np.log(p[np.arange(n), labels[:n]]).mean(), rel=1e-6)
        assert accuracy == np.mean(p[:n].argmax(axis=1) == labels[:n])


def test_seed_sets_both_the_weights_and_the_order_of_the_images(synthetic_flags, tmp_path, monkeypatch):
    first = {}

    def sgd_step(mlp, _):
        first[len(first)] = [layer.params["weight"].copy() for layer in mlp.layers], mlp.layers[0].x.copy()

    monkeypatch.setattr(train_mlp_numpy, "sgd_step", sgd_step)
    for seed in (1, 2):
        flags = ["--max_steps=1", "--quiet", f"--seed={seed}", f"--out_dir={tmp_path / str(seed)}"]
        assert train_mlp_numpy.main([*synthetic_flags, *flags]) == 0
    (weights, x), (other_weights, other_x) = first.values()
    assert all((a != b).any() for a, b in zip(weights, other_weights, strict=True))
    assert (x != other_x).any()


def test_file_whose_writing_fails_halfway_stays_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"the last good one")

    def write(file):
        file.write(b"half of")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_folder.write_atomically(path, write)
    assert path.read_bytes() == b"the last good one"


def test_file_is_not_written_through_a_link_at_its_temporary_name(tmp_path):
    (tmp_path / "other").write_text("somebody's")
    (tmp_path / "metrics.jsonl.tmp").symlink_to(tmp_path / "other")
    run_folder.write_atomically(tmp_path / "metrics.jsonl", lambda file: file.write(b"ours"))
    assert (tmp_path / "other").read_text() == "somebody's"
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"ours"


def test_synthetic_images_are_announced_at_the_start_and_the_end(synthetic_flags, tmp_path):
    done = run(SCRIPT, *synthetic_flags, *SMALL, "--quiet", "--out_dir", tmp_path / "run")
    assert done.stdout == ""
    assert done.stderr.count("SYNTHETIC IMAGES, not CIFAR-10") == 2


def test_same_seed_gives_the_same_metrics_and_another_seed_does_not(synthetic_flags, reference, tmp_path):
    assert run(SCRIPT, *synthetic_flags, *SMALL, "--out_dir", tmp_path / "again").returncode == 0
    assert_same_run(tmp_path / "again", reference)
    assert run(SCRIPT, *synthetic_flags, *SMALL, "--seed", 1, "--out_dir", tmp_path / "other").returncode == 0
    assert metrics_without_seconds(tmp_path / "other") != metrics_without_seconds(reference)


def test_log_has_a_plain_line_for_each_evaluation(synthetic_flags, reference, tmp_path):
    done = run(SCRIPT, *synthetic_flags, *SMALL, "--out_dir", tmp_path / "run")
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert len(lines) == len(read_metrics(reference))
    assert "\r" not in done.stdout + done.stderr
    last = read_metrics(reference)[-1]
    assert f"test loss {last['test_loss']:.4f} accuracy {last['test_accuracy']:.4f}" in lines[-1]


def test_default_folder_is_named_after_script_and_time_and_never_taken_twice(synthetic_flags, tmp_path):
    flags = [*synthetic_flags, "--max_steps", "1", "--quiet"]
    runs = [
        subprocess.Popen([sys.executable, ROOT / f"{SCRIPT}.py", *flags], cwd=tmp_path, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait() for process in runs] == [0, 0, 0]
    folders = list((tmp_path / "results" / "train_mlp_numpy").iterdir())
    assert len(folders) == 3
    assert all({path.name for path in folder.iterdir()} == FOLDER_FILES for folder in folders)


def test_network_without_hidden_layers_trains(synthetic_flags, tmp_path):
    done = run(
        SCRIPT,
        *synthetic_flags,
        *SMALL,
        "--dnn_hidden_units",
        "",
        "--learning_rate",
        1e-6,
        "--out_dir",
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    assert set(checkpoint(tmp_path / "run")) == {"run", "step", "linear1.weight", "linear1.bias"}


def test_numpy_path_never_imports_torch(synthetic_flags, tmp_path):
    code = (
        "import sys, train_mlp_numpy as script\n"
        f"assert script.main({[*synthetic_flags, *SMALL, '--out_dir', str(tmp_path / 'run')]!r}) == 0\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, train_mlp_numpy as script\n"
        "try:\n    script.main(['--help'])\n"
        "except SystemExit:\n    assert not {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in ("--dnn_hidden_units", "--learning_rate", "--neg_slope", "--resume", "--dataset", "@FILE"):
        assert flag in done.stdout


def last_of_default_run(tmp_path, *flags):
    done = run(SCRIPT, *flags, "--out_dir", tmp_path / "run", "--quiet")
    assert done.returncode == 0, done.stderr
    last = read_metrics(tmp_path / "run")[-1]
    assert last["step"] == 1500
    assert last["train_accuracy"] > last["test_accuracy"] + 0.02, "overfitting should have begun"
    assert last["train_loss"] < last["test_loss"] - 0.05
    return last


def test_default_run_on_synthetic_images_teaches_what_the_course_teaches(tmp_path):
    last = last_of_default_run(tmp_path, "--dataset", "synthetic", "--data_dir", tmp_path / "x")
    assert 0.40 <= last["test_accuracy"] <= 0.55


@pytest.mark.skipif(not CIFAR10.exists(), reason="CIFAR-10 is not in cifar10/cifar-10-batches-py")
def test_default_run_on_cifar10_reaches_the_accuracy_of_the_report(tmp_path):
    last = last_of_default_run(tmp_path, "--dataset", "cifar10", "--data_dir", CIFAR10)
    # Another processor is as good as another seed: the 35 recorded runs of this network, by NumPy and PyTorch, end at
    # 0.410 to 0.485 (0.457 ± 0.018) and 1.46 to 1.88.
    assert 0.40 <= last["test_accuracy"] <= 0.52
    assert 1.40 <= last["test_loss"] <= 2.00


@pytest.mark.parametrize("seed", range(42, 47))
def test_recorded_default_run_reached_the_accuracy_of_the_report(seed):
    last = read_metrics(ROOT / "report" / "results" / "fig01_mlp_numpy" / f"seed{seed}")[-1]
    assert last["step"] == 1500
    assert 0.435 <= last["test_accuracy"] <= 0.490
    assert 1.45 <= last["test_loss"] <= 1.70


# ---- Flags -------------------------------------------------------------------------------------

WRONG_FLAGS = [
    ("--learning_rate", "0", "got '0', expected a number above 0"),
    ("--learning_rate", "-1e-3", "expected a number above 0"),
    ("--learning_rate", "nan", "got 'nan'"),
    ("--learning_rate", "inf", "got 'inf'"),
    ("--learning_rate", "fast", "got 'fast'"),
    ("--max_steps", "0", "got '0', expected a whole number of at least 1"),
    ("--max_steps", "1.5", "got '1.5'"),
    ("--batch_size", "0", "expected a whole number of at least 1"),
    ("--batch_size", "-200", "expected a whole number of at least 1"),
    ("--batch_size", "50001", "expected at most 50000, the training images"),
    ("--eval_freq", "0", "expected a whole number of at least 1"),
    ("--train_eval_size", "-1", "expected a whole number from 0 to 50000"),
    ("--train_eval_size", "50001", "expected a whole number from 0 to 50000"),
    ("--seed", "-1", "expected a whole number from 0 to 4294967295"),
    ("--seed", "4294967296", "expected a whole number from 0 to 4294967295"),
    ("--neg_slope", "-0.02", "expected a number of at least 0"),
    ("--neg_slope", "nan", "got 'nan'"),
    ("--dnn_hidden_units", "100,", "got '100,', expected sizes from 1 to 1000000 with commas between"),
    ("--dnn_hidden_units", "100,0", "expected sizes from 1 to 1000000"),
    ("--dnn_hidden_units", "-5", "expected sizes from 1 to 1000000"),
    ("--dnn_hidden_units", "many", "expected sizes from 1 to 1000000"),
    ("--dnn_hidden_units", "1000001", "expected sizes from 1 to 1000000"),
    ("--dataset", "mnist", "invalid choice: 'mnist'"),
    ("--synthetic_size", "9", "expected a whole number from 10 to 1000000"),
    ("--resume", "no such folder", "'no such folder' is not a run folder with a readable config.json"),
    ("--out_dir", "tests", "'tests' exists already and is not overwritten"),
    ("--out_dir", "README.md", "'README.md' exists already"),
    ("--out_dir", "x" * 300, "name too long"),
    ("--out_dir", "README.md/run", "README.md' is not a folder"),
    ("--unknown", "1", "unrecognized arguments: --unknown 1"),
    ("--learn", "1", "unrecognized arguments: --learn 1"),
    ("--learning_rate", None, "expected one argument"),
    ("stray", None, "unrecognized arguments: stray"),
    ("@no_such_file.args", None, "No such file"),
]


@pytest.mark.parametrize(("flag", "value", "message"), WRONG_FLAGS, ids=[f"{f} {v}" for f, v, _ in WRONG_FLAGS])
def test_wrong_flag_ends_with_one_line_and_status_2_before_data_is_read(capsys, monkeypatch, flag, value, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", lambda *_, **__: pytest.fail("data was read"))
    with pytest.raises(SystemExit) as error:
        # One word, so that argparse does not take '-1' for a flag.
        train_mlp_numpy.main([flag if value is None else f"{flag}={value}" if flag.startswith("--") else flag])
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("train_mlp_numpy.py: error: ")
    assert message in err.replace("=", " ")


def test_every_flag_that_takes_a_value_is_among_the_wrong_ones():
    """A new flag needs its impossible values in the list above."""
    parser = train_mlp_numpy.make_flags()
    flags = {a.option_strings[0] for a in parser._actions if a.nargs != 0 and a.option_strings}
    assert flags - {"--data_dir"} <= {flag for flag, *_ in WRONG_FLAGS}


def test_flags_come_from_a_file_and_the_command_line_overrides_it(tmp_path, monkeypatch):
    file = tmp_path / "run.args"
    file.write_text(
        '# a comment\n--learning_rate 0.5  # and another\n--dnn_hidden_units ""\n\n--seed 7\n'
        "--data_dir C:\\my\\data#1\n"
    )
    seen = []
    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", lambda *_, **__: pytest.fail("data was read"))
    monkeypatch.setattr(train_mlp_numpy, "train", lambda args: seen.append(args) or sys.exit(0))
    with pytest.raises(SystemExit):
        train_mlp_numpy.main([f"@{file}", "--seed", "8"])
    (args,) = seen
    assert (args.learning_rate, args.dnn_hidden_units, args.seed) == (0.5, [], 8)
    assert args.data_dir == r"C:\my\data#1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'--out_dir "half\n', "No closing quotation"),
        (b"--seed \xff\xfe\n", "a flag file is no text"),
        (b"@run.args\n", "a flag file names itself"),
    ],
    ids=["open quote", "binary", "endless"],
)
def test_flag_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.args").write_bytes(content)
    with pytest.raises(SystemExit) as error:
        train_mlp_numpy.main(["@run.args"])
    assert error.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_existing_run_is_not_overwritten(synthetic_flags, reference):
    before = contents(reference)
    done = run(SCRIPT, *synthetic_flags, *SMALL, "--out_dir", reference)
    assert done.returncode == 2
    assert "exists already and is not overwritten" in done.stderr
    assert f"--resume {reference}" in done.stderr
    assert contents(reference) == before


def test_folder_that_another_run_took_meanwhile_is_left_to_it(synthetic_flags, tmp_path, monkeypatch, capsys):
    get_cifar10 = train_mlp_numpy.get_cifar10

    def while_another_run_starts(*args, **kwargs):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("of the other")
        return get_cifar10(*args, **kwargs)

    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", while_another_run_starts)
    assert train_mlp_numpy.main([*synthetic_flags, *SMALL, f"--out_dir={tmp_path / 'run'}"]) == 1
    assert "is taken by a run that has just begun" in capsys.readouterr().err
    assert contents(tmp_path / "run") == {"config.json": b"of the other"}


def test_damaged_data_set_ends_with_one_line_and_status_1(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"x")
    done = run(SCRIPT, "--data_dir", tmp_path, "--out_dir", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.startswith("train_mlp_numpy.py: error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_network_that_memory_cannot_hold_ends_with_one_line_and_status_1(capsys, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 22.9 GiB")

    monkeypatch.setattr(train_mlp_numpy, "get_cifar10", no_memory)
    assert train_mlp_numpy.main(["--quiet"]) == 1
    assert capsys.readouterr().err == (
        "train_mlp_numpy.py: error: out of memory (Unable to allocate 22.9 GiB): take a smaller network or batch\n"
    )


# ---- Divergence --------------------------------------------------------------------------------


@pytest.mark.parametrize(("eval_freq", "seen_by"), [(1, "train loss"), (1000, "training loss")])
def test_diverging_run_stops_with_a_message_and_keeps_the_last_good_checkpoint(
    synthetic_flags, tmp_path, eval_freq, seen_by
):
    folder = tmp_path / "run"
    done = run(SCRIPT, *synthetic_flags, *SMALL, "--eval_freq", eval_freq, "--learning_rate", 1e6, "--out_dir", folder)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "SYNTHETIC" not in line]
    assert f"error: {seen_by} is nan at step " in line
    assert "--learning_rate below 1000000.0" in line
    assert str(folder / "checkpoint.npz") in line
    assert all(np.isfinite(array).all() for array in checkpoint(folder).values() if array.dtype.kind == "f")
    assert all(np.isfinite(list(m.values())).all() for m in read_metrics(folder))
    assert not (folder / "summary.json").exists()


def test_weights_that_the_last_step_has_ruined_do_not_replace_the_checkpoint(synthetic_flags, tmp_path, monkeypatch):
    """Ctrl-C in a step whose loss, that of the weights before it, was still finite."""

    def ruinous_step(mlp, _):
        mlp.layers[0].params["weight"][0, 0] = np.nan
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_mlp_numpy, "sgd_step", ruinous_step)
    assert train_mlp_numpy.main([*synthetic_flags, *SMALL, f"--out_dir={tmp_path / 'run'}"]) == 1
    assert int(checkpoint(tmp_path / "run")["step"]) == 0
    assert all(np.isfinite(a).all() for a in checkpoint(tmp_path / "run").values() if a.dtype.kind == "f")


def test_network_that_overflows_untrained_is_not_blamed_on_the_learning_rate(synthetic_flags, tmp_path):
    done = run(SCRIPT, *synthetic_flags, *SMALL, "--neg_slope", 1e300, "--out_dir", tmp_path / "run")
    assert done.returncode == 1
    assert "at step 0: the network overflows before it is trained" in done.stderr
    assert "learning_rate" not in done.stderr


# ---- Interruptions -----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_run_killed_at_random_moments_and_resumed_ends_as_one_left_alone(synthetic_flags, reference, tmp_path):
    folder = tmp_path / "run"
    kill_and_resume(SCRIPT, [*synthetic_flags, *SMALL], folder, n_kills=6)
    assert_same_run(folder, reference)
    assert {path.name for path in folder.iterdir()} - {"checkpoint.npz.tmp"} <= FOLDER_FILES


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_interrupted_run_ends_cleanly_and_the_command_that_it_prints_resumes_it(
    synthetic_flags, reference, tmp_path, stop
):
    folder = tmp_path / "run with a space"
    process = start(SCRIPT, [*synthetic_flags, *SMALL], folder)
    wait_for(folder / "checkpoint.npz", process)
    process.send_signal(stop)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + stop
    assert {path.name for path in folder.iterdir()} == FOLDER_FILES - {"summary.json"}
    assert 0 <= int(checkpoint(folder)["step"]) < 40
    (command,) = [line.split("to go on: ")[1] for line in err.splitlines() if "to go on: " in line]
    assert command.startswith("python ")
    command = command.replace("python", sys.executable, 1)
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, reference)


# ---- Resuming ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_run(synthetic_flags, tmp_path_factory):
    """A run folder that stopped between evaluations, by its own signal."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    process = start(SCRIPT, [*synthetic_flags, *SMALL], folder)
    wait_for(folder / "checkpoint.npz", process)
    process.terminate()
    process.communicate(timeout=300)
    return folder


@pytest.fixture
def half_run(stopped_run, tmp_path):
    """A copy of that folder, for a test to damage."""
    return shutil.copytree(stopped_run, tmp_path / "half")


def test_resume_repeats_an_evaluation_whose_checkpoint_was_not_written(half_run, reference):
    step = int(checkpoint(half_run)["step"])
    with open(half_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step + 3, "test_loss": 0}) + "\n" + '{"step": 99, "test_lo')
    assert run(SCRIPT, "--resume", half_run).returncode == 0
    assert_same_run(half_run, reference)


def test_run_killed_before_its_first_checkpoint_begins_at_step_0(half_run, reference):
    (half_run / "checkpoint.npz").unlink()
    (half_run / "metrics.jsonl").write_text(json.dumps(read_metrics(half_run)[0]) + "\n")
    assert run(SCRIPT, "--resume", half_run).returncode == 0
    assert_same_run(half_run, reference)


def test_run_that_has_lost_its_checkpoint_is_left_as_it_is(half_run):
    (half_run / "checkpoint.npz").unlink()
    with open(half_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 3, "test_loss": 0}) + "\n")
    before = contents(half_run)
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    assert "checkpoint.npz is missing" in done.stderr
    assert contents(half_run) == before


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_resuming_a_complete_run_writes_nothing(reference, tmp_path, with_checkpoint):
    folder = shutil.copytree(reference, tmp_path / "complete")
    if not with_checkpoint:  # as the report's runs are kept
        (folder / "checkpoint.npz").unlink()
    before = contents(folder)
    done = run(SCRIPT, "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert "complete already" in done.stdout
    assert contents(folder) == before


def test_flags_may_be_repeated_on_resume_but_not_changed(half_run):
    done = run(SCRIPT, "--resume", half_run, "--seed", 42, "--learning_rate", 0.01)
    assert done.returncode == 2
    assert "argument --learning_rate: got 0.01, but" in done.stderr
    assert "was started with 0.002" in done.stderr
    assert run(SCRIPT, "--resume", half_run, "--seed", 42, "--quiet").returncode == 0


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "foreign", "cut off"])
def test_damaged_checkpoint_is_named(half_run, content):
    path = half_run / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    assert "checkpoint.npz is damaged or no checkpoint" in done.stderr
    assert done.stderr.count("\n") == 1


def test_checkpoint_beyond_the_end_is_named(half_run):
    np.savez(half_run / "checkpoint.npz", **checkpoint(half_run) | {"step": 41, "seconds": 0.0, "step_seconds": 0.0})
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    assert "damaged or no checkpoint (it is of step 41 of 40)" in done.stderr


@pytest.mark.parametrize("content", ["", "[1]\n", '{"a": 1}\n', "\xff\n", "no json\n"])
def test_damaged_metrics_are_named(half_run, content):
    (half_run / "metrics.jsonl").write_text(content, encoding="latin-1")
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "SYNTHETIC" not in line]
    assert "metrics.jsonl is damaged" in line or "metrics.jsonl lacks evaluations" in line


def test_checkpoint_of_another_run_is_named(half_run, reference):
    shutil.copy(reference / "checkpoint.npz", half_run)
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    assert "damaged or no checkpoint (it is of another run)" in done.stderr


def test_checkpoint_of_another_network_is_named(half_run):
    state = checkpoint(half_run) | {"seconds": 0.0, "step_seconds": 0.0, "linear2.weight": np.zeros((3, 3))}
    np.savez(half_run / "checkpoint.npz", **state)
    before = contents(half_run)
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    assert "is not of this run: linear2.weight has shape (3, 3), expected (10, 20)" in done.stderr
    assert contents(half_run) == before


def test_checkpoint_that_would_run_code_does_not(half_run, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'ran'}'",)

    state = checkpoint(half_run) | {"seconds": 0.0, "step_seconds": 0.0, "linear1.bias": np.array([Payload()])}
    np.savez(half_run / "checkpoint.npz", **state)
    assert run(SCRIPT, "--resume", half_run).returncode == 1
    assert not (tmp_path / "ran").exists()


def test_resume_on_other_data_is_refused(half_run):
    config = json.loads((half_run / "config.json").read_text())
    config["dataset"]["fingerprint"] = "0" * 32
    (half_run / "config.json").write_text(json.dumps(config))
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 1
    assert "was trained on" in done.stderr


def test_run_of_another_script_is_refused(half_run):
    config = json.loads((half_run / "config.json").read_text())
    config["flags"]["script"] = "train_convnet_pytorch"
    (half_run / "config.json").write_text(json.dumps(config))
    done = run(SCRIPT, "--resume", half_run)
    assert done.returncode == 2
    assert "is a run of train_convnet_pytorch.py" in done.stderr


@pytest.mark.skipif(run_folder.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_run_that_another_process_is_training_is_refused(half_run):
    lock = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", lock, half_run / "config.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        before = contents(half_run)
        refused = run("train_mlp_numpy", "--resume", half_run)
        other.communicate(b"\n")
    assert refused.returncode == 1
    assert "is in use by a process that trains in it" in refused.stderr
    assert contents(half_run) == before
    assert run("train_mlp_numpy", "--resume", half_run).returncode == 0


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
