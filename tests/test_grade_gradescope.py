"""The autograder for Gradescope, laid out and run as the platform does it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from graded import MAX_POINTS, PROJECT, replaced, write

from grading import gradescope
from grading.all_checks import ALL_CHECKS
from grading.scheme import VISIBILITIES

# In place of apt-get, and of what makes an environment: this Python as its python, and a pip that says what it is told.
STUBS = {
    "apt-get": "#!/bin/sh\n",
    "python3": f"""#!/bin/sh
test "$1 $2" = "-m venv" || exit 9
mkdir -p "$3/bin"
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > "$3/bin/python"
printf '#!/bin/sh\\necho "$@" >> pip.log\\n' > "$3/bin/pip"
chmod +x "$3/bin/python" "$3/bin/pip"
""",
}


def laid_out(root, *flags):
    """Write an autograder and lay it out as the platform does, without running anything. Return its root."""
    assert gradescope.main([str(root / "autograder.zip"), *flags]) == 0
    place = root / "autograder"
    (place / "results").mkdir(parents=True)
    with zipfile.ZipFile(root / "autograder.zip") as archive:
        archive.extractall(place / "source")
    shutil.copy(place / "source" / "run_autograder", place)
    (place / "run_autograder").chmod(0o755)
    write(root / "bin", STUBS)
    for name in STUBS:
        (root / "bin" / name).chmod(0o755)
    return place


def run(place, script, *more):
    environment = os.environ | {"PATH": f"{place.parent / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run([*more, str(script)], cwd=place, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("training", [True, False])
def test_scripts_install_what_the_grader_needs_and_start_it(tmp_path, training):
    place = laid_out(tmp_path, *([] if training else ["--no_training"]))
    source = place / "source"
    (source / "cifar10_utils.py").write_text("import os\n\nget_cifar10 = os.makedirs\n")
    assert run(place, source / "setup.sh", "bash").returncode == 0
    torch, rest = (source / "pip.log").read_text().splitlines()
    assert torch == "install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu -r torch.txt"
    assert rest == "install --no-cache-dir -r requirements.txt"
    assert {line[:5] for line in (source / "torch.txt").read_text().splitlines()} == {"torch"}
    assert (source / "cifar10" / "cifar-10-batches-py").exists() == training
    (source / "grade.py").write_text("import sys\nprint(*sys.argv)\n")
    (place / "submission").mkdir()
    done = run(place, place / "run_autograder")
    flags = "--visibility visible" + " --no_training" * (not training)
    assert done.stdout == f"grade.py ../submission --out_dir ../results {flags}\n"


def test_autograder_replaces_no_file(tmp_path, capsys):
    (tmp_path / "mine.zip").write_text("mine")
    with pytest.raises(SystemExit) as end:
        gradescope.main([str(tmp_path / "mine.zip")])
    assert (end.value.code, capsys.readouterr().err.count("\n")) == (2, 1)
    assert (tmp_path / "mine.zip").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("visibility", ["after_due_date"])
def test_autograder_grades_a_submission_as_the_platform_runs_it(tmp_path, visibility):
    place = laid_out(tmp_path, "--no_training", "--visibility", visibility)
    write(place / "submission", PROJECT)
    assert run(place, place / "source" / "setup.sh", "bash").returncode == 0
    done = run(place, place / "run_autograder")
    assert done.returncode == 0, done.stderr
    results = json.loads((place / "results" / "results.json").read_text())
    assert results["score"] == sum(test["score"] for test in results["tests"]) == MAX_POINTS
    assert len(results["tests"]) == len(ALL_CHECKS)
    assert {test["visibility"] for test in results["tests"]} == {visibility} <= set(VISIBILITIES)
    assert all(isinstance(test["output"], str) and test["output"] for test in results["tests"])
    assert "leaderboard" not in results
    assert (results["stdout_visibility"], results["output"].count("\n")) == ("hidden", 0)


@pytest.mark.slow
def test_autograder_that_ran_out_of_time_leaves_no_more_than_what_passed(tmp_path):
    place = laid_out(tmp_path, "--no_training")
    # All but the last question is right; that one hangs.
    hangs = PROJECT["convnet_pytorch.py"].replace(
        "    def forward(self, x):\n", "    def forward(self, x):\n        while True: pass\n"
    )
    write(place / "submission", PROJECT | {"convnet_pytorch.py": hangs})
    assert run(place, place / "source" / "setup.sh", "bash").returncode == 0
    settings = place / "source" / "settings.sh"
    settings.write_text(replaced(settings.read_text(), "seconds=555", "seconds=25"))
    run(place, place / "run_autograder")
    results = json.loads((place / "results" / "results.json").read_text())
    assert results["score"] <= MAX_POINTS - 5
    assert not results["extra_data"]["finished"]
    assert "grading has not ended" in results["output"]
