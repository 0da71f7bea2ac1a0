"""READMEs: files and links exist, dependencies are the same."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ["README.md", *(f"{name}/README.md" for name in ("training", "tests", "report", "grading"))]


def test_pyproject_has_the_dependencies_of_requirements_txt():
    (dependencies,) = re.findall(r"(?s)\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    assert re.findall(r'"(.*?)"', dependencies) == (ROOT / "requirements.txt").read_text().split()


def anchors(document):
    """Return the anchors that GitHub makes from the headings of a document."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", document.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_names_existing_files_and_headings(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    # Except for files of submissions and runs.
    files = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|txt|tex|bib|pdf|md))`", text)) - {"Modules.py", "table.txt"}
    assert [file for file in files if not ((path.parent / file).exists() or (ROOT / file).exists())] == []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not link.startswith("http"):
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
