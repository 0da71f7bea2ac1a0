"""The two PyTorch training scripts as their users run them: flags, run folder, processes, interruptions, resuming."""

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
from runs import ROOT, assert_same_run, checkpoint, contents, kill_and_resume, metrics_without_seconds, wait_for

import mlp_numpy
import mlp_pytorch
import torch_utils
import train_convnet_pytorch
import train_mlp_numpy
import train_mlp_pytorch
from run_folder import read_metrics
from train_utils import Run

# Small enough for a test, with everything in it that a checkpoint has to carry.
SMALL = {
    "train_mlp_pytorch": [
        "--dnn_hidden_units=20,10", "--batch_size=30", "--max_steps=24", "--eval_freq=3", "--init=kaiming",
        "--batch_norm=manual", "--dropout=0.2", "--momentum=0.9", "--lr_schedule=onecycle", "--augment=flip_crop",
        "--validation_size=100", "--label_smoothing=0.1", "--learning_rate=0.01",
    ],
    "train_convnet_pytorch": [
        "--batch_size=4", "--max_steps=6", "--eval_freq=1", "--train_eval_size=50", "--augment=flip",
        "--optimizer=adamw", "--weight_decay=0.1", "--lr_schedule=cosine", "--preprocess=standardize",
    ],
}  # fmt: skip
SCRIPTS = {"train_mlp_pytorch": train_mlp_pytorch, "train_convnet_pytorch": train_convnet_pytorch}
FOLDER_FILES = {
    "config.json", "metrics.jsonl", "accuracy.png", "loss.png", "confusion_matrix.png", "checkpoint.pt", "summary.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags that make a script train on a few synthetic images."""
    data_dir = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    return ["--dataset=synthetic", "--synthetic_size=500", f"--data_dir={data_dir}", "--device=cpu"]


def run_here(script, *argv):
    """Run a script in this process, which has PyTorch imported, and return its exit status."""
    return SCRIPTS[script].main([str(arg) for arg in argv])


@pytest.fixture(scope="module")
def references(flags, tmp_path_factory):
    """`{script: run folder}` of small runs that nobody disturbed."""
    folders = {}
    for script, small in SMALL.items():
        folders[script] = tmp_path_factory.mktemp("runs") / script
        assert run_here(script, *flags, *small, "--pictures", "--out_dir", folders[script]) == 0
    return folders


# ---- A run and its folder ----------------------------------------------------------------------


@pytest.mark.parametrize("script", SMALL)
def test_run_folder_holds_what_it_should(references, script):
    folder = references[script]
    assert {path.name for path in folder.iterdir()} == FOLDER_FILES | {"first_layer.png", "worst_mistakes.png"}
    for path in folder.glob("*.png"):
        assert matplotlib.image.imread(path).std() > 0.05, f"{path.name} is blank"
    config = json.loads((folder / "config.json").read_text())
    assert config["device"] == "cpu"
    assert config["precision"] == torch_utils.choose_precision("auto", torch.device("cpu"), True)
    assert set(config["versions"]) >= {"python", "numpy", "torch"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["last"] == read_metrics(folder)[-1]


def test_validation_images_are_held_out_and_evaluated(references):
    config = json.loads((references["train_mlp_pytorch"] / "config.json").read_text())
    assert config["flags"]["validation_size"] == 100
    for metrics in read_metrics(references["train_mlp_pytorch"]):
        assert {"validation_loss", "validation_accuracy", "test_loss", "train_loss"} <= set(metrics)
    assert "validation_loss" not in read_metrics(references["train_convnet_pytorch"])[0]


def test_untrained_mlp_gives_every_class_a_tenth(flags, tmp_path):
    assert run_here("train_mlp_pytorch", *flags, "--max_steps=1", "--out_dir", tmp_path / "run") == 0
    assert read_metrics(tmp_path / "run")[0]["test_loss"] == pytest.approx(np.log(10), abs=1e-3)


@pytest.mark.parametrize("script", SMALL)
def test_same_seed_gives_the_same_run(flags, references, script, tmp_path):
    assert run_here(script, *flags, *SMALL[script], "--quiet", "--out_dir", tmp_path / "again") == 0
    assert_same_run(tmp_path / "again", references[script])


def test_precision_is_taken_from_its_flag(flags, tmp_path, capsys):
    losses = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        assert (
            run_here("train_mlp_pytorch", *flags, "--max_steps=30", f"--precision={precision}", "--out_dir", folder)
            == 0
        )
        assert f"on cpu in {precision}" in capsys.readouterr().out
        assert json.loads((folder / "config.json").read_text())["precision"] == precision
        assert all(a.dtype != torch.bfloat16 for a in checkpoint(folder).values()), "weights are kept in float32"
        losses[precision] = read_metrics(folder)[-1]["test_loss"]
    assert losses["fp32"] != losses["bf16"]
    # bfloat16 has 8 bits of significand, 0.4%.
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.01)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and g++ is not here")
def test_compiled_network_trains_as_the_plain_one_does(flags, tmp_path):
    small = [*flags, "--max_steps=10", "--eval_freq=5", "--precision=fp32"]
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        assert run_here("train_mlp_pytorch", *small, *more, "--out_dir", tmp_path / name) == 0
    for plain, compiled in zip(read_metrics(tmp_path / "plain"), read_metrics(tmp_path / "compiled"), strict=True):
        assert plain["test_loss"] == pytest.approx(compiled["test_loss"], rel=1e-5)  # ten steps of float32


# Each flag, alone, must change what three steps come to.
EFFECTIVE_FLAGS = [
    "--init=normal", "--batch_norm=manual", "--dropout=0.5", "--dnn_hidden_units=30", "--neg_slope=0.5",
    "--optimizer=adamw --momentum=0", "--momentum=0.9", "--weight_decay=0.1", "--lr_schedule=cosine",
    "--lr_schedule=onecycle", "--label_smoothing=0.2", "--augment=flip", "--augment=flip_crop",
    "--preprocess=standardize", "--validation_size=100", "--seed=7", "--batch_size=8", "--learning_rate=0.002",
    "--train_eval_size=10",
]  # fmt: skip


def test_each_flag_has_an_effect(flags, tmp_path, monkeypatch):
    """Without this, a flag that nobody passes on would be as good as one that works."""
    monkeypatch.setattr(Run, "_draw_curves", lambda self: None)
    monkeypatch.setattr(torch_utils, "draw_results", lambda *_: {})
    start = [*flags, "--synthetic_size=200", "--batch_size=30", "--init=kaiming", "--momentum=0.5", "--precision=fp32"]
    start += ["--learning_rate=0.001", "--max_steps=3", "--eval_freq=3", "--train_eval_size=30", "--quiet"]
    losses = {}
    for i, more in enumerate(["", *EFFECTIVE_FLAGS]):
        assert run_here("train_mlp_pytorch", *start, *more.split(), "--out_dir", tmp_path / str(i)) == 0
        losses[more] = read_metrics(tmp_path / str(i))[-1]["train_loss"]
    assert len(set(losses.values())) == len(losses), losses


# ---- The twins ---------------------------------------------------------------------------------


def test_numpy_and_pytorch_scripts_agree_over_200_steps_in_float64(flags, tmp_path, monkeypatch):
    """The scripts' own `train`, from equal weights, on batches that both draw from the same seed.

    Measured: losses and weights part by 1e-15. The bound leaves room for other orders of summation.
    """
    initial, losses = {}, []

    class NumpyMLP(mlp_numpy.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for name, param in self.state_dict().items():
                param[...] = param.astype(np.float32)  # in which the twin is born
                initial[name] = param.copy()

    class TorchMLP(mlp_pytorch.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for param, value in zip(self.parameters(), initial.values(), strict=True):
                param.data.copy_(torch.from_numpy(value))

    def record(self, name, value):
        if name == "training loss":
            losses.append(value)

    monkeypatch.setattr(train_mlp_numpy, "MLP", NumpyMLP)
    monkeypatch.setattr(train_mlp_pytorch, "MLP", TorchMLP)
    monkeypatch.setattr(Run, "_check_finite", record)
    for script, dtype in ((train_mlp_numpy, np.float64), (train_mlp_pytorch, torch.float64)):
        folder = tmp_path / script.__name__
        own = ["--precision=fp32"] if script is train_mlp_pytorch else []
        without_device = [flag for flag in flags if own or "device" not in flag]
        monkeypatch.setattr(script, "train", lambda args, train=script.train, dtype=dtype: train(args, dtype=dtype))
        argv = [*without_device, *own, "--max_steps=200", "--eval_freq=200", "--quiet", "--out_dir", str(folder)]
        assert script.main(argv) == 0

    ours, theirs = np.array(losses).reshape(2, 200)
    assert ours[-1] < 0.9 * ours[0], "networks that stand still agree with anything"
    weights = [checkpoint(tmp_path / name) for name in ("train_mlp_numpy", "train_mlp_pytorch")]
    differences = [abs(ours - theirs).max()]
    for number, layer in ((1, 0), (2, 2)):
        for name in ("weight", "bias"):
            a, b = weights[0][f"linear{number}.{name}"], weights[1][f"network.layers.{layer}.{name}"]
            assert a.dtype == b.dtype == np.float64
            differences.append(abs(a - b).max())
    print(f"loss {ours[0]:.3f} to {ours[-1]:.3f}: losses and weights differ by {max(differences):.2g} at most")
    assert max(differences) < 1e-8


# ---- More than one process ---------------------------------------------------------------------


def torchrun(script, *flags):
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        str(ROOT / f"{script}.py"), *map(str, flags),
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which PyTorch's Windows builds lack")
def test_two_processes_agree_with_one(flags, tmp_path):
    small = [*flags, "--synthetic_size=2000", "--validation_size=1"]  # too small for both to have a share
    small += ["--max_steps=50", "--eval_freq=5", "--precision=fp32"]
    assert run_here("train_mlp_pytorch", *small, "--out_dir", tmp_path / "one") == 0
    command = torchrun("train_mlp_pytorch", *small, "--out_dir", tmp_path / "two")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step     50/50") == 1, "one process speaks"
    assert "2 processes" in done.stdout
    one, two = metrics_without_seconds(tmp_path / "one"), metrics_without_seconds(tmp_path / "two")
    assert len(one) == len(two) == 11
    assert one[-1]["train_loss"] < 0.98 * one[0]["train_loss"]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in ("train_loss", "test_loss", "validation_loss"):
            assert a[name] == pytest.approx(b[name], abs=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which PyTorch's Windows builds lack")
def test_two_processes_stop_together_and_the_run_can_be_resumed(flags, tmp_path):
    folder = tmp_path / "run"
    small = [*flags, *SMALL["train_mlp_pytorch"], "--max_steps=100000", "--eval_freq=100000"]
    process = subprocess.Popen(
        torchrun("train_mlp_pytorch", *small, "--out_dir", folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(folder / "checkpoint.pt", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert b"to go on: torchrun --nproc_per_node=2" in err
    assert b"Traceback" not in err.split(b"to go on")[0]
    step = int(checkpoint(folder)["step"])
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["max_steps"] = step + 4
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(torchrun("train_mlp_pytorch", "--resume", folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_metrics(folder)[-1]["step"] == step + 4
    assert {path.name for path in folder.iterdir()} == FOLDER_FILES


def test_signal_that_comes_while_processes_agree_counts_after_the_next_step(flags, tmp_path, monkeypatch):
    """For the others have been told that nobody stops: a process that left now would leave them waiting."""
    told, total = [], torch_utils.Processes.total

    def total_and_signal(processes, *numbers):
        totals = total(processes, *numbers)
        if isinstance(numbers[0], bool):  # whether to stop
            told.append(totals[0])
            if len(told) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return totals

    monkeypatch.setattr(torch_utils.Processes, "total", total_and_signal)
    out = ["--out_dir", tmp_path / "run"]
    assert run_here("train_mlp_pytorch", *flags, *SMALL["train_mlp_pytorch"], *out) == 128 + signal.SIGTERM
    assert told == [False, False, False, True]
    assert int(checkpoint(tmp_path / "run")["step"]) == 3


@pytest.mark.parametrize(("n_processes", "ended"), [(1, 1), (2, 0)])
def test_signal_that_torchrun_hands_on_again_ends_no_process_before_its_checkpoint(n_processes, ended):
    """Where a scheduler signals all, a process gets its own and torchrun's; alone, the second ends it at once."""
    run, ends = Run.__new__(Run), []
    run.stopped_by, run.n_processes = None, n_processes
    before = signal.signal(signal.SIGTERM, lambda *_: ends.append("at once"))
    try:
        with run._catch_signals():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run.stopped_by == signal.SIGTERM
    assert len(ends) == ended


def test_processes_that_this_machine_cannot_serve_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "only cpu and cuda can do" in refused("train_mlp_pytorch", capsys, monkeypatch, "--device=mps")
    assert torch_utils.choose_device("auto", 0, n_processes=2).type != "mps"
    small_batch = ["--batch_size=2", "--batch_norm=manual", "--device=cpu"]
    assert "expected 2 a process at least" in refused("train_mlp_pytorch", capsys, monkeypatch, *small_batch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "2 processes for 1 GPUs" in refused("train_mlp_pytorch", capsys, monkeypatch)


def test_batch_that_processes_cannot_share_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit) as error:
        train_mlp_pytorch.main(["--batch_size=200"])
    assert error.value.code == 2
    assert "got 200, expected a multiple of the 3 processes" in capsys.readouterr().err


# ---- Interruptions and resuming ----------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("script", SMALL)
def test_run_killed_at_random_moments_and_resumed_ends_as_one_left_alone(flags, references, script, tmp_path):
    folder = tmp_path / "run"
    kill_and_resume(script, [*flags, *SMALL[script], "--pictures"], folder, n_kills=2)
    assert_same_run(folder, references[script])
    assert len(checkpoint(folder)) > 20


@pytest.fixture(scope="module")
def stopped_run(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    assert run_here("train_mlp_pytorch", *flags, *SMALL["train_mlp_pytorch"], "--max_steps=3", "--out_dir", folder) == 0
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture
def half_run(stopped_run, tmp_path):
    """A run folder that has a checkpoint but no end, for a test to damage."""
    return shutil.copytree(stopped_run, tmp_path / "half")


def refusal_to_resume(folder, capsys):
    """Return the one line with which a run is not resumed, and assert that nothing was written."""
    before = contents(folder)
    assert run_here("train_mlp_pytorch", "--resume", folder) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "SYNTHETIC" not in line]
    assert contents(folder) == before
    return line


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "foreign", "cut off"])
def test_damaged_checkpoint_is_named(half_run, capsys, content):
    path = half_run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert "checkpoint.pt is damaged or no checkpoint" in refusal_to_resume(half_run, capsys)


def save_state(folder, state):
    """Write a checkpoint that says that it is of the run in `folder`."""
    own = {
        "run": json.loads((folder / "config.json").read_text())["id"],
        "step": 3,
        "seconds": 1.0,
        "step_seconds": 1.0,
    }
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
def test_foreign_checkpoint_is_named(half_run, capsys, state, message):
    save_state(half_run, state)
    assert message in refusal_to_resume(half_run, capsys)


def test_checkpoint_that_would_run_code_does_not(half_run, capsys, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'ran'}'",)

    save_state(half_run, {"network": Payload()})
    assert "damaged or no checkpoint" in refusal_to_resume(half_run, capsys)
    assert not (tmp_path / "ran").exists()


def test_run_is_resumed_by_as_many_processes_as_began_it(half_run, capsys):
    config = json.loads((half_run / "config.json").read_text())
    assert config["processes"] == 1
    (half_run / "config.json").write_text(json.dumps(config | {"processes": 2}))
    assert "was begun by 2 processes, got 1: resume it by torchrun with 2" in refusal_to_resume(half_run, capsys)


def test_lack_of_memory_ends_with_one_line_and_status_1(flags, tmp_path, capsys, monkeypatch):
    def no_memory(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried …"
        )

    monkeypatch.setattr(train_mlp_pytorch, "MLP", no_memory)
    assert run_here("train_mlp_pytorch", *flags, "--out_dir", tmp_path / "run") == 1
    assert "error: out of memory ([enforce fail" in capsys.readouterr().err


def test_diverging_run_stops_and_keeps_the_last_good_checkpoint(flags, capsys, tmp_path):
    folder = tmp_path / "run"
    assert run_here("train_mlp_pytorch", *flags, "--learning_rate=1e9", "--eval_freq=1", "--out_dir", folder) == 1
    assert "the run has diverged; start anew with a --learning_rate below" in capsys.readouterr().err
    assert all(np.isfinite(array).all() for array in checkpoint(folder).values() if array.dtype.kind == "f")


# ---- Flags -------------------------------------------------------------------------------------

WRONG_FLAGS = [
    ("--optimizer", "rmsprop", "invalid choice: 'rmsprop'"),
    ("--momentum", "1", "got '1', expected a number of at least 0 and below 1"),
    ("--momentum", "-0.1", "expected a number of at least 0 and below 1"),
    ("--momentum", "nan", "got 'nan'"),
    ("--weight_decay", "-1", "expected a number of at least 0"),
    ("--weight_decay", "inf", "got 'inf'"),
    ("--lr_schedule", "step", "invalid choice: 'step'"),
    ("--label_smoothing", "1", "expected a number of at least 0 and below 1"),
    ("--augment", "cutout", "invalid choice: 'cutout'"),
    ("--preprocess", "none", "invalid choice: 'none'"),
    ("--validation_size", "50000", "expected a whole number from 0 to 49999"),
    ("--validation_size", "49990", "which leaves 10 training images"),
    ("--synthetic_size=300 --batch_size=200 --validation_size", "200", "which leaves 100 training images"),
    ("--validation_size", "-1", "expected a whole number from 0 to 49999"),
    ("--device", "tpu", "invalid choice: 'tpu'"),
    ("--precision", "fp16", "invalid choice: 'fp16'"),
    ("--batch_size", "0", "expected a whole number of at least 1"),
    ("--learning_rate", "0", "expected a number above 0"),
]
WRONG_MLP_FLAGS = [
    ("--init", "zeros", "invalid choice: 'zeros'"),
    ("--batch_norm", "layer", "invalid choice: 'layer'"),
    ("--dropout", "1", "expected a number of at least 0 and below 1"),
    ("--dropout", "-0.5", "expected a number of at least 0 and below 1"),
    ("--dnn_hidden_units", "0", "expected sizes from 1"),
]


def refused(script, capsys, monkeypatch, *argv):
    """Return the one line with which a script refuses its flags, before data is read."""
    monkeypatch.setattr(torch_utils, "get_cifar10", lambda *_, **__: pytest.fail("data was read"))
    with pytest.raises(SystemExit) as error:
        SCRIPTS[script].main(list(argv))
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"{script}.py: error: ")
    return err


@pytest.mark.parametrize(
    ("script", "flag", "value", "message"),
    [(script, *wrong) for script in SMALL for wrong in WRONG_FLAGS + WRONG_MLP_FLAGS * ("mlp" in script)],
    ids=str,
)
def test_wrong_flag_ends_with_one_line_and_status_2(capsys, monkeypatch, script, flag, value, message):
    assert message in refused(script, capsys, monkeypatch, *f"{flag}={value}".split())


@pytest.mark.parametrize("script", SMALL)
def test_flags_that_this_machine_or_each_other_contradict_are_refused(capsys, monkeypatch, script):
    assert "expected sgd" in refused(script, capsys, monkeypatch, "--optimizer=adam", "--momentum=0.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "'cuda', which this machine" in refused(script, capsys, monkeypatch, "--device=cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "'mps', which this machine" in refused(script, capsys, monkeypatch, "--device=mps")
    monkeypatch.setattr(torch_utils.importlib.util, "find_spec", lambda _: None)
    assert "pip install tensorboard" in refused(script, capsys, monkeypatch, "--tensorboard")
    monkeypatch.setattr(torch_utils.shutil, "which", lambda _: None)
    assert "needs a C++ compiler" in refused(script, capsys, monkeypatch, "--compile")


@pytest.mark.parametrize("script", SMALL)
def test_defaults_are_the_courses(capsys, monkeypatch, script):
    seen = []
    monkeypatch.setattr(SCRIPTS[script], "train", lambda args: seen.append(args) or sys.exit(0))
    with pytest.raises(SystemExit):
        SCRIPTS[script].main([])
    (args,) = seen
    shared = {
        "momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant", "label_smoothing": 0.0, "augment": "none",
        "preprocess": "mean_image", "validation_size": 0, "device": "auto", "precision": "auto", "seed": 42,
        "data_dir": "./cifar10/cifar-10-batches-py",
    }  # fmt: skip
    own = {
        "train_mlp_pytorch": {
            "dnn_hidden_units": [100], "learning_rate": 2e-3, "max_steps": 1500, "batch_size": 200, "eval_freq": 100,
            "neg_slope": 0.02, "optimizer": "sgd", "init": "normal", "batch_norm": "none", "dropout": 0.0,
        },
        "train_convnet_pytorch": {
            "learning_rate": 1e-4, "max_steps": 5000, "batch_size": 32, "eval_freq": 500, "optimizer": "adam",
        },
    }  # fmt: skip
    assert (shared | own[script]).items() <= vars(args).items()
