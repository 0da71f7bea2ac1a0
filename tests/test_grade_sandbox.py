"""The grader's sandbox: what a submission can and cannot do, with bubblewrap and under limits only."""

import io
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import pytest
from graded import CHECKS, PROJECT, grade, lost, points

from grading import sandbox as sandbox_module
from grading.sandbox import Sandbox, SandboxError, marked_processes
from grading.scheme import ROOT
from grading.worker import frames

CANARY = Path(tempfile.gettempdir(), f"grade-canary-{os.getpid()}")
SLEEP = "import time; time.sleep(1000)"
# {name: (modules.py, what its import answers)}
ATTACKS = {
    "raises SystemExit": ("raise SystemExit(0)", "^SystemExit: 0$"),
    "crashes": ("import ctypes; ctypes.string_at(0)", r"^Its process ended with signal SIGSEGV\.$"),
    "ignores signals": (
        "import signal\nfor s in set(range(1, 32)) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "did not finish",
    ),
    "writes into the connection": ("import os; os.write(3, b'x' * 5000)", "broke the grader's protocol"),
    "sends an answer byte by byte": (
        "import os, time\nos.write(3, b'\\0\\0\\1\\0')\nwhile True: os.write(3, b'x'); time.sleep(0.05)",
        "did not finish",
    ),
    "answers ahead": (
        "import json, os, struct\ntext = json.dumps({'id': '0', 'error': None, 'arrays': []}).encode()\n"
        "os.write(3, struct.pack('!I', len(text)) + text)",
        "an answer to another request",
    ),
    "closes the connection": (f"import os; os.closerange(0, 99); {SLEEP}", "closed its connection|did not finish"),
    "fills the disk": ("open('full', 'wb').write(bytes(1 << 27))", "File too large"),
    "leaves a daemon": (
        f"import os\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: {SLEEP}\n  os._exit(0)",
        "^$",
    ),
}
# These would damage the machine that runs the tests if only limits protected it.
SANDBOX_ATTACKS = {
    "forks without end": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "did not finish"),
    "eats memory": ("import numpy as np\nx = []\nwhile True: x.append(np.ones(1 << 22))", "MemoryError|did not finish"),
    "writes many files": ("n = 0\nwhile True: n += 1; open(str(n), 'w').write('x')", "did not finish|No space left"),
    "kills all processes": (
        "import os, signal\nfor p in range(2, 100000):\n  try: os.kill(p, signal.SIGKILL)\n  except OSError: pass",
        "signal SIGKILL",
    ),
    "reads the project": (f"open({str(ROOT / 'modules.py')!r})", "No such file"),
    "writes outside": (f"open({str(CANARY)!r}, 'w')", "^$"),  # its own /tmp
    "uses the network": ("import socket; socket.create_connection(('1.1.1.1', 53), 1)", "unreachable"),
    "creates a namespace": (
        "import os, ctypes\nif ctypes.CDLL(None, use_errno=True).unshare(0x10020000): os._exit(ctypes.get_errno())",
        "exit status (1|28)",
    ),
}
# Layers that return zeros, or what an attack makes of them.
STUBS = """
import os, time
import numpy as np


class LinearModule:
    def __init__(self, *sizes):
        n, m = sizes if len(sizes) == 2 else (0, 0)
        self.params, self.grads = ({"weight": np.zeros((m, n)), "bias": np.zeros(m)} for _ in range(2))

    def forward(self, x, *y):
        return attack(np.zeros((len(x), len(self.params["bias"]) or x.shape[1])))

    def backward(self, dout, *y):
        return attack(np.zeros((len(dout), self.params["weight"].shape[1] or dout.shape[1])))


class Liar:
    shape, dtype, size = (5, 6), np.dtype(float), 30
    __eq__ = lambda self, other: True
    __float__ = lambda self: 0.0
    __array__ = lambda self, *args, **kwargs: self
    __reduce__ = lambda self: (os.system, ("touch CANARY",))


LeakyReLUModule = SoftMaxModule = CrossEntropyModule = LinearModule
def attack(zeros):
"""
GRADED_ATTACKS = {
    "prints a perfect score": "print('{\"score\": 59}', flush=True); return zeros",
    "exits": "os._exit(0)",
    "hangs": "time.sleep(1000)",
    "returns NaN": "return zeros + np.nan",
    "returns gigantic arrays": "return np.broadcast_to(np.float32(0), (1 << 20, 1 << 12))",
    "makes NumPy agree": "np.allclose = np.array_equal = lambda *args, **kwargs: True; np.abs = abs; return zeros",
    "returns objects that claim to be equal": "return Liar()",
}


@pytest.fixture(scope="module")
def behind_bubblewrap(shared_sandbox):
    if not shared_sandbox.has_bubblewrap:
        pytest.skip(f"no bubblewrap here: {shared_sandbox.why_not}")
    return shared_sandbox


@pytest.fixture(params=["behind_bubblewrap", "under_limits"])
def sandbox(request):
    return request.getfixturevalue(request.param)


def worker_of(sandbox, **modules):
    return sandbox.worker({f"{name}.py": code.encode() for name, code in modules.items()}, ["."])


def import_modules(sandbox, code, seconds=None):
    with worker_of(sandbox, modules=code) as worker:
        return worker.ask("import", "modules", {}, {}, seconds)


def assert_nothing_is_left():
    assert not CANARY.exists()
    deadline = time.monotonic() + 30
    while left := marked_processes(f"{os.getpid()}-"):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def assert_attack_fails(sandbox, code, expected):
    began = time.monotonic()
    answer = import_modules(sandbox, code, seconds=1)
    assert re.search(expected, answer.error)
    assert not any(array.size for array in answer.arrays.values())
    assert time.monotonic() - began < 10
    assert_nothing_is_left()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_fails_and_leaves_nothing(sandbox, attack):
    assert_attack_fails(sandbox, *ATTACKS[attack])


@pytest.mark.parametrize("attack", SANDBOX_ATTACKS)
def test_bubblewrap_stops_attack(behind_bubblewrap, attack):
    if attack == "creates a namespace" and not sandbox_module.can_disable_namespaces():
        pytest.skip("this bubblewrap cannot forbid it")
    if attack == "forks without end" and os.geteuid() != 0 and Path("/proc/self/uid_map").read_text().split()[1] == "0":
        pytest.skip("this user is root outside a namespace, and the kernel does not limit root's processes")
    assert_attack_fails(behind_bubblewrap, *SANDBOX_ATTACKS[attack])


@pytest.mark.parametrize("attack", GRADED_ATTACKS)
def test_hostile_submission_gets_no_points(sandbox, attack, monkeypatch):
    monkeypatch.setattr(sandbox_module, "CHECK_SECONDS", 2)
    monkeypatch.setattr(sandbox_module, "SECONDS_AFTER_TIMEOUT", 0.5)
    code = f"{STUBS.replace('CANARY', str(CANARY))}    {GRADED_ATTACKS[attack]}\n"
    results = grade(sandbox, {"modules.py": code})
    assert points(results) == 0, [name for name, result in results.items() if result.passed]
    assert_nothing_is_left()


def test_timeout_is_paid_once(shared_sandbox, monkeypatch):
    monkeypatch.setattr(sandbox_module, "CHECK_SECONDS", 1)
    monkeypatch.setattr(sandbox_module, "SECONDS_AFTER_TIMEOUT", 0.2)
    with worker_of(shared_sandbox, modules=SLEEP, mlp_numpy=SLEEP, fine="") as worker:
        targets = ("modules", "modules.LinearModule", "mlp_numpy", "fine")
        errors = [worker.ask("import", target, {}, {}).error for target in targets]
    assert errors == [
        "It did not finish within 1 s and was stopped.",
        "Earlier calls of modules did not return, so it was not called again.",
        "It did not finish within 0.2 s and was stopped.",
        "",
    ]


def test_class_that_hangs_for_one_input_loses_that_check_only(shared_sandbox, monkeypatch):
    monkeypatch.setattr(sandbox_module, "CHECK_SECONDS", 3)
    monkeypatch.setattr(sandbox_module, "SECONDS_AFTER_TIMEOUT", 1.5)
    slow = """

class SoftMaxModule(SoftMaxModule):
    def forward(self, x):
        while x.max() > 700:
            pass
        return super().forward(x)
"""
    checks = [check for check in CHECKS if check.name.startswith(("softmax", "layers"))]
    results = grade(shared_sandbox, PROJECT | {"modules.py": PROJECT["modules.py"] + slow}, checks)
    assert lost(results) == ["softmax.large_logits"]
    assert "It did not finish within" in results["softmax.large_logits"].problem


def test_limit_of_a_request_is_kept_after_a_timeout(shared_sandbox, monkeypatch):
    """Training takes longer than a check."""
    monkeypatch.setattr(sandbox_module, "CHECK_SECONDS", 0.5)
    monkeypatch.setattr(sandbox_module, "SECONDS_AFTER_TIMEOUT", 0.1)
    with worker_of(shared_sandbox, modules=SLEEP, slow="import time\ntime.sleep(1)") as worker:
        assert worker.ask("import", "modules", {}, {}).kind == "timeout"
        assert worker.ask("import", "slow", {}, {}, 30).error == ""


def test_right_code_runs_as_on_any_machine(sandbox):
    code = """
import multiprocessing, os, sys, torch
torch.set_num_threads(24)
torch.ones(500, 500) @ torch.ones(500, 500)
loader = torch.utils.data.DataLoader(torch.arange(4.0), num_workers=2)
assert sum(batch.item() for batch in loader) == 6
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
open(os.path.expanduser("~/file"), "w").write("x")
assert torch.compile(lambda x: x + 1)(torch.ones(1)).item() == 2
"""
    assert import_modules(sandbox, code).error == ""


@pytest.mark.parametrize(
    ("line", "importing", "imported"),
    [
        ("import cifar10_utils; from modules", "mlp_numpy.py", "modules.py"),
        ("from .modules", "mlp_numpy.py", "modules.py"),
        ("from .modules", "hand_in/mlp_numpy.py", "hand_in/modules.py"),
        ("from hand_in.modules", "hand_in/mlp_numpy.py", "hand_in/modules.py"),
        ("from code.modules", "code/mlp_numpy.py", "code/modules.py"),  # Python has a module of this name
        ("from ..lib.modules", "code/mlp_numpy.py", "lib/modules.py"),
        ("from .helper", "hw 1.2/mlp_numpy.py", "hw 1.2/helper.py"),
        *((f"from {name}", "mlp_numpy.py", f"{name}.py") for name in ("child", "main", "frames", "load", "grading")),
    ],
)
def test_imports_of_any_layout_work(shared_sandbox, line, importing, imported):
    files = {importing: f"{line} import own".encode(), imported: b"own = 1", "hand_in/__init__.py": b""}
    folders = list(dict.fromkeys(str(Path(name).parent) for name in (importing, imported)))
    with shared_sandbox.worker(files, folders) as worker:
        assert worker.ask("import", "mlp_numpy", {}, {}).error == ""


def test_course_files_can_be_imported_but_no_answer(shared_sandbox):
    error = import_modules(shared_sandbox, "import cifar10_utils, training.flags\nimport mlp_numpy").error
    assert error == "ModuleNotFoundError: No module named 'mlp_numpy'"


def test_hidden_paths_are_not_visible(behind_bubblewrap, tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    results = tmp_path / "results"
    results.mkdir()
    (results / "others.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    code = f"import os\nassert os.listdir({str(tmp_path)!r}) == ['results'] and not os.listdir({str(results)!r})"
    with Sandbox([results]) as sandbox:
        assert import_modules(sandbox, code).error == ""


def test_root_needs_bubblewrap_unless_limits_are_enough(monkeypatch):
    monkeypatch.setattr(sandbox_module, "BWRAP", None)
    if os.geteuid() == 0:
        with pytest.raises(SandboxError, match=r"bubblewrap is not installed.*apt-get install bubblewrap"):
            Sandbox()
    else:
        with Sandbox() as sandbox:
            assert "without a sandbox, under limits only (bubblewrap is not installed)" in sandbox.protection


@pytest.mark.slow
def test_packages_of_another_environment_are_visible(tmp_path):
    packages = [path for path in sys.path if any(Path(path).glob("*-info"))]
    venv.create(tmp_path / "venv")
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text("\n".join(packages))
    code = (
        "from grading.sandbox import Sandbox\n"
        "with Sandbox() as sandbox, sandbox.worker({'modules.py': b'import torch'}, ['.']) as worker:\n"
        "    print(worker.ask('import', 'modules', {}, {}).error or 'imported')"
    )
    command = [tmp_path / "venv" / "bin" / "python", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


def decoded(message):
    stream = io.BytesIO(b"".join(message))
    return frames.decode(lambda n_bytes: bytearray(stream.read(n_bytes)), 1000)


@pytest.mark.parametrize(
    "header",
    ["no JSON", "[]", "{}", '{"arrays": 5}', '{"arrays": [["x", "O", [1]]]}', '{"arrays": [["x", "float64", [-1]]]}',
     '{"arrays": [["x", "float64", [126]]]}', "[" * 100000, "x" * (1 << 19)],
)  # fmt: skip
def test_frames_refuse_a_malformed_header(header):
    with pytest.raises(frames.FrameError):
        decoded([frames.LENGTH.pack(len(header)), header.encode()])
