"""Submissions found and read: in directories, archives and exports of course platforms, of any bytes."""

import contextlib
import io
import os
import tarfile
import zipfile

import pytest

from grading import archives
from grading.archives import SubmissionError, find_submissions, list_tree
from grading.scheme import FILES
from grading.submission import read_submission

CODE = {"code/modules.py": b"import numpy", "code/notes.txt": b"notes", "code/.git/config": b"hidden"}


def zipped(files):
    """Return the bytes of a zip archive of `{name: bytes}`; names that end with / are directories."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


def tarred(files, mode="w:gz", link=None):
    """Return the bytes of a tar archive of `{name: bytes}`, and of a modules.py that is a link to `link`."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("modules.py")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return raw.getvalue()


def written(path, files):
    """Write `{name: bytes}` into a new directory; names that end with / are directories."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name.endswith("/"):
            (path / name).mkdir(parents=True, exist_ok=True)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@contextlib.contextmanager
def as_ordinary_user(directory):
    """Let root read files as an ordinary user does: nothing that permissions forbid."""
    for path in [] if os.geteuid() else [directory, *directory.parents]:
        path.chmod(path.stat().st_mode | 0o011)
    try:
        if not os.geteuid():
            os.seteuid(65534)
        yield
    finally:
        if not os.getuid():
            os.seteuid(0)


def submissions_in(path):
    """Return `{name: Submission}` of all submissions in a directory or an archive."""
    tree = list_tree(path)
    return {"/".join(names): read_submission(tree.below(*names)) for names in find_submissions(tree)}


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
    "Gradescope without answers": (["submission_7/", "submission_8/"], ["submission_7", "submission_8"]),
    "Moodle": (
        ["Ada_7_assignsubmission_file/hw.zip", "Leo_8_assignsubmission_file/", "Leo_8_assignsubmission_text/a.html"],
        ["Ada_7_assignsubmission_file", "Leo_8_assignsubmission_file"],
    ),
    "Moodle without directories": (
        ["Ada Lovelace_7_assignsubmission_file_hw.zip", "Emmy Noether_8_assignsubmission_file_modules.py"],
        ["Ada Lovelace_7", "Emmy Noether_8"],
    ),
    "Brightspace": (
        ["7-1 - Ada Lovelace - Nov 3, 2026 1140 AM/modules.py", "8-1 - Emmy Noether - Nov 4/readme.txt", "index.html"],
        ["7-1 - Ada Lovelace - Nov 3, 2026 1140 AM", "8-1 - Emmy Noether - Nov 4"],
    ),
    "Canvas": (
        ["lovelaceada_7_1_hw.zip", "noetheremmy_LATE_8_2_modules-1.py", "noetheremmy_LATE_8_3_mlp_numpy.py"],
        ["lovelaceada_7", "noetheremmy_LATE_8"],
    ),
    "two": (["v1/modules.py", "v2/modules.py"], "v1, v2 in .* may be students"),
    "two archives": (["hw/ada.zip", "hw/emmy.zip"], "ada.zip, emmy.zip in .* may be students"),
    "a student's file and an archive": (["ada/modules.py", "emmy/hw.zip"], "ada, emmy in .* may be students"),
    "two at depth": (["2025/hw1/ada/modules.py", "2025/hw1/emmy/modules.py"], "ada, emmy in .* may be students"),
    "mixed depths": (
        ["leo/modules.py", *(f"late/{name}/modules.py" for name in ("ada", "emmy", "kim"))],
        "leo, late in .* may be students",
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
            find_submissions(list_tree(path))
        return
    assert ["/".join(found) for found in find_submissions(list_tree(path))] == expected


def test_every_student_gets_their_own_files(tmp_path):
    names = ["lovelaceada_7_1_hw.zip", "noetheremmy_8_2_modules-1.py", "noetheremmy_8_3_mlp_numpy.py"]
    canvas = written(tmp_path / "canvas", {name: ANSWER if name.endswith("zip") else b"emmy" for name in names})
    found = submissions_in(canvas)
    assert found["lovelaceada_7"].files == {"hw/modules.py": b"ada"}
    assert found["noetheremmy_8"].files == {"modules.py": b"emmy", "mlp_numpy.py": b"emmy"}


# ---- Archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".zip", zipped), (".tar.gz", tarred), (".TGZ", tarred), (".tar.xz", lambda files: tarred(files, "w:xz"))],
)
def test_archive_is_read_without_unpacking(tmp_path, suffix, pack):
    path = tmp_path / f"ada{suffix}"
    path.write_bytes(pack(CODE))
    (submission,) = submissions_in(path).values()
    assert submission.found == {"modules.py": "code/modules.py"}
    assert submission.files == {"code/modules.py": b"import numpy", "code/notes.txt": b"notes"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_archive_in_an_archive_is_read(tmp_path):
    written(tmp_path, {"hand_in.zip": zipped({"again.tar.gz": tarred(CODE), "roster.csv": b""})})
    (submission,) = submissions_in(tmp_path).values()
    assert submission.found == {"modules.py": "code/modules.py"}
    assert submission.notes == ["read from hand_in.zip", "read from again.tar.gz", "found in code"]


def encrypted():
    raw = bytearray(zipped({"modules.py": b""}))
    raw[6] |= 1  # in the header of the file, and in the directory
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("a.zip", zipped({"../modules.py": b""}), "leads out of it"),
        ("a.tgz", tarred({"/etc/modules.py": b""}), "leads out of it"),
        ("a.zip", zipped({"c\\..\\..\\modules.py": b""}), "leads out of it"),
        ("a.zip", zipped({f"{i}.txt": b"" for i in range(41)}), "more than 40 files"),
        ("a.tgz", tarred({"zeros.bin": bytes(200_000), "modules.py": b""}), "more than 40 files or"),
        ("a.zip", zipped({f"{i}.py": bytes(40_000) for i in range(3)}), "or 60,000 bytes"),
        ("a.zip", encrypted(), "is encrypted"),
        ("a.zip", zipped(CODE)[:-30], "cannot be read"),
        ("a.tar.gz", b"no archive", "cannot be read"),
        ("a.rar", b"Rar!", "cannot be read"),
        ("a.zip", zipped({"a.zip": zipped({"a.zip": zipped(CODE)})}), "archive in an archive in an archive"),
    ],
)
def test_damaged_or_unsafe_archive_is_refused(tmp_path, monkeypatch, name, raw, says):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 40)
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 150_000)
    monkeypatch.setattr(archives, "MAX_KEPT_BYTES", 60_000)
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(SubmissionError, match=says):
        submissions_in(tmp_path / name)


# ---- One submission ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "found", "note"),
    [
        (["report/modules.py"], "report/modules.py", "found in report"),
        (["modules.py", "tests/mlp_numpy.py"], "modules.py", ""),
        (["Modules.py"], None, "found Modules.py, expected modules.py"),
        (["code/mlp_numpy (1).py"], None, "found code/mlp_numpy (1).py, expected mlp_numpy.py"),
        (["Copy of convnet_pytorch.ipynb"], None, "expected convnet_pytorch.py"),
        (["modules.py", "rest.rar"], "modules.py", "there is rest.rar: unpack it"),
        (["a.ipynb", "b/c.ipynb"], None, "but notebooks: ask for .py files"),
        (["train_mlp_numpy.py"], None, "none of modules.py, mlp_numpy.py,"),
        (["modules.py", "old/modules.py"], "modules.py", "the same names were not graded: old/modules.py"),
    ],
)
def test_near_misses_are_noted(tmp_path, names, found, note):
    written(tmp_path, dict.fromkeys(names, b""))
    (submission,) = submissions_in(tmp_path).values()
    assert list(submission.found.values()) == [found] * bool(found)
    assert any(note in text for text in submission.notes) if note else submission.notes == []


@pytest.mark.parametrize(
    ("raw", "is_read"),
    [
        ('# coding: latin-1\nNAME = "é"\n'.encode("latin-1"), True),
        ('# coding: euc-jp\nNAME = "日本"\n'.encode("euc-jp"), True),
        ('NAME = "é"\n'.encode("utf-8-sig"), True),
        ('NAME = "é"\n'.encode("latin-1"), False),
        ("# coding: utf-16\n".encode("utf-16"), False),
    ],
)
def test_file_that_python_cannot_decode_is_noted(tmp_path, raw, is_read):
    written(tmp_path, dict.fromkeys(FILES, b"") | {"modules.py": raw})
    (submission,) = submissions_in(tmp_path).values()
    assert [note[:10] for note in submission.notes] == ["modules.py"] * (not is_read)


def test_files_left_out_are_noted(tmp_path):
    (tmp_path / "other.py").touch()
    folder = written(tmp_path / "ada", dict.fromkeys(FILES, b"") | {"weights.npz": bytes(3 << 20)})
    (folder / "modules.py").unlink()
    (folder / "modules.py").symlink_to(tmp_path / "other.py")
    (folder / "code").symlink_to(tmp_path)
    (tmp_path / "a.tgz").write_bytes(tarred({"mlp_numpy.py": b""}, link="/etc/passwd"))
    (submission,) = submissions_in(folder).values()
    assert set(submission.files) == set(submission.found) == {*FILES} - {"modules.py"}
    assert [note.split(":")[0] for note in submission.notes] == [
        f"{name} was left out" for name in ("code", "modules.py", "weights.npz")
    ]
    (submission,) = submissions_in(tmp_path / "a.tgz").values()
    assert submission.files == {"mlp_numpy.py": b""}
    assert "modules.py was left out: it is a link, or not a regular file" in submission.notes


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0, 0o444, 0o111])
def test_unreadable_directory_is_refused_alone(tmp_path, mode):
    students = written(tmp_path / "in", {f"{name}/modules.py": b"" for name in ("ada", "emmy", "leo", "kim")})
    (students / "kim").chmod(mode)
    with as_ordinary_user(tmp_path):
        tree = list_tree(students)
        assert find_submissions(tree) == [(name,) for name in ("ada", "emmy", "kim", "leo")]
        assert read_submission(tree.below("ada")).found == {"modules.py": "modules.py"}
        for unreadable in (tree.below("kim"), list_tree(students / "kim")):
            with pytest.raises(SubmissionError, match="cannot be read"):
                read_submission(unreadable)
    (students / "kim").chmod(0o755)
