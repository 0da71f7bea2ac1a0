"""What the grader writes: results of one submission and of many, where they lie, when they are used again."""

import contextlib
import csv
import json
import os
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from graded import MAX_POINTS, PROJECT, TEMPLATES, call_grade, reference, run_grade, write

import training.files
from grading import pages, submissions
from grading.all_checks import ALL_CHECKS
from grading.check import Outcome
from grading.scheme import EQUATIONS
from grading.submission import read_submission
from grading.walls import ROOT, SandboxError


@pytest.fixture
def one_sandbox(shared_sandbox, monkeypatch):
    """Have grade.py's `main` take the tests' sandbox and reference, which are there already, as right."""
    monkeypatch.setattr(submissions, "Sandbox", lambda *_: contextlib.nullcontext(shared_sandbox))
    monkeypatch.setattr(submissions, "Reference", reference)
    monkeypatch.setattr(submissions, "demand_full_points", lambda *_: None)


@pytest.mark.slow
def test_files_of_a_submission_and_the_same_score_again(one_sandbox, tmp_path, capsys):
    folder = write(tmp_path / "one" / "deep", PROJECT | {"torch.py": "raise RuntimeError\n"})
    command = (folder.parent, "--no_training", "--out_dir", tmp_path / "out")
    assert call_grade(*command) == 0
    printed = capsys.readouterr().out
    assert f"one: {MAX_POINTS:g} of {MAX_POINTS:g} points; {59 - MAX_POINTS:g} not run (of 59)\n" in printed
    assert "hides the module 'torch'" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["score"] == MAX_POINTS
    assert sum(test["max_score"] for test in results["tests"]) == 59
    assert {"name", "score", "max_score", "output", "visibility"} <= set(results["tests"][0])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert not (folder / "__pycache__").exists()
    assert call_grade(*command, "--anew") == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["tests"] == results["tests"]


@pytest.mark.slow
def test_command_gives_what_main_gives(one_sandbox, tmp_path, capsys):
    folder = write(tmp_path / "one", PROJECT)
    assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "here") == 0
    done = run_grade(folder, "--no_training", "--out_dir", tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(tmp_path / "there"), str(tmp_path / "here")) == capsys.readouterr().out
    for name in ("results.json", "table.txt", "report.html"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()


def status_of_command(*args):
    return run_grade(*args).returncode


@pytest.mark.parametrize("run", [call_grade, pytest.param(status_of_command, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_many_submissions_are_graded_once(one_sandbox, tmp_path, run):
    folders = [write(tmp_path / f"s{i}", TEMPLATES) for i in range(4)]
    command = (*folders, "-j", 2, "--no_training", "--out_dir", tmp_path / "out")
    assert run(*command) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "grades.csv").open()))
    assert [row["submission"] for row in rows] == ["s0", "s1", "s2", "s3"]
    assert {row["score"] for row in rows} == {"0"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/s*/results.json")}
    (folders[1] / "modules.py").write_text(PROJECT["modules.py"])
    run(*command)
    changed = [path.parent.name for path, time_ in written.items() if path.stat().st_mtime_ns != time_]
    assert changed == ["s1"]


def nothing_is_run(monkeypatch, grade_one):
    """Have a function in place of the sandbox; it takes the submission and returns results as text."""
    monkeypatch.setattr(submissions, "Sandbox", lambda *_: contextlib.nullcontext(SimpleNamespace(has_walls=True)))
    monkeypatch.setattr(submissions, "demand_full_points", lambda *_: None)

    def stub(sandbox, reference, training, args, after_check, submission, folder, key):
        return json.loads(grade_one(submission)), 0.0

    monkeypatch.setattr(submissions, "grade_one", stub)


def test_one_submission_stops_none_of_the_others(monkeypatch, tmp_path, capsys):
    """Of any bytes in its names, unreadable, a link, or with no process to be had for it."""
    folders = [
        write(tmp_path / name, TEMPLATES) for name in ("bytes", "unreadable", "no_process", "right\x1b[2J\nnote")
    ]
    with contextlib.suppress(OSError):  # some systems have no such names
        Path(os.fsdecode(bytes(folders[0]) + b"/r\xe9sum\xe9.txt")).touch()
    (tmp_path / "link").symlink_to(folders[3])

    def read(path):
        if path.name == "unreadable":
            raise RecursionError("by this file\nof two lines")
        return read_submission(path)

    def grade_one(submission):
        if submission.path.name == "no_process":
            raise SandboxError("no process")
        return submissions._no_results([], "visible")

    monkeypatch.setattr(submissions, "read_submission", read)
    nothing_is_run(monkeypatch, grade_one)
    paths = (*folders, tmp_path / "link", folders[0])
    assert call_grade(*paths, "--no_training", "--out_dir", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert said.err.count("could not be graded: ") == said.err.count("\n") - 1 == 3
    assert "it is a link" in said.err
    assert "is given twice" in said.err
    assert said.out.endswith("beside it\n")
    assert "could not be graded: unreadable, no_process, link" in said.out
    rows = list(csv.DictReader((tmp_path / "out" / "grades.csv").open()))
    assert {row["submission"] for row in rows} == {"bytes", "unreadable", "no_process", "link", "right__2J_note"}
    results = json.loads((tmp_path / "out" / "no_process" / "results.json").read_text())
    assert (results["score"], sum(test["max_score"] for test in results["tests"])) == (0, 59)
    assert results["extra_data"]["notes"] == ["could not be graded: no process"]


def test_what_a_person_has_to_decide_is_listed_everywhere_and_counts_nowhere():
    check = ALL_CHECKS[0]
    outcomes = [(check, Outcome(False, got="a network of another kind", is_decided=False))]
    results = json.loads(pages.results_json(outcomes, [], {"notes": []}))
    (row,) = csv.DictReader(pages.grades_csv({"one": results}).splitlines())
    assert (row["score"], row["not_run"], row["not_decided"]) == ("0", "0", f"{check.points:g}")
    assert f"? {check.name}" in pages.table("one", outcomes, [])
    assert "not decided" in pages.submission_page("one", outcomes, [], {}, Path())
    assert check.name not in pages.summary([results], 1, {})


def test_text_of_a_submission_cannot_say_that_a_check_was_not_run(tmp_path):
    check = ALL_CHECKS[0]
    text = pages.results_json([(check, Outcome(False, got="RuntimeError: not run"))], [], {"notes": ["\udce9"]})
    row = list(csv.reader(pages.grades_csv({"one": json.loads(text)}).splitlines()))[1]
    assert row[-3:] == ["0", "0", "1"]
    training.files.write_text(tmp_path / "notes", "\udce9")
    assert (tmp_path / "notes").read_text() == "\\udce9"


def test_failed_check_cites_the_reports_equation_and_its_page(tmp_path):
    check = next(check for check in ALL_CHECKS if check.name == "softmax.backward")
    one, batch = (pages.equation_pages()[equation] for equation in ("softmax-backward", "batch-softmax"))
    for name, outcome in {"wrong": Outcome(False, "f()"), "unwritten": Outcome(False, is_written=False)}.items():
        text = f"Eq. (softmax-backward) on page {one}, Eq. (batch-softmax) on page {batch} of report.pdf"
        assert (("see", text) in pages.lines_of(check, outcome)) == (name == "wrong")
    page = pages.submission_page("one", [(check, Outcome(False, "f(<b>)"))], [], {}, tmp_path / "a b")
    assert "f(&lt;b&gt;)" in page
    (link,) = re.findall(rf'<a href="([^"#]*)#page={one}">Eq\. \(softmax-backward\) on page {one}</a>', page)
    assert (tmp_path / "a b" / link).resolve() == ROOT / "report" / "report.pdf"


def test_every_equation_that_a_check_cites_is_on_its_page_of_the_report():
    pages_of = pages.equation_pages()
    assert set(EQUATIONS) <= {check.name for check in ALL_CHECKS}
    assert {name for names in EQUATIONS.values() for name in names} <= set(pages_of)
    unread = dict(pages_of)
    raw = (ROOT / "report" / "report.pdf").read_bytes()
    for stream in re.finditer(rb"stream\r?\n", raw):
        try:
            page = zlib.decompressobj().decompress(raw[stream.end() :]).decode("latin-1")
        except zlib.error:
            continue
        shown = [
            "".join(re.findall(r"\(((?:[^()\\]|\\.)*)\)", text)) for text in re.findall(r"\[(.*?)\]\s*TJ", page, re.S)
        ]
        for name in re.findall(r"([a-z]+(?:-[a-z]+)+)\\050\d+\\051", "".join(shown)):
            # What stands before a name on its line may end in a letter. A page's number is the last that it shows.
            own = max((n for n in unread if name.endswith(n)), key=len)
            assert unread.pop(own) == int(shown[-1]), f"{own}: build the report: python -m report.reproduce --pdf"
    assert unread == {}


def test_missing_file_is_said_once():
    checks = [check for check in ALL_CHECKS if check.question == "3.2c"]
    missing = Outcome(False, "import custom_batchnorm", "there is no custom_batchnorm.py", "a file")
    outcomes = [(check, missing) for check in checks]
    table = pages.table("one", outcomes, [])
    assert table.count("there is no") == 1
    assert table.count(f"as {checks[0].name}, above") == len(checks) - 1
    assert pages.submission_page("one", outcomes, [], {}, Path()).count("there is no") == 1
    assert pages.results_json(outcomes, [], {}).count("there is no") == len(checks)


def test_points_that_were_not_run_are_no_points_that_were_lost():
    first, second, third = ALL_CHECKS[:3]
    outcomes = [(first, Outcome(True)), (second, Outcome(False)), (third, Outcome(False, was_run=False))]
    assert pages.of_points(outcomes[:2]) == "0.75 of 1.5 points"
    assert pages.of_points(outcomes) == "0.75 of 1.5 points; 0.75 not run (of 2.25)"


def test_results_have_folders_of_their_own(tmp_path):
    a, b, c = (tmp_path / name for name in ("x/same", "y/same", "Grades.csv"))
    assert [folder.name for folder in pages.result_folders([a, b, c], "out").values()] == [
        "same", "same-2", "Grades.csv-2",
    ]  # fmt: skip
    assert pages.result_folders([a], "out") == {a: Path("out")}


@pytest.mark.parametrize("out_dir", ["in/s", "in/s/results", "in", "in/link"])
def test_results_never_lie_where_a_submission_could_have_written_them(tmp_path, monkeypatch, capsys, out_dir):
    write(tmp_path / "in" / "s", {"modules.py": "", "results.json": "{}"})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "s")
    (tmp_path / "far").mkdir()
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert call_grade("in/far" if out_dir == "in" else "in/s", "--out_dir", out_dir) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "name a folder apart with --out_dir" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_result_is_used_again_only_where_it_would_come_out_the_same(tmp_path):
    folder = tmp_path / "out"
    extra = {"finished": True, "key": "k", "was_cut_off": False}

    def finish(**changed):
        submissions._begin(folder, submissions._no_results([], "visible"))
        for name in ("table.txt", "report.html"):
            (folder / name).touch()
        (folder / "results.json").write_text(submissions._no_results([], "visible", **extra | changed))

    finish()
    assert submissions._finished(folder, "k")
    assert not submissions._finished(folder, "another")
    (folder / "report.html").unlink()
    assert not submissions._finished(folder, "k")
    finish(was_cut_off=True)
    assert not submissions._finished(folder, "k")
    finish(finished=False)
    assert not submissions._finished(folder, "k")


def test_key_of_a_result_knows_flags_training_images_recorded_runs_pages_and_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(submissions, "ROOT", tmp_path)
    flags = {"no_training": False, "full": False, "lenient": False, "require_sandbox": False}
    args = SimpleNamespace(**flags, visibility="visible", data_dir=tmp_path / "data")
    keys = {submissions._graders_own(args)}
    for name in flags:
        keys.add(submissions._graders_own(SimpleNamespace(**{**vars(args), name: True})))
    for name in ("data/data_batch_1", "report/equations.json", "report/results/fig01_mlp_numpy.jsonl"):
        write((tmp_path / name).parent, {Path(name).name: ""})
        keys.add(submissions._graders_own(args))
    installed = [SimpleNamespace(name="numpy", version="2.0.0")]
    monkeypatch.setattr(submissions.importlib.metadata, "distributions", lambda: installed)
    keys.add(submissions._graders_own(args))
    assert len(keys) == 9


def test_wrong_use_ends_with_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    for args in (
        [],
        [tmp_path / "nowhere"],
        [tmp_path, "--jobs", "0"],
        [tmp_path, "--nonsense"],
        [tmp_path, "--full", "--no_training"],
        [".", "--out_dir", tmp_path / "file"],
        [".", "--out_dir", tmp_path / "file" / "below"],
    ):
        assert call_grade(*args) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
    done = run_grade()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(training.files.fcntl is None, reason="file locks need fcntl, which Windows lacks")
def test_second_grader_in_a_folder_says_that_the_first_is_there(tmp_path, capsys):
    folder = write(tmp_path / "one", {"modules.py": ""})
    with training.files.only_process_in(tmp_path / "out"):
        assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "out") == 1
    assert f"out is in use by process {os.getpid()}; wait for it, or stop it\n" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_interrupt_at_any_time_is_one_line_and_status_130(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    folder = write(tmp_path / "one", {"modules.py": ""})
    monkeypatch.setattr("grading.pages.result_folders", interrupted)
    assert call_grade(folder, "--out_dir", tmp_path / "out") == 130
    assert capsys.readouterr().err == "grade.py: interrupted; the same command goes on\n"


def test_tilde_means_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert call_grade("~/nowhere") == 2
    assert f"{tmp_path / 'nowhere'} is not there" in capsys.readouterr().err
