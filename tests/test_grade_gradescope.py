"""The autograder for Gradescope, laid out and run as the platform does it."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from graded import MAX_POINTS, PROJECT, read_json, write

from grading import gradescope

# In place of apt-get and of a virtual environment: this Python, and a pip that records its arguments.
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
HANGS = "\n\nclass ConvNet(ConvNet):\n    def forward(self, x):\n        while True:\n            pass\n"


def laid_out(root, *flags, files=PROJECT):
    """Write an autograder, lay it out as the platform does, and run setup.sh. Return its directory."""
    assert gradescope.main([str(root / "autograder.zip"), *flags]) == 0
    place = root / "autograder"
    (place / "results").mkdir(parents=True)
    with zipfile.ZipFile(root / "autograder.zip") as archive:
        archive.extractall(place / "source")
    shutil.copy(place / "source" / "run_autograder", place)
    write(root / "bin", STUBS)
    for path in (place / "run_autograder", *(root / "bin").iterdir()):
        path.chmod(0o755)
    write(place / "submission", files)
    assert run(place, "bash", place / "source" / "setup.sh").returncode == 0
    return place


def run(place, *command):
    environment = os.environ | {"PATH": f"{place.parent / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(list(map(str, command)), cwd=place, env=environment, capture_output=True, text=True)


def test_autograder_contains_only_what_grading_needs():
    with_training, without = (set(gradescope.autograder(training=training)) for training in (True, False))
    assert not any(name.startswith(("report/results", "tests", "handout")) for name in without)
    runs = {f"report/results/{name}.jsonl" for name in ("fig01_mlp_numpy", "fig03_mlp_pytorch")}
    assert {name for name in with_training if name.startswith("report/results")} == runs


def test_autograder_replaces_no_file(tmp_path):
    (tmp_path / "mine.zip").write_text("mine")
    with pytest.raises(SystemExit):
        gradescope.main([str(tmp_path / "mine.zip")])
    assert (tmp_path / "mine.zip").read_text() == "mine"


@pytest.mark.slow
def test_autograder_grades_as_the_platform_runs_it(tmp_path, under_limits):
    place = laid_out(tmp_path, "--no_training", "--visibility", "after_due_date")
    done = run(place, place / "run_autograder")
    assert done.returncode == 0, done.stderr
    results = read_json(place / "results" / "results.json")
    assert results["score"] == sum(test["score"] for test in results["tests"]) == MAX_POINTS
    assert {test["visibility"] for test in results["tests"]} == {"after_due_date"}
    assert (results["stdout_visibility"], results["output"].count("\n")) == ("hidden", 0)


@pytest.mark.slow
def test_autograder_out_of_time_keeps_what_has_passed(tmp_path, under_limits):
    files = PROJECT | {"convnet_pytorch.py": PROJECT["convnet_pytorch.py"] + HANGS}  # all else is right
    place = laid_out(tmp_path, "--no_training", files=files)
    with (place / "source" / "settings.sh").open("a") as settings:
        settings.write("seconds=25\n")
    run(place, place / "run_autograder")
    results = read_json(place / "results" / "results.json")
    assert 0 < results["score"] <= MAX_POINTS - 5
    assert "Grading has not ended" in results["output"]
