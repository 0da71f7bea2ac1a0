"""Submissions found and read: in directories, archives and exports of course platforms, of any bytes."""

import io
import re
import tarfile
import zipfile

import pytest

from grading import archives
from grading.scheme import FILES
from grading.submission import SubmissionError, read_submission, submissions_in

CODE = {"code/modules.py": b"import numpy", "code/notes.txt": b"notes", "code/.git/config": b"hidden"}


def zipped(files):
    """Return the bytes of a zip archive of `{name: bytes}`; names that end with / are directories."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


def tarred(files, mode="w:gz"):
    """Return the bytes of a tar archive of `{name: bytes}`."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def written(path, files):
    """Write `{name: bytes}` into a new directory; names that end with / are directories."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).mkdir() if name.endswith("/") else (path / name).write_bytes(content)
    return path


def read(path):
    """Return the only submission in a directory or an archive."""
    (tree,) = submissions_in(path)
    return read_submission(tree)


# ---- Who the students are ------------------------------------------------------------------------

ANSWER = zipped({"hw/modules.py": b"ada"})
LAYOUTS = {
    "files": (["modules.py", "mlp_numpy.py"], [""]),
    "files in directories": (["hw/modules.py", "hw/readme.txt"], [""]),
    "files in two directories": (["lib/modules.py", "code/mlp_numpy.py"], [""]),
    "drafts below": (["modules.py", "old/modules.py", "older/modules.py", "oldest/modules.py"], [""]),
    "drafts below a directory": (["hw/modules.py", "hw/old/modules.py", "readme.txt"], [""]),
    "an archive and its files": (["hw/modules.py", "hw.zip"], [""]),
    "tests of the same name": (["code/modules.py", "tests/modules.py", "report/modules.py"], [""]),
    "no answer": (["notes.txt"], [""]),
    "students": (["ada/modules.py", "emmy/src/modules.py", "leo/modules.py", "kim/"], ["ada", "emmy", "kim", "leo"]),
    "students at depth": (
        [f"Sheet 1/Submissions/{name}/modules.py" for name in ("ada", "emmy", "leo")] + ["Sheet 1/Submissions/kim/"],
        [f"Sheet 1/Submissions/{name}" for name in ("ada", "emmy", "kim", "leo")],
    ),
    "homeworks": (
        [f"2025/hw{n}/{name}/modules.py" for n in (1, 2) for name in ("ada", "emmy", "leo")] + ["2025/hw3/"],
        [f"2025/hw{n}/{name}" for n in (1, 2) for name in ("ada", "emmy", "leo")],
    ),
    "archives": (["ada.zip", "emmy.zip", "leo/hw.zip", "list.csv"], ["ada.zip", "emmy.zip", "leo"]),
    "archives of other kinds": (["ada.zip", "emmy.zip", "kim.rar"], ["ada.zip", "emmy.zip", "kim.rar"]),
    "Gradescope": (
        ["a/submission_metadata.yml", "a/submission_7/modules.py", "a/submission_8/readme.txt", "a/submission_9/"],
        [f"a/submission_{n}" for n in (7, 8, 9)],
    ),
    "Moodle": (
        ["Ada_7_assignsubmission_file/hw.zip", "Leo_8_assignsubmission_file/", "Leo_8_assignsubmission_text/a.html"],
        ["Ada_7_assignsubmission_file", "Leo_8_assignsubmission_file"],
    ),
    "Brightspace": (
        ["7-1 - Ada Lovelace - Nov 3, 2026 1140 AM/modules.py", "8-1 - Emmy Noether - Nov 4/readme.txt", "index.html"],
        ["7-1 - Ada Lovelace - Nov 3, 2026 1140 AM", "8-1 - Emmy Noether - Nov 4"],
    ),
    "Canvas": (
        ["adaada_7_1_hw.zip", "emmy_LATE_8_2_modules-1.zip", "leo_9_3_hw.zip"],
        ["adaada_7_1_hw.zip", "emmy_LATE_8_2_modules-1.zip", "leo_9_3_hw.zip"],
    ),
    "loose files of a student": (
        ["ada_7_1_hw.zip", "emmy_8_2_hw.zip", "leo_9_3_hw.zip", "kim_LATE_10_4_modules-1.py"],
        "kim_LATE_10_4_modules-1.py is next to submissions",
    ),
    "two": (["v1/modules.py", "v2/modules.py"], "v1, v2 in .* may be students"),
    "two at depth": (["2025/hw1/ada/modules.py", "2025/hw1/emmy/modules.py"], "ada, emmy in .* may be students"),
    "mixed depths": (
        ["leo/modules.py", *(f"late/{name}/modules.py" for name in ("ada", "emmy", "kim"))],
        "late, leo in .* may be students",
    ),
}  # fmt: skip


@pytest.mark.parametrize("is_archive", [False, True], ids=["directory", "archive"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_submissions_are_found(tmp_path, layout, is_archive):
    names, expected = LAYOUTS[layout]
    files = {name: ANSWER if name.endswith(".zip") else name.encode() for name in names}
    path = tmp_path / "export.zip"
    path = path if is_archive and path.write_bytes(zipped(files)) else written(tmp_path / "in", files)
    if isinstance(expected, str):
        with pytest.raises(SubmissionError, match=expected):
            read(path)
    else:
        assert [tree.path for tree in submissions_in(path)] == [path / name for name in expected]


def test_unclear_student_is_refused_alone(tmp_path):
    names = ("ada/modules.py", "emmy/modules.py", "kim/v1/modules.py", "kim/v2/modules.py")
    ada, _, kim = submissions_in(written(tmp_path, dict.fromkeys(names, b"")))
    assert read_submission(ada).found == {"modules.py": "modules.py"}
    with pytest.raises(SubmissionError, match=r"v1, v2 in .*kim may be students"):
        read_submission(kim)


# ---- Archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".zip", zipped), (".tar.gz", tarred), (".TGZ", tarred), (".tar.xz", lambda files: tarred(files, "w:xz"))],
)
def test_archive_is_read_without_unpacking(tmp_path, suffix, pack):
    path = tmp_path / f"ada{suffix}"
    path.write_bytes(pack(CODE | {"../mlp_numpy.py": b"", "/abs/notes.txt": b""}))
    submission = read(path)
    assert submission.found == {"modules.py": "code/modules.py"}
    assert submission.files == {"code/modules.py": b"import numpy", "code/notes.txt": b"notes", "abs/notes.txt": b""}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("a.zip", zipped({f"{i}.txt": b"" for i in range(41)}), "more than 40 files"),
        ("a.tgz", tarred({"zeros.bin": bytes(200_000), "modules.py": b""}), "or 150,000 bytes"),
        ("a.zip", zipped({f"{i}.zip": zipped({"x": bytes(80_000)}) for i in range(2)}), "or 150,000 bytes"),
        ("a.zip", zipped(CODE)[:-30], "cannot be read"),
        ("a.rar", b"Rar!", "cannot be read"),
    ],
)
def test_damaged_or_large_archive_is_refused(tmp_path, monkeypatch, name, raw, says):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 40)
    monkeypatch.setattr(archives, "MAX_BYTES", 150_000)
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(SubmissionError, match=says):
        read(tmp_path / name)


# ---- One submission ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["report/modules.py"], "found in report"),
        (["code/Modules.py", "mlp.ipynb"], "missing: modules.py, .*other files: code/Modules.py, mlp.ipynb"),
        ([*FILES, "modules (1).py", "utils.py"], r"^other files: modules \(1\)\.py$"),
        (["modules.py", "rest.rar"], r"left out: rest.rar: it cannot be read \("),
        (["modules.py", "old/modules.py"], "the same names were not graded: old/modules.py"),
    ],
)
def test_files_are_noted(tmp_path, names, note):
    submission = read(written(tmp_path, dict.fromkeys(names, b"")))
    assert any(re.search(note, text) for text in submission.notes)


def test_submission_that_mentions_the_graders_code_is_noted(tmp_path):
    submission = read(written(tmp_path, dict.fromkeys(FILES, b"") | {"helper.py": b"import __grader__.frames"}))
    assert submission.notes == ["helper.py mentions __grader__, the grader's own code: read it"]


def test_links_and_large_files_are_left_out(tmp_path):
    (tmp_path / "other.py").touch()
    large = {"weights.npz": bytes(3 << 20)}
    folder = written(tmp_path / "ada", dict.fromkeys(FILES[1:], b"") | large)
    (folder / "modules.py").symlink_to(tmp_path / "other.py")
    (folder / "code").symlink_to(tmp_path)
    submission = read(folder)
    assert {*submission.files} == {*submission.found} == {*FILES[1:]}
    link = "it is a link, or not a regular file"
    assert submission.notes[0] == (
        f"left out: modules.py: {link}; code: it cannot be read ({link}); weights.npz: it has more than 2,097,152 bytes"
    )
    (tmp_path / "emmy.zip").write_bytes(zipped({"modules.py": b""} | large))
    assert read(tmp_path / "emmy.zip").files == {"modules.py": b""}
