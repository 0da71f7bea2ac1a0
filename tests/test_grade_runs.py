"""Runs held against the report: which claims hold, what each tolerance decides, which runs are refused."""

import importlib

import numpy as np
import pytest
from graded import a_run, call_grade, run_grade

from grading import pages
from grading.claims import FREE_FLAGS, SINCE, _row, grade_run, is_run
from grading.runs import interval, read_runs
from report import tables
from report.claims import CLAIMS, Claim, judge, measures
from training.files import RunError


def rows_of(experiment, metrics):
    """Return the rows of a run with these evaluations, as the grader makes them of a folder."""
    found, recorded = measures(metrics), [measures(run.metrics) for run in read_runs(experiment)]
    return [_row(claim, found[claim.quantity], recorded) for claim in CLAIMS[experiment]]


def test_recorded_runs_hold_the_reports_claims():
    """Of so many intervals at 95%, few may miss a run that helped to make them."""
    rows = [row for experiment in CLAIMS for run in read_runs(experiment) for row in rows_of(experiment, run.metrics)]
    decided = [row for row in rows if row.decides]
    assert len(decided) > 90
    assert np.mean([row.passed for row in decided]) > 0.95
    assert {row.verdict for row in rows if not row.decides} == {"undecided"}


@pytest.mark.parametrize("experiment", CLAIMS)
def test_verdict_on_a_run_is_that_of_the_reports_table(tmp_path, experiment):
    """A claim that the report's runs bear out passes in a typical run, and no other claim does."""
    *_, rows = grade_run(a_run(tmp_path / "run", experiment=experiment))
    table = dict(zip(tables.RUNS, tables.claims_table(), strict=True))[experiment][-1]
    n = len(read_runs(experiment))
    assert [(row.says, row.decides) for row in rows] == [
        (says, verdict in ("holds", f"{n} of {n}")) for says, _, verdict in table
    ]
    assert all(row.tolerance.startswith(f"{n} ") for row in rows if row.decides)


# What a network that guesses shares with those that the claims are about.
HOLDS_OF_GUESSING = {
    "accuracy as good as random", "loss barely moves", "no better test accuracy than figure 3", "flattens early",
}  # fmt: skip


@pytest.mark.parametrize("experiment", CLAIMS)
def test_network_that_guesses_passes_no_claim_but_those_that_hold_of_it(experiment):
    guess = {"train_accuracy": 0.1, "test_accuracy": 0.1, "train_loss": np.log(10), "test_loss": np.log(10)}
    rows = rows_of(experiment, [m | guess for m in read_runs(experiment)[0].metrics])
    assert {row.says for row in rows if row.passed} == {row.says for row in rows} & HOLDS_OF_GUESSING


def runs_with(values):
    return [{"test_accuracy": value, "best_train_accuracy": value} for value in values]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.52, 0.53, 0.54), "holds"),
        ((0.44, 0.495, 0.515), "undecided"),  # within the interval, below all that rounds to 0.53
        ((0.44, 0.495, 0.526), "holds"),  # which rounds to 0.53
        ((0.5, 0.501, 0.502), "does not hold"),
        ((0.53,), "holds"),  # of one run the interval is all numbers
        ((0.5,), "undecided"),
    ],
)
def test_claimed_number_holds_in_the_interval_unless_all_runs_lie_on_one_side(values, verdict):
    claim = Claim(11, "ends about 0.53", "test_accuracy", "about", 0.53)
    assert judge(claim, runs_with(values)) == verdict
    assert _row(claim, 0.53, runs_with(values)).verdict == ("pass" if verdict == "holds" else "undecided")


def test_claimed_event_is_counted_and_decided_by_all_runs_or_none():
    claim = Claim(11, "train accuracy over 0.95", "best_train_accuracy", "at least", 0.95)
    some, all_of_them = runs_with((0.94, 0.95, 0.96)), runs_with((0.951, 0.96, 0.97))
    assert (judge(claim, some), judge(claim, all_of_them)) == ("2 of 3", "3 of 3")
    assert [_row(claim, value, some).verdict for value in (0.9, 0.96)] == ["undecided", "undecided"]
    assert [_row(claim, value, all_of_them).verdict for value in (0.9, 0.96)] == ["fail", "pass"]
    row = _row(claim, 0.96, some)
    table = pages.run_table("run", "fig11", [row])
    assert "0 of 1 claims hold, 1 undecided" in table
    assert "  0.9600  " in table


def test_number_of_steps_is_printed_as_it_is(monkeypatch):
    monkeypatch.setattr(pages, "curves", lambda *_: b"")
    row = _row(CLAIMS["fig09_long"][1], 2000, [{"flat_from": 2500}])
    assert "  2000  at most 10000 " in pages.run_table("run", "fig09_long", [row])
    assert '<td class="n">2000</td>' in pages.run_page("run", "fig09_long", [], [row])


def test_run_that_is_evaluated_more_often_is_compared_where_the_recorded_ones_are(tmp_path):
    """Of twice as many evaluations, half of which are far better or worse, twice as many would dip."""

    def twice_as_often(config, metrics):
        config["flags"]["eval_freq"] = 50
        between = [m | {"step": m["step"] + 50, "test_accuracy": i % 2} for i, m in enumerate(metrics[:-1])]
        return sorted([*metrics, *between], key=lambda m: m["step"])

    (_, _, plain), (_, metrics, rows) = (
        grade_run(a_run(tmp_path / name, change, experiment="fig05_adam"))
        for name, change in (("plain", lambda *_: None), ("twice", twice_as_often))
    )
    assert rows == plain
    assert len(metrics) == 31, "the page draws all"


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
        (lambda config, metrics: config["flags"].update(eval_freq=150), "eval_freq 150 for 100"),
        (lambda config, metrics: config["flags"].update(train_eval_size=1), "train_eval_size 1 for 10000"),
        (lambda config, metrics: metrics[:-3], "is at step 1200 of 1500"),
        (
            lambda config, metrics: metrics[:5] + metrics[7:],
            "evaluations at other steps than the recorded runs' 0, 100",
        ),
        (lambda config, metrics: [*metrics[:3], {**metrics[3], "step": 10**400}, *metrics[3:]], "at other steps"),
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
        "evaluated at other steps",
        "evaluated on other images",
        "incomplete",
        "lines missing",
        "a step too far",
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
    with pytest.raises(RunError, match=says):
        grade_run(folder)
    assert call_grade(folder, "--out_dir", tmp_path / "out") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("whiten", 300), ("shift", 8), ("alternate", True)])
def test_flag_that_the_recorded_runs_had_not_yet_is_compared_with_what_changes_nothing(tmp_path, name, value):
    other, same = (
        a_run(tmp_path / str(v), lambda config, _, v=v: config["flags"].update({name: v}), "fig03_mlp_pytorch")
        for v in (value, SINCE[name])
    )
    with pytest.raises(RunError, match=f"nearest is fig03_mlp_pytorch, with --{name} {value} for {SINCE[name]}"):
        grade_run(other)
    assert grade_run(same)[0] == "fig03_mlp_pytorch"


@pytest.mark.parametrize("experiment", CLAIMS)
def test_every_flag_of_a_script_is_compared_or_free(experiment):
    recorded = read_runs(experiment)[0].config["flags"]
    parser = importlib.import_module(recorded["script"]).make_flags()
    flags = {action.dest for action in parser._actions} - {"help"}
    assert flags <= recorded.keys() | FREE_FLAGS | SINCE.keys()
    new = SINCE.keys() & flags
    assert {name: SINCE[name] for name in new} == {name: parser.get_default(name) for name in new}
    assert not new & (recorded.keys() | FREE_FLAGS)


def test_nested_json_is_a_damaged_run_and_a_submission_is_no_run(tmp_path):
    folder = a_run(tmp_path / "run")
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="RecursionError"):
        grade_run(folder)
    assert is_run(folder)
    (folder / "modules.py").touch()
    assert not is_run(folder)


@pytest.mark.parametrize(("confidence", "n"), [(0.95, 2), (0.95, 5), (0.99, 5), (0.99, 40)])
def test_interval_is_students_for_a_new_observation(confidence, n):
    draws = np.random.default_rng(0).normal(size=(4000, n + 1))
    inside = [low <= x <= high for *v, x in draws.tolist() for low, high, _ in [interval(v, confidence)]]
    assert abs(np.mean(inside) - confidence) < 0.01
