"""A full disk: one line that names the file, nothing half written, and a run that goes on once there is space."""

import errno
import io
import os
import sys

import pytest
import torch
from runs import CONVNET, MLP, NUMPY, ROOT, SMALL, assert_same_run, run, run_process

import run_folder
from run_folder import read_metrics
from torch_run import TorchRunFolder


@pytest.mark.parametrize(
    ("script", "n_written"),
    [
        *((script, n) for script in (NUMPY, MLP) for n in (0, 1, 2, 3, 6)),
        pytest.param(CONVNET, 2, marks=pytest.mark.slow),
    ],
)
def test_run_on_a_full_disk_ends_in_one_line_and_goes_on_once_there_is_space(
    synthetic_flags, reference, tmp_path, monkeypatch, script, n_written
):
    """Space runs out as the files that are flushed to disk, config, metrics and checkpoints by turns, are written."""
    folder, left_alone, fsync, flushed = tmp_path / "run", reference(script), os.fsync, []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) > n_written:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(run_folder.os, "fsync", full)
    done = run(script, *synthetic_flags, *SMALL[script], "--out_dir", folder)
    monkeypatch.undo()
    name = ["config.json", "metrics.jsonl", left_alone_name(script)][min(n_written, 1 + (n_written + 1) % 2)]
    assert done.status == 1
    assert f"error: {folder / name} could not be written: No space left on device; make room" in done.error
    assert list(folder.glob("*.tmp")) == []
    assert len(read_metrics(folder)) == -(-n_written // 2)  # a line that was written is there, flushed or not
    if n_written == 0:  # the folder is not a run yet
        assert (folder / "config.json").read_bytes() == b""
        return
    assert run(script, "--resume", folder).status == 0
    assert_same_run(folder, left_alone)


def left_alone_name(script):
    return "checkpoint.npz" if script == NUMPY else "checkpoint.pt"


def test_figure_that_a_full_disk_cuts_off_is_named(synthetic_flags, tmp_path, monkeypatch):
    def full(self, file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    done = run(NUMPY, *synthetic_flags, *SMALL[NUMPY], "--out_dir", tmp_path / "run", draw=True)
    assert done.status == 1
    assert f"{tmp_path / 'run' / 'accuracy.png'} could not be written: No space left" in done.error
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "metrics.jsonl"}


def test_pytorchs_own_error_of_a_full_disk_is_the_disks(tmp_path):
    """torch.save ends a cut off archive with a RuntimeError on positions in it."""

    class Full(io.BytesIO):
        def write(self, raw):
            if self.tell() + len(raw) > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(raw)

    with pytest.raises(OSError, match="No space left"):
        TorchRunFolder(tmp_path).write_state(Full(), {"network": {"weight": torch.ones(100_000)}})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the faults are made by Linux's means")
def test_no_fault_loses_or_changes_a_run():
    """Each kind of fault once; `python -m tests.fault_run 100` has many."""
    done = run_process("python", "-m", "tests.fault_run", 7, cwd=ROOT)
    assert done.out.splitlines()[-1] == "7 faults, 0 runs lost or changed", done.out
    assert done.status == 0, done.err
