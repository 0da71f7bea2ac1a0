"""Recorded runs: report/results/NAME.jsonl has those of an experiment.

A line with a seed begins a run: its config.json, and its summary or how it diverged. The lines after it are the
evaluations, as in the run's metrics.jsonl.
"""

import json
from pathlib import Path
from typing import NamedTuple

from training.files import RunError, write_text

RESULTS = Path(__file__).resolve().parent / "results"
# What is not recorded: paths, and what the configuration and the evaluations say already.
UNRECORDED_FLAGS = {"seed", "out_dir", "data_dir", "dataset", "resume", "quiet"}
UNRECORDED_SUMMARY = {"dataset", "last", "best"}


class Record(NamedTuple):
    """One recorded run.

    Attributes:
        config: config.json, without paths.
        metrics: list of dicts, one per evaluation.
        summary: summary.json; None if the run diverged.
        diverged: as 'test loss is nan at step 300', or None.
    """

    config: dict
    metrics: list
    summary: dict | None
    diverged: str | None

    @property
    def seed(self):
        return self.config["seed"]


def record_file(name):
    return RESULTS / f"{name}.jsonl"


def read_records(name):
    """Return the recorded runs of an experiment in the order of their seeds, diverged ones too.

    Raises:
        RunError: the file is damaged.
    """
    path, records = record_file(name), []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            entry = json.loads(line)
            if "seed" in entry:
                records.append(Record(entry, [], entry.pop("summary", None), entry.pop("diverged", None)))
            else:
                records[-1].metrics.append(entry)
        except (ValueError, IndexError) as error:
            advice = "correct it, or restore the committed file with git checkout"
            raise RunError(f"{path}, line {number}, is damaged ({error}): {advice}") from None
    return records


def whole_runs(name):
    """Return the recorded runs of an experiment that did not diverge."""
    return [record for record in read_records(name) if record.summary]


def recorded_seeds(name):
    return {record.seed for record in read_records(name)}


def add_run(name, directory, diverged=None):
    """Add a run directory to the recorded runs of an experiment; the file is replaced at once.

    Args:
        diverged: how it ended if it has no summary.json.
    """
    config = json.loads((directory / "config.json").read_text())
    config.pop("launcher_pid", None)
    config["flags"] = {flag: value for flag, value in config["flags"].items() if flag not in UNRECORDED_FLAGS}
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    summary = None
    if diverged is None:
        summary = json.loads((directory / "summary.json").read_text())
        summary = {key: value for key, value in summary.items() if key not in UNRECORDED_SUMMARY}
    write_records(name, [*read_records(name), Record(config, metrics, summary, diverged)])


def write_records(name, records):
    lines = []
    for record in sorted(records, key=lambda record: record.seed):
        ended = {"summary": record.summary} if record.summary else {"diverged": record.diverged}
        lines += [{"seed": record.seed} | record.config | ended, *record.metrics]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(record_file(name), "".join(json.dumps(line) + "\n" for line in lines))
