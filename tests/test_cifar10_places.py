"""What a data folder may be, and what may lie in it, besides the data set: used, filled or named, never passed over."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import py2_files, replace
from web_server import Server

import cifar10_download
from cifar10_files import FILES
from cifar10_utils import DataError, DataUnavailableError, get_cifar10

pytest_plugins = "archives"

# The test files have the official format, not the official content, which the loader is right to say.
unofficial = pytest.mark.filterwarnings("ignore:not the official CIFAR-10 files")

CIFAR10 = {name for name, *_ in FILES}


def names_in(folder):
    return {path.name for path in folder.iterdir()}


@unofficial
@pytest.mark.parametrize("kind", ["link to an empty folder", "dangling link", "mount point", "a desktop's clutter"])
def test_place_that_is_not_plain_is_filled(tmp_path, archive, download_from, monkeypatch, kind):
    data_dir, elsewhere = tmp_path / "cifar-10-batches-py", tmp_path / "other disk" / "data"
    clutter = {".DS_Store", ".gitkeep", "Thumbs.db", "desktop.ini"} if kind == "a desktop's clutter" else set()
    if "link" in kind:
        data_dir.symlink_to(elsewhere)
        if kind != "dangling link":
            elsewhere.mkdir(parents=True)
    else:
        data_dir.mkdir()
    for name in clutter:
        (data_dir / name).touch()
    if kind == "mount point":

        def busy(real):
            def function(*paths, **kwargs):
                if data_dir in map(Path, paths):
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(data_dir))
                return real(*paths, **kwargs)

            return function

        for name in ("rename", "replace", "rmdir"):
            monkeypatch.setattr(os, name, busy(getattr(os, name)))
    with Server(archive) as server:
        download_from(server)
        data = get_cifar10(data_dir, dataset="auto")
    assert not data["train"].origin["is_synthetic"]
    assert data["train"].num_examples == 50
    assert data_dir.is_symlink() == ("link" in kind)
    assert names_in(data_dir) == CIFAR10 | clutter
    if "link" in kind:
        assert names_in(tmp_path) == {data_dir.name, "other disk"}
        assert names_in(elsewhere.parent) == {"data"}


def failing(number, path=None):
    def function(*_, **__):
        raise OSError(number, os.strerror(number), path)

    return function


@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "empty folder"])
@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("before the download", errno.EACCES),
        ("before the download", errno.EROFS),
        ("in the download", errno.ENOSPC),
        ("in the download", errno.EDQUOT),
        ("unpacking", errno.ENOSPC),
        ("putting it in place", errno.EACCES),
    ],
)
def test_disk_that_says_no_is_no_missing_network(tmp_path, archive, download_from, monkeypatch, when, number, exists):
    """`auto` takes synthetic images where nothing can be downloaded, not where there is no room for it."""
    import torchvision.datasets.utils

    data_dir = tmp_path / "cifar-10-batches-py"
    if exists:
        data_dir.mkdir()
    target, name = {
        "before the download": (tempfile, "mkdtemp"),
        "in the download": (torchvision.datasets.utils, "open"),
        "unpacking": (shutil, "copyfileobj"),
        "putting it in place": (os, "replace"),
    }[when]
    monkeypatch.setattr(target, name, failing(number), raising=name != "open")
    with Server(archive) as server:
        download_from(server)
        with pytest.raises(DataError) as error:
            get_cifar10(data_dir, dataset="auto")
        assert when != "before the download" or server.requests == ["HEAD"], "it was downloaded for nothing"
    assert not isinstance(error.value, DataUnavailableError)
    message = str(error.value)
    for part in (str(data_dir), os.strerror(number), "Make room", "may write", "--data_dir", "the same command"):
        assert part in message
    assert "\n" not in message
    assert not any(path.name.startswith(".cifar-10-download") for path in tmp_path.rglob("*"))
    assert names_in(tmp_path) <= {data_dir.name}


@unofficial
def test_download_that_was_killed_while_it_filled_a_folder_is_completed(tmp_path, archive, download_from):
    data_dir = tmp_path / "cifar-10-batches-py"
    left_behind = data_dir / ".cifar-10-download-of-the-killed"
    left_behind.mkdir(parents=True)
    (data_dir / ".cifar-10-unfinished").touch()
    for name in ("data_batch_1", "data_batch_2"):
        (data_dir / name).write_bytes(py2_files(10)[name])
    before = (data_dir / "data_batch_1").stat()
    with Server(archive) as server:
        download_from(server)
        assert get_cifar10(data_dir, dataset="auto")["train"].num_examples == 50
    assert names_in(data_dir) == CIFAR10
    assert (data_dir / "data_batch_1").stat().st_ino == before.st_ino, "what was whole was written again"


@unofficial
@pytest.mark.slow
@pytest.mark.parametrize("n_renames", range(7))
def test_process_killed_between_two_files_leaves_what_the_next_one_completes(tmp_path, archive, monkeypatch, n_renames):
    data_dir = tmp_path / "cifar-10-batches-py"
    data_dir.mkdir()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    child = os.fork()
    if child == 0:
        real_replace, renames = os.replace, iter(range(n_renames))

        def replace_or_die(source, target):
            if next(renames, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            real_replace(source, target)

        os.replace = replace_or_die
        try:
            cifar10_download.find_cifar10(data_dir)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if n_renames < 6 else 0)
    assert len(CIFAR10 & names_in(data_dir)) == n_renames
    assert get_cifar10(data_dir)["train"].num_examples == 50
    assert names_in(data_dir) == CIFAR10


@pytest.fixture
def mount(tmp_path):
    """Call with options: a small file system of its own, mounted at the returned folder."""
    folder = tmp_path / "mounted" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def mounted(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "cifar10-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a mount needs root: {done.stderr.strip()}")
        return folder

    yield mounted
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@unofficial
@pytest.mark.slow
def test_mounted_file_system_is_filled(mount, archive, download_from):
    data_dir = mount("size=20m")
    with Server(archive) as server:
        download_from(server)
        assert get_cifar10(data_dir, dataset="auto")["train"].num_examples == 50
    assert names_in(data_dir) == CIFAR10
    assert names_in(data_dir.parent) == {data_dir.name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=64k", errno.ENOSPC), ("size=128k", errno.ENOSPC), ("size=20m,ro", errno.EROFS)],
    ids=["full in the download", "full while unpacking", "read-only"],
)
def test_mounted_file_system_that_takes_no_data_is_named(mount, archive, download_from, options, reason):
    data_dir = mount(options)
    with Server(archive + bytes(100_000 if options == "size=64k" else 0)) as server:
        download_from(server)
        with pytest.raises(DataError, match=os.strerror(reason)) as error:
            get_cifar10(data_dir, dataset="auto")
    assert not isinstance(error.value, DataUnavailableError)
    assert str(data_dir) in str(error.value)
    assert names_in(data_dir) == set()


# ---- What lies there ---------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(cifar10_download, "ARCHIVE_URL", "https://127.0.0.1:9/nobody-listens")


@unofficial
@pytest.mark.parametrize("named", ["folder", "archive"])
def test_archive_that_lies_there_is_unpacked_without_a_network(tmp_path, archive, monkeypatch, no_network, named):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(archive)
    (tmp_path / ".DS_Store").touch()
    monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    for _ in range(2):
        data = get_cifar10(path if named == "archive" else tmp_path, dataset="auto")
        assert data["train"].num_examples == 50
        assert not data["train"].origin["is_synthetic"]
    folder = tmp_path / "cifar-10-batches-py" if named == "archive" else tmp_path
    assert names_in(folder) >= CIFAR10
    assert path.exists()


@pytest.mark.parametrize("where", ["in the folder", "beside it"])
@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"\x1f\x8b half of it", "not the published archive"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 170498071\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "HTML page"),
    ],
    ids=["half", "pointer", "page"],
)
def test_wrong_archive_that_lies_there_is_named(tmp_path, no_network, raw, what, where):
    data_dir = tmp_path / "cifar-10-batches-py"
    data_dir.mkdir()
    path = (data_dir if where == "in the folder" else tmp_path) / "cifar-10-python.tar.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=f"{path} has md5 .*, expected .*{what}") as error:
        get_cifar10(data_dir, dataset="auto")
    assert not isinstance(error.value, DataUnavailableError)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == raw


OTHER_DATA = {
    "CIFAR-100": ["meta", "test", "train"],
    "CIFAR-100's archive": ["cifar-100-python.tar.gz"],
    "CIFAR-100's folder": ["cifar-100-python/meta"],
    "the binary version": ["batches.meta.txt", "data_batch_1.bin", "test_batch.bin"],
    "the binary version's archive": ["cifar-10-binary.tar.gz"],
    "the binary version's folder": ["cifar-10-batches-bin/data_batch_1.bin"],
    "the Matlab version": ["batches.meta.mat", "data_batch_1.mat"],
    "the archive without its compression": ["cifar-10-python.tar"],
}


@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_data_is_recognised_and_left_alone(tmp_path, no_network, name):
    for path in OTHER_DATA[name]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        get_cifar10(tmp_path, dataset="auto")
    assert not isinstance(error.value, DataUnavailableError)
    message = str(error.value)
    for part in ("data_batch_1, ", "test_batch missing", name.split("'")[0], "--data_dir", "not there yet"):
        assert part in message
    assert any(Path(path).parts[0] in message.split("missing")[1] for path in OTHER_DATA[name])
    assert "\n" not in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "what"),
    [("cifar-100-python.tar.gz", "CIFAR-100"), ("cifar-10-binary.tar.gz", "binary version"), ("notes.txt", "")],
)
def test_file_in_place_of_the_folder_is_named(tmp_path, no_network, name, what):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"{name} cannot be read as a folder: Not a directory.*{what}.*--data_dir"):
        get_cifar10(tmp_path / name, dataset="auto")


@pytest.mark.parametrize("name", ["cifar-100-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-python.tar"])
def test_wrong_archive_beside_the_folder_is_named_where_nothing_can_be_downloaded(tmp_path, no_network, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataUnavailableError, match=f"could not be downloaded.*by hand.*there lies {name}: "):
        get_cifar10(tmp_path / "cifar-10-batches-py")


@pytest.mark.parametrize("outer", ["cifar-10-batches-py", "cifar-10-python", "cifar-10-python/cifar-10-batches-py"])
def test_data_set_that_lies_deeper_is_named_with_its_whole_path(data_dir, tmp_path, outer):
    folder = tmp_path / "asked for"
    inner = folder / outer / "cifar-10-batches-py" if "/" not in outer else folder / outer
    inner.parent.mkdir(parents=True)
    data_dir.rename(inner)
    with pytest.raises(DataError, match=f"Name {inner} with --data_dir"):
        get_cifar10(folder, dataset="auto")


def test_archive_among_other_things_is_named_and_not_unpacked_there(tmp_path, no_network):
    for name in ("cifar-10-python.tar.gz", "holiday.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"Name {tmp_path}/cifar-10-python.tar.gz with --data_dir"):
        get_cifar10(tmp_path, dataset="auto")
    assert names_in(tmp_path) == {"cifar-10-python.tar.gz", "holiday.jpg"}


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 31035704\n", "Git LFS pointer.*git lfs pull"),
        (b"\r\n<!doctype HTML>\n<html><title>Moved</title>", "HTML page"),
    ],
    ids=["pointer", "page"],
)
def test_pointer_or_page_in_place_of_a_batch_is_named(data_dir, raw, what):
    replace(data_dir / "data_batch_1", raw)
    with pytest.raises(DataError, match=f"data_batch_1 cannot be used: .*{what}.*Move {data_dir} away") as error:
        get_cifar10(data_dir, dataset="auto")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_file_that_cannot_be_read_is_named(data_dir, monkeypatch, number):
    monkeypatch.setattr(Path, "read_bytes", failing(number))
    with pytest.raises(DataError, match=f"data_batch_1 cannot be read: {os.strerror(number)}.*--data_dir") as error:
        get_cifar10(data_dir, dataset="auto")
    assert not isinstance(error.value, DataUnavailableError)
    assert "\n" not in str(error.value)


def test_folder_that_cannot_be_listed_is_named(data_dir, monkeypatch):
    monkeypatch.setattr(os, "scandir", failing(errno.EACCES))
    with pytest.raises(DataError, match=f"{data_dir} cannot be read as a folder: Permission denied.*--data_dir"):
        get_cifar10(data_dir, dataset="auto")


def test_link_to_itself_is_named(tmp_path, no_network):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(DataError, match="link cannot be read as a folder: Too many levels of symbolic links"):
        get_cifar10(tmp_path / "link", dataset="auto")
