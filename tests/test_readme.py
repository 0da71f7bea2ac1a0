"""What the README says is what recorded runs gave."""

import fnmatch
import importlib
import json
import re
import statistics
from pathlib import Path

import pytest

from report.tables import README_RUNS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(experiment, name):
    """Return the README's line about the runs of an experiment: means and, of several, standard deviations."""
    shared, *lines = map(json.loads, (ROOT / "report" / "results" / f"{experiment}.jsonl").open())
    assert shared["dataset"]["name"] == "CIFAR-10"
    begins = [i for i, line in enumerate(lines) if "seed" in line]
    assert all("summary" in lines[i] for i in begins)
    last = [lines[i - 1] for i in [*begins[1:], len(lines)]]  # what comes before the next seed
    seeds = [lines[i]["seed"] for i in begins]
    assert seeds == list(range(seeds[0], seeds[-1] + 1)), "a seed is left out"
    cells = [name, f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])]
    for column in ("test_accuracy", "test_loss", "train_accuracy", "train_loss"):
        values = [evaluation[column] for evaluation in last]
        cells.append(f"{statistics.mean(values):.3f}")
        if len(values) > 1:
            cells[-1] += f" ± {statistics.stdev(values):.3f}"
            if column == "test_accuracy":
                cells[-1] += f", {min(values):.3f} to {max(values):.3f}"
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("experiment", README_RUNS)
def test_results_table_is_of_the_recorded_runs(experiment):
    assert row(experiment, README_RUNS[experiment]) in README


@pytest.mark.parametrize("script", ["train_mlp_numpy", "train_mlp_pytorch", "train_convnet_pytorch"])
def test_defaults_are_those_of_the_scripts(script):
    flags = importlib.import_module(script).make_flags().parse_args([])
    (defaults,) = re.findall(r"(?m)^The first five rows have all defaults: (.*?)\. ", README)
    mlp, convnet = defaults.split("; ")
    text = convnet if script == "train_convnet_pytorch" else mlp
    budget = f"{flags.max_steps:,} batches of {flags.batch_size} images"
    assert text.endswith(f", learning rate {flags.learning_rate:g}, {budget}")


def test_readme_has_the_two_commands_that_ci_runs():
    assert len(re.findall(r"^pip install ", README, re.MULTILINE)) == 2


DOCUMENTS = ["README.md", "runs.md", "tests/README.md", "report/README.md", "grading/README.md"]


def anchors(document):
    """Return what a link may name behind #: the headings, as GitHub turns them into names."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", document.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_headings_that_a_document_names_exist(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"`((?:\w+/)*\w+\.(?:py|txt|tex|bib|pdf|md))`", text)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    # A submission's or a run's own files, and one that a reader may write.
    files = set(files) - {"my_flags.txt", "Modules.py", "table.txt"}
    assert [file for file in files if not ((path.parent / file).exists() or (ROOT / file).exists())] == []
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_document_is_linked_from_the_readme():
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)}
    assert set(DOCUMENTS[1:]) <= links


def test_every_python_file_at_the_top_is_in_the_readmes_table():
    assert {path.name for path in ROOT.glob("*.py")} <= set(re.findall(r"`(\w+\.py)`", README))


def test_every_test_file_is_in_the_table_of_tests():
    patterns = re.findall(r"`(test_[\w*]+\.py)`", (ROOT / "tests" / "README.md").read_text(encoding="utf-8"))
    files = [path.name for path in (ROOT / "tests").glob("test_*.py")]
    assert [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_speed_tables_are_of_the_recorded_benchmarks():
    recorded = (ROOT / "tests" / "benchmarks" / "recorded.txt").read_text()
    benchmarks = (ROOT / "tests" / "README.md").read_text(encoding="utf-8").split("\n## Benchmarks\n")[1]
    rows = re.findall(r"^\| .*? \| (.*\d.*) \|$", benchmarks, re.MULTILINE)
    quoted = [number for row in rows for number in re.findall(r"\d+\.?\d*(?= (?:times|MB|s\b))", row)]
    assert len(quoted) == 12
    assert [number for number in quoted if not re.search(rf"\b{re.escape(number)} (?:times|MB|s\b)", recorded)] == []
