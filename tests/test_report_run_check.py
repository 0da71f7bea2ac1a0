"""Runs compared with the report: verdicts, refused runs, what is written."""

import importlib
import json

import numpy as np
import pytest

from report.claims import CLAIMS, Claim, interval, measures
from report.records import whole_runs
from report.run_check import FREE_FLAGS, check_run, compare_run, is_run, make_row
from training.files import RunError


def a_run(directory, change=lambda config, metrics: None, experiment="fig01_mlp_numpy"):
    """Write a recorded run as a run directory. `change(config, metrics)` alters them."""
    run = whole_runs(experiment)[0]
    change(run.config, run.metrics)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(run.config))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in run.metrics))
    return directory


def flag(**flags):
    return lambda config, metrics: config["flags"].update(flags)


@pytest.mark.parametrize("experiment", CLAIMS)
def test_run_is_compared_with_the_figure_of_its_flags(tmp_path, experiment):
    name, _, rows = check_run(a_run(tmp_path / "run", experiment=experiment))
    assert (name, [row.claim for row in rows]) == (experiment, list(CLAIMS[experiment]))


@pytest.mark.parametrize("experiment", CLAIMS)
def test_guessing_network_passes_only_what_is_true_of_it(experiment):
    guess = {"train_accuracy": 0.1, "test_accuracy": 0.1, "train_loss": np.log(10), "test_loss": np.log(10)}
    runs = whole_runs(experiment)
    values, recorded = measures([m | guess for m in runs[0].metrics]), [measures(run.metrics) for run in runs]
    rows = [make_row(claim, values[claim.quantity], recorded) for claim in CLAIMS[experiment]]
    passed = {row.claim.quantity for row in rows if row.verdict == "pass"}
    assert passed <= {"off_chance", "loss_change", "flat_from", "test_accuracy"}
    assert all(row.claim.relation == "at most" for row in rows if row.verdict == "pass")


@pytest.mark.parametrize(
    ("relation", "recorded", "value", "verdict"),
    [
        ("about", [0.53] * 5, 0.51, "pass"),  # the margin
        ("about", [0.53] * 5, 0.5099, "FAIL"),
        ("about", [0.49, 0.51, 0.53, 0.55, 0.57], 0.46, "pass"),  # the interval
        ("about", [0.49, 0.51, 0.53, 0.55, 0.57], 0.42, "FAIL"),
        ("about", [0.5] * 5, 0.53, "undecided"),
        ("about", [0.53] * 4, 0.53, "undecided"),  # too few
        ("at least", [0.52, 0.54, 0.54, 0.54, 0.54], 0.53, "pass"),
        ("at least", [0.52, 0.54, 0.54, 0.54, 0.54], 0.52, "FAIL"),
        ("at least", [0.52, 0.52, 0.54, 0.54, 0.54], 0.54, "undecided"),
        ("at least", [0.52, 0.52, 0.54, 0.54, 0.54], 0.5, "undecided"),
    ],
)
def test_verdict_of_a_claim(relation, recorded, value, verdict):
    claim, runs = Claim(11, "0.53", "test_accuracy", relation, 0.53), [{"test_accuracy": v} for v in recorded]
    assert make_row(claim, value, runs).verdict == verdict


def test_run_is_compared_at_the_recorded_steps_only(tmp_path):
    def twice_as_often(config, metrics):
        config["flags"]["eval_freq"] = 50
        metrics += [m | {"step": m["step"] + 50, "test_accuracy": i % 2} for i, m in enumerate(metrics[:-1])]
        metrics.sort(key=lambda m: m["step"])

    _, _, rows = check_run(a_run(tmp_path / "run", experiment="fig05_adam"))
    _, metrics, same_rows = check_run(a_run(tmp_path / "twice", twice_as_often, "fig05_adam"))
    assert (same_rows, len(metrics)) == (rows, 31)  # all are drawn


def test_compare_run_prints_verdicts_and_writes_table_and_curves(tmp_path, capsys):
    nothing = {"test_accuracy": 0.1, "test_loss": 2.3, "train_accuracy": 0.1}
    run = a_run(tmp_path / "a\x1b", lambda config, metrics: metrics[-1].update(nothing))
    assert compare_run(run, tmp_path / "out")
    printed, table = capsys.readouterr().out, (tmp_path / "out" / "table.txt").read_text()
    assert table in printed
    assert "a?: fig01_mlp_numpy, 1 of 4 claims pass" in table
    assert table.count("FAIL") == 3
    assert (tmp_path / "out" / "curves.png").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config, _: config["dataset"].update(is_synthetic=True), "synthetic images, expected CIFAR-10"),
        (flag(learning_rate=0.5), "nearest is fig01_mlp_numpy, but this run has --learning_rate 0.5 instead of 0.002"),
        (flag(newer=0.5), "--newer 0.5 instead of None"),
        (flag(script="train_x"), "no figure of such a run"),
        (lambda _, metrics: metrics.pop(), "is at step 1400, expected evaluations every 100"),
        (lambda config, _: config.update(flags=[]), "damaged"),
        (lambda _, metrics: metrics[4].update(test_accuracy="0.4"), "damaged"),
    ],
)  # fmt: skip
def test_compare_run_refuses_in_one_line_with_reason(tmp_path, capsys, change, reason):
    run = a_run(tmp_path / "run", change)
    with pytest.raises(RunError, match=reason):
        check_run(run)
    assert not compare_run(run, tmp_path / "out")
    assert capsys.readouterr().err.count("\n") == 1


def test_is_run_is_false_for_submissions_and_unreadable_paths(tmp_path):
    run = a_run(tmp_path / "run")
    assert is_run(run)
    (run / "modules.py").touch()
    assert not is_run(run)
    assert not is_run(tmp_path / ("long" * 1000))  # the operating system raises an error


@pytest.mark.parametrize("experiment", CLAIMS)
def test_each_flag_of_a_script_is_compared_or_free(experiment):
    recorded = whole_runs(experiment)[0].config["flags"]
    flags = vars(importlib.import_module(recorded["script"]).make_flags().parse_args([]))
    newer = flags.keys() - recorded.keys() - FREE_FLAGS
    assert [name for name in newer if flags[name]] == [], "on by default: grade.py would refuse runs with it"


@pytest.mark.parametrize(("confidence", "n"), [(0.95, 2), (0.95, 5), (0.99, 5), (0.99, 40)])
def test_interval_contains_a_new_value_as_often_as_stated(confidence, n):
    draws = np.random.default_rng(0).normal(size=(4000, n + 1)).tolist()
    inside = [low <= x <= high for *v, x in draws for low, high, _ in [interval(v, confidence)]]
    assert abs(np.mean(inside) - confidence) < 0.01
