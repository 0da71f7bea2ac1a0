"""Several processes: they wait for each other for a stated time, one tells of an error, and a new group goes on."""

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import MLP, ROOT, SMALL, assert_same_run, checkpoint, run, run_process, this_python, torchrun

import torch_run
import train_mlp_pytorch

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="torchrun needs libuv, which PyTorch's Windows builds lack"
)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize(("local_size", "flags"), [(4, "--nproc_per_node=4"), (2, "...")])
def test_command_to_go_on_is_whole_on_one_machine(local_size, flags):
    assert torch_run.launcher(SimpleNamespace(size=4, local_size=local_size)) == ("torchrun", flags)


def test_process_that_is_left_alone_says_what_it_waits_for_and_gives_up(synthetic_flags, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_run, "WAIT", datetime.timedelta(seconds=2))
    monkeypatch.setattr(torch_run, "SAY_AFTER", 0.5)
    port = free_port()
    alone = {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in alone.items():
        monkeypatch.setenv(name, str(value))
    done = run(MLP, *synthetic_flags, *SMALL[MLP], "--out_dir", tmp_path / "run")
    assert done.status == 1
    waiting, error = done.err.splitlines()
    assert waiting.startswith(f"waiting at 127.0.0.1:{port} for 2 processes, for 0 minutes at most")
    assert f"error: 2 processes could not meet at 127.0.0.1:{port} within 0 minutes" in error
    assert "check MASTER_ADDR, MASTER_PORT and GLOO_SOCKET_IFNAME" in error
    assert not (tmp_path / "run").exists()


def errors_of(done):
    """Return the lines in which the script tells of an error, and assert that it left no traceback of its own."""
    assert f'{MLP}.py", line' not in done.err, done.err
    return [line for line in done.err.splitlines() if re.search(rf"{MLP}.py: error: ", line)]


@pytest.mark.slow
def test_error_of_all_processes_is_told_once(synthetic_flags, tmp_path):
    flags = [*synthetic_flags, "--device=cpu", "--max_steps=50"]
    steep = ["--learning_rate=1e9", "--out_dir", tmp_path / "steep"]
    for more, status, message in (
        (steep, 1, "the run has diverged"),
        (["--batch_size=0"], 2, "expected a whole number of at least 1"),
    ):
        done = run_process(*torchrun(MLP, *flags, *more))
        assert done.status != 0
        (error,) = errors_of(done)
        assert message in error
        assert f"exitcode  : {status} " in done.err


@pytest.mark.slow
def test_wrong_network_interface_is_told_once_with_what_to_check(synthetic_flags, tmp_path):
    done = run_process(
        *torchrun(MLP, *synthetic_flags, *SMALL[MLP], "--out_dir", tmp_path / "run"),
        env=os.environ | {"GLOO_SOCKET_IFNAME": "no-such-interface"},
    )
    assert done.status != 0
    (error,) = errors_of(done)
    assert "no-such-interface" in error
    assert "GLOO_SOCKET_IFNAME" in error


LEAVES_AT_ONCE = """
import sys
sys.path.insert(0, {root!r})
import torch
import torch.distributed as dist
from torch_run import Processes
with Processes() as processes:
    network = processes.parallel(torch.nn.Linear(3, 3))
    for _ in range(30):
        dist.all_reduce(torch.ones(20_000), async_op=True)
"""


@pytest.mark.slow
def test_processes_end_well_though_their_last_sums_are_not_done(tmp_path):
    """A thread that lets go of a tensor while Python ends is aborted: without a pause nearly every time."""
    script = tmp_path / "leaves_at_once.py"
    script.write_text(LEAVES_AT_ONCE.format(root=str(ROOT)))
    for _ in range(3):
        done = run_process(*torchrun(MLP)[:-1], script)
        assert done.status == 0, done.err


# ---- Groups that are started again ---------------------------------------------------------------


@pytest.fixture
def restarted(monkeypatch, tmp_path):
    """The environment of a group that torchrun has started again, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this one")


def begun(folder, launch):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"launch": launch}))
    return str(folder)


def test_group_that_is_started_again_goes_on_with_its_own_run_only(restarted, monkeypatch):
    parser = train_mlp_pytorch.make_flags()
    flags = ["--max_steps=7"]
    assert torch_run.after_restart(parser, flags) == flags, "there is no run"
    results = Path("results", MLP)
    begun(results / "2026-01-03", "another")
    (results / "2026-01-04").mkdir()
    assert torch_run.after_restart(parser, flags) == flags
    own = begun(results / "2026-01-02", "this one")
    assert torch_run.after_restart(parser, flags) == ["--resume", own, "--data_dir", "./cifar10/cifar-10-batches-py"]
    of_this_machine = ["--data_dir=here", "--quiet"]
    assert torch_run.after_restart(parser, of_this_machine) == ["--resume", own, "--data_dir", "here", "--quiet"]
    assert torch_run.after_restart(parser, ["--out_dir=mine"]) == ["--out_dir=mine"]
    flags = ["--out_dir", begun(Path("mine"), "this one")]
    assert torch_run.after_restart(parser, flags)[:2] == ["--resume", "mine"]
    assert torch_run.after_restart(parser, ["--resume=mine"]) == ["--resume=mine"]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert torch_run.after_restart(parser, flags) == flags


def test_one_process_that_is_started_again_goes_on_with_its_own_run(synthetic_flags, restarted, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    flags = [*synthetic_flags, *SMALL[MLP], "--out_dir=run"]
    assert run(MLP, *flags).status == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    done = run(MLP, *flags)
    assert (done.status, "this run is complete already" in done.out) == (0, True), done.err


def test_launch_without_an_id_is_known_by_torchruns_process(monkeypatch):
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500"), ("TORCHELASTIC_RUN_ID", "none")):
        monkeypatch.setenv(name, value)
    ours = torch_run.launch()
    assert ours == torch_run.launch()
    monkeypatch.setattr(torch_run.os, "getppid", os.getpid)
    assert ours != torch_run.launch()


def children(pid):
    """Return the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(status.parent.name))
    return sorted(found)


LONGER = [*SMALL[MLP], "--max_steps=60", "--eval_freq=10"]


@pytest.fixture(scope="module")
def left_alone(synthetic_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two processes"
    done = run_process(*torchrun(MLP, *synthetic_flags, *LONGER, "--out_dir", folder))
    assert done.status == 0, done.err
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="without /proc this test cannot find a worker to kill")
@pytest.mark.parametrize("with_out_dir", [True, False])
def test_group_whose_worker_is_killed_goes_on_from_its_checkpoint_to_the_bit(
    synthetic_flags, left_alone, tmp_path, with_out_dir
):
    command = torchrun(MLP, *synthetic_flags, *LONGER, *(["--out_dir", tmp_path / "run"] if with_out_dir else []))
    command.insert(3, "--max_restarts=1")
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(this_python(command), cwd=tmp_path, stdout=file, stderr=file)
    pattern = "run/checkpoint.pt" if with_out_dir else f"results/{MLP}/*/checkpoint.pt"
    deadline = time.monotonic() + 300
    while not (found := [path for path in tmp_path.glob(pattern) if int(checkpoint(path.parent)["step"]) >= 10]):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait(timeout=300) == 0, log.read_text()
    assert f'{MLP}.py", line' not in log.read_text()
    assert_same_run(found[0].parent, left_alone)
    assert len(list(tmp_path.glob(f"results/{MLP}/*"))) == (not with_out_dir)
