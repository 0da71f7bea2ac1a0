"""Runs held against the report: which claims hold, what each tolerance decides, which runs are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from graded import a_run, call_grade, run_grade, write_run

from grading import pages
from grading.claims import CLAIMS, Claim, Row, RunRefusedError, _tolerance, best, grade_run, is_run, last
from grading.runs import interval, read_runs


def test_recorded_runs_hold_the_reports_claims(tmp_path):
    """Of so many intervals at 99%, one may miss a run that helped to make it; most must hold."""
    rows = []
    for experiment in CLAIMS:
        for run in read_runs(experiment):
            rows += grade_run(write_run(tmp_path / experiment / str(run.seed), run.config, run.metrics))[2]
    decided = [row for row in rows if row.decides]
    assert len(decided) > 30
    assert np.mean([row.passed for row in decided]) > 0.97
    assert all(row.verdict == "undecided" and "decides nothing" in row.tolerance for row in rows if not row.decides)


@pytest.mark.parametrize("experiment", CLAIMS)
def test_network_that_guesses_passes_no_claim_but_those_that_hold_of_it(tmp_path, experiment):
    """And no tolerance holds what cannot be, such as an accuracy over 1."""
    guess = {"train_accuracy": 0.1, "test_accuracy": 0.1, "train_loss": np.log(10), "test_loss": np.log(10)}
    folder = a_run(tmp_path / "run", lambda config, metrics: [m | guess for m in metrics], experiment)
    rows = {row.says: row for row in grade_run(folder)[2]}
    holds = {claim.says for claim in CLAIMS[experiment] if claim.guess is None}
    assert {says for says, row in rows.items() if row.passed} == holds
    for claim in CLAIMS[experiment]:
        row, (lowest, highest) = rows[claim.says], claim.possible
        assert lowest <= row.low <= row.high <= highest
        assert row.expected.startswith(claim.side)


def test_tolerance_so_wide_that_guessing_passes_decides_nothing(tmp_path):
    runs = [SimpleNamespace(metrics=[{"train_accuracy": accuracy}]) for accuracy in (0.2, 0.6, 0.95)]
    claim = Claim(11, "train accuracy over 0.95", best("train_accuracy"), side="at least")
    low, high, _, text, decides = _tolerance(claim, runs)
    assert (low, high, decides) == (0, 1, False)
    row = Row(claim.figure, claim.says, low, high, claim.side, text, decides, 0.96)
    assert (row.passed, row.verdict) == (False, "undecided")
    assert "0 of 1 claims hold, 1 undecided" in pages.run_table("run", "fig11", [row])
    runs = [SimpleNamespace(metrics=[{"train_accuracy": accuracy}]) for accuracy in (0.95, 0.96, 0.97)]
    assert _tolerance(claim, runs)[-1]


def test_tolerances_end_at_what_is_possible_and_dips_of_adam_are_decided():
    runs = [SimpleNamespace(metrics=[{"test_accuracy": accuracy}]) for accuracy in (0.2, 0.6, 0.95)]
    assert _tolerance(Claim(11, "", last("test_accuracy")), runs)[:2] == (0, 1)
    assert _tolerance(CLAIMS["fig05_adam"][0], read_runs("fig05_adam"))[-1]


def test_run_that_learned_nothing_fails_its_claims(tmp_path):
    nothing = {"test_accuracy": 0.1, "test_loss": 2.3, "train_accuracy": 0.1}
    folder = a_run(tmp_path / "run", lambda config, metrics: metrics[-1].update(nothing))
    assert not any(row.passed for row in grade_run(folder)[2])
    done = run_grade(folder, "--out_dir", tmp_path / "out")
    assert done.returncode == 0
    assert "FAIL" in done.stdout
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config, metrics: config["dataset"].update(is_synthetic=True), "synthetic"),
        (lambda config, metrics: config["flags"].update(learning_rate=0.5), "learning_rate 0.5 for 0.002"),
        (lambda config, metrics: metrics[:-3], "is at step 1200 of 1500"),
        (lambda config, metrics: config.pop("flags"), "damaged"),
        (lambda config, metrics: config.update(flags=[]), "damaged"),
        (lambda config, metrics: metrics[-1].update(test_accuracy=10**400), "damaged"),
        (lambda config, metrics: metrics[-1].update(test_loss=float("nan")), "damaged"),
        (lambda config, metrics: metrics[4].update(train_loss=[[]]), "train_loss at step 400"),
        (lambda config, metrics: config.update(x="x" * (5 << 20)), "damaged"),
    ],
    ids=[
        "synthetic",
        "other flags",
        "incomplete",
        "no flags",
        "flags of a type",
        "huge number",
        "nan",
        "no number",
        "large",
    ],
)
def test_run_that_cannot_be_compared_is_refused_with_the_reason(tmp_path, capsys, change, says):
    def only(config, metrics):
        changed = change(config, metrics)
        return changed if isinstance(changed, list) else None

    folder = a_run(tmp_path / "run", only)
    with pytest.raises(RunRefusedError, match=says):
        grade_run(folder)
    assert call_grade(folder, "--out_dir", tmp_path / "out") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_nested_json_is_a_damaged_run_and_a_submission_is_no_run(tmp_path):
    folder = a_run(tmp_path / "run")
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunRefusedError, match="RecursionError"):
        grade_run(folder)
    assert is_run(folder)
    (folder / "modules.py").touch()
    assert not is_run(folder)


def test_interval_is_students_for_a_new_observation():
    rng = np.random.default_rng(0)
    inside = [low <= x <= high for *v, x in rng.normal(size=(4000, 6)) for low, high, _ in [interval(v)]]
    assert abs(np.mean(inside) - 0.99) < 0.005


def test_few_runs_take_their_late_evaluations_spread():
    low, high, text = interval([0.5], [[0.4, 0.5, 0.6]])
    assert (low, high) == pytest.approx((0.2, 0.8))
    assert "last evaluations" in text
