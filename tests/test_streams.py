"""What nobody can read ends no run: a reader that has gone, a closed stream, a full disk under the log."""

import io
import os
import sys

import pytest
from runs import NUMPY, ROOT, SMALL, assert_same_run, run_process

from streams import lasting_output


class Broken(io.StringIO):
    """A stream that nobody reads."""

    def __init__(self, error):
        super().__init__()
        self.error, self.n_writes = error, 0

    def write(self, text):
        self.n_writes += 1
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "EIO"), ValueError("closed file")])
def test_stream_falls_silent_at_the_first_write_that_fails(monkeypatch, error):
    stream = Broken(error)
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_output():
        for _ in range(3):
            print("nobody reads this", flush=True)
    assert stream.n_writes == 1
    assert sys.stdout is stream


def test_message_of_a_signal_in_the_middle_of_another_is_lost_and_no_more(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with lasting_output():
        write = sys.stderr._stream.write
        sys.stderr._stream.write = lambda text: (_ for _ in ()).throw(RuntimeError("reentrant call"))
        print("lost", file=sys.stderr)
        sys.stderr._stream.write = write
        print("kept", file=sys.stderr)
        assert sys.stderr._stream.getvalue() == "kept\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no sh")
@pytest.mark.parametrize("rest", ["| head -n 1", ">&-", "2>&-", ">&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_run_goes_on_to_its_end_where_its_output_goes_nowhere(synthetic_flags, reference, tmp_path, rest):
    if "/dev/full" in rest and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    few = "--eval_freq=20"  # of the pictures, which take most of the time
    flags = " ".join([*synthetic_flags, *SMALL[NUMPY], few])
    command = f"{{ '{sys.executable}' {ROOT / NUMPY}.py {flags} --out_dir '{tmp_path / 'run'}'; echo $? > status; }}"
    done = run_process("sh", "-c", f"{command} {rest}", cwd=tmp_path)
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err
    assert (tmp_path / "status").read_text() == "0\n"
    assert_same_run(tmp_path / "run", reference(NUMPY, few))
