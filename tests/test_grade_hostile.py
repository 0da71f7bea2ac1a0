"""Hostile submissions: none gains a point, stops the grader, or leaves a process or a file behind."""

# ruff: noqa: E501, a row of a table stays on its line

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from graded import PROJECT, grade, lost, points

from grading import sandbox
from grading.sandbox import ROOT, Server, Session

# Stubs under the course's names, so that every check gets as far as it can.
STUBS = """
import os, sys, time
import numpy as np


class LinearModule:
    def __init__(self, *sizes):
        self.params = {"weight": np.zeros(sizes[::-1]), "bias": np.zeros(sizes[1])}
        self.grads = {name: np.zeros_like(p) for name, p in self.params.items()}

    def forward(self, x):
        return answer(np.zeros((len(x), len(self.params["bias"]))))

    def backward(self, dout):
        return answer(np.zeros((len(dout), self.params["weight"].shape[1])))


class LeakyReLUModule:
    def __init__(self, *args):
        pass

    def forward(self, x, *y):
        return answer(np.zeros_like(x))

    backward = forward


class SoftMaxModule(LeakyReLUModule):
    pass


class CrossEntropyModule(LeakyReLUModule):
    pass


def answer(default):
    result = attack(default)
    return default if result is None else result


def attack(default):
    {attack}
"""
MLP = """
from modules import *


class MLP:
    def __init__(self, n_inputs, n_hidden, n_classes, neg_slope):
        sizes = [n_inputs, *n_hidden, n_classes]
        self.layers = [LinearModule(*pair) for pair in zip(sizes[:-1], sizes[1:])]

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dout):
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout
"""

MARK = Path(tempfile.gettempdir(), f"grade-hostile-{os.getpid()}")
# What the attack does each time that anything is called.
ATTACKS = {
    "prints a perfect score": 'print(\'{"score": 59, "tests": []}\', flush=True)',
    "exits with success": "os._exit(0)",
    "raises SystemExit": "sys.exit(0)",
    "hangs": "time.sleep(1000)",
    "hangs in a loop that nothing interrupts": "import signal\n    for s in range(1, 32):\n        try: signal.signal(s, signal.SIG_IGN)\n        except OSError: pass\n    while True: pass",
    "forks without end": "\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "eats memory": "x = []\n    while True: x.append(np.ones(1 << 24))",
    "fills the disk": "f = open('full', 'wb')\n    while True: f.write(bytes(1 << 24)); f.flush()",
    "fills the disk with small files": "n = 0\n    while True:\n        open(str(n), 'w').write('x'); n += 1",
    "prints without end": "\n    while True: print('x' * 100000)",
    "returns NaN": "return default + np.nan",
    "returns wrong shapes": "return np.zeros((1, 2, 3, 4))",
    "returns gigantic arrays": "return np.broadcast_to(np.float32(0), (1 << 20, 1 << 12))",
    "patches NumPy to agree": "np.allclose = np.array_equal = np.testing.assert_allclose = lambda *a, **k: True\n    np.abs = lambda x: 0 * x",
    "returns objects that lie about equality": "return Liar()",
    "returns what runs code where it is unpickled": "return Bomb()",
    "deletes what it finds": f"import shutil\n    for p in ({str(ROOT)!r}, '/grade-work', '.', os.path.expanduser('~')):\n        shutil.rmtree(p, ignore_errors=True)",
    "writes into the grader's folder": f"\n    for p in ({str(ROOT)!r}, {tempfile.gettempdir()!r}):\n        try: open(p + '/{MARK.name}', 'w').write('x')\n        except OSError: pass",
    "leaves a daemon": "\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(1000)\n        os._exit(0)",
    "kills whomever it may": "\n    import signal\n    for p in range(2, 100000):\n        try: os.kill(p, signal.SIGKILL)\n        except OSError: pass",
    "writes into the grader's channel": "\n    for fd in range(3, 20):\n        try: os.write(fd, b'\\xff' * 4096)\n        except OSError: pass",
    "answers ahead of the question": "\n    import json, struct\n    h = json.dumps({'id': '0', 'error': None, 'arrays': [['out0', 'float64', [1]]]}).encode()\n    os.write(3, struct.pack('<QQ', len(h), 8) + h + bytes(8))",
    "looks for the reference": "\n    import importlib\n    for p in sys.path: pass\n    for name in ('modules', 'mlp_numpy'):\n        sys.path.insert(0, "
    + repr(str(ROOT))
    + ")\n        sys.modules.pop(name, None)\n    m = importlib.import_module('modules')\n    globals().update({k: v for k, v in vars(m).items() if k.endswith('Module')})",
    "recurses without end": "return attack(default)",
    "crashes the interpreter": "import ctypes; ctypes.string_at(0)",
}
# What shows that the attack was reached, besides the stubs' zeros: part of what the checks of LinearModule's and MLP's forward say they got.
REACHED = {
    "exits with success": "its process ended with exit status 0", "raises SystemExit": "SystemExit: 0",
    "hangs": "did not end", "hangs in a loop that nothing interrupts": "did not end", "forks without end": "did not end|started more|took more",
    "eats memory": "did not end|MemoryError|took more", "fills the disk": "File too large", "fills the disk with small files": "No space left",
    "prints without end": "did not end", "returns NaN": "nan at index", "returns wrong shapes": r"shape \(1, 2, 3, 4\)",
    "writes into the grader's channel": "did not end|protocol", "answers ahead of the question": "did not end|protocol",
    "returns gigantic arrays": "16.0 GiB", "returns objects that lie about equality": "__array__ method",
    "returns what runs code where it is unpickled": "got a Bomb", "kills whomever it may": "signal SIGKILL",
    "leaves a daemon": ": 0 at index|started more|took more",  # some forty daemons, whose shared memory counts for each
    "recurses without end": "RecursionError", "crashes the interpreter": "signal SIGSEGV",
}  # fmt: skip
# What would hit the machine that tests, or its user's files and processes, where nothing but limits holds it.
ONLY_BEHIND_WALLS = {
    "deletes what it finds", "writes into the grader's folder", "kills whomever it may", "fills the disk",
    "fills the disk with small files", "forks without end", "eats memory", "leaves a daemon", "looks for the reference",
}  # fmt: skip
# Those that take a second or more: their process is waited for, or started anew for most checks. One whose process
# dies is not among them, so that it is tried in the quick tests, too: "exits with success".
SLOW = {
    "hangs", "hangs in a loop that nothing interrupts", "prints without end", "writes into the grader's channel",
    "answers ahead of the question", "eats memory", "forks without end", "fills the disk",
    "fills the disk with small files", "leaves a daemon", "kills whomever it may", "crashes the interpreter",
}  # fmt: skip
CLASSES = (
    """


class Liar:
    shape, dtype, size = (5, 6), np.dtype(float), 30
    def __eq__(self, other): return True
    def __array__(self, *args, **kwargs): return self
    def __float__(self): return 0.0


class Bomb:
    def __reduce__(self): return os.system, ("touch """
    + str(MARK)
    + """",)
"""
)


SAY_PROTECTION = """
from grading.sandbox import Server, Session
with Server() as server, Session(server, {"modules.py": b""}, ["."]) as session:
    session.ask("import_module", {"module": "modules"})
    print(session.protection)
"""


def hostile(attack):
    return {"modules.py": STUBS.replace("{attack}", attack) + CLASSES, "mlp_numpy.py": MLP}


def children(server):
    """Return the processes that come of the server, which stays itself: sandboxes, and whatever they started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = {server._process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {server._process.pid}


@pytest.fixture(scope="module")
def has_walls(server):
    """Whether submissions run in namespaces of their own here."""
    with Session(server, {"modules.py": b""}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        return session.protection["namespaces"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("attack", [pytest.param(a, marks=pytest.mark.slow) if a in SLOW else a for a in ATTACKS])
def test_hostile_submission_gains_nothing_and_leaves_nothing(server, has_walls, attack):
    if attack in ONLY_BEHIND_WALLS and not has_walls:
        pytest.skip("there are no namespaces here: the attack would hit this machine, not a sandbox")
    files_before = set(Path(tempfile.gettempdir()).iterdir())
    # Only what never ends is hurried: a slow machine needs longer for what is to come to an end of its own.
    hurry = {"total_seconds": 4, "least_seconds": 0.3} if "did not end" in REACHED.get(attack, "") else {}
    outcomes, _ = grade(server, hostile(ATTACKS[attack]), **hurry)
    assert points(outcomes) == 0, [name for name in outcomes if name not in lost(outcomes)]
    assert all(outcome.got for outcome in outcomes.values())
    for check in ("linear.forward", "mlp_numpy.forward"):
        assert re.search(REACHED.get(attack, ": 0 at index"), outcomes[check].got)
    assert not MARK.exists()
    assert (ROOT / "modules.py").read_text() == PROJECT["modules.py"]
    if sys.platform == "linux":
        deadline = time.monotonic() + 60
        while children(server) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children(server) == set()
    assert {p for p in set(Path(tempfile.gettempdir()).iterdir()) - files_before if "hostile" in p.name} == set()


def test_answer_that_comes_as_its_time_ends_costs_the_next_question_nothing(server, monkeypatch):
    class LastMomentTimer:
        def __init__(self, _, function):
            self.cancel = function

        def start(self):
            pass

        join = start

    with Session(server, {"modules.py": b""}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        with monkeypatch.context() as patch:
            patch.setattr(sandbox.threading, "Timer", LastMomentTimer)
            assert session.ask("import_module", {"module": "modules"}).error is None
        assert session.ask("import_module", {"module": "modules"}).error is None


def test_slow_answers_count_a_quarter_and_hangs_whole(server, monkeypatch):
    """So that a slow machine takes no points, and what hangs takes no more than its time."""
    files = {"quick.py": b"", "hangs.py": b"import time\ntime.sleep(1000)"}
    with Session(server, files, ["."], total_seconds=100) as session:
        assert session.ask("import_module", {"module": "quick"}).error is None
        spent, slow = session._spent, iter([0.0, 40.0])
        monkeypatch.setattr(session, "_exchange", lambda *_: sandbox.Answer())
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "time", SimpleNamespace(monotonic=lambda: next(slow)))
            session.ask("import_module", {"module": "quick"})
        assert session._spent - spent == 10.0
        monkeypatch.undo()
        spent, began = session._spent, time.monotonic()
        assert session.ask("import_module", {"module": "hangs"}, seconds=0.5).kind == "timeout"
        assert 0.5 <= session._spent - spent <= time.monotonic() - began


def test_old_names_are_those_that_numpy_had(server):
    attack = """
import numpy, sys
numpy.float
frame = sys._getframe()
while "used_old" not in frame.f_locals:
    frame = frame.f_back
frame.f_locals["used_old"] += ["\\ud800", "\\x1b[2J", ["float"], 5]
"""
    with Session(server, {"modules.py": attack.encode()}, ["."], lenient=True) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        assert session.old_names == {"float"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces")
def test_submission_may_make_no_namespaces(server, has_walls):
    if not has_walls:
        pytest.skip("there are no namespaces here")
    attack = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)
for flags in (0x10000000, 0x10000000 | 0x20000, 0x20000):
    assert libc.unshare(flags) == -1 and ctypes.get_errno() == 1, flags
assert open("/proc/self/oom_score_adj").read() == "1000\\n"
"""
    with Session(server, {"modules.py": attack.encode()}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts memory")
def test_memory_that_is_shared_counts(server, monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY_MB", 400)  # two processes, each below it
    attack = """
import mmap, os, time
os.fork()
kept = mmap.mmap(-1, 350 << 20)
for _ in range(350):
    kept.write(bytes(1 << 20))
time.sleep(60)
"""
    with Session(server, {"modules.py": attack.encode()}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error == "it took more than 400 MB of memory"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files in memory")
def test_files_in_memory_cannot_be_made(server):
    with Session(server, {"modules.py": b"import os\nos.memfd_create('x')"}, ["."]) as session:
        assert "Function not implemented" in session.ask("import_module", {"module": "modules"}).error
    shmget = b"import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1600) == -1"
    with Session(server, {"modules.py": shmget}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None


def test_submission_gets_the_installations_modules_only(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH does
    paths = [Path(path) for path in Server._sys_path()]
    assert any((path / "numpy").exists() for path in paths)
    assert not {tmp_path, ROOT, ROOT / "tests"} & set(paths)


def test_ordinary_user_has_walls_wherever_the_kernel_allows_them(server):
    user = 65534 if os.geteuid() == 0 else os.geteuid()

    def run(*command):
        return subprocess.run(command, cwd=ROOT, user=user, env={}, capture_output=True, text=True)

    if shutil.which("unshare") is None or run("unshare", "--map-root-user", "--net", "true").returncode:
        pytest.skip("an ordinary user may make no namespaces here")
    try:
        run(sys.executable, "-c", "import grading.sandbox").check_returncode()
    except (PermissionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"user {user} can read no Python, or no project: {error}")
    assert "'namespaces': True" in run(sys.executable, "-c", SAY_PROTECTION).stdout


@pytest.mark.slow
def test_root_of_a_namespace_without_other_users_keeps_its_own():
    command = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    done = subprocess.run([*command, sys.executable, "-c", SAY_PROTECTION], cwd=ROOT, capture_output=True, text=True)
    assert "'is_root': True" in done.stdout, done.stderr
