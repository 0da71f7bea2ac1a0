"""Hostile submissions: none gains a point, stops the grader, or leaves a process or a file behind.

Behind bubblewrap's walls and under limits alone; what would hit this machine is tried behind walls only.
"""

# ruff: noqa: E501, a row of a table stays on its line

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from graded import PROJECT, grade, lost, points

from grading import process, walls
from grading.session import Answer, Session
from grading.walls import ROOT, Sandbox, SandboxError

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
    "deletes what it finds": f"import shutil\n    for p in ({str(ROOT)!r}, '/home/student', '.', os.path.expanduser('~')):\n        shutil.rmtree(p, ignore_errors=True)",
    "writes into the grader's folder": f"\n    for p in ({str(ROOT)!r}, {tempfile.gettempdir()!r}):\n        try: open(p + '/{MARK.name}', 'w').write('x')\n        except OSError: pass",
    "leaves a daemon": "\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(1000)\n        os._exit(0)",
    "kills whomever it may": "\n    import signal\n    for p in range(2, 100000):\n        try: os.kill(p, signal.SIGKILL)\n        except OSError: pass",
    "writes into the grader's channel": "\n    for fd in range(3, 20):\n        try: os.write(fd, b'\\xff' * 4096)\n        except OSError: pass",
    "answers ahead of the question": "\n    import json, struct\n    h = json.dumps({'id': '0', 'error': None, 'arrays': [['out0', 'float64', [1]]]}).encode()\n    os.write(3, struct.pack('!i', len(h)) + h + struct.pack('!i', 8) + bytes(8))",
    "looks for the reference": "\n    import importlib\n    for p in sys.path: pass\n    for name in ('modules', 'mlp_numpy'):\n        sys.path.insert(0, "
    + repr(str(ROOT))
    + ")\n        sys.modules.pop(name, None)\n    m = importlib.import_module('modules')\n    globals().update({k: v for k, v in vars(m).items() if k.endswith('Module')})",
    "recurses without end": "return attack(default)",
    "crashes the interpreter": "import ctypes; ctypes.string_at(0)",
}
# What shows that the attack was reached, besides the stubs' zeros: part of what the checks of two modules' forward say they got.
REACHED = {
    "exits with success": "its process ended with exit status 0", "raises SystemExit": "SystemExit: 0",
    "hangs": "did not end", "hangs in a loop that nothing interrupts": "did not end", "forks without end": "did not end|started more|took more",
    "eats memory": "did not end|MemoryError|took more", "fills the disk": "File too large", "fills the disk with small files": "did not end",
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
from grading.session import Session
from grading.walls import Sandbox
with Sandbox() as sandbox, Session(sandbox, {"modules.py": b""}, ["."]) as session:
    session.ask("import_module", {"module": "modules"})
    print(session.protection)
"""


def hostile(attack):
    return {"modules.py": STUBS.replace("{attack}", attack) + CLASSES, "mlp_numpy.py": MLP}


def left_processes():
    """Return what is left of submissions that this process has started, without zombies."""
    marked = ((p, (p.info["environ"] or {}).get(process.MARK, "")) for p in psutil.process_iter(["environ"]))
    return {p.pid for p, mark in marked if mark.startswith(f"{os.getpid()}-") and process.is_alive(p)}


@pytest.fixture(scope="module")
def behind_walls(shared_sandbox):
    """The sandbox, where it has walls."""
    if not shared_sandbox.has_walls:
        pytest.skip(f"no bubblewrap here: {shared_sandbox.why_not}")
    return shared_sandbox


@pytest.fixture(scope="module")
def under_limits():
    """The sandbox of a machine without bubblewrap."""
    try:
        with Sandbox(bwrap=False) as sandbox:
            yield sandbox
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["behind_walls", "under_limits"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("attack", [pytest.param(a, marks=pytest.mark.slow) if a in SLOW else a for a in ATTACKS])
def test_hostile_submission_gains_nothing_and_leaves_nothing(either, attack):
    if attack in ONLY_BEHIND_WALLS and not either.has_walls:
        pytest.skip("under limits alone the attack would hit this machine")
    files_before = set(Path(tempfile.gettempdir()).iterdir())
    # Only what never ends is hurried: a slow machine needs longer for what is to come to an end of its own.
    hurry = {"total_seconds": 4, "least_seconds": 0.3} if "did not end" in REACHED.get(attack, "") else {}
    outcomes, _ = grade(either, hostile(ATTACKS[attack]), **hurry)
    assert points(outcomes) == 0, [name for name in outcomes if name not in lost(outcomes)]
    assert all(outcome.got for outcome in outcomes.values())
    for check in ("linear.forward", "softmax.forward"):
        assert re.search(REACHED.get(attack, ": 0 at index"), outcomes[check].got)
    assert not MARK.exists()
    assert (ROOT / "modules.py").read_text() == PROJECT["modules.py"]
    deadline = time.monotonic() + 60
    while left_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_processes() == set()
    assert {p for p in set(Path(tempfile.gettempdir()).iterdir()) - files_before if "hostile" in p.name} == set()


def test_answer_that_comes_as_its_time_ends_costs_the_next_question_nothing(shared_sandbox, monkeypatch):
    class LastMomentTimer:
        def __init__(self, _, function):
            self.cancel = function

        def start(self):
            pass

        join = start

    with Session(shared_sandbox, {"modules.py": b""}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        with monkeypatch.context() as patch:
            patch.setattr("grading.session.threading.Timer", LastMomentTimer)
            assert session.ask("import_module", {"module": "modules"}).error is None
        assert session.ask("import_module", {"module": "modules"}).error is None


def test_slow_answers_count_a_quarter_and_hangs_whole(shared_sandbox, monkeypatch):
    """So that a slow machine takes no points, and what hangs takes no more than its time."""
    files = {"quick.py": b"", "hangs.py": b"import time\ntime.sleep(1000)"}
    with Session(shared_sandbox, files, ["."], total_seconds=100) as session:
        assert session.ask("import_module", {"module": "quick"}).error is None
        spent, slow = session._spent, iter([0.0, 40.0])
        monkeypatch.setattr(session, "_exchange", lambda *_: Answer())
        with monkeypatch.context() as patch:
            patch.setattr("grading.session.time", SimpleNamespace(monotonic=lambda: next(slow)))
            session.ask("import_module", {"module": "quick"})
        assert session._spent - spent == 10.0
        monkeypatch.undo()
        spent, began = session._spent, time.monotonic()
        assert session.ask("import_module", {"module": "hangs"}, seconds=0.5).kind == "timeout"
        assert 0.5 <= session._spent - spent <= time.monotonic() - began


def test_process_has_pytorch_only_where_the_submission_names_it(shared_sandbox):
    """It takes a second to start, as often as one ends."""
    with Session(
        shared_sandbox, {"modules.py": b"import sys\nassert 't' + 'orch' not in sys.modules"}, ["."]
    ) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None


def test_old_names_are_those_that_numpy_had(shared_sandbox):
    attack = """
import numpy, sys
numpy.float
frame = sys._getframe()
while "used_old" not in frame.f_locals:
    frame = frame.f_back
frame.f_locals["used_old"] += ["\\ud800", "\\x1b[2J", ["float"], 5]
"""
    with Session(shared_sandbox, {"modules.py": attack.encode()}, ["."], lenient=True) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        assert session.old_names == {"float"}


def test_submission_may_make_no_namespaces(behind_walls):
    if "--disable-userns" not in walls._bwrap_help():
        pytest.skip("this bubblewrap cannot forbid them")
    attack = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x10000000, 0x10000000 | 0x20000, 0x20000):
    assert libc.unshare(flags) == -1 and ctypes.get_errno() in (1, 28), (flags, ctypes.get_errno())
assert open("/proc/self/oom_score_adj").read() == "1000\\n"
"""
    with Session(behind_walls, {"modules.py": attack.encode()}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None


def test_submission_finds_what_every_linux_has_and_nothing_of_the_grader(behind_walls, tmp_path):
    """Also where PYTHONPATH leads to the folder above: a data loader's workers, a user, a home, torch.compile."""
    secret = tmp_path / "results" / "others.py"
    secret.parent.mkdir()
    secret.touch()
    attack = f"""
import multiprocessing, os, pwd, torch
loader = torch.utils.data.DataLoader(torch.arange(4.0), num_workers=2)
assert sum(batch.item() for batch in loader) == 6
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
assert pwd.getpwuid(os.getuid()).pw_dir == os.path.expanduser("~")
open(os.path.expanduser("~/file"), "w").write("x")
assert torch.compile(lambda x: x + 1)(torch.ones(1)).item() == 2
import package
for path in ({str(ROOT / "modules.py")!r}, {str(secret)!r}, "/etc/hostname", {str(Path.home() / ".bashrc")!r}):
    assert not os.path.exists(path), path
for folder in ("/", "/dev", {str(secret.parent)!r}, {str(tmp_path)!r}):
    try: open(folder + "/x", "w")
    except OSError: pass
    else: raise AssertionError(folder)
"""
    (tmp_path / "package.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with Sandbox([secret.parent]) as box, Session(box, {"modules.py": attack.encode()}, ["."]) as session:
            assert session.ask("import_module", {"module": "modules"}).error is None
    assert not {str(ROOT), str(ROOT / "tests")} & set(box.sys_path)


def test_memory_that_is_shared_counts(either, monkeypatch):
    monkeypatch.setattr(process, "TORCH_MB", 0)
    monkeypatch.setattr(process, "MEMORY_MB", 400)  # two processes, each below it
    attack = """
import mmap, os, time
os.fork()
kept = mmap.mmap(-1, 350 << 20)
for _ in range(350):
    kept.write(bytes(1 << 20))
time.sleep(60)
"""
    with Session(either, {"modules.py": attack.encode()}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error == "it took more than 400 MB of memory"


def test_submission_ends_where_the_machine_has_little_memory_left(either, monkeypatch):
    """As by files in memory and the kernel's buffers, which are counted for no process."""
    with Session(either, {"modules.py": b"", "sleep.py": b"import time\ntime.sleep(60)"}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        with monkeypatch.context() as patch:
            patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=499 << 20))
            error = session.ask("import_module", {"module": "sleep"}).error
    assert error == "it left less than 500 MB of this machine's memory free"


def test_what_loses_its_parents_is_found_without_walls(under_limits):
    daemon = b"""
import os, time
parent = os.fork()
if parent == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
os.waitpid(parent, 0)  # its child has lost both its parents by the time the import is answered
"""
    with Session(under_limits, {"modules.py": daemon}, ["."]) as session:
        assert session.ask("import_module", {"module": "modules"}).error is None
        assert len(left_processes()) == 2
    assert left_processes() == set()


def test_other_processes_of_its_user_cost_a_submission_nothing(under_limits):
    """The kernel counts them where a submission cannot have a user of its own."""
    if os.geteuid() == 0:
        pytest.skip("a submission has a user of its own here")
    threads = b"import threading\nfor _ in range(8):\n    threading.Thread(target=print).start()\n"
    with Session(under_limits, {"first.py": b"", "second.py": threads}, ["."]) as session:
        assert session.ask("import_module", {"module": "first"}).error is None
        others = [subprocess.Popen(["sleep", "100"]) for _ in range(60)]
        try:
            assert session.ask("import_module", {"module": "second"}).error is None
        finally:
            for other in others:
                other.kill()
                other.wait()


def test_machine_without_bubblewrap_says_so_and_grades(under_limits, monkeypatch):
    outcomes, grading = grade(under_limits, {"modules.py": PROJECT["modules.py"]})
    assert outcomes["linear.forward"].passed
    assert "it ran under limits only (no bubblewrap: it is switched off)" in grading.session.protection
    monkeypatch.setattr(walls.shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match=r"^there is no sandbox here \(it is not installed\): install bubblewrap"):
        Sandbox(required=True)


def test_ordinary_user_has_walls_wherever_the_kernel_allows_them():
    user = 65534 if os.geteuid() == 0 else os.geteuid()

    def run(*command):
        return subprocess.run(command, cwd=ROOT, user=user, env={}, capture_output=True, text=True)

    if shutil.which("bwrap") is None or run("bwrap", "--ro-bind", "/", "/", "true").returncode:
        pytest.skip("an ordinary user has no bubblewrap here")
    try:
        run(sys.executable, "-c", "import grading.session").check_returncode()
    except (PermissionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"user {user} can read no Python, or no project: {error}")
    assert "in a file system of its own" in run(sys.executable, "-c", SAY_PROTECTION).stdout


@pytest.mark.slow
def test_root_of_a_namespace_without_other_users_keeps_its_own():
    command = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    done = subprocess.run([*command, sys.executable, "-c", SAY_PROTECTION], cwd=ROOT, capture_output=True, text=True)
    assert "as root without its privileges" in done.stdout, done.stderr


def test_no_two_processes_have_the_same_user_and_their_range_has_an_end(monkeypatch):
    monkeypatch.setattr(walls, "N_UIDS", 3)
    found = list(itertools.islice(walls.users(50_000), 4))
    assert sorted(found[:3]) == [50_000, 50_001, 50_002]
    assert found[3] == found[0]
