"""Submissions in archives: graded as the folders that they hold, without a file that leads out of them."""

import io
import json
import tarfile
import zipfile

import pytest
from graded import call_grade
from test_grade_results import nothing_is_run

from grading import archives, submissions
from grading.archives import ArchiveError, submissions_in
from grading.submission import SubmissionError, read_submission

FILES = {"code/modules.py": b"import numpy", "code/notes.txt": b"notes", "code/.git/config": b"hidden"}


def zipped(files):
    """Return the bytes of a zip archive of `{name: bytes}`."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


def tarred(files, *, link=None):
    """Return the bytes of a .tar.gz of `{name: bytes}`, and of a member that leads to the file `link`."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("modules.py")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return raw.getvalue()


@pytest.mark.parametrize(("suffix", "pack"), [(".zip", zipped), (".tar.gz", tarred), (".TGZ", tarred)])
def test_archive_is_read_as_the_folder_that_it_holds(tmp_path, suffix, pack):
    path = tmp_path / f"ada{suffix}"
    path.write_bytes(pack(FILES))
    (place,) = submissions_in(path)
    submission = read_submission(place)
    assert submission.found == {"modules.py": "code/modules.py"}
    assert submission.files == {"code/modules.py": b"import numpy", "code/notes.txt": b"notes"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_folder_with_one_archive_is_what_the_archive_holds(tmp_path):
    (tmp_path / "hand_in.zip").write_bytes(zipped({"again.tar.gz": tarred(FILES), "roster.csv": b""}))
    submission = read_submission(tmp_path)
    assert submission.found == {"modules.py": "code/modules.py"}
    assert submission.path == tmp_path
    assert submission.notes == ["read from hand_in.zip", "read from again.tar.gz", "found in code"]


EXPORTS = {
    "Gradescope": {
        "assignment_1_export/submission_metadata.yml": b"",
        "assignment_1_export/submission_7/modules.py": b"7",
        "assignment_1_export/submission_8/readme.txt": b"",
    },
    "Moodle": {
        "Ada Lovelace_7_assignsubmission_file/hand_in.zip": zipped({"modules.py": b"7"}),
        "Emmy Noether_8_assignsubmission_file/readme.txt": b"",
    },
    "Brightspace": {
        "7-1 - Ada Lovelace - Nov 3, 2026 1140 AM/modules.py": b"7",
        "8-1 - Emmy Noether - Nov 4, 2026 910 AM/readme.txt": b"",
        "index.html": b"",
    },
    "Canvas": {
        "lovelaceada_7_1_hand_in.zip": zipped({"modules.py": b"7"}),
        "noetheremmy_8_1_hand_in.zip": zipped({"readme.txt": b""}),
    },
}


@pytest.mark.parametrize("platform", EXPORTS)
def test_export_of_a_platform_holds_a_submission_for_each_student(tmp_path, platform):
    (tmp_path / "export.zip").write_bytes(zipped(EXPORTS[platform]))
    ada, emmy = map(read_submission, submissions_in(tmp_path / "export.zip"))
    assert ada.files["modules.py"] == b"7"
    assert emmy.found == {}


def test_three_folders_with_one_file_are_submissions_and_two_are_drafts(tmp_path):
    for n in (2, 3):
        (tmp_path / f"{n}.zip").write_bytes(zipped({f"{i}/modules.py": b"" for i in range(n)}))
    assert len(submissions_in(tmp_path / "2.zip")) == 1
    assert len(submissions_in(tmp_path / "3.zip")) == 3


def encrypted():
    raw = bytearray(zipped({"modules.py": b""}))
    raw[6] |= 1  # of the file's own header, and of the directory's
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("a.zip", zipped({"../modules.py": b""}), "leads out of it"),
        ("a.tgz", tarred({"/etc/modules.py": b""}), "leads out of it"),
        ("a.zip", zipped({"c\\..\\..\\modules.py": b""}), "leads out of it"),
        ("a.zip", zipped({f"{i}.txt": b"" for i in range(41)}), "more than 40 files"),
        ("a.tgz", tarred({"zeros.bin": bytes(200_000)}), "unpacks to more than 100,000 bytes"),
        ("a.zip", zipped({"0.py": bytes(40_000), "1.py": bytes(40_000)}), "unpacks to more than 60,000 bytes"),
        ("a.zip", encrypted(), "is encrypted"),
        ("a.zip", zipped(FILES)[:-30], "cannot be read"),
        ("a.tar.gz", b"no archive", "cannot be read"),
    ],
)
def test_archive_that_may_do_harm_is_refused_with_the_reason(tmp_path, monkeypatch, name, raw, says):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 40)
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 100_000)
    monkeypatch.setattr(archives, "MAX_KEPT_BYTES", 60_000)
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ArchiveError, match=says):
        submissions_in(tmp_path / name)
    with pytest.raises(SubmissionError, match=says):
        read_submission(tmp_path / name)


def test_link_in_an_archive_is_named_and_not_followed(tmp_path):
    (tmp_path / "a.tgz").write_bytes(tarred({"mlp_numpy.py": b""}, link="/etc/passwd"))
    submission = read_submission(tmp_path / "a.tgz")
    assert submission.files == {"mlp_numpy.py": b""}
    assert "modules.py was not read: it is a link, or no plain file" in submission.notes


def test_what_is_no_submission_is_named_and_everything_else_is_graded(monkeypatch, tmp_path, capsys):
    nothing_is_run(monkeypatch, lambda submission: submissions._no_results([], "visible"))
    folder = tmp_path / "in"
    (folder / "emmy").mkdir(parents=True)
    (folder / "emmy" / "modules.py").touch()
    (folder / "ada.zip").write_bytes(zipped(FILES))
    (folder / "broken.zip").write_bytes(b"")
    for name in ("roster.csv", ".DS_Store"):
        (folder / name).touch()
    assert call_grade(*folder.iterdir(), "--no_training", "--out_dir", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 3
    assert all(f"{folder / name} " in said.err for name in ("roster.csv", ".DS_Store", "broken.zip"))
    assert {p.parent.name for p in tmp_path.glob("out/*/results.json")} == {"ada", "emmy", "broken"}
    assert "\nbroken,0," in (tmp_path / "out" / "grades.csv").read_text(), "nobody disappears"
    assert "slowest: " in said.out
    assert json.loads((tmp_path / "out" / "ada" / "results.json").read_text())["score"] == 0
    assert call_grade(folder / "roster.csv", "--out_dir", tmp_path / "out") == 2
