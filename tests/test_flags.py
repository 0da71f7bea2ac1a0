"""Flags: errors, defaults, flag files, `--resume`, `--out_dir`."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from runs import CONVNET, MLP, NUMPY, ROOT, SCRIPTS, run, run_process

from train_mlp_numpy import make_flags
from training.flags import parse_args

INVALID = [
    (NUMPY, "learning_rate", "0 -1 nan inf fast"), (NUMPY, "max_steps", "0 1.5"), (NUMPY, "batch_size", "0 -200"),
    (NUMPY, "eval_freq", "0"), (NUMPY, "train_eval_size", "-1 50001"), (NUMPY, "seed", "-1 4294967296"),
    (NUMPY, "synthetic_size", "9 1000001"), (NUMPY, "neg_slope", "-0.02 nan"),
    (NUMPY, "dnn_hidden_units", "100, 100,0 -5 many 1000001"),
    (MLP, "dropout", "1 -0.5"), (MLP, "whiten", "3073"), (CONVNET, "momentum", "1 -1"), (CONVNET, "shift", "17"),
    (CONVNET, "weight_decay", "-1 inf"), (CONVNET, "label_smoothing", "1"), (CONVNET, "validation_size", "-1 50000"),
]  # fmt: skip
CONTRADICTORY = [
    (NUMPY, "--learn=1", "unrecognized arguments: --learn=1"),
    (NUMPY, "--batch_size=50001", "--batch_size: got 50001, expected at most the 50000"),
    (NUMPY, "--synthetic_size=10", "--batch_size: got 200, expected at most the 10"),
    (MLP, "--validation_size=49990", "--batch_size: got 200, expected at most the 10"),
    (MLP, "--synthetic_size=300 --validation_size=400", "--batch_size: got 200, expected at most the 0"),
    (MLP, "--batch_norm=manual --batch_size=1", "--batch_size: got 1, expected at least 2 per process"),
    (MLP, "--optimizer=adam --momentum=0.9", "--momentum: got 0.9 with --optimizer adam, expected sgd or muon"),
    (CONVNET, "--optimizer=muon --weight_decay=0.1", "--weight_decay: got 0.1 with --optimizer muon"),
    (CONVNET, "--augment=flip --shift=2", "--shift: got 2 with --augment flip, expected flip_crop or flip_affine"),
    (CONVNET, "--alternate", "--alternate: got --augment none, expected an augmentation"),
    (CONVNET, "--device=cuda", "--device: got 'cuda', not available to PyTorch on this machine"),
    (CONVNET, "--device=mps", "--device: got 'mps', not available to PyTorch on this machine"),
    (CONVNET, "--tensorboard", "pip install tensorboard"),
]
MLP_DEFAULTS = "--dnn_hidden_units=100 --learning_rate=2e-3 --max_steps=1500 --batch_size=200 --eval_freq=100"
MLP_DEFAULTS += " --neg_slope=0.02 --data_dir=./cifar10/cifar-10-batches-py --dataset=auto --seed=42"
DEFAULTS = {
    NUMPY: MLP_DEFAULTS,
    MLP: MLP_DEFAULTS + " --optimizer=sgd --momentum=0 --init=normal --batch_norm=none --dropout=0 --precision=fp32",
    CONVNET: "--learning_rate=1e-4 --max_steps=5000 --batch_size=32 --eval_freq=500 --optimizer=adam --precision=fp32",
}


@pytest.fixture
def error_of(monkeypatch):
    """Call with a script and invalid flags to get the error, one line that is printed before data is read."""
    monkeypatch.setattr("cifar10_utils._find_files", lambda *_: pytest.fail("data was read"))

    def error_of(script, *flags):
        done = run(script, *flags)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert done.err.startswith(f"{script}.py: error: ")
        return done.err

    return error_of


def parse(*flags):
    return parse_args(make_flags(), [str(flag) for flag in flags])


@pytest.mark.parametrize(("script", "flag", "values"), INVALID, ids=[flag for _, flag, _ in INVALID])
def test_invalid_flag_is_reported_before_data_is_read(error_of, script, flag, values):
    for value in values.split():
        assert f"argument --{flag}: got {value!r}, expected " in error_of(script, f"--{flag}={value}")


@pytest.mark.parametrize(("script", "flags", "message"), CONTRADICTORY, ids=[flags for _, flags, _ in CONTRADICTORY])
def test_contradictory_flags_are_reported_before_data_is_read(error_of, monkeypatch, script, flags, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    assert message in error_of(script, *flags.split())


def test_batch_size_must_be_multiple_of_processes(error_of, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "--batch_size: got 200, expected a multiple of the 3 processes" in error_of(MLP)


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_are_the_courses(script):
    parser = importlib.import_module(script).make_flags()
    assert parser.parse_args([]) == parser.parse_args(DEFAULTS[script].split())


def test_help_and_numpy_files_do_not_import_torch():
    code = """if True:
        import sys, cifar10_utils
        assert not {"modules", "training"} & set(sys.modules)
        import mlp_numpy, train_mlp_numpy
        try:
            train_mlp_numpy.main(["--help"])
        finally:
            assert not {"torch", "torchvision", "matplotlib"} & set(sys.modules)
    """
    done = run_process("python", "-c", code, cwd=ROOT)
    assert done.status == 0, done.err
    assert "--dnn_hidden_units" in done.out


def test_flag_file_allows_comments_and_quotes(tmp_path):
    text = "# a comment\n--seed 7  # it's another\n--dnn_hidden_units ''\n--out_dir \"runs #2\"\n"
    (tmp_path / "run.args").write_text(text)
    args = parse(f"@{tmp_path / 'run.args'}")
    assert (args.seed, args.dnn_hidden_units, args.out_dir) == (7, [], "runs #2")


def test_open_quote_in_flag_file_is_reported(error_of, tmp_path):
    (tmp_path / "run.args").write_text('--out_dir "half\n')
    assert "No closing quotation" in error_of(NUMPY, f"@{tmp_path / 'run.args'}")


def test_tilde_means_home_in_all_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    args = make_flags().parse_args(["--out_dir=~/a b", "--data_dir=~/c", "--resume=~/d"])
    assert [args.out_dir, args.data_dir, args.resume] == [str(tmp_path / name) for name in ("a b", "c", "d")]


@pytest.fixture
def started(tmp_path):
    """The directory of a run of the NumPy script with `--seed=7`, launched by this process's parent."""
    flags = vars(make_flags().parse_args(["--seed=7", f"--out_dir={tmp_path}"]))
    config = {"flags": flags, "dataset": {"is_synthetic": True}, "launcher_pid": os.getppid()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_resume_allows_repeated_flags_and_moved_data(started):
    args = parse("--resume", started, "--seed=7", "--data_dir=moved", "--quiet")
    assert (args.seed, args.dataset, args.data_dir, args.quiet) == (7, "synthetic", "moved", True)


def test_resume_rejects_changed_flags(error_of, started):
    error = error_of(NUMPY, "--resume", started, "--seed=8")
    assert f"argument --seed: got 8, but the run in {started!r} has 7" in error


def test_resume_gives_newer_flags_their_defaults(error_of, started):
    config = json.loads(Path(started, "config.json").read_text())
    del config["flags"]["neg_slope"]  # as if the run were older than the flag
    Path(started, "config.json").write_text(json.dumps(config))
    assert parse("--resume", started).neg_slope == 0.02
    assert "--neg_slope: got 0.1, but the run" in error_of(NUMPY, "--resume", started, "--neg_slope=0.1")


def test_resume_rejects_run_of_another_script(error_of, started):
    assert f"{started!r} is a run of {NUMPY}.py; use that script" in error_of(MLP, "--resume", started)


@pytest.mark.parametrize("config", ["", "[]", "{}"])
def test_resume_rejects_directory_without_valid_config(error_of, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    for path in (tmp_path, tmp_path / "missing"):
        assert f"argument --resume: '{path}' is not a run directory" in error_of(NUMPY, "--resume", path)


def test_out_dir_must_be_new_or_empty(error_of, tmp_path):
    assert parse("--out_dir", tmp_path).out_dir == str(tmp_path)
    (tmp_path / "notes").touch()
    for path, problem in ((tmp_path, "is not empty"), (tmp_path / "notes", "is not a writable directory")):
        error = error_of(NUMPY, "--out_dir", path)
        assert f"argument --out_dir: '{path}' {problem}; name another directory" in error
        assert "--resume" not in error


def test_out_dir_of_a_run_is_rejected_with_resume_flag(error_of, started):
    assert f"--resume {started}" in error_of(NUMPY, "--out_dir", started)


@pytest.mark.parametrize(
    ("n_restarts", "rank", "is_own", "is_resumed"),
    [(1, 0, True, True), (1, 0, False, False), (0, 0, True, False), (1, 1, False, True)],
)
def test_restart_by_torchrun_resumes_only_its_own_run(
    error_of, started, monkeypatch, n_restarts, rank, is_own, is_resumed
):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(n_restarts))
    monkeypatch.setenv("RANK", str(rank))
    if not is_own:
        monkeypatch.setattr(os, "getppid", lambda: -1)
    if is_resumed:
        assert parse("--out_dir", started).resume == started
    else:
        assert "is not empty" in error_of(NUMPY, "--out_dir", started)
