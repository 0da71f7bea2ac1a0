"""What the README says is what recorded runs gave."""

import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_results_table_is_of_the_recorded_runs():
    columns = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
    rows = {}
    for path in (ROOT / "report" / "results" / "fig01_mlp_numpy").glob("seed*/summary.json"):
        summary = json.loads(path.read_text())
        assert summary["dataset"] == "CIFAR-10"
        rows[path.parent.name.removeprefix("seed")] = [summary["last"][column] for column in columns]
    assert len(rows) == 5
    by_column = list(zip(*rows.values(), strict=True))
    rows["mean"] = [statistics.mean(values) for values in by_column]
    rows["standard deviation"] = [statistics.stdev(values) for values in by_column]
    for name, values in rows.items():
        line = " | ".join([f"| {name}", *(f"{value:.4f}" for value in values)]) + " |"
        assert line in README


def test_readme_has_the_two_commands_that_ci_runs():
    assert len(re.findall(r"^pip install ", README, re.MULTILINE)) == 2


def test_files_that_the_readme_names_exist():
    names = re.findall(r"`([\w/]+\.(?:py|txt))`|\]\(([\w/.]+)\)", README)
    assert len(names) >= 8
    for name in filter(None, (a or b for a, b in names)):
        assert (ROOT / name).exists() or name == "my_flags.txt", name
