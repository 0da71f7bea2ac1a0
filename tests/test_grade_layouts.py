"""Right code in the ways in which it is handed in, and the grader in the ways in which it is installed."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from graded import CHECKS, NO_TRAINING, PROJECT, project_with, reference, write

from grading import right_answer
from grading.check import Grading
from grading.session import Session
from grading.submission import read_submission
from grading.walls import ROOT, Sandbox, SandboxError

# How mlp_numpy.py imports modules.py, and where both are.
LAYOUTS = {
    "the course's own module": ("import cifar10_utils\nfrom modules import", "mlp_numpy.py", "modules.py"),
    "relative imports": ("from .modules import", "mlp_numpy.py", "modules.py"),
    "relative imports in a package": ("from .modules import", "hand_in/mlp_numpy.py", "hand_in/modules.py"),
    "relative imports from a folder beside": ("from ..lib.modules import", "code/mlp_numpy.py", "lib/modules.py"),
    "a package of a name of Python's": ("from code.modules import", "code/mlp_numpy.py", "code/modules.py"),
    "the package's name": ("from hand_in.modules import", "hand_in/mlp_numpy.py", "hand_in/modules.py"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_imports_of_any_layout_work(shared_sandbox, tmp_path, layout):
    line, mlp, modules = LAYOUTS[layout]
    files = {mlp: PROJECT["mlp_numpy.py"].replace("from modules import", line), modules: PROJECT["modules.py"]}
    if "package" in layout:
        files[f"{Path(mlp).parent}/__init__.py"] = ""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    submission = read_submission(tmp_path)
    with Session(shared_sandbox, submission.files, submission.folders) as session:
        grading = Grading(session, reference(), submission, NO_TRAINING)
        grading.import_all()
        outcomes = [grading.run(check) for check in CHECKS if check.name in ("linear.forward", "mlp_numpy.forward")]
    assert [outcome.got for outcome in outcomes if not outcome.passed] == []


def test_course_module_brings_no_reference(shared_sandbox):
    with Session(shared_sandbox, {"modules.py": b"import cifar10_utils, mlp_numpy"}, ["."]) as session:
        assert "No module named 'mlp_numpy'" in session.ask("import_module", {"module": "modules"}).error


def test_nothing_is_graded_where_the_right_answer_loses_a_check(shared_sandbox, tmp_path, monkeypatch):
    write(tmp_path / "project", project_with("modules.py", "out = x @", "out = 2 * x @"))
    monkeypatch.setattr(right_answer, "ROOT", tmp_path / "project")
    with pytest.raises(
        SandboxError, match=r"^the right answer itself loses linear.forward here, so nothing was graded"
    ):
        right_answer.demand_full_points(shared_sandbox, reference())


@pytest.mark.slow
@pytest.mark.parametrize("way", [".pth", "PYTHONPATH"])
def test_packages_of_another_environment_are_a_submissions_too(tmp_path, way):
    """In an encoding that has no letter of another alphabet."""
    packages = os.pathsep.join(path for path in sys.path if any(Path(path).glob("*-info")))
    venv.create(tmp_path / "venv")
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if way == ".pth":
        (site_packages / "others.pth").write_text(packages.replace(os.pathsep, "\n"))
    else:
        environment["PYTHONPATH"] = packages
    folder, out = write(tmp_path / "Zoë", {"modules.py": PROJECT["modules.py"]}), tmp_path / "out"
    command = [tmp_path / "venv" / "bin" / "python", ROOT / "grade.py", folder, "--no_training", "--out_dir", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tests = json.loads((out / "results.json").read_text(encoding="utf-8"))["tests"]
    assert sum(test["score"] for test in tests) == sum(
        check.points for check in CHECKS if check.files == ("modules.py",)
    )


def test_python_that_is_called_through_a_parent_folder_is_called_by_its_own_path(monkeypatch):
    path = Path(sys.executable)
    monkeypatch.setattr(sys, "executable", f"{path.parent}/../{path.parent.name}/{path.name}")
    with Sandbox() as sandbox:  # a folder in between may be closed to another user, or not be there behind walls
        assert str(path) in sandbox.popen("", {})["args"]
