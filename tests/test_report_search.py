"""Trials are run once, and an ablation weighs ingredients."""

import importlib
import shlex

import pytest

from report import numbers, search
from training.files import RunError

SEARCH = search.Search("a_script", {"one": "--a 1", "two": "--b 2"}, 100)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The list of trials that ran; each is as accurate as its last flag's value says."""
    keys = []

    def run_trial(script, flags, images, seed):
        keys.append((flags, images, seed))
        accuracy = int(flags.split()[-1]) / 10 if flags else 0.1
        record = {"script": script, "flags": flags, "images": images, "seed": seed, "seconds": 1.0}
        return record | {"validation_accuracy": accuracy, "validation_loss": 1.0, "train_accuracy": accuracy}

    monkeypatch.setattr(search, "TRIALS", tmp_path / "search.jsonl")
    monkeypatch.setattr(search, "run_trial", run_trial)
    return keys


@pytest.fixture
def small_search(monkeypatch):
    monkeypatch.setitem(search.SEARCHES, "mlp", SEARCH)


def test_trial_adds_flags_to_the_recipe_and_runs_once(ran, small_search):
    command = ["mlp", "--add=--c 3", "--images", "200", "--seed", "7"]
    assert (search.main(command), search.main(command)) == (0, 0)
    assert ran == [("--a 1 --b 2 --c 3", 200, 7)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--ablation", "--add=--dropout 0.1"], "omit --add"), (["--add=--out_dir 'x"], "--add: No closing quotation")],
)
def test_search_exits_with_2_for_wrong_flags(ran, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        search.main(["mlp", *flags])
    assert message in capsys.readouterr().err


def test_trial_has_its_scripts_flag_checks(capsys):
    with pytest.raises(SystemExit, match="2"):
        search.run_trial("train_mlp_pytorch", "--optimizer muon --weight_decay 0.05", 1, 0)
    assert "--weight_decay: got 0.05 with --optimizer muon" in capsys.readouterr().err


def test_damaged_and_missing_trials_are_named(ran, tmp_path, capsys):
    with pytest.raises(RunError, match="lacks the trial"):
        search.validation_accuracy("train", "", 1, 0)
    (tmp_path / "search.jsonl").write_text("{}\n")
    assert search.main(["mlp"]) == 1
    assert "search.jsonl, line 1, is damaged" in capsys.readouterr().err


def test_ablation_weighs_each_ingredient_from_both_ends(ran, small_search):
    assert search.main(["mlp", "--ablation"]) == 0
    assert [flags for flags, *_ in ran] == ["", "--a 1", "--b 2", "--a 1 --b 2"]
    assert numbers.ablation_tex("mlp").splitlines() == [
        r"defaults; all ingredients & 0.100 & 0.200 \\",
        r"\addlinespace",
        r"one & 0.000 & 0.000 \\",
        r"two & $+0.100$ & $+0.100$ \\",
    ]


@pytest.mark.parametrize("name", search.SEARCHES)
def test_search_flags_are_flags_of_its_script(name):
    chosen = search.SEARCHES[name]
    parser = importlib.import_module(chosen.script).make_flags()
    for flags in chosen.ingredients.values():
        parser.parse_args(shlex.split(flags))
