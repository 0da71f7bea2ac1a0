"""Trials are run once, and an ablation weighs ingredients."""

import importlib
import shlex

import pytest

from report import numbers, search

SEARCH = search.Search("a_script", {"one": "--a 1", "two": "--b 2"}, 100)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The list of trials that ran; each is as accurate as its last flag's value says."""
    keys = []

    def run_trial(script, flags, images, seed):
        keys.append((flags, images))
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
    assert ran == [("--a 1 --b 2 --c 3", 200)]


def test_ablation_refuses_flags_of_a_trial(ran, capsys):
    with pytest.raises(SystemExit, match="2"):
        search.main(["mlp", "--ablation", "--add=--dropout 0.1"])
    assert "omit --add" in capsys.readouterr().err


def test_ablation_weighs_each_ingredient_from_both_ends(ran, small_search):
    assert search.main(["mlp", "--ablation"]) == 0
    assert [flags for flags, _ in ran] == ["", "--a 1", "--b 2", "--a 1 --b 2"]
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
