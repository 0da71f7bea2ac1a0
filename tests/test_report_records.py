"""Recorded runs: what each is of, and how runs are added and read."""

import importlib
import json

import pytest

import train_mlp_numpy
import train_mlp_pytorch
from report import gradient_flow, records, wrong_gradients
from report.runs import EXPERIMENTS
from training.files import RunError


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if records.record_file(name).exists()])
def test_records_are_of_their_experiment(name):
    """Real images, a clean commit, the experiment's flags, and every evaluation until the end or a divergence."""
    parser = importlib.import_module(EXPERIMENTS[name].script).make_flags()
    expected, defaults = (
        {flag: value for flag, value in vars(parser.parse_args(given)).items() if flag not in records.UNRECORDED_FLAGS}
        for given in (EXPERIMENTS[name].arguments(name), [])
    )
    found = records.read_records(name)
    assert [record.seed for record in found] == list(range(42, 42 + len(found)))
    for record in found:
        config = record.config
        assert defaults | config["flags"] == expected  # flags may be newer than the run
        assert config["dataset"]["fingerprint"] == "e7a107dd66b06f877883158431e814cf"
        assert config["precision"] == expected.get("precision", "float32")
        assert "dirty" not in config["git_commit"]
        due = sorted({*range(0, expected["max_steps"], expected["eval_freq"]), expected["max_steps"]})
        steps = [m["step"] for m in record.metrics]
        assert steps == due[: len(steps)]
        assert (len(steps) < len(due)) == (record.summary is None)


def test_runs_are_added_in_the_order_of_seeds(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    (tmp_path / "summary.json").write_text('{"seconds": 1.5, "best": {}}')
    for seed, diverged in ((43, "test loss is nan at step 1"), (42, None)):
        config = {"script": "train", "flags": {"learning_rate": 0.1, "out_dir": "x", "seed": seed}, "seed": seed}
        (tmp_path / "config.json").write_text(json.dumps(config))
        records.add_run("fig05_adam", tmp_path, diverged)
    first, second = records.read_records("fig05_adam")
    config = {"seed": 42, "script": "train", "flags": {"learning_rate": 0.1}}
    assert first == records.Record(config, [{"step": 0}, {"step": 1}], {"seconds": 1.5}, None)
    assert (second.seed, second.summary, second.diverged) == (43, None, "test loss is nan at step 1")
    assert [run.seed for run in records.whole_runs("fig05_adam")] == [42]


@pytest.mark.parametrize("line", ['{"step": ', '{"step": 1}'])
def test_damaged_record_file_is_named(monkeypatch, tmp_path, line):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.record_file("fig05_adam").write_text(line + "\n")
    with pytest.raises(RunError, match=r"fig05_adam.jsonl, line 1, is damaged .* git checkout"):
        records.read_records("fig05_adam")


# ---- Scripts of the report -----------------------------------------------------------------------


def losses(main, directory, *flags):
    """Return the test losses of a run."""
    assert main([*flags, "--quiet", "--out_dir", str(directory)]) == 0
    return [json.loads(line)["test_loss"] for line in (directory / "metrics.jsonl").open()]


def test_wrong_gradient_changes_a_run_after_its_start(synthetic_flags, tmp_path):
    flags = [*synthetic_flags, "--max_steps=1", "--learning_rate=0.01"]
    right = losses(train_mlp_numpy.main, tmp_path / "right", *flags)
    for mistake in wrong_gradients.MISTAKES:
        wrong = losses(wrong_gradients.main, tmp_path / mistake, *flags, f"--mistake={mistake}")
        assert (wrong[0] == right[0], wrong[1] == right[1]) == (True, False), mistake


@pytest.mark.slow
def test_gradient_flow_trains_as_the_script_and_adds_norms(tmp_path):
    flags = ["--dataset=synthetic", "--synthetic_size=100", "--batch_size=10", "--max_steps=2", "--eval_freq=1"]
    flags += ["--dnn_hidden_units=4", "--init=pytorch", "--optimizer=adam", "--quiet"]

    def metrics(main, name, *more):
        assert main([*flags, *more, "--out_dir", str(tmp_path / name)]) == 0
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    plain, flow = metrics(train_mlp_pytorch.main, "plain"), metrics(gradient_flow.main, "flow")
    norms = {f"{kind}_{layer}_gradient" for kind in ("weight", "bias") for layer in (1, 2)}
    assert [norms & m.keys() for m in flow] == [set(), norms, norms]
    assert [{key: value for key, value in m.items() if key not in norms} for m in flow] == plain
    changing = ("--adam_eps=1e-2", "--adam_beta2=0", "--jpeg=5", "--clip_norm=1e-3")
    changed = {flag: metrics(gradient_flow.main, flag[2:], flag) for flag in changing}
    assert all(run[-1]["test_loss"] != flow[-1]["test_loss"] for run in changed.values())
    clipped = changed["--clip_norm=1e-3"]
    assert all(clipped[1][key] == flow[1][key] for key in norms), "norms are those before clipping"
