"""The search for better flags: it halves, resumes, and weighs ingredients."""

import importlib
import itertools
import shlex

import pytest

from report import numbers, search

SEARCH = search.Search("a_script", {"one": "--a 1", "two": "--b 2"}, ["", "--c 3", "--c 4", "--c 5"], [100, 200])


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


def test_search_trains_the_better_half_again_and_nothing_twice(ran):
    assert search.halve(SEARCH) == ["--a 1 --b 2 --c 5"]
    first = ["--a 1 --b 2", "--a 1 --b 2 --c 3", "--a 1 --b 2 --c 4", "--a 1 --b 2 --c 5"]
    assert ran == [*((flags, 100) for flags in first), *((flags, 200) for flags in reversed(first[2:]))]
    search.halve(SEARCH)
    assert len(ran) == 6


def test_ablation_weighs_each_ingredient_from_both_ends(ran, monkeypatch):
    monkeypatch.setitem(search.SEARCHES, "mlp", SEARCH)
    search.ablate(SEARCH)
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
    for flags in itertools.chain(chosen.ingredients.values(), chosen.candidates):
        parser.parse_args(shlex.split(flags))
