"""grade.py: one submission and many, reused results, refused commands, interrupts, and what is written."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from graded import MAX_POINTS, PROJECT, TEMPLATES, call_grade, read_json, write
from runs import handling

import training.files
from grading import output, submissions
from grading.checks import ALL_CHECKS
from grading.checks.check import Grading, Result
from grading.sandbox import SandboxError
from grading.scheme import EQUATIONS, ROOT
from grading.worker.load import NOT_WRITTEN

# Replaces a class of modules.py.
WRONG = "\n\nclass LinearModule(LinearModule):\n    def forward(self, x):\n        return 2 * super().forward(x)\n"


@pytest.fixture
def stubbed(monkeypatch):
    """Let grade.py run nothing: every submission gets 0 points. Return the names that were graded, and the worker."""
    graded, grade_one = [], submissions.grade_one
    worker = SimpleNamespace(ask=None, unanswered={})

    def stub(job, *args):
        if job.name == "no_process":
            raise SandboxError("no process")
        graded.append(job.name)
        return grade_one(job, *args)

    sandbox = SimpleNamespace(
        has_bubblewrap=True, protection="", stop=lambda: None, worker=lambda *_: contextlib.nullcontext(worker)
    )
    monkeypatch.setattr(submissions, "Sandbox", lambda *_: contextlib.nullcontext(sandbox))
    monkeypatch.setattr(submissions, "check_project", lambda _: None)
    monkeypatch.setattr(submissions, "grade_one", stub)
    monkeypatch.setattr(Grading, "run", lambda self, check: Result("failed", "f()", "It is wrong."))
    return SimpleNamespace(graded=graded, worker=worker)


def rows_of(out_dir):
    """Return `{submission: row}` of grades.csv."""
    with (out_dir / "grades.csv").open(encoding="utf-8") as file:
        return {row["submission"]: row for row in csv.DictReader(file)}


# ---- Commands ------------------------------------------------------------------------------------


def test_one_submission_stops_no_other(stubbed, tmp_path, capsys):
    place = tmp_path / "in"
    folders = [write(place / name, TEMPLATES) for name in ("bytes", "no_process", "right\x1b[2J\nnote")]
    with contextlib.suppress(OSError):  # some file systems refuse this name
        Path(os.fsdecode(bytes(folders[0]) + b"/r\xe9sum\xe9.txt")).touch()
    (place / "link").symlink_to(folders[0])
    (place / "loop").symlink_to("loop")
    (place / "broken.zip").touch()
    (place / "empty").mkdir()
    for name in ("a", "b"):
        write(place / "two" / name, TEMPLATES)
    assert call_grade(*place.iterdir(), "--no_training", "--out_dir", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert said.err.count("could not be graded: ") == said.err.count("\n") == 5, said.err
    assert "\x1b" not in said.out + said.err
    not_graded = {"no_process", "link", "loop", "broken", "two"}
    not_run = {name: row["not_run"] == "59" for name, row in rows_of(tmp_path / "out").items()}
    graded = {"bytes", "empty", "right__2J_note"}
    assert not_run == dict.fromkeys(not_graded, True) | dict.fromkeys(graded, False)
    assert graded == {path.parent.name for path in tmp_path.glob("out/*/report.html")}
    results = read_json(tmp_path / "out" / "two" / "results.json")
    assert (results["score"], results["tests"]) == (0, [])
    assert "Could not be graded: a, b in " in results["output"]


def test_directory_without_an_answer_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "one", {"notes.txt": ""})
    assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "could not be graded: expected at least one of modules.py, " in said
    assert said.count("\n") == 1


def test_results_are_reused_until_files_or_flags_change(stubbed, tmp_path, capsys):
    folders = [write(tmp_path / f"s{i}", TEMPLATES) for i in range(2)]
    results = tmp_path / "out" / "s0" / "results.json"
    command = [*folders, "--no_training", "--out_dir", tmp_path / "out"]
    for change, flags, graded in [
        (lambda: None, [], {"s0", "s1"}),
        (lambda: None, [], set()),
        (lambda: (folders[1] / "modules.py").write_text("pass\n"), [], {"s1"}),
        (lambda: results.write_text("[]"), [], {"s0"}),
        (results.with_name("table.txt").unlink, [], {"s0"}),
        (lambda: None, ["--equations"], {"s0", "s1"}),
        (lambda: None, ["--equations", "--regrade"], {"s0", "s1"}),
        (lambda: stubbed.worker.unanswered.update(modules=1), ["--regrade"], {"s0", "s1"}),
        (lambda: None, [], {"s0", "s1"}),
    ]:
        change()
        stubbed.graded.clear()
        assert call_grade(*command, *flags) == 0
        assert set(stubbed.graded) == graded
        said = capsys.readouterr().out
        assert (f"{2 - len(graded)} of 2 already have results" in said) == (len(graded) < 2)
        assert set(rows_of(tmp_path / "out")) == {"s0", "s1"}


def test_interrupt_keeps_results_that_still_hold(stubbed, tmp_path, monkeypatch):
    folders = [write(tmp_path / f"s{i}", TEMPLATES) for i in range(3)]
    command = [*folders, "--no_training", "--out_dir", tmp_path / "out"]
    assert call_grade(*command) == 0
    (folders[2] / "modules.py").write_text("pass\n")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submissions, "grade_one", lambda *_: None)
    monkeypatch.setattr(submissions.concurrent.futures, "as_completed", interrupt)
    assert call_grade(*command, "--regrade") == 130
    notes = [read_json(tmp_path / "out" / f.name / "results.json")["output"] for f in folders]
    assert [note.startswith(submissions.UNFINISHED) for note in notes] == [False, False, True]


@pytest.mark.parametrize("out_dir", ["in/s", "in/s/results", "in", "in/link"])
def test_out_dir_must_not_overlap_a_submission(tmp_path, monkeypatch, capsys, out_dir):
    write(tmp_path / "in" / "s", {"modules.py": "", "results.json": "{}"})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "s")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert call_grade("in/s", "--out_dir", out_dir) == 2
    assert "name another directory with --out_dir" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_use_ends_with_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    for args in ([], ["~/nowhere"], [tmp_path / "file"], [tmp_path, "--jobs", "0"], [tmp_path, "--nonsense"]):
        assert call_grade(*args) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert "~" not in said


@pytest.mark.skipif(training.files.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_second_grader_in_a_directory_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "one", {"modules.py": ""})
    with training.files.only_process_in(tmp_path / "out"):
        assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "out") == 1
    assert f"out is in use by process {os.getpid()}; wait for it, or stop it\n" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (SandboxError("install bubblewrap"), 1, "error: install bubblewrap"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
    ],
)
def test_grading_that_cannot_start_leaves_nothing(tmp_path, monkeypatch, capsys, error, status, says):
    def refuse(*_):
        raise error

    monkeypatch.setattr(submissions, "Sandbox", refuse)
    folder = write(tmp_path / "one", {"modules.py": ""})
    (tmp_path / "old").mkdir()  # as by a platform
    for out in ("new", "old"):
        assert call_grade(folder, "--no_training", "--out_dir", tmp_path / out) == status
        assert capsys.readouterr().err == f"grade.py: {says}\n"
    assert {path.name for path in tmp_path.rglob("*")} == {"one", "modules.py", "old"}


def test_nothing_is_graded_if_the_project_itself_fails(shared_sandbox, tmp_path, monkeypatch):
    project = write(tmp_path / "project", PROJECT | {"modules.py": PROJECT["modules.py"] + WRONG})
    monkeypatch.setattr(submissions, "ROOT", project)
    with pytest.raises(SandboxError, match=r"^the project's own files fail linear\.forward here"):
        submissions.check_project(shared_sandbox)


@pytest.mark.slow
def test_command_grades_the_project_in_full(shared_sandbox, tmp_path):
    folder = write(tmp_path / "one" / "hand_in", PROJECT)
    command = [sys.executable, "grade.py", folder.parent, "--no_training", "--out_dir", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    full = f"one: {MAX_POINTS:g} of {MAX_POINTS:g} points; {59 - MAX_POINTS:g} of 59 not run\n"
    assert done.stdout.startswith(full)
    results = read_json(tmp_path / "out" / "results.json")
    assert results["score"] == sum(test["score"] for test in results["tests"]) == MAX_POINTS
    assert "http" not in (tmp_path / "out" / "report.html").read_text()
    assert {path.name for path in folder.iterdir()} == {*PROJECT}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
def test_interrupt_ends_the_grader_within_seconds(shared_sandbox, tmp_path):
    folders = [write(tmp_path / f"s{i}", {"modules.py": "import time\ntime.sleep(1000)\n"}) for i in range(3)]
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "grade.py", *folders, "--no_training", "-j", "2", "--out_dir", out]
    with handling(signal.SIGINT, signal.SIG_DFL):
        process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    while not (out / "s2" / "results.json").exists():
        assert process.poll() is None
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


# ---- What is written -----------------------------------------------------------------------------


def rows_with(*results):
    """Return rows of the first checks of question 1.2 with these results."""
    return list(zip(ALL_CHECKS, results, strict=False))


def texts_of(rows, **more):
    """Return table, report.html and results.json as texts."""
    results = json.dumps(output.results_json(rows, [], **more))
    return output.table("one", rows, []), output.page("one", rows, [], **more), results


def csv_row(name, rows):
    (row,) = csv.DictReader(output.grades_csv({name: output.results_json(rows, [])}, {name: "in/one"}).splitlines())
    return row


@pytest.mark.parametrize(("status", "n_tests"), [("not run", 2), ("not decided", 3)])
def test_open_points_count_nowhere_but_are_not_lost(status, n_tests):
    rows = rows_with(Result("passed"), Result("failed", "f()", "It is wrong."), Result(status))
    passed, failed, still_open = (check.points for check, _ in rows)
    left = f"{still_open:g} of {passed + failed + still_open:g} {status}"
    assert output.points_text(rows) == f"{passed:g} of {passed + failed:g} points; {left}"
    results = output.results_json(rows, [])
    assert [test.get("status") for test in results["tests"]] == ["passed", "failed", None][:n_tests]
    row = csv_row("one", rows)
    assert [float(row[name]) for name in ("score", "1.2", status.replace(" ", "_"))] == [passed, passed, still_open]
    assert float(row["out_of"]) == passed + failed + still_open * (status == "not decided")
    assert row["path"] == "in/one"
    assert "failed most often: " + ALL_CHECKS[1].name + " (1)" in output.summary([results], 1)


def test_repeated_text_and_unwritten_parts_are_short():
    wrong = Result("failed", "f()", "It is wrong.")
    table, page, _ = texts_of(rows_with(Result("not written", "f()", f"{NOT_WRITTEN}."), wrong, wrong))
    assert f"{ALL_CHECKS[0].title} (not written yet)\n" in table
    assert NOT_WRITTEN not in table
    assert table.count("It is wrong.") == page.count("It is wrong.") == 1
    assert f"(as {ALL_CHECKS[1].name}, above)" in table


def test_text_of_a_submission_can_forge_nothing(tmp_path):
    rows = rows_with(Result("failed", "f(<b>)", "RuntimeError: not run\x1b[2J\n  ✓ everything is right \udce9"))
    table, page, results = texts_of(rows)
    assert "\x1b" not in table + page + results
    assert "\n  ✓" not in table
    assert "f(&lt;b&gt;)" in page
    row = csv_row("=one", rows)
    assert (row["submission"], row["not_run"], row["not_decided"]) == ("'=one", "0", "0")
    training.files.write_text(tmp_path / "page", page)


def test_equations_are_for_staff_unless_asked_for():
    (check,) = (check for check in ALL_CHECKS if check.name == "softmax.backward")
    rows = [(check, Result("failed", "f()", "It is wrong."))]
    table, page, results = texts_of(rows)
    assert "Eq. (softmax-backward) on page" in table
    assert "softmax-backward" not in page + results
    _, page, results = texts_of(rows, equations=True)
    assert all("Eq. (softmax-backward) on page" in text for text in (page, results))


def test_equations_of_checks_are_in_the_report():
    assert EQUATIONS.keys() <= {check.name for check in ALL_CHECKS}
    assert output.PAGES.keys() >= {name for names in EQUATIONS.values() for name in names}


def test_names_of_results_are_different():
    names = {"1/ada": "1_ada", "2/Ada": "2_Ada", "2/kim.tgz": "kim", "2/a b": "a_b@4", "2/a_b": "a_b@5"}
    names["2/Grades.csv"] = "2_Grades.csv"
    folders = output.result_folders(map(Path, names), "out")
    assert {str(path): folder.name for path, folder in folders.items()} == names
