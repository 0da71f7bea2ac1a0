"""grade.py: one submission and many, reused results, refused commands, interrupts, and what is written."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from graded import MAX_POINTS, PROJECT, TEMPLATES, call_grade, read_json, run_grade, write
from runs import handling

import training.files
from grading import output, submissions
from grading.archives import list_tree
from grading.checks import ALL_CHECKS
from grading.checks.check import Grading, Result
from grading.sandbox import SandboxError
from grading.scheme import EQUATIONS, ROOT
from grading.submission import read_submission

# Replaces a class of modules.py.
WRONG = "\n\nclass LinearModule(LinearModule):\n    def forward(self, x):\n        return 2 * super().forward(x)\n"


@pytest.fixture
def stubbed(monkeypatch):
    """Let grade.py run nothing: every submission gets 0 points. Return the paths that were graded."""
    graded, grade_one = [], submissions.grade_one

    def stub(sandbox, training, args, progress, name, submission, folder, key):
        if name == "no_process":
            raise SandboxError("no process")
        graded.append(name)
        return grade_one(sandbox, training, args, progress, name, submission, folder, key)

    worker = SimpleNamespace(ask=None, old_names=(), was_cut_off=False)
    sandbox = SimpleNamespace(has_bubblewrap=True, protection="", worker=lambda *_: contextlib.nullcontext(worker))
    monkeypatch.setattr(submissions, "Sandbox", lambda *_: contextlib.nullcontext(sandbox))
    monkeypatch.setattr(submissions, "check_project", lambda _: None)
    monkeypatch.setattr(submissions, "grade_one", stub)
    monkeypatch.setattr(Grading, "run", lambda self, check: Result("failed", "f()", "It is wrong."))
    return graded


def rows_of(out_dir):
    """Return `{submission: row}` of grades.csv."""
    with (out_dir / "grades.csv").open(encoding="utf-8") as file:
        return {row["submission"]: row for row in csv.DictReader(file)}


# ---- Commands ------------------------------------------------------------------------------------


def test_one_submission_stops_no_other(stubbed, tmp_path, capsys):
    names = ("bytes", "no_process", "right\x1b[2J\nnote")
    folders = [write(tmp_path / "in" / name, TEMPLATES) for name in names]
    with contextlib.suppress(OSError):  # some file systems refuse this name
        Path(os.fsdecode(bytes(folders[0]) + b"/r\xe9sum\xe9.txt")).touch()
    (tmp_path / "in" / "link").symlink_to(folders[0])
    (tmp_path / "in" / "loop").symlink_to("loop")
    for name in ("broken.zip", "roster.csv"):
        (tmp_path / "in" / name).touch()
    write(tmp_path / "in" / "two" / "a", TEMPLATES)
    write(tmp_path / "in" / "two" / "b", TEMPLATES)
    assert call_grade(*(tmp_path / "in").iterdir(), "--no_training", "--out_dir", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert said.err.count("could not be graded: ") == 5
    assert said.err.count("\n") == 6, said.err
    assert "roster.csv is neither" in said.err
    assert "\x1b" not in said.out + said.err
    rows = rows_of(tmp_path / "out")
    assert set(rows) == {"bytes", "no_process", "link", "loop", "broken", "two", "right__2J_note"}
    assert {name for name, row in rows.items() if row["not_run"] == "59"} == {
        "no_process",
        "link",
        "loop",
        "broken",
        "two",
    }
    results = read_json(tmp_path / "out" / "two" / "results.json")
    assert (results["score"], results["tests"]) == (0, [])
    assert "Could not be graded: a, b in " in results["output"]


def test_directory_of_students_is_graded_by_student(stubbed, tmp_path, capsys):
    for homework in ("hw1", "hw2"):
        for name in ("ada", "emmy", "leo"):
            write(tmp_path / "in" / "2025" / homework / name, {"modules.py": ""})
    (tmp_path / "in" / "2025" / "hw2" / "kim").mkdir()
    out = tmp_path / "out"
    assert call_grade(*(tmp_path / "in").iterdir(), "--no_training", "--out_dir", out) == 0
    expected = {f"hw{n}_{name}" for n in (1, 2) for name in ("ada", "emmy", "leo")} | {"kim"}
    assert set(rows_of(out)) == expected == {path.parent.name for path in out.glob("*/report.html")}


def test_results_are_reused_until_files_or_flags_change(stubbed, tmp_path, capsys):
    folders = [write(tmp_path / f"s{i}", TEMPLATES) for i in range(2)]
    command = (*folders, "--no_training", "--out_dir", tmp_path / "out")
    for change, graded in [
        (lambda: None, {"s0", "s1"}),
        (lambda: None, set()),
        (lambda: (folders[1] / "modules.py").write_text("pass\n"), {"s1"}),
        (lambda: (tmp_path / "out" / "s0" / "report.html").unlink(), {"s0"}),
    ]:
        change()
        stubbed.clear()
        assert call_grade(*command) == 0
        assert set(stubbed) == graded
        reused = f"{2 - len(graded)} of 2 already have results"
        assert (reused in capsys.readouterr().out) == (len(graded) < 2)
        assert set(rows_of(tmp_path / "out")) == {"s0", "s1"}
    for flag in ("--lenient", "--regrade"):
        stubbed.clear()
        assert call_grade(*command, flag) == 0
        assert len(stubbed) == 2
    results = tmp_path / "out" / "s0" / "results.json"
    for key, value in (("was_cut_off", True), ("finished", False)):
        content = read_json(results)
        content["extra_data"][key] = value
        results.write_text(json.dumps(content))
        stubbed.clear()
        assert call_grade(*command) == 0
        assert stubbed == ["s0"]


@pytest.mark.parametrize("out_dir", ["in/s", "in/s/results", "in", "in/link"])
def test_out_dir_must_not_overlap_a_submission(tmp_path, monkeypatch, capsys, out_dir):
    write(tmp_path / "in" / "s", {"modules.py": "", "results.json": "{}"})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "s")
    (tmp_path / "far").mkdir()
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert call_grade("in/far" if out_dir == "in" else "in/s", "--out_dir", out_dir) == 2
    assert "name another directory with --out_dir" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_use_ends_with_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    for args in (
        [],
        ["~/nowhere"],
        [tmp_path / "file"],
        [tmp_path, "--jobs", "0"],
        [tmp_path, "--nonsense"],
        [".", "--out_dir", tmp_path / "file"],
        [".", "--out_dir", tmp_path / "file" / "below"],
    ):
        assert call_grade(*args) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert "~" not in said
    done = run_grade()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(training.files.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_second_grader_in_a_directory_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "one", {"modules.py": ""})
    with training.files.only_process_in(tmp_path / "out"):
        assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "out") == 1
    assert f"out is in use by process {os.getpid()}; wait for it, or stop it\n" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_refused_grading_leaves_no_directory(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise SandboxError("install bubblewrap")

    monkeypatch.setattr(submissions, "Sandbox", refuse)
    folder = write(tmp_path / "one", {"modules.py": ""})
    assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "new" / "out") == 1
    assert capsys.readouterr().err == "grade.py: error: install bubblewrap\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_nothing_is_graded_if_the_project_itself_fails(shared_sandbox, tmp_path, monkeypatch):
    project = write(tmp_path / "project", PROJECT | {"modules.py": PROJECT["modules.py"] + WRONG})
    monkeypatch.setattr(submissions, "ROOT", project)
    with pytest.raises(
        SandboxError, match=r"^the project's own files fail linear\.forward here, so nothing was graded"
    ):
        submissions.check_project(shared_sandbox)


@pytest.mark.slow
def test_command_grades_the_project_in_full(shared_sandbox, tmp_path):
    folder = write(tmp_path / "one" / "hand_in", PROJECT)
    done = run_grade(folder.parent, "--no_training", "--out_dir", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"one: {MAX_POINTS:g} of {MAX_POINTS:g} points; {59 - MAX_POINTS:g} not run (of 59)\n"
    )
    results = read_json(tmp_path / "out" / "results.json")
    assert results["score"] == sum(test["score"] for test in results["tests"]) == MAX_POINTS
    assert "http" not in (tmp_path / "out" / "report.html").read_text()
    assert {path.name for path in folder.iterdir()} == {*PROJECT}


# How mlp_numpy.py imports LinearModule, and where it and modules.py are.
LAYOUTS = {
    "the course's own module": ("import cifar10_utils; from modules", "mlp_numpy.py", "modules.py"),
    "relative imports": ("from .modules", "mlp_numpy.py", "modules.py"),
    "relative imports in a package": ("from .modules", "hand_in/mlp_numpy.py", "hand_in/modules.py"),
    "relative imports from the side": ("from ..lib.modules", "code/mlp_numpy.py", "lib/modules.py"),
    "a package named as one of Python's": ("from code.modules", "code/mlp_numpy.py", "code/modules.py"),
    "the package's name": ("from hand_in.modules", "hand_in/mlp_numpy.py", "hand_in/modules.py"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_imports_of_any_layout_work(shared_sandbox, tmp_path, layout):
    line, mlp, modules = LAYOUTS[layout]
    files = {mlp: f"{line} import LinearModule\n", modules: "class LinearModule:\n    pass\n"}
    files |= {f"{Path(mlp).parent}/__init__.py": ""} if "package" in layout else {}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    submission = read_submission(list_tree(tmp_path))
    with shared_sandbox.worker(submission.files, submission.folders) as worker:
        assert worker.ask("import", "mlp_numpy", {}, {}).error == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
def test_interrupt_ends_the_grader_within_seconds(shared_sandbox, tmp_path):
    folders = [write(tmp_path / f"s{i}", {"modules.py": "import time\ntime.sleep(1000)\n"}) for i in range(3)]
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "grade.py", *folders, "--no_training", "-j", "2", "--out_dir", out]
    with handling(signal.SIGINT, signal.SIG_DFL):
        process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "s2" / "results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(4)  # by now two are asleep
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert time.monotonic() - began < 10
    assert (process.returncode, said) == (130, "grade.py: interrupted; the same command continues\n")
    for folder in folders:
        results = read_json(out / folder.name / "results.json")
        assert (results["score"], results["tests"]) == (0, [])
        assert results["output"].startswith(submissions.UNFINISHED)


def test_interrupt_at_any_time_is_one_line_and_status_130(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("grade.check_out_dir", interrupted)
    folder = write(tmp_path / "one", {"modules.py": ""})
    assert call_grade(folder, "--out_dir", tmp_path / "out") == 130
    assert capsys.readouterr().err == "grade.py: interrupted; the same command continues\n"


# ---- What is written -----------------------------------------------------------------------------


def by_status(*statuses):
    """Return rows of the first checks with these statuses."""
    return [(check, Result(status, "f()", "It is wrong.")) for check, status in zip(ALL_CHECKS, statuses, strict=False)]


def pages_of(rows, **more):
    """Return table, report.html and results.json as texts."""
    return (
        output.table("one", rows, []),
        output.page("one", rows, [], Path(), **more),
        output.results_json(rows, [], {}, **more),
    )


def test_points_not_run_are_not_lost():
    assert output.points_text(by_status("passed", "failed")) == "0.75 of 1.5 points"
    rows = by_status("passed", "failed", "not run")
    assert output.points_text(rows) == "0.75 of 1.5 points; 0.75 not run (of 2.25)"
    results = json.loads(output.results_json(rows, [], {}))
    assert [test["status"] for test in results["tests"]] == ["passed", "failed"]
    (row,) = csv.DictReader(output.grades_csv({"one": results}).splitlines())
    assert (row["score"], row["1.2"], row["not_run"]) == ("0.75", "0.75", "0.75")


def test_undecided_check_is_listed_and_counts_nowhere():
    rows = by_status("not decided")
    for text in pages_of(rows):
        assert "has to be decided by hand" in text
    results = json.loads(output.results_json(rows, [], {}))
    assert "status" not in results["tests"][0]
    (row,) = csv.DictReader(output.grades_csv({"one": results}).splitlines())
    assert (row["score"], row["not_run"], row["not_decided"]) == ("0", "0", f"{ALL_CHECKS[0].points:g}")
    assert ALL_CHECKS[0].name not in output.summary([results], 1)


def test_unwritten_part_and_repeated_text_are_short():
    check = ALL_CHECKS[0]
    rows = [(check, Result("not written", "f()", "NotImplementedError.")), *by_status("failed", "failed")[1:]]
    rows += [(ALL_CHECKS[2], Result("failed", "f()", "It is wrong."))]
    table, page, _ = pages_of(rows)
    assert f"{check.title} (not written yet)\n" in table
    assert "NotImplementedError" not in table
    assert table.count("It is wrong.") == page.count("It is wrong.") == 1
    assert f"(as {ALL_CHECKS[1].name}, above)" in table


def test_text_of_a_submission_can_forge_nothing(tmp_path):
    check = ALL_CHECKS[0]
    rows = [(check, Result("failed", "f(<b>)", "RuntimeError: not run\x1b[2J\n  ✓ everything is right \udce9"))]
    table, page, results = pages_of(rows)
    assert "\x1b" not in table + page + results
    assert "\n  ✓" not in table
    assert "f(&lt;b&gt;)" in page
    (row,) = csv.DictReader(output.grades_csv({"=one": json.loads(results)}).splitlines())
    assert (row["submission"], row["not_run"], row["not_decided"]) == ("'=one", "0", "0")
    training.files.write_text(tmp_path / "page", page)


def test_equations_are_for_staff_unless_asked_for(tmp_path):
    check = next(check for check in ALL_CHECKS if check.name == "softmax.backward")
    rows = [(check, Result("failed", "f()", "It is wrong."))]
    table, page, results = pages_of(rows)
    assert "Eq. (softmax-backward) on page" in table
    assert "softmax-backward" not in page + results
    _, page, results = pages_of(rows, equations=True)
    assert "Eq. (softmax-backward) on page" in results
    links = re.findall(r'<a href="([^"#]*)#page=\d+">Eq\. \(softmax-backward\)', page)
    assert [(tmp_path / link).name for link in links] == ["report.pdf"]
    assert "Eq." not in output.table("one", [(check, Result("not written", "f()"))], [])


def test_equations_of_checks_are_in_the_report():
    assert set(EQUATIONS) <= {check.name for check in ALL_CHECKS}
    pages = read_json(ROOT / "report" / "equations.json")
    assert {name for names in EQUATIONS.values() for name in names} <= set(pages)


def test_names_of_results_are_different(tmp_path):
    paths = [tmp_path / name for name in ("x/a b", "y/a_b", "x/a_b", "Grades.csv", "z/hw.zip", "z/hw")]
    folders = output.result_folders(paths, "out")
    assert len({str(folder).casefold() for folder in folders.values()} | {"out/grades.csv"}) == len(paths) + 1
    assert folders[paths[1]].name == "y_a_b"
    assert output.result_folders(paths[:1], "out") == {paths[0]: Path("out/a_b")}
