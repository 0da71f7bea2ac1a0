"""The grader as its users run it: right submissions in any style, empty and broken ones, runs, files that it writes."""

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

import numpy as np
import pytest
from graded import CHECKS, MAX_POINTS, PROJECT, grade, lost, points

from grade import main as grade_main
from grading import pages, submissions
from grading.all_checks import ALL_CHECKS
from grading.check import MISTAKES, Outcome
from grading.claims import CLAIMS, Claim, Row, RunRefusedError, _tolerance, best, grade_run, is_run, last
from grading.runs import RESULTS, interval, read_runs
from grading.sandbox import ROOT, SandboxError, Server, Session
from grading.scheme import BY_HAND_POINTS, FILES
from grading.submission import SubmissionError, read_submission

SUBMISSIONS = Path(__file__).parent / "submissions"
STYLES = {
    "in_out, float32, column biases": (
        "in_out_numpy",
        "in_out_mlp",
        "functional_mlp",
        "named_batchnorm",
        "plain_convnet",
    ),
    "Jacobians, rows of biases": ("lists_numpy", "lists_mlp", "module_list_mlp", "named_batchnorm", "plain_convnet"),
    "output layer first, np.matrix, names of one letter": (
        "matrix_numpy",
        "out_first_numpy_mlp",
        "out_first_mlp",
        "short_names_batchnorm",
        "plain_convnet",
    ),
    "the project's in part": ("in_out_numpy", "lists_mlp", "module_list_mlp", None, None),
}
TEMPLATES = {
    name: re.sub(r'(    def \w+\(.*\):\n)(?:        .*\n|\n)*', r"\1        raise NotImplementedError\n\n", text)
    for name, text in PROJECT.items()
}  # fmt: skip


def run_grader(*args, cwd=ROOT):
    command = [sys.executable, str(ROOT / "grade.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def write(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_points_are_the_courses():
    points = {}
    for check in ALL_CHECKS:
        points[check.question] = points.get(check.question, 0) + check.points
    assert points == {"1.2": 15, "2": 20, "3.1": 10, "3.2b": 3, "3.2c": 1, "4": 10}
    assert sum(points.values()) + BY_HAND_POINTS == 100


def test_every_known_mistake_belongs_to_a_check():
    names = {check.name for check in CHECKS}
    assert {m.check for m in MISTAKES if not m.is_harmless} <= names
    assert len({m.name for m in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("style", STYLES)
def test_right_submission_in_another_style_loses_nothing(server, style):
    files = {file: (SUBMISSIONS / f"{source}.py").read_text() if source else PROJECT[file]
             for file, source in zip(FILES, STYLES[style], strict=True)}  # fmt: skip
    outcomes, _ = grade(server, files)
    assert lost(outcomes) == [], {name: outcomes[name] for name in lost(outcomes)}


@pytest.mark.parametrize(
    ("files", "says"),
    [({}, "there is no"), (TEMPLATES, "NotImplementedError"), (dict.fromkeys(FILES, "def broken(:\n"), "SyntaxError")],
    ids=["empty", "template", "syntax errors"],
)
def test_submission_without_an_answer_gets_0_and_a_clear_text(server, files, says):
    outcomes, _ = grade(server, files)
    assert points(outcomes) == 0, [n for n in outcomes if n not in lost(outcomes)]
    assert all(says in outcome.got for outcome in outcomes.values()), outcomes


def test_old_numpy_is_named_and_lenient_brings_it_back(server):
    old = PROJECT["modules.py"].replace("dtype=np.float64", "dtype=np.float")
    outcomes, grading = grade(server, {"modules.py": old})
    assert grading.old_code == {"module 'numpy' has no attribute 'float'"}
    assert not outcomes["linear.forward"].passed
    outcomes, grading = grade(server, {"modules.py": old}, lenient=True)
    assert outcomes["linear.forward"].passed
    assert grading.session.old_names == {"float"}


def test_files_of_a_submission_and_the_same_score_again(server, tmp_path):
    folder = write(tmp_path / "one" / "deep", PROJECT | {"torch.py": "raise RuntimeError\n"})
    done = run_grader(folder.parent, "--no_training", "--out_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"{MAX_POINTS:g} of 59 points" in done.stdout
    assert "hides the module 'torch'" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["score"] == MAX_POINTS
    assert sum(test["max_score"] for test in results["tests"]) == 59
    assert {"name", "score", "max_score", "output", "visibility"} <= set(results["tests"][0])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert not (folder / "__pycache__").exists()
    again = run_grader(folder.parent, "--no_training", "--anew", "--out_dir", tmp_path / "out")
    assert again.returncode == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["tests"] == results["tests"]


def test_many_submissions_are_graded_once(server, tmp_path):
    folders = [write(tmp_path / f"s{i}", TEMPLATES) for i in range(4)]
    command = (*folders, "-j", 2, "--no_training", "--out_dir", tmp_path / "out")
    done = run_grader(*command)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "grades.csv").open()))
    assert [row["submission"] for row in rows] == ["s0", "s1", "s2", "s3"]
    assert {row["score"] for row in rows} == {"0"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/s*/results.json")}
    (folders[1] / "modules.py").write_text(PROJECT["modules.py"])
    run_grader(*command)
    changed = [path.parent.name for path, time_ in written.items() if path.stat().st_mtime_ns != time_]
    assert changed == ["s1"]


def nothing_is_run(monkeypatch, grade_one):
    """Have a function in place of the sandbox; it takes the submission and returns results as text."""
    monkeypatch.setattr(submissions, "Server", contextlib.nullcontext)

    def stub(server, reference, training, sessions, submission, folder, key, progress, lenient):
        return json.loads(grade_one(submission))

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
        return submissions._no_results()

    monkeypatch.setattr(submissions, "read_submission", read)
    nothing_is_run(monkeypatch, grade_one)
    paths = [str(path) for path in (*folders, tmp_path / "link", folders[0])]
    assert grade_main([*paths, "--no_training", "--out_dir", str(tmp_path / "out")]) == 1
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


@pytest.mark.parametrize(
    ("files", "found", "note"),
    [
        (["report/modules.py"], "report/modules.py", "found in report"),
        (["modules.py", "tests/mlp_numpy.py"], "modules.py", ""),
        (["Modules.py"], None, "found Modules.py, expected modules.py"),
        (["code/mlp_numpy (1).py"], None, "found code/mlp_numpy (1).py, expected mlp_numpy.py"),
        (["Copy of convnet_pytorch.ipynb"], None, "expected convnet_pytorch.py"),
        (["answer.zip"], None, "there is answer.zip: unpack it"),
        (["1/2/3/4/5/6/7/modules.py"], None, "1/2/3/4/5/6/7 was not searched"),
        (["train_mlp_numpy.py"], None, "none of modules.py, mlp_numpy.py,"),
    ],
)
def test_what_is_nearly_there_is_found_or_named(tmp_path, files, found, note):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    submission = read_submission(tmp_path)
    assert list(submission.found.values()) == [found] * bool(found)
    assert any(note in text for text in submission.notes) if note else submission.notes == []


def test_link_in_a_submission_is_named(tmp_path):
    (tmp_path / "other.py").touch()
    (tmp_path / "modules.py").symlink_to("other.py")
    assert read_submission(tmp_path).notes == ["modules.py was not read: it is a link, or no plain file"]


def test_text_of_a_submission_cannot_say_that_a_check_was_not_run(tmp_path):
    check = ALL_CHECKS[0]
    text = pages.results_json([(check, Outcome(False, got="RuntimeError: not run"))], [], {"notes": ["\udce9"]})
    row = list(csv.reader(pages.grades_csv({"one": json.loads(text)}).splitlines()))[1]
    assert row[-2:] == ["0", "1"]
    pages.write_text(tmp_path / "notes", "\udce9")
    assert (tmp_path / "notes").read_text() == "\\udce9"


def test_results_have_folders_of_their_own(tmp_path):
    a, b, c = (tmp_path / name for name in ("x/same", "y/same", "Grades.csv"))
    assert [folder.name for folder in pages.result_folders([a, b, c], "out").values()] == [
        "same", "same-2", "Grades.csv-2",
    ]  # fmt: skip
    assert pages.result_folders([a], "out") == {a: Path("out")}


@pytest.mark.parametrize("out_dir", ["in/s", "in/s/results", "in", "in/link"])
def test_results_never_lie_where_a_submission_could_have_written_them(tmp_path, out_dir):
    write(tmp_path / "in" / "s", {"modules.py": "", "results.json": "{}"})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "s")
    (tmp_path / "far").mkdir()
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    before = sorted(tmp_path.rglob("*"))
    done = run_grader("in/far" if out_dir == "in" else "in/s", "--out_dir", out_dir, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "name a folder apart with --out_dir" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_result_is_used_again_only_where_it_would_come_out_the_same(tmp_path):
    folder = tmp_path / "out"
    extra = {"finished": True, "key": "k", "was_cut_off": False}

    def finish(**changed):
        submissions._begin(folder, submissions._no_results())
        for name in ("table.txt", "report.html"):
            (folder / name).touch()
        (folder / "results.json").write_text(submissions._no_results(**extra | changed))

    finish()
    assert submissions._finished(folder, "k")
    assert not submissions._finished(folder, "another")
    (folder / "report.html").unlink()
    assert not submissions._finished(folder, "k")
    finish(was_cut_off=True)
    assert not submissions._finished(folder, "k")
    finish(finished=False)
    assert not submissions._finished(folder, "k")


def test_key_of_a_result_knows_the_training_images_and_the_recorded_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(submissions, "ROOT", tmp_path)
    args = SimpleNamespace(no_training=False, full=False, lenient=False, data_dir=tmp_path / "data")
    keys = {submissions._graders_own(args).digest()}
    for name in ("data/data_batch_1", "report/results/fig01_mlp_numpy.jsonl"):
        write((tmp_path / name).parent, {Path(name).name: ""})
        keys.add(submissions._graders_own(args).digest())
    assert len(keys) == 3


@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
def test_interrupted_grader_ends_at_once(server, tmp_path):
    folders = [write(tmp_path / f"s{i}", {"modules.py": "import time\ntime.sleep(1000)\n"}) for i in range(3)]
    command = [sys.executable, str(ROOT / "grade.py"), *map(str, folders), "--no_training", "-j", "2"]
    process = subprocess.Popen(
        [*command, "--out_dir", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "s2" / "results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(4)  # by now two are asleep
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on\n")
    assert said.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
@pytest.mark.parametrize("when", ["as the server begins", "as submissions are handed in"])
def test_interrupted_grader_waits_for_no_process(server, tmp_path, monkeypatch, when):
    """Neither for its server, which takes long to import PyTorch on a slow machine, nor for a submission."""

    class Slow(Server):
        def start(self, cpu_seconds):
            if when == "as the server begins":
                self._process.send_signal(signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGINT)
            return super().start(cpu_seconds)

    class Pool(submissions.concurrent.futures.ThreadPoolExecutor):
        def submit(self, *args):
            future = super().submit(*args)
            if when == "as submissions are handed in":
                while not asked:
                    time.sleep(0.02)
                os.kill(os.getpid(), signal.SIGINT)
            return future

    def ask(session, op, params, *rest, ask=submissions.Session.ask, **kwargs):
        asked.append(op)
        return ask(session, op, params, *rest, **kwargs)

    asked = []
    monkeypatch.setattr(submissions, "Server", Slow)
    monkeypatch.setattr(submissions.concurrent.futures, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(submissions.Session, "ask", ask)
    folder = write(tmp_path / "s", {"modules.py": "import time\ntime.sleep(1000)\n"})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    began = time.monotonic()
    try:
        assert grade_main([str(folder), "--no_training", "--out_dir", str(tmp_path / "out")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 9  # of 0.2; it would wait 10 s for its server, or 20 for the submission
    assert asked == ["import_module"], "another question was asked: it had waited for the first one's end"


def test_result_file_is_there_from_the_start_and_survives_the_grader(server, tmp_path):
    folder = write(tmp_path / "slow", PROJECT | {"modules.py": "import time\ntime.sleep(1000)\n"})
    command = [sys.executable, str(ROOT / "grade.py"), str(folder), "--no_training", "--out_dir", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["score"] == 0
    assert sum(test["max_score"] for test in results["tests"]) == 59


def test_wrong_use_ends_with_one_line_and_status_2(tmp_path):
    for args in ([], [tmp_path / "nowhere"], [tmp_path, "--jobs", "0"], [tmp_path, "--nonsense"]):
        done = run_grader(*args)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr


# ---- Runs --------------------------------------------------------------------------------------


def test_recorded_runs_hold_the_reports_claims(tmp_path):
    """Of so many intervals at 99%, one may miss a run that helped to make it; most must hold."""
    rows = []
    for experiment in CLAIMS:
        for run in read_runs(experiment):
            folder = write_run(tmp_path / experiment / run.name, run.config, run.metrics)
            rows += grade_run(folder)[2]
    decided = [row for row in rows if row.decides]
    assert len(decided) > 30
    assert np.mean([row.passed for row in decided]) > 0.97
    assert all(row.verdict == "undecided" and "decides nothing" in row.tolerance for row in rows if not row.decides)


@pytest.mark.parametrize("experiment", CLAIMS)
def test_network_that_guesses_passes_no_claim_but_those_that_hold_of_it(tmp_path, experiment):
    """And no tolerance holds what cannot be, such as an accuracy over 1."""
    guess = {"train_accuracy": 0.1, "test_accuracy": 0.1, "train_loss": np.log(10), "test_loss": np.log(10)}
    folder = a_run(tmp_path, lambda config, metrics: [m | guess for m in metrics], experiment)
    rows = {row.says: row for row in grade_run(folder)[2]}
    holds = {claim.says for claim in CLAIMS[experiment] if claim.guess is None}
    assert {says for says, row in rows.items() if row.passed} == holds
    for claim in CLAIMS[experiment]:
        row, (lowest, highest) = rows[claim.says], claim.possible
        assert lowest <= row.low <= row.high <= highest
        assert row.expected.startswith(claim.side)


def test_tolerance_so_wide_that_guessing_passes_decides_nothing(tmp_path):
    runs = [SimpleNamespace(metrics=[{"train_accuracy": accuracy}]) for accuracy in (0.2, 0.6, 0.95)]
    claim = Claim(11, "train accuracy over 0.95", best("train_accuracy"), side="at least")
    low, high, _, text, decides = _tolerance(claim, runs)
    assert (low, high, decides) == (0, 1, False)
    row = Row(claim.figure, claim.says, low, high, claim.side, text, decides, 0.96)
    assert (row.passed, row.verdict) == (False, "undecided")
    assert "0 of 1 claims hold, 1 undecided" in pages.run_table("run", "fig11", [row])
    runs = [SimpleNamespace(metrics=[{"train_accuracy": accuracy}]) for accuracy in (0.95, 0.96, 0.97)]
    assert _tolerance(claim, runs)[-1]


def test_tolerances_end_at_what_is_possible_and_dips_of_adam_are_decided():
    runs = [SimpleNamespace(metrics=[{"test_accuracy": accuracy}]) for accuracy in (0.2, 0.6, 0.95)]
    assert _tolerance(Claim(11, "", last("test_accuracy")), runs)[:2] == (0, 1)
    assert _tolerance(CLAIMS["fig05_adam"][0], read_runs("fig05_adam"))[-1]


def a_run(tmp_path, change, experiment="fig01_mlp_numpy"):
    run = read_runs(experiment)[0]
    config, metrics = json.loads(json.dumps(run.config)), [dict(m) for m in run.metrics]
    metrics = change(config, metrics) or metrics
    return write_run(tmp_path / "run", config, metrics)


def write_run(folder, config, metrics):
    """Write a run folder, as far as the grader reads it; return it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    return folder


def test_run_that_learned_nothing_fails_its_claims(tmp_path):
    folder = a_run(
        tmp_path, lambda config, metrics: metrics[-1].update(test_accuracy=0.1, test_loss=2.3, train_accuracy=0.1)
    )
    assert not any(row.passed for row in grade_run(folder)[2])
    done = run_grader(folder, "--out_dir", tmp_path / "out")
    assert done.returncode == 0
    assert "FAIL" in done.stdout
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config, metrics: config["dataset"].update(is_synthetic=True), "synthetic"),
        (lambda config, metrics: config["flags"].update(learning_rate=0.5), "learning_rate 0.5 for 0.002"),
        (lambda config, metrics: metrics[:-3], "is at step 1200 of 1500"),
        (lambda config, metrics: config.pop("flags"), "damaged"),
        (lambda config, metrics: config.update(flags=[]), "damaged"),
        (lambda config, metrics: metrics[-1].update(test_accuracy=10**400), "damaged"),
        (lambda config, metrics: metrics[-1].update(test_loss=float("nan")), "damaged"),
        (lambda config, metrics: metrics[4].update(train_loss=[[]]), "train_loss at step 400"),
        (lambda config, metrics: config.update(x="x" * (5 << 20)), "damaged"),
    ],
    ids=[
        "synthetic",
        "other flags",
        "incomplete",
        "no flags",
        "flags of a type",
        "huge number",
        "nan",
        "no number",
        "large",
    ],
)
def test_run_that_cannot_be_compared_is_refused_with_the_reason(tmp_path, change, says):
    def only(config, metrics):
        changed = change(config, metrics)
        return changed if isinstance(changed, list) else None

    folder = a_run(tmp_path, only)
    with pytest.raises(RunRefusedError, match=says):
        grade_run(folder)
    done = run_grader(folder, "--out_dir", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_nested_json_is_a_damaged_run_and_a_submission_is_no_run(tmp_path):
    folder = a_run(tmp_path, lambda config, metrics: None)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunRefusedError, match="RecursionError"):
        grade_run(folder)
    assert is_run(folder)
    (folder / "modules.py").touch()
    assert not is_run(folder)


def test_interval_is_students_for_a_new_observation():
    rng = np.random.default_rng(0)
    inside = [low <= x <= high for *v, x in rng.normal(size=(4000, 6)) for low, high, _ in [interval(v)]]
    assert abs(np.mean(inside) - 0.99) < 0.005


def test_few_runs_take_their_late_evaluations_spread():
    low, high, text = interval([0.5], [[0.4, 0.5, 0.6]])
    assert (low, high) == pytest.approx((0.2, 0.8))
    assert "last evaluations" in text


def test_folder_of_submissions_or_of_runs_is_none_itself(tmp_path):
    for name in "abc":
        write(tmp_path / "all" / name, {"modules.py": ""})
    with pytest.raises(SubmissionError, match=r"holds 3 folders with a modules.py: name each, as in .*all/\*"):
        read_submission(tmp_path / "all")
    assert read_submission(tmp_path / "all" / "a").found == {"modules.py": "modules.py"}
    run = read_runs("fig09_long")[0]
    write_run(tmp_path / "fig09_long" / run.name, run.config, run.metrics)
    with pytest.raises(SubmissionError, match=r"holds runs, and no answer: name a run, as in .*fig09_long/seed42"):
        read_submission(tmp_path / "fig09_long")


def test_notes_name_what_a_failure_follows_from_and_what_is_not_written(server):
    outcomes, _ = grade(server, {"modules.py": TEMPLATES["modules.py"]})
    assert outcomes["linear.start"].hint == "this part is not written yet"
    outcomes, _ = grade(server, {"modules.py": "class LinearModule(:\n    pass\n"})
    assert outcomes["linear.start"].got == (
        "modules.py cannot be imported: SyntaxError: invalid syntax (modules.py, line 1)"
    )
    wrong = PROJECT["modules.py"].replace('out += self.params["bias"]', 'out += 2 * self.params["bias"] + 1')
    outcomes, _ = grade(server, PROJECT | {"modules.py": wrong})
    assert "linear.start" not in outcomes["linear.forward"].hint
    assert outcomes["mlp_numpy.forward"].hint.endswith("perhaps this follows from linear.forward, above")


@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
def test_without_namespaces_it_says_so_and_grades():
    readable = os.geteuid() != 0 or all(p.stat().st_mode & 1 for p in Path(sys.base_prefix).resolve().parents)
    if not readable:
        pytest.skip("another user than root cannot read this Python")
    with Server(namespaces=False) as server:
        outcomes, grading = grade(server, {"modules.py": PROJECT["modules.py"]})
    assert outcomes["linear.forward"].passed
    assert grading.session.protection["namespaces"] is False


@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
def test_other_processes_of_its_user_cost_a_submission_nothing():
    """The kernel counts them where a submission cannot have a user of its own."""
    if os.geteuid() == 0:
        pytest.skip("a submission has a user of its own here")
    threads = b"import threading\nfor _ in range(8):\n    threading.Thread(target=print).start()\n"
    with Server(namespaces=False) as server, Session(server, {"first.py": b"", "second.py": threads}, ["."]) as session:
        assert session.ask("import_module", {"module": "first"}).error is None
        others = [subprocess.Popen(["sleep", "100"]) for _ in range(60)]
        try:
            assert session.ask("import_module", {"module": "second"}).error is None
        finally:
            for process in others:
                process.kill()
                process.wait()
