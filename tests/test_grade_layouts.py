"""Right code in the ways in which it is handed in: as a package, in folders, without the course's own files."""

from pathlib import Path

import pytest
from graded import CHECKS, NO_TRAINING, PROJECT, reference

from grading.check import Grading
from grading.sandbox import Session
from grading.submission import read_submission

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
def test_imports_of_any_layout_work(server, tmp_path, layout):
    line, mlp, modules = LAYOUTS[layout]
    files = {mlp: PROJECT["mlp_numpy.py"].replace("from modules import", line), modules: PROJECT["modules.py"]}
    if "package" in layout:
        files[f"{Path(mlp).parent}/__init__.py"] = ""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    submission = read_submission(tmp_path)
    with Session(server, submission.files, submission.folders) as session:
        grading = Grading(session, reference(), submission, NO_TRAINING)
        grading.import_all()
        outcomes = [grading.run(check) for check in CHECKS if check.name in ("linear.forward", "mlp_numpy.forward")]
    assert [outcome.got for outcome in outcomes if not outcome.passed] == []


def test_course_module_brings_no_reference(server):
    with Session(server, {"modules.py": b"import cifar10_utils, mlp_numpy"}, ["."]) as session:
        assert "No module named 'mlp_numpy'" in session.ask("import_module", {"module": "modules"}).error
