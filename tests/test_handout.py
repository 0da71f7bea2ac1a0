"""The handout: its page, its files, and its checks without and with a solution."""

import ast
import re
import shutil
import subprocess
import sys

import pytest

from grading import handout
from grading.checks import ALL_CHECKS
from grading.scheme import FILES, ROOT

PAGE = (ROOT / "handout" / "README.md").read_text(encoding="utf-8")
SCRIPTS = ("train_mlp_numpy.py", "train_mlp_pytorch.py", "train_convnet_pytorch.py")
GIVEN = {"state_dict", "load_state_dict", "make_flags"}


@pytest.fixture
def copy(tmp_path):
    assert handout.main([str(tmp_path / "copy")]) == 0
    return tmp_path / "copy"


def test_handout_refuses_a_directory_with_files(tmp_path, capsys):
    (tmp_path / "modules.py").write_text("mine")
    with pytest.raises(SystemExit) as end:
        handout.main([str(tmp_path)])
    assert (end.value.code, capsys.readouterr().err.count("\n")) == (2, 1)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_handout_leaves_every_function_to_be_written(copy):
    for name in (*FILES, *SCRIPTS):
        tree = ast.parse((copy / name).read_text(encoding="utf-8"))
        functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.name not in GIVEN]
        bodies = {ast.unparse(f.body[ast.get_docstring(f) is not None :]) for f in functions}
        assert bodies == {"raise NotImplementedError"}, name


def test_handout_page_gives_the_points_of_the_checks():
    rows = re.findall(r"\| `\"?([\w ]+)\"?` \| ([\d.]+) \|", PAGE)
    for word, points in rows:  # the word after pytest's -k
        wanted, _, unwanted = word.partition(" and not ")
        checks = [c for c in ALL_CHECKS if wanted in c.name and not (unwanted and unwanted in c.name)]
        assert sum(check.points for check in checks) == float(points), word
    assert sum(float(points) for _, points in rows) == sum(check.points for check in ALL_CHECKS) == 59


def test_handout_page_names_files_that_are_copied(copy):
    names = re.findall(r"`([\w/]+\.py)`|\]\((?!http)([^)]+)\)", PAGE)
    assert [name for pair in names for name in pair if name and not (copy / name).exists()] == []


def run_checks(directory):  # -rN: with CI set, the summary repeats each message
    command = [sys.executable, "-m", "pytest", "-q", "-rN", "tests/test_assignment.py"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_handout_checks_pass_with_right_files_only(copy):
    n = len([check for check in ALL_CHECKS if not check.name.endswith(".training")])
    output = run_checks(copy)
    assert f"\n{n} failed in" in output
    assert output.count(": not written\n") == n
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    assert f"\n{n} passed in" in run_checks(copy)
