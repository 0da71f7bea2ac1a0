"""The report's records: each run is what it says, of its flag file, and is read as it was written."""

import importlib
import json
import math
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest

import train_convnet_pytorch
import train_mlp_pytorch
from report import convnet_answers, gradient_flow, records, wrong_gradients
from training import engine

# What a run is told that changes nothing of what it computes, or that its seed and folder say.
NOT_OF_THE_EXPERIMENT = {"seed", "out_dir", "data_dir", "dataset", "resume", "quiet"}


def test_every_flag_file_is_an_experiment_and_every_record_of_one():
    flag_files = {path.stem for path in records.FLAG_FILES.glob("*.args")}
    assert flag_files == set(records.EXPERIMENTS)
    assert {path.stem for path in records.RESULTS.iterdir()} <= flag_files
    assert {path.suffix for path in records.RESULTS.iterdir()} == {".jsonl"}


def flags_of(name):
    """Return all flags of an experiment, those of its flag file and its script's defaults; and the defaults alone."""
    parser = importlib.import_module(records.EXPERIMENTS[name][0].replace("/", ".")).make_flags()
    return vars(parser.parse_args([f"@{records.FLAG_FILES / name}.args"])), vars(parser.parse_args([]))


@pytest.mark.parametrize("name", records.EXPERIMENTS)
def test_records_are_of_real_images_and_of_the_flag_file(name):
    script, n_seeds = records.EXPERIMENTS[name]
    expected, defaults = flags_of(name)
    found = records.read_records(name)
    assert [record.seed for record in found] == list(range(42, 42 + len(found))), "a seed is left out"
    assert len(found) >= n_seeds or name in records.LONG_EXPERIMENTS
    for record in found:
        config = record.config
        assert config["script"] == script.split("/")[-1]
        assert config["seed"] == record.seed
        assert set(config["flags"]).isdisjoint(NOT_OF_THE_EXPERIMENT)
        assert config["dataset"]["name"] == "CIFAR-10"
        assert len(config["dataset"]["fingerprint"]) == 32
        assert {"versions", "machine", "date", "precision", "git_commit"} <= set(config)
        recorded = {flag: value for flag, value in config["flags"].items() if flag not in NOT_OF_THE_EXPERIMENT}
        assert recorded == {flag: expected[flag] for flag in recorded}
        for flag in expected.keys() - config["flags"].keys() - NOT_OF_THE_EXPERIMENT:
            assert expected[flag] == defaults[flag], f"its runs were made before --{flag} was there"
        max_steps, eval_freq = config["flags"]["max_steps"], config["flags"]["eval_freq"]
        due = sorted({*range(0, max_steps, eval_freq), max_steps})
        steps = [m["step"] for m in record.metrics]
        assert steps == due[: len(steps)]
        assert (len(steps) < len(due)) == (record.summary is None)
        for m in record.metrics:
            assert all(np.isfinite(value).all() for value in m.values())
            assert all(value >= 0 for quantity, value in m.items() if quantity.endswith("_loss"))
            assert all(0 <= value <= 1 for quantity, value in m.items() if quantity.endswith("_accuracy"))


def test_all_records_are_of_the_same_images():
    configs = [record.config for name in records.EXPERIMENTS for record in records.read_records(name)]
    assert len({config["dataset"]["fingerprint"] for config in configs}) == 1


@pytest.mark.parametrize("name", [f"wrong_{mistake}" for mistake in records.WRONG_GRADIENTS])
def test_run_by_a_wrong_gradient_is_another_than_by_the_right_one(name):
    for wrong, right in zip(records.read_records(name), records.read_records("fig01_mlp_numpy"), strict=False):
        # They begin from the same weights, on processors that round alike to seven digits.
        assert wrong.metrics[0]["test_loss"] == pytest.approx(right.metrics[0]["test_loss"], rel=1e-6)
        assert abs(wrong.metrics[1]["test_loss"] - right.metrics[1]["test_loss"]) > 1e-6


def test_wrong_gradients_demand_to_be_told_which(capsys):
    with pytest.raises(SystemExit) as stopped:
        wrong_gradients.main([])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--mistake: got none, expected one of bias_averaged, slope_of_wrong_sign, cross_terms_lost" in line


@pytest.mark.slow
def test_gradient_flow_trains_as_the_script_does_and_adds_norms(tmp_path):
    flags = ["--dataset=synthetic", "--synthetic_size=100", "--batch_size=10", "--max_steps=1", "--quiet"]
    flags += ["--dnn_hidden_units=4", "--init=pytorch", "--optimizer=adam", "--precision=fp32"]

    def metrics(main, folder, *more):
        assert main([*flags, *more, "--out_dir", str(tmp_path / folder)]) == 0
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").open()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    plain, flow = metrics(train_mlp_pytorch.main, "plain"), metrics(gradient_flow.main, "flow")
    clipped = metrics(gradient_flow.main, "clipped", "--clip_norm=1e-3", "--adam_eps=1e-4")
    fast = metrics(gradient_flow.main, "fast", "--adam_beta2=0.5", "--max_steps=2")
    slow = metrics(gradient_flow.main, "slow", "--max_steps=2")
    compressed = metrics(gradient_flow.main, "compressed", "--jpeg=5")
    steps = metrics(gradient_flow.main, "steps", "--every_step", "--max_steps=3", "--eval_freq=2", "--batch_size=100")
    norms = {f"{kind}_{layer}_gradient" for kind in ("weight", "bias") for layer in (1, 2)}
    assert [norms & m.keys() for m in flow] == [set(), norms]
    assert [{key: value for key, value in m.items() if key not in norms} for m in flow] == plain
    assert all(clipped[1][key] == flow[1][key] for key in norms), "before they are clipped"
    assert flow[1]["weight_1_gradient"] > 1e-3
    assert clipped[1]["test_loss"] != flow[1]["test_loss"]
    assert fast[-1]["test_loss"] != slow[-1]["test_loss"], "at the second step; the first is the same by any"
    assert compressed[0]["test_loss"] != flow[0]["test_loss"], "before any step"
    lists = ("batch_losses", "gradient_norms", "step_lengths")
    assert [[len(m.get(name, ())) for name in lists] for m in steps] == [[0, 0, 0], [2, 2, 2], [1, 1, 1]]
    assert steps[1]["batch_losses"][0] == pytest.approx(steps[0]["train_loss"], rel=5e-3), "of all images, three digits"
    for m in steps[1:]:
        assert m["gradient_norms"][-1] == pytest.approx(math.hypot(*(m[key] for key in norms)), rel=5e-3)
    assert 0.99 < steps[1]["step_lengths"][0] <= 1, "Adam's first step, with gradients far above its epsilon"


@pytest.mark.slow
def test_every_step_is_recorded_of_a_run_that_was_stopped_in_between(tmp_path, monkeypatch):
    flags = ["--dataset=synthetic", "--synthetic_size=100", "--batch_size=10", "--max_steps=4", "--eval_freq=4"]
    flags += ["--dnn_hidden_units=4", "--init=pytorch", "--precision=fp32", "--every_step", "--quiet", "--out_dir"]
    assert gradient_flow.main([*flags, str(tmp_path / "whole")]) == 0

    def stop_at_step_2(run):
        run.stopped_by = signal.SIGINT if run.step == 2 else None
        return run.step == 2

    with monkeypatch.context() as patch:
        patch.setattr(engine.TorchRun, "should_stop", stop_at_step_2)
        assert gradient_flow.main([*flags, str(tmp_path / "stopped")]) == 130
    assert len((tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()) == 1
    assert gradient_flow.main(["--resume", str(tmp_path / "stopped")]) == 0
    whole, stopped = (
        [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").open()] for folder in ("whole", "stopped")
    )
    assert [len(m.get("step_lengths", ())) for m in whole] == [0, 4]
    assert [m | {"seconds": 0} for m in stopped] == [m | {"seconds": 0} for m in whole]


@pytest.mark.slow
def test_convnet_answers_trains_as_the_script_does_and_keeps_first_layer_and_confusion_matrix(tmp_path):
    flags = ["--dataset=synthetic", "--synthetic_size=100", "--batch_size=10", "--max_steps=1", "--quiet"]

    def last_and_summary(main, folder):
        assert main([*flags, "--out_dir", str(tmp_path / folder)]) == 0
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        return {key: value for key, value in summary["last"].items() if key != "seconds"}, summary

    plain, _ = last_and_summary(train_convnet_pytorch.main, "plain")
    last, summary = last_and_summary(convnet_answers.main, "answers")
    assert last == plain
    counts = np.array(summary["confusion_matrix"])
    assert counts.shape == (10, 10)
    assert counts.trace() / counts.sum() == pytest.approx(last["test_accuracy"])
    weights = np.array(summary["first_layer"])
    assert weights.shape == (64, 3, 3, 3)
    assert 0.1 < abs(weights).max() < 0.3, "a kernel of 27 weights starts below 1/√27 = 0.19"


@pytest.mark.parametrize(
    "name", [name for name, (script, _) in records.EXPERIMENTS.items() if "gradient_flow" in script]
)
def test_run_of_gradient_flow_has_the_norm_of_every_gradient_but_at_step_0(name):
    n_layers = len(flags_of(name)[0]["dnn_hidden_units"]) + 1
    keys = {f"{kind}_{layer}_gradient" for kind in ("weight", "bias") for layer in range(1, n_layers + 1)}
    for record in records.read_records(name):
        first, *others = record.metrics
        assert not keys & first.keys()
        assert all(keys <= m.keys() for m in others)


def test_run_by_a_wrong_gradient_is_resumed_by_the_same(monkeypatch, tmp_path):
    resumed = []
    monkeypatch.setattr(
        wrong_gradients, "train", lambda args: resumed.append(args) or SimpleNamespace(is_complete=True)
    )
    (tmp_path / "config.json").write_text(json.dumps(records.read_records("wrong_slope_of_wrong_sign")[0].config))
    assert wrong_gradients.main(["--resume", str(tmp_path)]) == 0
    assert resumed[0].mistake == "slope_of_wrong_sign"


@pytest.mark.parametrize("seed", range(42, 47))
def test_recorded_default_run_reached_the_accuracy_of_the_report(seed):
    (record,) = (record for record in records.read_records("fig01_mlp_numpy") if record.seed == seed)
    last = record.metrics[-1]
    assert last["step"] == 1500
    assert 0.435 <= last["test_accuracy"] <= 0.490
    assert 1.45 <= last["test_loss"] <= 1.70


def test_records_are_small_text():
    files = [path for path in records.RESULTS.rglob("*") if path.is_file()]
    assert len(files) >= len(records.EXPERIMENTS) - len(records.LONG_EXPERIMENTS)
    of_every_step = {f"collapses_{control}" for control in ("none", "kaiming", "standardize")}
    assert max(path.stat().st_size for path in files if path.stem not in of_every_step) < 100_000
    assert max(path.stat().st_size for path in files) < 150_000 * 3, "with 15,000 numbers a run"
    lines = {path.stem: path.read_text(encoding="ascii").splitlines() for path in files}
    longest = {name: max(map(len, found)) for name, found in lines.items()}
    assert longest.pop("answers_convnet") < 20_000, "with the 1,728 weights of the first layer"
    assert max(longest.pop(name) for name in of_every_step) < 4000, "of 100 steps"
    assert max(longest.values()) < 1500


@pytest.mark.parametrize("name", [name for name in records.EXPERIMENTS if records.record_file(name).exists()])
def test_runs_of_a_file_written_again_are_the_same_file(monkeypatch, tmp_path, name):
    before, found = records.record_file(name).read_bytes(), records.read_records(name)
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    records.write_records(name, found[::-1])
    assert records.record_file(name).read_bytes() == before
    assert records.read_records(name) == found


def lines_of(name):
    return records.record_file(name).read_text().splitlines()


@pytest.mark.parametrize("left_out", [0, 2, 4])
def test_run_that_is_added_adds_its_lines_in_the_order_of_seeds(monkeypatch, tmp_path, left_out):
    whole, found = lines_of("fig05_adam"), records.read_records("fig05_adam")
    record = found.pop(left_out)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.write_records("fig05_adam", found)
    fewer = lines_of("fig05_adam")
    folder = write_run(tmp_path / "run", record)
    records.add_run("fig05_adam", folder)
    assert lines_of("fig05_adam") == whole
    begin = 1 + left_out * (1 + len(record.metrics))
    assert fewer == whole[:begin] + whole[begin + 1 + len(record.metrics) :]


def write_run(folder, record):
    """Write the files of a run's folder, with what a record leaves out; return it."""
    folder.mkdir()
    flags = {"seed": record.seed, "out_dir": str(folder), "data_dir": "x", "dataset": "auto", "resume": None}
    config = record.config | {"flags": record.config["flags"] | flags | {"quiet": False}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in record.metrics))
    if record.summary is not None:
        summary = {"dataset": "CIFAR-10", "last": record.metrics[-1], "best": {}} | record.summary
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_run_that_diverged_is_recorded_with_where_it_did(monkeypatch, tmp_path):
    record = records.read_records("learning_rate_1e-2")[0]
    assert record.diverged == "training loss is inf at step 46"
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.add_run("learning_rate_1e-2", write_run(tmp_path / "run", record), record.diverged)
    assert records.read_records("learning_rate_1e-2") == [record]


def test_what_differs_between_seeds_stands_with_each(monkeypatch, tmp_path):
    first, second = records.read_records("fig05_adam")[:2]
    flags = {**second.config["flags"], "precision": "fp32"}
    second = second._replace(config=second.config | {"machine": "another", "flags": flags})
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.write_records("fig05_adam", [first])
    assert set(json.loads(lines_of("fig05_adam")[1])) == {"seed", "date", "git_commit", "id", "summary"}
    records.add_run("fig05_adam", write_run(tmp_path / "run", second))
    assert records.read_records("fig05_adam") == [first, second]
    shared, *others = map(json.loads, lines_of("fig05_adam"))
    assert (shared["machine"], shared["flags"]["precision"]) == (first.config["machine"], "bf16")
    own = [line for line in others if "seed" in line]
    assert not {"machine", "flags"} & set(own[0])
    assert (own[1]["machine"], own[1]["flags"]) == ("another", {"precision": "fp32"})


def test_run_of_another_machine_changes_no_line_of_the_others(monkeypatch, tmp_path):
    *found, last = records.read_records("fig05_adam")
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.write_records("fig05_adam", found)
    before = lines_of("fig05_adam")
    another = last._replace(config=last.config | {"machine": "another", "versions": {"python": "4"}})
    records.add_run("fig05_adam", write_run(tmp_path / "run", another))
    assert lines_of("fig05_adam")[: len(before)] == before
    assert records.read_records("fig05_adam") == [*found, another]


def test_what_one_run_lacks_is_not_taken_from_the_others(monkeypatch, tmp_path):
    first, second, *_ = records.read_records("fig05_adam")
    del second.config["processes"], second.config["flags"]["compile"]
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    records.write_records("fig05_adam", [first, second])
    assert records.read_records("fig05_adam") == [first, second]


def test_readme_shows_a_record_file_as_it_is_and_names_what_exists():
    readme = (records.REPORT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("\n## A record file\n")[1].split("```")[1].strip().splitlines()
    lines = lines_of("fig05_adam")
    assert len(shown) == 6
    for text in shown:
        pattern = ".*".join(map(re.escape, text.split("…")))
        assert any(re.match(pattern, line) for line in lines), text
    names = re.findall(r"`([\w/]+\.(?:py|tex|pdf|bib)|\w+/)`", readme.split("\n## What is where\n")[1])
    assert len(names) >= 12
    for name in names:
        assert (records.REPORT / name).exists(), name
