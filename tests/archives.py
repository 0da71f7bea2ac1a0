"""Fixtures for what tests a download: a small archive of CIFAR-10, and the download pointed at a test's server."""

import hashlib
import io
import tarfile
import urllib.request

import pytest
from conftest import py2_files

import cifar10_download
import cifar10_files
import cifar10_utils


@pytest.fixture
def images_per_file(request, monkeypatch):
    """Have files of 10 images taken for whole ones, but in the test that asks for 10,000."""
    n = getattr(request, "param", 10)
    monkeypatch.setattr(cifar10_files, "IMAGES_PER_FILE", n)
    monkeypatch.setattr(cifar10_utils, "N_TEST", n)
    return n


@pytest.fixture
def archive(images_per_file):
    """The bytes of a `cifar-10-python.tar.gz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, raw in py2_files(images_per_file).items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


@pytest.fixture
def download_from(monkeypatch, archive):
    """Point the download at a server over plain http, which only this fixture lets through."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def point(server):
        monkeypatch.setattr(cifar10_download, "ARCHIVE_URL", server.url)
        monkeypatch.setattr(cifar10_download, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
        monkeypatch.setattr(cifar10_download, "_NoPlainHTTP", urllib.request.HTTPHandler)

    return point
