"""Flags of the three training scripts: wrong ones end in one line before data is read; defaults are the course's."""

import importlib
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from runs import CONVNET, MLP, NUMPY, ROOT, SCRIPTS, run

import torch_utils
import train_mlp_numpy
from flags import parse_args

TORCH_SCRIPTS = (MLP, CONVNET)
# What is wrong for all scripts or, where it has a flag of the MLPs, for both of them.
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
    ("--batch_size", "50001", "expected at most 50000, the number of training images (flags: "),
    ("--eval_freq", "0", "expected a whole number of at least 1"),
    ("--train_eval_size", "-1", "expected a whole number from 0 to 50000"),
    ("--train_eval_size", "50001", "expected a whole number from 0 to 50000"),
    ("--seed", "-1", "expected a whole number from 0 to 4294967295"),
    ("--seed", "4294967296", "expected a whole number from 0 to 4294967295"),
    ("--dataset", "mnist", "invalid choice: 'mnist'"),
    ("--synthetic_size", "9", "expected a whole number from 10 to 1000000"),
    (
        "--synthetic_size",
        "10",
        "expected at most 10, the number of training images (--synthetic_size, which --dataset",
    ),
    ("--resume", "no such folder", "'no such folder' is not a run folder with a readable config.json"),
    ("--out_dir", "tests", "'tests' exists already and is not overwritten"),
    ("--out_dir", "README.md", "'README.md' exists already"),
    ("--out_dir", "/", "'/' exists already"),
    ("--out_dir=", None, "'' exists already"),
    ("--out_dir", "x" * 300, "name too long"),
    ("--out_dir", "README.md/run", "README.md' is not a folder"),
    ("--unknown", "1", "unrecognized arguments: --unknown 1"),
    ("--learn", "1", "unrecognized arguments: --learn 1"),
    ("--learning_rate", None, "expected one argument"),
    ("stray", None, "unrecognized arguments: stray"),
    ("@no_such_file.args", None, "No such file"),
]
WRONG_MLP_FLAGS = [
    ("--neg_slope", "-0.02", "expected a number of at least 0"),
    ("--neg_slope", "nan", "got 'nan'"),
    ("--dnn_hidden_units", "100,", "got '100,', expected sizes from 1 to 1000000 with commas between"),
    ("--dnn_hidden_units", "100,0", "expected sizes from 1 to 1000000"),
    ("--dnn_hidden_units", "0", "expected sizes from 1"),
    ("--dnn_hidden_units", "-5", "expected sizes from 1 to 1000000"),
    ("--dnn_hidden_units", "many", "expected sizes from 1 to 1000000"),
    ("--dnn_hidden_units", "1000001", "expected sizes from 1 to 1000000"),
]
WRONG_TORCH_FLAGS = [
    ("--optimizer", "rmsprop", "invalid choice: 'rmsprop'"),
    ("--momentum", "1", "got '1', expected a number of at least 0 and below 1"),
    ("--momentum", "-0.1", "expected a number of at least 0 and below 1"),
    ("--momentum", "nan", "got 'nan'"),
    ("--weight_decay", "-1", "expected a number of at least 0"),
    ("--weight_decay", "inf", "got 'inf'"),
    ("--lr_schedule", "step", "invalid choice: 'step'"),
    ("--label_smoothing", "1", "expected a number of at least 0 and below 1"),
    ("--augment", "cutout", "invalid choice: 'cutout'"),
    ("--shift", "17", "expected a whole number from 0 to 16"),
    ("--augment=flip --shift", "2", "got 2 with --augment flip, which shifts nothing; pass --augment flip_crop or"),
    ("--alternate", None, "got it with --augment none, which mirrors nothing"),
    ("--weight_decay=0.1 --optimizer", "muon", "got 0.1 with --optimizer muon"),
    ("--preprocess", "none", "invalid choice: 'none'"),
    ("--validation_size", "50000", "expected a whole number from 0 to 49999"),
    ("--validation_size", "49990", "which leaves 10 training images"),
    ("--synthetic_size=300 --batch_size=200 --validation_size", "200", "which leaves 100 training images"),
    ("--validation_size", "-1", "expected a whole number from 0 to 49999"),
    ("--device", "tpu", "invalid choice: 'tpu'"),
    ("--precision", "fp16", "invalid choice: 'fp16'"),
]
WRONG_TORCH_MLP_FLAGS = [
    ("--init", "zeros", "invalid choice: 'zeros'"),
    ("--batch_norm", "layer", "invalid choice: 'layer'"),
    ("--dropout", "1", "expected a number of at least 0 and below 1"),
    ("--dropout", "-0.5", "expected a number of at least 0 and below 1"),
    ("--whiten", "3073", "expected a whole number from 0 to 3072"),
]
WRONG = {
    NUMPY: WRONG_FLAGS + WRONG_MLP_FLAGS,
    MLP: WRONG_FLAGS + WRONG_MLP_FLAGS + WRONG_TORCH_FLAGS + WRONG_TORCH_MLP_FLAGS,
    CONVNET: WRONG_FLAGS + WRONG_TORCH_FLAGS,
}


@pytest.fixture
def refused(monkeypatch):
    """Call with a script and flags: the one line with which it refuses them, before it reads data."""
    monkeypatch.chdir(ROOT)
    for module in (train_mlp_numpy, torch_utils):
        monkeypatch.setattr(module, "get_cifar10", lambda *_, **__: pytest.fail("data was read"))

    def refused(script, *flags):
        done = run(script, *flags)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith(f"{script}.py: error: ")
        return done.err

    return refused


@pytest.mark.parametrize(
    ("script", "flag", "value", "message"),
    [(script, *wrong) for script in SCRIPTS for wrong in WRONG[script]],
    ids=lambda text: str(text)[:30],
)
def test_wrong_flag_ends_with_one_line_and_status_2_before_data_is_read(refused, script, flag, value, message):
    *before, last = flag.split()
    # One word, so that argparse does not take '-1' for a flag.
    error = refused(script, *before, last if value is None else f"{last}={value}")
    assert message in error.replace("=", " ")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_that_takes_a_value_is_among_the_wrong_ones(script):
    """A new flag needs its impossible values in the lists above."""
    parser = importlib.import_module(script).make_flags()
    flags = {a.option_strings[0] for a in parser._actions if a.nargs != 0 and a.option_strings}
    assert flags - {"--data_dir"} <= {flag.split()[-1] for flag, *_ in WRONG[script]}


def test_flags_come_from_a_file_and_the_command_line_overrides_it(tmp_path):
    file = tmp_path / "run.args"
    file.write_text(
        '# a comment\n--learning_rate 0.5  # and another\n--dnn_hidden_units ""\n\n--seed 7\n'
        "--data_dir C:\\my\\data#1\n"
    )
    args = train_mlp_numpy.make_flags().parse_args([f"@{file}", "--seed", "8"])
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
def test_flag_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch, refused, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.args").write_bytes(content)
    assert message in refused(NUMPY, "@run.args")


@pytest.mark.parametrize("script", TORCH_SCRIPTS)
def test_flags_that_this_machine_or_each_other_contradict_are_refused(refused, monkeypatch, script):
    assert "expected sgd" in refused(script, "--optimizer=adam", "--momentum=0.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "'cuda', which this machine" in refused(script, "--device=cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "'mps', which this machine" in refused(script, "--device=mps")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # no such package, whatever a folder is called
    assert "pip install tensorboard" in refused(script, "--tensorboard")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "needs a C++ compiler" in refused(script, "--compile")


@pytest.fixture
def two_processes(monkeypatch):
    """The environment of the first of two processes that torchrun starts."""
    torchruns = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
    for name, value in (torchruns | {"MASTER_PORT": 29500}).items():
        monkeypatch.setenv(name, str(value))


def test_processes_that_this_machine_cannot_serve_are_refused(refused, two_processes, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "only cpu and cuda can do" in refused(MLP, "--device=mps")
    assert torch_utils.choose_device("auto", 0, n_processes=2).type != "mps"
    assert "expected 2 a process at least" in refused(MLP, "--batch_size=2", "--batch_norm=manual", "--device=cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "2 processes for 1 GPUs" in refused(MLP)


def test_batch_that_processes_cannot_share_is_refused(refused, two_processes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "got 200, expected a multiple of the 3 processes" in refused(MLP, "--batch_size=200")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": None}, "WORLD_SIZE=2 without RANK; start several processes with torchrun, or unset WORLD_SIZE"),
        ({"MASTER_ADDR": None, "MASTER_PORT": ""}, "WORLD_SIZE=2 without MASTER_ADDR, MASTER_PORT;"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE: got '', expected a whole number of at least 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: got '0', expected a whole number of at least 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: got 'two'"),
        ({"RANK": "2"}, "RANK: got '2', expected a whole number from 0 to 1"),
        ({"RANK": "-1"}, "RANK: got '-1'"),
        ({"WORLD_SIZE": None, "RANK": "1"}, "RANK: got '1', expected a whole number from 0 to 0"),
        ({"LOCAL_RANK": "7", "RANK": "1"}, None),  # the second process says nothing: the first has the same flags
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE: got ''"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT: got '70000', expected a whole number from 1 to 65535"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT: got 'http'"),
    ],
    ids=str,
)
def test_environment_of_torchrun_that_contradicts_itself_is_refused(
    refused, two_processes, monkeypatch, changed, message
):
    for name, value in changed.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    if message is None:
        done = run(MLP, "--device=cpu")
        assert (done.status, done.out, done.err) == (2, "", "")
    else:
        assert message in refused(MLP, "--device=cpu")


SHARED_DEFAULTS = {"seed": 42, "data_dir": "./cifar10/cifar-10-batches-py", "dataset": "auto"}
TORCH_DEFAULTS = {
    "momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant", "label_smoothing": 0.0, "augment": "none",
    "shift": 4, "preprocess": "mean_image", "validation_size": 0, "device": "auto", "precision": "auto",
}  # fmt: skip
MLP_DEFAULTS = {
    "dnn_hidden_units": [100], "learning_rate": 2e-3, "max_steps": 1500, "batch_size": 200, "eval_freq": 100,
    "neg_slope": 0.02,
}  # fmt: skip
DEFAULTS = {
    NUMPY: MLP_DEFAULTS,
    MLP: TORCH_DEFAULTS
    | MLP_DEFAULTS
    | {"optimizer": "sgd", "init": "normal", "batch_norm": "none", "dropout": 0.0, "whiten": 0},
    CONVNET: TORCH_DEFAULTS
    | {"learning_rate": 1e-4, "max_steps": 5000, "batch_size": 32, "eval_freq": 500, "optimizer": "adam"},
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_are_the_courses(monkeypatch, script):
    seen = []
    monkeypatch.setattr(importlib.import_module(script), "train", lambda args: seen.append(args) or sys.exit(0))
    run(script)
    (args,) = seen
    assert (SHARED_DEFAULTS | DEFAULTS[script]).items() <= vars(args).items()


@pytest.mark.parametrize("script", SCRIPTS)
def test_file_of_flags_says_the_same_as_the_command_line(tmp_path, script):
    """The report's experiments are such files."""
    flags = "--learning_rate 0.5 --max_steps 7 --out_dir 'a b'"
    (tmp_path / "run.args").write_text(flags.replace(" --", "\n--"))
    parser = importlib.import_module(script).make_flags()
    assert parser.parse_args([f"@{tmp_path / 'run.args'}"]) == parser.parse_args(shlex.split(flags))


# ---- Paths as people type them -----------------------------------------------------------------


@pytest.mark.parametrize("flag", ["out_dir", "data_dir"])
@pytest.mark.parametrize("where", ["command line", "flag file", "file at home"])
def test_tilde_means_home(tmp_path, monkeypatch, flag, where):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "run.args").write_text(f"--{flag} ~/a folder\n".replace("a folder", "'a folder'"))
    argv = {"command line": f"--{flag}=~/a folder", "flag file": f"@{tmp_path / 'run.args'}"}
    args = train_mlp_numpy.make_flags().parse_args([argv.get(where, "@~/run.args")])
    assert getattr(args, flag) == str(tmp_path / "a folder")


def test_tilde_means_home_where_a_run_is_resumed(reference, monkeypatch):
    folder = reference(NUMPY)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    done = run(NUMPY, f"--resume=~/{folder.name}")
    assert (done.status, "complete already" in done.out) == (0, True)


def test_tilde_of_nobody_makes_no_folder_of_that_name(refused):
    assert "got '~nobody-here/x', and there is no such user" in refused(NUMPY, "--out_dir=~nobody-here/x")


def test_mark_that_an_editor_puts_before_a_flag_file_is_ignored(tmp_path):
    (tmp_path / "run.args").write_text("--seed 7\n", encoding="utf-8-sig")
    assert train_mlp_numpy.make_flags().parse_args([f"@{tmp_path / 'run.args'}"]).seed == 7


@pytest.mark.parametrize("flag", ["--out_dir", "--data_dir", "--resume"])
def test_nul_in_a_path_is_refused_in_one_line(refused, tmp_path, flag):
    assert "which has no NUL in it" in refused(NUMPY, f"{flag}=a\0b")
    (tmp_path / "run.args").write_text(f"{flag} a\0b\n")
    assert "which has no NUL in it" in refused(NUMPY, f"@{tmp_path / 'run.args'}")


@pytest.mark.parametrize("flags", [(), ("--out_dir=some/where",)], ids=["default", "named"])
def test_place_that_cannot_be_written_to_is_refused_before_anything_is_read(flags, refused, tmp_path, monkeypatch):
    """Root can write anywhere, so that the system's answer is put in here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: not (os.path.samefile(path, tmp_path) and mode & os.W_OK))
    assert f"{str(tmp_path)!r} cannot be written to; name another folder" in refused(NUMPY, *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [(), ("--out_dir=results",)], ids=["default", "named"])
def test_link_to_nowhere_is_refused(flags, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").symlink_to("nowhere")
    assert "'results'" in refused(NUMPY, *flags)


def test_process_that_writes_nothing_needs_no_place_to_write_to(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("RANK", "1")
    assert parse_args(train_mlp_numpy.make_flags(), []).out_dir is None


def test_folder_of_a_run_that_was_killed_as_it_began_is_not_called_a_run(refused, tmp_path):
    (tmp_path / "config.json").touch()
    assert "--resume" not in refused(NUMPY, "--out_dir", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "--resume" in refused(NUMPY, "--out_dir", tmp_path)
