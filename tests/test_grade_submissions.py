"""What a submission gets: right ones in any style, empty and broken ones, folders of any kind."""

from pathlib import Path

import pytest
from graded import CHECKS, PROJECT, TEMPLATES, a_run, checks_of, grade, lost, points, write

from grading.all_checks import ALL_CHECKS
from grading.archives import MAX_FILE_BYTES
from grading.check import MISTAKES, Outcome
from grading.scheme import BY_HAND_POINTS, FILES
from grading.session import Session
from grading.submission import SubmissionError, read_submission
from grading.submissions import _what_was_missed

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


def test_points_are_the_courses():
    points = {}
    for check in ALL_CHECKS:
        points[check.question] = points.get(check.question, 0) + check.points
    assert points == {"1.2": 15, "2": 20, "3.1": 10, "3.2b": 3, "3.2c": 1, "4": 10}
    assert sum(points.values()) + BY_HAND_POINTS == 100


def test_every_known_mistake_belongs_to_a_check():
    names = {check.name for check in CHECKS}
    assert {m.check for m in MISTAKES if not m.is_harmless} <= names


@pytest.mark.parametrize(
    "style", [next(iter(STYLES)), *(pytest.param(s, marks=pytest.mark.slow) for s in [*STYLES][1:])]
)
def test_right_submission_in_another_style_loses_nothing(shared_sandbox, style):
    files = {file: (SUBMISSIONS / f"{source}.py").read_text() if source else PROJECT[file]
             for file, source in zip(FILES, STYLES[style], strict=True)}  # fmt: skip
    outcomes, _ = grade(shared_sandbox, files)
    assert lost(outcomes) == [], {name: outcomes[name] for name in lost(outcomes)}


@pytest.mark.parametrize(
    ("files", "says"),
    [({}, "there is no"), (TEMPLATES, "is not written yet"), (dict.fromkeys(FILES, "def broken(:\n"), "SyntaxError")],
    ids=["empty", "template", "syntax errors"],
)
def test_submission_without_an_answer_gets_0_and_a_clear_text(shared_sandbox, files, says):
    outcomes, _ = grade(shared_sandbox, files)
    assert points(outcomes) == 0, [n for n in outcomes if n not in lost(outcomes)]
    assert all(says in outcome.got for outcome in outcomes.values()), outcomes
    if files is TEMPLATES:
        assert {outcome.hint for outcome in outcomes.values()} == {"this part is not written yet"}


def test_old_numpy_is_named_and_lenient_brings_it_back(shared_sandbox):
    old = PROJECT["modules.py"].replace("dtype=np.float64", "dtype=np.float")
    outcomes, grading = grade(shared_sandbox, {"modules.py": old})
    assert grading.old_code == {"module 'numpy' has no attribute 'float'"}
    assert not outcomes["linear.forward"].passed
    outcomes, grading = grade(shared_sandbox, {"modules.py": old}, lenient=True)
    assert outcomes["linear.forward"].passed
    assert grading.session.old_names == {"float"}


def test_notes_name_what_a_failure_follows_from_and_what_is_not_written(shared_sandbox):
    outcomes, _ = grade(shared_sandbox, {"modules.py": TEMPLATES["modules.py"]})
    assert outcomes["linear.start"].hint == "this part is not written yet"
    outcomes, _ = grade(shared_sandbox, {"modules.py": "class LinearModule(:\n    pass\n"})
    assert outcomes["linear.start"].got == (
        "modules.py cannot be imported: SyntaxError: invalid syntax (modules.py, line 1)"
    )
    wrong = PROJECT["modules.py"].replace('out += self.params["bias"]', 'out += 2 * self.params["bias"] + 1')
    outcomes, _ = grade(shared_sandbox, PROJECT | {"modules.py": wrong}, checks_of("modules.py"))
    assert "linear.start" not in outcomes["linear.forward"].hint
    assert lost(outcomes)[0] == "linear.forward"
    assert outcomes["mlp_numpy.forward"].passed  # a stand-in takes the place of what failed


@pytest.mark.parametrize(
    ("files", "found", "note"),
    [
        (["report/modules.py"], "report/modules.py", "found in report"),
        (["modules.py", "tests/mlp_numpy.py"], "modules.py", ""),
        (["Modules.py"], None, "found Modules.py, expected modules.py"),
        (["code/mlp_numpy (1).py"], None, "found code/mlp_numpy (1).py, expected mlp_numpy.py"),
        (["Copy of convnet_pytorch.ipynb"], None, "expected convnet_pytorch.py"),
        (["answer.rar"], None, "there is answer.rar: unpack it"),
        (["a.ipynb", "b/c.ipynb"], None, "there are only notebooks (a.ipynb, b/c.ipynb)"),
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


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        ('# coding: latin-1\nNAME = "é"\n'.encode("latin-1"), None),
        ('# coding: euc-jp\nNAME = "日本"\n'.encode("euc-jp"), None),
        ('NAME = "é"\n'.encode("utf-8-sig"), None),
        ('NAME = "é"\n'.encode("latin-1"), "not in the encoding that the first lines name, or else UTF-8"),
        ("# coding: utf-16\n".encode("utf-16"), "in UTF-16, or no text"),
    ],
)
def test_source_runs_in_every_encoding_that_python_reads_and_else_the_note_says_why(
    shared_sandbox, tmp_path, raw, note
):
    (tmp_path / "modules.py").write_bytes(raw)
    submission = read_submission(tmp_path)
    with Session(shared_sandbox, submission.files, ["."]) as session:
        assert bool(session.ask("import_module", {"module": "modules"}).error) == bool(note)
    assert submission.notes == [f"{note}, which Python does not run: modules.py; save as UTF-8"] * bool(note)


def test_file_that_was_left_out_is_named_with_what_it_cost(shared_sandbox, tmp_path):
    text = 'import numpy as np\nW = np.load("weights.npz")\n' + PROJECT["modules.py"]
    write(tmp_path / "one", {"modules.py": text, "weights.npz": "0" * (MAX_FILE_BYTES + 1), "big.csv": "0" * (3 << 20)})
    submission = read_submission(tmp_path / "one")
    outcomes, _ = grade(shared_sandbox, {name: submission.files[name] for name in submission.files})
    outcomes = {check: outcomes[check.name] for check in CHECKS}
    *notes, other = _what_was_missed(outcomes, submission)
    lost_points = "11.25 points are lost where weights.npz is missed (weights.npz was left out: it has 2,"
    assert any(note.startswith(lost_points) for note in notes)
    assert any("where custom_batchnorm.py is missed (not handed in" in note for note in notes)
    assert other.startswith("big.csv was left out (it has 3,145,728 bytes, more than 2,097,152)")


def test_link_that_was_left_out_is_named_with_what_it_cost(tmp_path):
    (tmp_path / "weights.npz").touch()
    folder = write(tmp_path / "one", {"modules.py": ""})
    (folder / "weights.npz").symlink_to(tmp_path / "weights.npz")
    (folder / "code").symlink_to(tmp_path)
    submission = read_submission(folder)
    missed = Outcome(False, got="FileNotFoundError: [Errno 2] No such file or directory: 'weights.npz'")
    (note,) = _what_was_missed({CHECKS[0]: missed}, submission)
    assert "(weights.npz was left out: it is a link, or no plain file)" in note
    assert "code was not read: it is a link" in submission.notes


def test_file_in_a_folder_that_is_not_searched_is_named_with_what_it_cost(tmp_path):
    write(tmp_path / "one", {"modules.py": ""})
    write(tmp_path / "one" / "results", {"weights.npz": ""})
    submission = read_submission(tmp_path / "one")
    missed = Outcome(False, got="FileNotFoundError: [Errno 2] No such file or directory: './results/weights.npz'")
    (note,) = _what_was_missed(dict.fromkeys(CHECKS[:2], missed), submission)
    assert note.startswith(
        "1.5 points are lost where ./results/weights.npz is missed (results/weights.npz was left out"
    )
    assert _what_was_missed({}, submission) == []


def test_link_in_a_submission_is_named(tmp_path):
    (tmp_path / "other.py").touch()
    (tmp_path / "modules.py").symlink_to("other.py")
    assert read_submission(tmp_path).notes == ["modules.py was not read: it is a link, or no plain file"]


def test_folder_of_submissions_or_of_runs_is_none_itself(tmp_path):
    for name in "abc":
        write(tmp_path / "all" / name, {"modules.py": ""})
    with pytest.raises(SubmissionError, match=r"holds 3 folders with a modules.py: name each, as in .*all/\*"):
        read_submission(tmp_path / "all")
    assert read_submission(tmp_path / "all" / "a").found == {"modules.py": "modules.py"}
    for name in ("seed42", "seed43"):
        a_run(tmp_path / "runs" / name)
    with pytest.raises(SubmissionError, match=r"holds runs, and no answer: name a run, as in .*runs/seed42"):
        read_submission(tmp_path / "runs")
