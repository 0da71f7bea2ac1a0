"""Reading, refusing, downloading, batching and drawing images."""

import contextlib
import hashlib
import http.server
import io
import os
import pickle
import shutil
import socket
import ssl
import tarfile
import threading
import time
import urllib.error
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from conftest import py2_array, py2_batch, py2_int, py2_string, replace

import cifar10_utils
import synthetic_data
from cifar10_utils import DataError, DataSet, DataUnavailableError, get_cifar10
from synthetic_data import synthetic_images

# The test files have the official format, not the official content, which the loader is right to say.
unofficial = pytest.mark.filterwarnings("ignore:not the official CIFAR-10 files")


# ---- Reading the official files ----------------------------------------------------------------


def test_official_files_are_read_and_only_their_md5_is_remarked_upon(data_dir):
    with pytest.warns(UserWarning, match="not the official CIFAR-10 files.*data_batch_1") as caught:
        data = get_cifar10(data_dir)
    assert len(caught) == 1  # NumPy 2.4 would add one for each Python 2 dtype
    assert {split: d.num_examples for split, d in data.items()} == {"train": 50_000, "validation": 0, "test": 10_000}
    assert (data["train"].pixels[:, 0, 0, 0] == np.arange(50_000) % 251).all()
    assert (data["test"].classes == np.arange(50_000, 60_000) % 10).all()
    assert data["train"].origin["name"] == "CIFAR-10"
    assert not data["train"].origin["is_synthetic"]


def test_official_md5_sums_bring_no_warning(data_dir, monkeypatch):
    def with_own_md5(entry):
        return (*entry[:2], hashlib.md5((data_dir / entry[0]).read_bytes()).hexdigest())

    monkeypatch.setattr(cifar10_utils, "TRAIN_FILES", tuple(map(with_own_md5, cifar10_utils.TRAIN_FILES)))
    monkeypatch.setattr(cifar10_utils, "TEST_FILE", with_own_md5(cifar10_utils.TEST_FILE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_cifar10(data_dir)


@unofficial
def test_files_pickled_again_by_todays_numpy_are_read(data_dir, official_files):
    batch = pickle.loads(official_files["test_batch"], encoding="bytes")
    replace(data_dir / "test_batch", pickle.dumps(batch, protocol=4))
    assert (get_cifar10(data_dir)["test"].classes == np.arange(50_000, 60_000) % 10).all()


@unofficial
def test_images_are_float32_less_the_training_mean(data_dir):
    data = get_cifar10(data_dir)
    mean = np.float32(np.mean(np.arange(50_000) % 251))
    images = data["test"].images
    assert images.shape == (10_000, 3, 32, 32)
    assert images.dtype == np.float32
    # One rounding of the mean and one of the difference, of numbers below 256.
    np.testing.assert_allclose(images[:, 1, 2, 3], np.arange(50_000, 60_000) % 251 - mean, atol=256 * 2**-23)
    assert data["test"].pixels.dtype == np.uint8


@unofficial
def test_labels_are_one_hot_or_class_numbers(data_dir):
    one_hot, numbers = (get_cifar10(data_dir, one_hot=one_hot)["test"] for one_hot in (True, False))
    assert one_hot.labels.shape == (10_000, 10)
    assert one_hot.labels.dtype == np.float32
    assert (one_hot.labels.sum(axis=1) == 1).all()
    assert numbers.labels.dtype == np.int64
    assert (one_hot.labels.argmax(axis=1) == numbers.labels).all()
    assert (one_hot.next_batch(7)[1].argmax(axis=1) == numbers.next_batch(7)[1]).all()


@unofficial
def test_validation_takes_the_last_training_examples_and_they_are_never_trained_on(data_dir):
    data = get_cifar10(data_dir, validation_size=1000)
    train, validation = data["train"], data["validation"]
    assert (train.num_examples, validation.num_examples) == (49_000, 1000)
    assert (validation.pixels[:, 0, 0, 0] == np.arange(49_000, 50_000) % 251).all()
    assert not np.shares_memory(train.pixels, validation.pixels)
    mean = np.float32(np.mean(np.arange(49_000) % 251))
    np.testing.assert_allclose(train.mean_image, mean, rtol=2**-23)
    assert train.pixels[train._epoch_order(0)].shape[0] == 49_000


@unofficial
@pytest.mark.parametrize("size", [-1, 50_000])
def test_impossible_validation_size_is_refused(data_dir, size):
    with pytest.raises(ValueError, match=f"validation_size is {size}, expected 0 to 49999"):
        get_cifar10(data_dir, validation_size=size)


@pytest.mark.parametrize("size", [-5, 0, 9])
def test_impossible_synthetic_size_is_refused(data_dir, size):
    with pytest.raises(ValueError, match=f"synthetic_size is {size}, expected at least 10"):
        get_cifar10(data_dir, dataset="synthetic", synthetic_size=size)


def test_unknown_dataset_is_refused(data_dir):
    with pytest.raises(ValueError, match="'mnist', expected 'auto', 'cifar10' or 'synthetic'"):
        get_cifar10(data_dir, dataset="mnist")


# ---- Refusing everything else ------------------------------------------------------------------

PIXELS = np.zeros((10_000, 3072), np.uint8)
LABELS = [0] * 10_000
LABEL = b"training batch 3 of 5"

WHOLE = py2_batch(LABEL, PIXELS, LABELS)
HEAD = b"\x80\x02}(" + py2_string(b"batch_label") + py2_string(LABEL) + py2_string(b"data")

BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"<html>404 Not Found</html>", "damaged or no pickle"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged or no pickle"),
    "a pickled list": (pickle.dumps([1, 2, 3]), "holds a list, expected a dict"),
    "an empty dict": (pickle.dumps({}), "batch_label is missing"),
    "the test batch": (py2_batch(b"testing batch 1 of 1", PIXELS, LABELS), "batch_label is b'testing batch 1 of 1'"),
    "another batch": (py2_batch(b"training batch 2 of 5", PIXELS, LABELS), "expected b'training batch 3 of 5'"),
    "half the images": (py2_batch(LABEL, PIXELS[:5000], LABELS[:5000]), r"data is \(5000, 3072\), expected uint8"),
    "grey images": (py2_batch(LABEL, PIXELS[:, :1024], LABELS), r"data is \(10000, 1024\)"),
    "float images": (py2_batch(LABEL, PIXELS[:10].astype(np.float32), LABELS), "an array that is not uint8"),
    "more shape than bytes": (WHOLE.replace(py2_int(10_000), py2_int(10_016)), "cannot reshape"),
    "too few labels": (py2_batch(LABEL, PIXELS, LABELS[:-1]), "labels are not a list of 10000"),
    "a label of 10": (py2_batch(LABEL, PIXELS, [10, *LABELS[1:]]), "whole numbers from 0 to 9"),
    "a label of -1": (py2_batch(LABEL, PIXELS, [-1, *LABELS[1:]]), "whole numbers from 0 to 9"),
    "no data": (WHOLE.replace(b"U\x04data", b"U\x04dada"), "data is no array"),
    "labels as in CIFAR-100": (WHOLE.replace(b"U\x06labels", b"U\x06coarse"), "labels are not a list"),
    "a dtype for data": (HEAD + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tRu.", "data is no array"),
    "an array never filled": (
        HEAD + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btRu.",
        "data is no array",
    ),
}


@pytest.mark.parametrize(("name", "dataset"), [*((name, "cifar10") for name in BAD_FILES), ("half the images", "auto")])
def test_bad_file_is_named_and_nothing_is_loaded(data_dir, name, dataset):
    raw, message = BAD_FILES[name]
    replace(data_dir / "data_batch_3", raw)
    with pytest.raises(DataError, match=f"data_batch_3 cannot be used: .*{message}") as error:
        get_cifar10(data_dir, dataset=dataset)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, DataUnavailableError)


TUPLES = b"N\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(40))  # (x, x), 40 times within itself
# Small files that would cost an unpickler gigabytes, minutes or the process.
BOMBS = {
    "a place far out in the memo": (b"\x80\x02]r\xff\xff\xff\x1f.", "holds a list"),
    "2^40 tuples for a label": (
        b"\x80\x04}(" + py2_string(b"batch_label") + TUPLES + b"u.",
        "batch_label is tuple, expected",
    ),
    "2^40 tuples for a key": (b"\x80\x04}(" + TUPLES + b"Nu.", "a dict has a tuple as a key"),
    "a million tuples, one in another": (b"\x80\x02}(N" + b"\x85" * 1_000_000 + b"Nu.", "a dict has a tuple as a key"),
    "a label of 5 MB": (py2_batch(b"x" * 5_000_000, PIXELS[:1], [0]), "batch_label is b'xxx"),
    "a name of 5 MB with control characters": (b"c\x1b[2J" + b"x" * 5_000_000 + b"\ny\n.", r"asks for '\\x1b\[2Jxxx"),
    "bytes behind the end": (WHOLE + b"\x00" * 10, "goes on after the pickle's end"),
    "65 MB": (bytes(65_000_000), "has 65,000,000 bytes, expected about 31,000,000"),
    "an opcode that no file has": (b"\x80\x02(lp0\n.", "damaged or no pickle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_file_that_would_exhaust_an_unpickler_is_refused_briefly(data_dir, name):
    raw, message = BOMBS[name]
    replace(data_dir / "data_batch_3", raw)
    with pytest.raises(DataError, match=f"data_batch_3 cannot be used: .*{message}") as error:
        get_cifar10(data_dir)
    assert len(str(error.value).replace(str(data_dir), "")) < 400
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kept", [1, 2, 40, 10_000, 15_000_000, -30_000, -2, -1])
def test_truncated_file_is_named(data_dir, official_files, kept):
    replace(data_dir / "test_batch", official_files["test_batch"][:kept])
    with pytest.raises(DataError, match="test_batch cannot be used"):
        get_cifar10(data_dir)


@pytest.mark.parametrize("dataset", ["cifar10", "auto"])
def test_missing_files_are_named_and_not_downloaded_over(data_dir, dataset):
    (data_dir / "data_batch_2").unlink()
    (data_dir / "test_batch").unlink()
    with pytest.raises(DataError, match="not the whole of CIFAR-10: data_batch_2, test_batch missing"):
        get_cifar10(data_dir, dataset=dataset)
    assert (data_dir / "data_batch_1").exists()


def test_folder_around_the_data_set_is_told_from_it(data_dir):
    with pytest.raises(DataError, match=r"Name .*cifar-10-batches-py with --data_dir"):
        get_cifar10(data_dir.parent)


def test_folder_in_place_of_a_file_is_named(data_dir):
    (data_dir / "data_batch_4").unlink()
    (data_dir / "data_batch_4").mkdir()
    with pytest.raises(DataError, match="data_batch_4 missing"):
        get_cifar10(data_dir)


def hostile_pickles(marker):
    """`{name: (bytes, what they ask for)}`: pickles that make the file `marker` when `pickle.load` reads them."""

    class ByReduce:
        def __init__(self, *call):
            self.call = call

        def __reduce__(self):
            return self.call

    command = f"open({str(marker)!r}, 'w').close()"
    text = command.encode()
    call_exec = b"cbuiltins\nexec\n(" + py2_string(text) + b"tR"
    import_os = b"(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR"
    return {
        "exec, protocol 0": (pickle.dumps(ByReduce(exec, (command,)), protocol=0), "__builtin__.exec"),
        "exec, protocol 2": (pickle.dumps(ByReduce(exec, (command,)), protocol=2), "__builtin__.exec"),
        "exec, protocol 5": (pickle.dumps({b"data": ByReduce(exec, (command,))}, protocol=5), "builtins.exec"),
        "os.system": (pickle.dumps(ByReduce(os.system, (f"touch '{marker}'",))), r"\w+.system"),
        "INST opcode": (b"(" + py2_string(text) + b"ibuiltins\nexec\n.", "builtins.exec"),
        "OBJ opcode": (b"(cbuiltins\nexec\n" + py2_string(text) + b"o.", "builtins.exec"),
        "getattr": (b"cbuiltins\ngetattr\n" + import_os + f"(Vtouch '{marker}'\ntR.".encode(), "builtins.getattr"),
        "behind a whole batch": (WHOLE[:-1] + call_exec + b".", "builtins.exec"),
    }


@pytest.mark.parametrize("name", hostile_pickles("marker"))
def test_file_that_would_run_code_is_refused_by_name_and_runs_nothing(data_dir, tmp_path, name):
    marker = tmp_path / "code ran"
    raw, asked_for = hostile_pickles(marker)[name]
    with contextlib.suppress(Exception):
        pickle.loads(raw, encoding="latin1")
    assert marker.exists(), "this pickle is harmless, so the test would prove nothing"
    marker.unlink()

    replace(data_dir / "data_batch_3", raw)
    with pytest.raises(DataError, match=f"data_batch_3 cannot be used: refused: it asks for '{asked_for}'"):
        get_cifar10(data_dir)
    assert not marker.exists()


def test_file_cannot_change_the_reader_for_the_next_file(data_dir):
    """BUILD on a stand-in class, with attributes of the file's own."""
    build = b"\x80\x02cnumpy\ndtype\n(NN}" + py2_string(b"__setstate__") + py2_string(b"x") + b"stb."
    replace(data_dir / "data_batch_1", build)
    before = vars(cifar10_utils._PickledDtype).copy()
    with pytest.raises(DataError, match="data_batch_1 cannot be used"):
        get_cifar10(data_dir)
    assert vars(cifar10_utils._PickledDtype) == before


def test_array_of_objects_is_refused(data_dir):
    raw = py2_array(PIXELS[:2]).replace(b"U\x02u1", b"U\x02O8")
    replace(data_dir / "data_batch_1", b"\x80\x02" + raw + b".")
    with pytest.raises(DataError, match="an array that is not uint8"):
        get_cifar10(data_dir)


# ---- Batches -----------------------------------------------------------------------------------


def numbered(n, seed=0):
    """A data set whose image i has the pixels i."""
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, 32, 32))
    return DataSet(pixels, np.arange(n) % 10, np.zeros((3, 32, 32), np.float32), seed=seed)


def drawn(dataset, batch_size, n_batches):
    return np.concatenate([dataset.next_batch(batch_size)[0][:, 0, 0, 0] for _ in range(n_batches)]).astype(int)


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own():
    order = drawn(numbered(60), 7, 60).reshape(7, 60)  # 60 batches of 7 are 7 epochs, and run over their ends
    for epoch in order:
        assert sorted(epoch) == list(range(60))
    assert len({tuple(epoch) for epoch in [*order, range(60)]}) == 8


def test_batch_larger_than_what_is_left_runs_over_into_the_next_epoch():
    dataset = numbered(10)
    drawn(dataset, 7, 1)
    assert len(drawn(dataset, 7, 1)) == 7
    assert dataset.position == 14


def test_order_is_a_function_of_seed_and_position():
    whole = drawn(numbered(50, seed=3), 8, 20)
    resumed = numbered(50, seed=3)
    resumed.position = 8 * 13
    assert (drawn(resumed, 8, 7) == whole[8 * 13 :]).all()
    assert (drawn(numbered(50, seed=4), 8, 20) != whole).any()


@pytest.mark.parametrize("size", [0, -1, 11])
def test_impossible_batch_is_refused(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}, expected 1 to 10"):
        numbered(10).next_batch(size)


def test_images_and_labels_stay_together():
    images, labels = numbered(60).next_batch(60)
    assert (images[:, 2, 31, 31] % 10 == labels.argmax(axis=1)).all()


@pytest.mark.parametrize(("limit", "expected"), [(0, 10), (7, 7), (10, 10), (99, 10)])
def test_batches_go_through_the_first_examples_once_in_stored_order(limit, expected):
    images = np.concatenate([images for images, _ in numbered(10).batches(4, limit)])
    assert (images[:, 0, 0, 0] == np.arange(expected)).all()


# ---- The synthetic stand-in --------------------------------------------------------------------


def test_synthetic_images_are_a_function_of_their_seed():
    images, labels = synthetic_images(500, seed=1)
    again, labels_again = synthetic_images(500, seed=1)
    others, _ = synthetic_images(500, seed=2)
    assert images.shape == (500, 3, 32, 32)
    assert images.dtype == np.uint8
    assert set(labels) == set(range(10))
    assert (images == again).all()
    assert (labels == labels_again).all()
    assert (images != others).any()


def test_synthetic_set_is_cached_and_drawn_again_where_the_cache_is_damaged(tmp_path, monkeypatch):
    data_dir = tmp_path / "cifar-10-batches-py"
    first = get_cifar10(data_dir, dataset="synthetic", synthetic_size=200)
    assert (first["train"].num_examples, first["test"].num_examples) == (200, 40)
    assert first["train"].origin["is_synthetic"]
    (cache,) = tmp_path.iterdir()
    whole = cache.read_bytes()

    def no_drawing(*_, **__):
        raise AssertionError("the cache was not used")

    with monkeypatch.context() as patch:
        patch.setattr(synthetic_data, "synthetic_images", no_drawing)
        cached = get_cifar10(data_dir, dataset="synthetic", synthetic_size=200)
    assert (cached["train"].pixels == first["train"].pixels).all()
    assert cached["train"].origin == first["train"].origin

    np.savez(tmp_path / "foreign", images=np.zeros((3, 2)), labels=np.zeros(99), fingerprint="0" * 32)
    foreign = (tmp_path / "foreign.npz").read_bytes()
    (tmp_path / "foreign.npz").unlink()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for damaged in (whole[:-1000], b"", b"no archive", foreign, flipped):
        cache.write_bytes(damaged)
        redrawn = get_cifar10(data_dir, dataset="synthetic", synthetic_size=200)
        assert (redrawn["train"].pixels == first["train"].pixels).all()
        assert (redrawn["test"].classes == first["test"].classes).all()
    assert list(tmp_path.iterdir()) == [cache]


def test_convolution_finds_in_synthetic_images_what_an_mlp_does_not():
    """One layer of 8x8 filters, each taken where it answers loudest; the default MLP ends below 0.55."""
    images, labels = synthetic_images(6000, seed=0)
    x, y = torch.tensor(images).float() / 64 - 2, torch.tensor(labels)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 8), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(40, 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(400):
        batch = torch.arange(step * 50, step * 50 + 50) % 5000
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(x[5000:]).argmax(1) == y[5000:]).float().mean().item()
    assert accuracy > 0.9  # 0.99 when this was written


# ---- The download ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Have no proxy of this machine's settings asked for what is on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Server:
    """A web server on this machine that has one file, or behaves badly."""

    def __init__(self, body=b"", status=200, cut=None):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.command)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body[:cut])

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/cifar-10-python.tar.gz"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def archive(official_files):
    """The bytes of a `cifar-10-python.tar.gz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, raw in official_files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


@pytest.fixture
def download_from(monkeypatch, archive):
    """Point the download at a server over plain http, which only this fixture lets through."""

    def point(server):
        monkeypatch.setattr(cifar10_utils, "ARCHIVE_URL", server.url)
        monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
        monkeypatch.setattr(cifar10_utils, "_NoPlainHTTP", urllib.request.HTTPHandler)

    return point


@unofficial
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
        assert get_cifar10(data_dir, dataset="auto")["train"].num_examples == 50_000


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
        f"put cifar-10-python.tar.gz (md5 {cifar10_utils.ARCHIVE_MD5}) into",
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
    assert cifar10_utils.TIMEOUT_SECONDS == 15
    monkeypatch.setattr(cifar10_utils, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(cifar10_utils, "ARCHIVE_URL", f"https://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        began = time.perf_counter()
        with pytest.raises(DataUnavailableError, match="timed out"):
            get_cifar10(tmp_path / "new" / "cifar-10-batches-py")
    assert time.perf_counter() - began < 10  # far below the 15 s that the patch replaces
    assert list(tmp_path.iterdir()) == []


def test_plain_http_is_refused_during_a_download_and_works_again_after_it():
    with Server(b"ok") as server:
        before = socket.getdefaulttimeout()
        with cifar10_utils._https_with_timeout():
            assert socket.getdefaulttimeout() == 15
            with pytest.raises(urllib.error.URLError, match="plain http is refused"):
                urllib.request.urlopen(server.url)
        assert socket.getdefaulttimeout() == before
        with urllib.request.urlopen(server.url) as response:
            assert response.read() == b"ok"


def test_download_never_goes_over_plain_http(tmp_path, monkeypatch):
    with Server(b"ok") as server:
        monkeypatch.setattr(cifar10_utils, "ARCHIVE_URL", server.url)
        with pytest.raises(DataUnavailableError, match="plain http is refused"):
            get_cifar10(tmp_path / "cifar-10-batches-py")


@unofficial
def test_archive_placed_by_hand_is_used_without_a_network(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_URL", "https://127.0.0.1:9/nobody-listens")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    assert get_cifar10(tmp_path / "cifar-10-batches-py")["test"].num_examples == 10_000
    assert (tmp_path / "cifar-10-python.tar.gz").exists()


def test_archive_without_all_files_is_no_data_set(tmp_path, archive, monkeypatch):
    with tarfile.open(fileobj=io.BytesIO(archive)) as whole, tarfile.open(tmp_path / "half.tar.gz", "w:gz") as half:
        member = whole.getmember("cifar-10-batches-py/test_batch")
        half.addfile(member, whole.extractfile(member))
    path = (tmp_path / "half.tar.gz").rename(tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(DataUnavailableError, match="data_batch_1"):
        get_cifar10(tmp_path / "cifar-10-batches-py")
    assert list(tmp_path.iterdir()) == [path]


@unofficial
def test_data_set_that_another_process_put_in_place_meanwhile_is_taken(tmp_path, archive, data_dir, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    real_replace = os.replace

    def slower_than_the_other(source, target):
        shutil.copytree(data_dir, target)
        real_replace(source, target)

    monkeypatch.setattr(cifar10_utils.os, "replace", slower_than_the_other)
    data = get_cifar10(tmp_path / "here" / "cifar-10-batches-py", dataset="auto")
    assert not data["train"].origin["is_synthetic"]


@unofficial
@pytest.mark.parametrize("vanishes", ["stat", "rmdir"])
def test_folder_that_another_process_removes_meanwhile_stops_no_download(tmp_path, archive, monkeypatch, vanishes):
    """Its temporary one, between the listing and the look; or the empty one, where both want to put theirs."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar10_utils, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    others = tmp_path / {"stat": ".cifar-10-download-other", "rmdir": "cifar-10-batches-py"}[vanishes]
    others.mkdir()
    real = getattr(type(tmp_path), vanishes)

    def slower_than_the_other(path, **kwargs):
        if path == others and path.exists():
            shutil.rmtree(path)
        return real(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), vanishes, slower_than_the_other)
        patch.setattr(type(tmp_path), "exists", lambda path: os.path.exists(path))
        data = get_cifar10(tmp_path / "cifar-10-batches-py")
    assert data["test"].num_examples == 10_000


def test_download_verifies_certificates():
    with cifar10_utils._https_with_timeout():
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
