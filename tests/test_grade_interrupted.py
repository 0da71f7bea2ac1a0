"""The grader interrupted or killed while it waits: it ends at once and leaves results that can be read."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from graded import call_grade, write
from runs import handling

from grading import session, submissions
from grading.process import Worker
from grading.session import Session
from grading.walls import ROOT, Sandbox, SandboxError


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
def test_interrupted_grader_ends_at_once_and_leaves_results_that_are_no_grades(shared_sandbox, tmp_path):
    folders = [write(tmp_path / f"s{i}", {"modules.py": "import time\ntime.sleep(1000)\n"}) for i in range(3)]
    command = [sys.executable, str(ROOT / "grade.py"), *map(str, folders), "--no_training", "-j", "2"]
    with handling(signal.SIGINT, signal.SIG_DFL):
        process = subprocess.Popen([*command, "--out_dir", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "s2" / "results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(4)  # by now two are asleep
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on\n")
    assert said.count("\n") == 1
    for folder in folders:
        results = json.loads((tmp_path / "out" / folder.name / "results.json").read_text())
        assert (results["score"], sum(test["max_score"] for test in results["tests"])) == (0, 59)
        assert results["extra_data"]["notes"][0] == submissions.UNFINISHED


@pytest.mark.skipif(os.name == "nt", reason="submissions are not graded on Windows")
@pytest.mark.parametrize("when", ["as a process begins", "as submissions are handed in"])
def test_interrupted_grader_waits_for_no_process(tmp_path, monkeypatch, when):
    """Neither for one that starts slowly, nor for a submission that hangs."""

    class Slow(Worker):
        def __init__(self, *args):
            super().__init__(*args)
            if when == "as a process begins":
                psutil.Process(self._process.pid).suspend()
                os.kill(os.getpid(), signal.SIGINT)

    class Pool(submissions.concurrent.futures.ThreadPoolExecutor):
        def submit(self, *args):
            future = super().submit(*args)
            if when == "as submissions are handed in":
                while not asked:
                    time.sleep(0.02)
                os.kill(os.getpid(), signal.SIGINT)
            return future

    def ask(self, op, params, *rest, ask=submissions.Session.ask, **kwargs):
        asked.append(op)
        return ask(self, op, params, *rest, **kwargs)

    asked = []
    monkeypatch.setattr(session, "Worker", Slow)
    monkeypatch.setattr(submissions, "demand_full_points", lambda *_: None)
    monkeypatch.setattr(submissions.concurrent.futures, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(submissions.Session, "ask", ask)
    folder = write(tmp_path / "s", {"modules.py": "import time\ntime.sleep(1000)\n"})
    began = time.monotonic()
    with handling(signal.SIGINT, signal.default_int_handler):
        assert call_grade(folder, "--no_training", "--out_dir", tmp_path / "out") == 130
    assert time.monotonic() - began < 9  # of 0.2; it would wait 60 s for the process, or 20 for the submission
    assert asked == ["import_module"], "another question was asked: it had waited for the first one's end"


@pytest.mark.slow
def test_what_was_asked_when_the_grader_is_stopped_has_no_answer():
    """Else the checks would go on without it, and write down a grade of 0 as if it were one."""
    with Sandbox() as sandbox, Session(sandbox, {"modules.py": b"import time; time.sleep(60)"}, ["."]) as session:
        stop = threading.Timer(3, sandbox.stop)
        stop.start()
        with pytest.raises(SandboxError, match="has been stopped"):
            session.ask("import_module", {"module": "modules"}, seconds=50)
        stop.join()
