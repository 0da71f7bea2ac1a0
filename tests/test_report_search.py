"""The search for better flags: it halves, goes on where it was stopped, and never sees a test image."""

import importlib
import itertools
import shlex

import pytest

from report import search, tables

SEARCH = search.Search("a_script", {"one": "--a 1", "two": "--b 2"}, ["", "--c 3", "--c 4", "--c 5"], [100, 200], 50)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Let a trial be as accurate as its last flag's value says, and return the list of those that ran."""
    keys = []

    def run_trial(script, flags, images, seed):
        keys.append((flags, images))
        accuracy = int(flags.split()[-1]) / 10 if flags else 0.1
        record = {"script": script, "flags": flags, "images": images, "seed": seed, "seconds": 1.0}
        return record | {"validation_accuracy": accuracy, "validation_loss": 1.0, "train_accuracy": accuracy}

    monkeypatch.setattr(search, "SEARCH", tmp_path / "search.jsonl")
    monkeypatch.setattr(search, "run_trial", run_trial)
    return keys


def test_the_better_half_trains_on_and_nothing_trains_twice(ran):
    assert search.halve(SEARCH) == ["--a 1 --b 2 --c 5"]
    first = ["--a 1 --b 2", "--a 1 --b 2 --c 3", "--a 1 --b 2 --c 4", "--a 1 --b 2 --c 5"]
    assert ran == [*((flags, 100) for flags in first), *((flags, 200) for flags in reversed(first[2:]))]
    search.halve(SEARCH)
    assert len(ran) == 6
    assert len(search.SEARCH.read_text().splitlines()) == 6


def test_ablation_weighs_each_ingredient_from_both_ends(ran):
    search.ablate(SEARCH)
    # Of two ingredients, all but one is the other alone.
    assert [flags for flags, _ in ran] == ["", "--a 1", "--b 2", "--a 1 --b 2"]


def test_ablation_of_the_report_has_differences_of_recorded_trials(ran, monkeypatch):
    monkeypatch.setitem(search.SEARCHES, "mlp", SEARCH)
    search.trial(SEARCH.script, "", 50, search.SEED)
    not_run = r"not run & not run \\"
    assert (
        tables.ablation_tex("mlp")
        == f"defaults, and whole recipe & 0.100 & not run \\\\\none & {not_run}\ntwo & {not_run}\n"
    )
    search.ablate(SEARCH)
    assert tables.ablation_tex("mlp").splitlines() == [
        r"defaults, and whole recipe & 0.100 & 0.200 \\",
        r"one & $+0.000$ & $+0.000$ \\",  # 0.1 alone, and 0.2 is left of 0.2
        r"two & $+0.100$ & $+0.100$ \\",
    ]


@pytest.mark.parametrize("name", search.SEARCHES)
def test_every_flag_of_a_search_is_one_of_its_script(name):
    chosen = search.SEARCHES[name]
    parser = importlib.import_module(chosen.script).make_flags()
    for flags in itertools.chain(chosen.ingredients.values(), chosen.candidates):
        parser.parse_args(shlex.split(flags))
