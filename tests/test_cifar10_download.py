"""A download puts the whole data set in place or nothing, over https only, and says what to do where it fails."""

import hashlib
import io
import os
import shutil
import socket
import ssl
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import py2_files
from web_server import Server

import cifar10_download
from cifar10_utils import DataError, DataUnavailableError, get_cifar10

pytest_plugins = "archives"

# The test files have the official format, not the official content, which the loader is right to say.
unofficial = pytest.mark.filterwarnings("ignore:not the official CIFAR-10 files")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Have no proxy of this machine's settings asked for what is on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@unofficial
@pytest.mark.parametrize("images_per_file", [10_000], indirect=True)
def test_download_puts_the_whole_data_set_in_place(tmp_path, archive, download_from):
    data_dir = tmp_path / "new" / "cifar-10-batches-py"
    with Server(archive) as server:
        download_from(server)
        data = get_cifar10(data_dir)
        assert server.requests[0] == "HEAD"  # a server that does not answer costs no import of torch
        n_requests = len(server.requests)
        get_cifar10(data_dir)
        assert len(server.requests) == n_requests, "what is on disk was downloaded again"
    assert data["test"].num_examples == 10_000
    assert list(data_dir.parent.iterdir()) == [data_dir]


@unofficial
def test_download_fills_an_empty_folder(tmp_path, archive, download_from):
    data_dir = tmp_path / "cifar-10-batches-py"
    data_dir.mkdir()
    with Server(archive) as server:
        download_from(server)
        assert get_cifar10(data_dir, dataset="auto")["train"].num_examples == 50


@pytest.mark.parametrize("failure", [{"status": 404}, {"cut": 1000}, {"body": b"not the archive"}], ids=str)
def test_failed_download_leaves_nothing_and_names_three_next_steps(tmp_path, archive, download_from, failure):
    data_dir = tmp_path / "new" / "cifar-10-batches-py"
    with Server(**{"body": archive, **failure}) as server:
        download_from(server)
        with pytest.raises(DataUnavailableError) as error:
            get_cifar10(data_dir)
    message = str(error.value)
    assert "\n" not in message
    for step in (
        "try again",
        f"put cifar-10-python.tar.gz (md5 {cifar10_download.ARCHIVE_MD5}) into",
        "--dataset synthetic",
    ):
        assert step in message
    assert [path for path in tmp_path.rglob("*") if path.name != "new"] == []


def test_auto_falls_back_to_synthetic_images_with_a_warning(tmp_path, download_from):
    with Server(status=503) as server:
        download_from(server)
        with pytest.warns(UserWarning, match="could not be downloaded .*503.* Going on with synthetic images"):
            data = get_cifar10(tmp_path / "cifar-10-batches-py", dataset="auto", synthetic_size=100)
    assert data["train"].origin["is_synthetic"]


def test_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    assert cifar10_download.TIMEOUT_SECONDS == 15
    monkeypatch.setattr(cifar10_download, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(cifar10_download, "ARCHIVE_URL", f"https://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        began = time.perf_counter()
        with pytest.raises(DataUnavailableError, match="timed out"):
            get_cifar10(tmp_path / "new" / "cifar-10-batches-py")
    assert time.perf_counter() - began < 10  # far below the 15 s that the patch replaces
    assert list(tmp_path.iterdir()) == []


def test_plain_http_is_refused_during_a_download_and_works_again_after_it():
    with Server(b"ok") as server:
        before = socket.getdefaulttimeout()
        with cifar10_download._https_with_timeout():
            assert socket.getdefaulttimeout() == 15
            with pytest.raises(urllib.error.URLError, match="plain http is refused"):
                urllib.request.urlopen(server.url)
        assert socket.getdefaulttimeout() == before
        with urllib.request.urlopen(server.url) as response:
            assert response.read() == b"ok"


def test_download_never_goes_over_plain_http(tmp_path, monkeypatch):
    with Server(b"ok") as server:
        monkeypatch.setattr(cifar10_download, "ARCHIVE_URL", server.url)
        with pytest.raises(DataUnavailableError, match="plain http is refused"):
            get_cifar10(tmp_path / "cifar-10-batches-py")


@unofficial
def test_archive_placed_by_hand_is_used_without_a_network(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(cifar10_download, "ARCHIVE_URL", "https://127.0.0.1:9/nobody-listens")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    assert get_cifar10(tmp_path / "cifar-10-batches-py")["test"].num_examples == 10
    assert (tmp_path / "cifar-10-python.tar.gz").exists()


def test_archive_without_all_files_is_no_data_set(tmp_path, archive, monkeypatch):
    with tarfile.open(fileobj=io.BytesIO(archive)) as whole, tarfile.open(tmp_path / "half.tar.gz", "w:gz") as half:
        member = whole.getmember("cifar-10-batches-py/test_batch")
        half.addfile(member, whole.extractfile(member))
    path = (tmp_path / "half.tar.gz").rename(tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="data_batch_1") as error:
        get_cifar10(tmp_path / "cifar-10-batches-py", dataset="auto")
    assert not isinstance(error.value, DataUnavailableError)
    assert list(tmp_path.iterdir()) == [path]


@unofficial
def test_data_set_that_another_process_put_in_place_meanwhile_is_taken(tmp_path, archive, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    real_replace = os.replace

    def slower_than_the_other(source, target):
        shutil.copytree(source, target)
        real_replace(source, target)

    monkeypatch.setattr(cifar10_download.os, "replace", slower_than_the_other)
    data = get_cifar10(tmp_path / "here" / "cifar-10-batches-py", dataset="auto")
    assert not data["train"].origin["is_synthetic"]


@unofficial
@pytest.mark.parametrize("vanishes", ["stat", "rmdir"])
def test_folder_that_another_process_removes_meanwhile_stops_no_download(tmp_path, archive, monkeypatch, vanishes):
    """Its temporary one, between the listing and the look; or ours, in the empty one that both want to fill."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    data_dir = tmp_path / "cifar-10-batches-py"
    others = tmp_path / ".cifar-10-download-other"
    (data_dir if vanishes == "rmdir" else others).mkdir()
    real_stat, real_replace = type(tmp_path).stat, os.replace

    def vanishing_stat(path, **kwargs):
        if path == others and os.path.exists(path):
            shutil.rmtree(path)
        return real_stat(path, **kwargs)

    def slower_than_the_other(source, target):
        if Path(target).parent == data_dir and Path(source).exists():
            for name, raw in py2_files(10).items():
                (data_dir / name).write_bytes(raw)
            (ours,) = data_dir.glob(".cifar-10-download-*")
            shutil.rmtree(ours)
        real_replace(source, target)

    with monkeypatch.context() as patch:
        if vanishes == "stat":
            patch.setattr(type(tmp_path), "stat", vanishing_stat)
            patch.setattr(type(tmp_path), "exists", lambda path: os.path.exists(path))
        else:
            patch.setattr(os, "replace", slower_than_the_other)
        data = get_cifar10(data_dir, dataset="auto")
    assert data["test"].num_examples == 10
    assert vanishes == "stat" or not any(data_dir.glob(".cifar*"))


def test_download_verifies_certificates():
    with cifar10_download._https_with_timeout():
        handlers = [h for h in urllib.request._opener.handlers if isinstance(h, urllib.request.HTTPSHandler)]
        assert len(handlers) == 1
        context = handlers[0]._context or ssl.create_default_context()
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


@pytest.mark.parametrize("dataset", ["cifar10", "auto"])
def test_wrong_archive_placed_by_hand_is_named_with_both_md5_sums(tmp_path, dataset):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    found = hashlib.md5(b"half of it").hexdigest()
    with pytest.raises(DataError, match=f"has md5 {found}, expected c58f30108f718f92721af3b95e74349a"):
        get_cifar10(tmp_path / "cifar-10-batches-py", dataset=dataset)
    assert (tmp_path / "cifar-10-python.tar.gz").read_bytes() == b"half of it"
