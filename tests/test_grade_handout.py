"""What students start from: nothing of an answer is in it, all else is, and filled in it is the solution."""

import ast
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from graded import MAX_POINTS, PROJECT, call_grade
from gradient_checks import CHECKS

from grading import handout
from grading.all_checks import ALL_CHECKS
from grading.scheme import FILES

HANDOUT = handout.handout()
SOLUTION = {name: (handout.ROOT / name).read_text(encoding="utf-8") for name in HANDOUT if name.endswith(".py")}
CHANGED = {name for name in SOLUTION if HANDOUT[name] != SOLUTION[name]}


def functions(text):
    return {name: node for name, node in handout._functions(ast.parse(text))}


def outline(text):
    """Return each function's source up to its body: decorators aside, its signature and its docstring."""
    found = {}
    for name, node in functions(text).items():
        has_docstring = ast.get_docstring(node) is not None
        end = node.body[0].end_lineno if has_docstring else node.body[0].lineno - 1
        found[name] = [line for line in text.split("\n")[node.lineno - 1 : end] if not line.lstrip().startswith("#")]
    return found


def test_bodies_are_left_out_and_signatures_and_docstrings_stay_as_they_are():
    assert {*FILES, *handout.SCRIPTS} == CHANGED
    for name in CHANGED:
        assert outline(HANDOUT[name]) == outline(SOLUTION[name])
        written = {f.split(".")[-1] for f in functions(SOLUTION[name])}
        kept = written & handout.KEPT
        for function, node in functions(HANDOUT[name]).items():
            body = node.body[ast.get_docstring(node) is not None :]
            assert function.split(".")[-1] in kept or all(isinstance(n, ast.Raise) for n in body), function


def test_a_comment_in_a_body_goes_with_it_and_a_comment_outside_stays():
    rest = "# of g\n\n\ndef main():\n    pass\n"
    text = f"# of f\ndef f(x):\n    # before\n    y = x  # beside\n    return y\n    # after\n\n\n{rest}"
    raises = 'raise NotImplementedError("f is not written yet")'
    assert handout.blanked(text) == f"# of f\ndef f(x):\n    {raises}\n\n\n{rest}"


def test_formulas_of_gradients_can_be_left_out():
    files = handout.handout(gradients=False)
    assert "Eq. (batch-linear-forward)" in files["modules.py"]
    for name in ("modules.py", "custom_batchnorm.py"):
        ast.parse(files[name])
        assert all("forward" in line or "bn-statistics" in line for line in files[name].split("\n") if "Eq. (" in line)
        assert "dL/dX = " in HANDOUT[name] or "dL/dβᵢ = " in HANDOUT[name]
        assert not any(formula in files[name] for formula in ("dL/dX =", "dL/dx̃ =", "dL/dx =", "dL/dβᵢ =", "(p − t)"))


def test_page_of_tasks_has_the_points_of_the_checks():
    page = HANDOUT["README.md"]
    assert "{" not in page
    assert "100 points: 59 by a program" in page
    for check in ALL_CHECKS:
        assert f"{check.title} ({check.points:g})" in page
    assert set(re.findall(r"[\w/]+\.py", page)) <= set(SOLUTION) | {"test_gradients.py"}


def test_page_of_tasks_says_which_files_to_write_in_and_which_the_grader_brings():
    says = HANDOUT["README.md"].partition("You write in ")[2].partition(" All other files")[0].replace("`", "")
    named = set(re.findall(r"\w+\.py", says)) | {name for name in handout.SCRIPTS if "train_*.py" in says}
    assert named == CHANGED


def test_gradient_checks_say_that_nothing_is_written_yet():
    layers = SimpleNamespace()
    for name in ("mlp_numpy", "modules"):  # the latter last: the former imports the project's own
        exec(compile(HANDOUT[f"{name}.py"], name, "exec"), vars(layers))
    for check in CHECKS.values():
        with pytest.raises(NotImplementedError, match="is not written yet"):
            check(layers)


def test_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "modules.py").write_text("mine")
    with pytest.raises(SystemExit) as end:
        handout.main([str(tmp_path)])
    assert (end.value.code, capsys.readouterr().err.count("\n")) == (2, 1)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_handout_filled_in_with_the_solution_is_right(tmp_path):
    folder = tmp_path / "handout"
    assert handout.main([str(folder)]) == 0

    def run(*args):
        return subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True)

    checks = ("-m", "pytest", "-q", "--tb=line", "tests/test_gradients.py")
    done = run(*checks)
    assert done.returncode == 1
    assert f"{len(CHECKS)} failed" in done.stdout
    assert done.stdout.count("is not written yet") >= len(CHECKS)
    assert len(done.stdout.splitlines()) < 3 * len(CHECKS) + 20
    for name in CHANGED:
        shutil.copy(handout.ROOT / name, folder)
    done = run(*checks)
    assert done.returncode == 0, done.stdout
    for script in handout.SCRIPTS:
        flags = ("--max_steps=1", "--batch_size=20", "--eval_freq=1", "--quiet", f"--out_dir={tmp_path / script}")
        done = run(script, "--dataset=synthetic", "--synthetic_size=200", *flags)
        assert done.returncode == 0, done.stderr
    assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "out") == 0
    assert f'"score": {MAX_POINTS}' in (tmp_path / "out" / "results.json").read_text()
    assert {name: (folder / name).read_text() for name in FILES} == PROJECT
