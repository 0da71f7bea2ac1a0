"""How a submission's process is started here: behind bubblewrap's walls, or where there is none without them."""

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from grading.scheme import ROOT

# Of the system, what a Python process opens while it runs; the rest of the disk is not there.
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives"]
HOME = "/home/student"
WRITABLE = [HOME, "/tmp", "/dev/shm"]  # each a file system in memory
INSTALL = "install bubblewrap (apt-get install bubblewrap, or dnf install bubblewrap)"
FOLDER_MB = 128  # each
# Of users that are nobody's: each process of a root grader has one of its own; rootless containers have no high ones.
FIRST_UIDS, N_UIDS = (1_900_000_000, 50_000), 10_000
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": HOME, "TMPDIR": "/tmp", "USER": "student", "LOGNAME": "student",
    "MPLBACKEND": "Agg",
    "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait: a third of the speed on a busy machine
    "TORCHDYNAMO_DISABLE": "1",  # torch.compile takes longer to start a compiler than a check may take
}  # fmt: skip


class SandboxError(Exception):
    """Submissions cannot be graded here; the message says what to do."""


def users(first):
    """Yield one user after the other, so that no two processes have the same; another grader begins elsewhere."""
    start = secrets.randbelow(N_UIDS)
    return (first + (start + n) % N_UIDS for n in itertools.count())


class Sandbox:
    """How submissions' processes are started here. Use it as a context.

    Args:
        hidden: paths that no submission may see, wherever they lie; the project is one in any case.
        required: limits alone will not do.
        bwrap: try bubblewrap; False is what other systems have, for tests.

    Attributes:
        has_walls: whether bubblewrap holds the processes; else only limits do.
        why_not: what forbids it, in a few words.
        has_own_user: whether each process has a user of its own.
        sys_path: the grader's, without the project's own folders.
        workers: the `process.Worker`s that run now.
        is_stopped: whether no process is started any more.

    Raises:
        SandboxError: there are no limits here, no walls where they are required, or no user to run submissions as.
    """

    def __init__(self, hidden=(), required=False, bwrap=True):
        if sys.platform == "win32":
            raise SandboxError(
                "submissions cannot be graded on Windows, which has no limits for them: "
                "grade them under WSL or in a container (grading/README.md); a run folder can be graded here"
            )
        self.hidden = {os.path.realpath(path) for path in (ROOT, *hidden)}
        self.sys_path = [os.path.abspath(p) for p in sys.path if p and self._is_installed(os.path.realpath(p))]
        self.workers, self.is_stopped = set(), False
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grade-")))
            shutil.copytree(ROOT / "grading" / "child", self.folder / "child")
            (self.folder / "passwd").write_text(f"student:x:1000:1000::{HOME}:/bin/sh\n")
            (self.folder / "group").write_text("student:x:1000:\n")
            for path in (self.folder, *self.folder.rglob("*")):
                path.chmod(0o755)  # another user reads it
            self._mounts = self._list_mounts()
            self._choose_way(bwrap)
            if required and not self.has_walls:
                raise SandboxError(f"there is no sandbox here ({self.why_not}): {INSTALL}")
            self._stack = stack.pop_all()

    @property
    def protection(self):
        """A sentence on what holds the processes."""
        own = (
            ", as root without its privileges, for want of another user here"
            if os.geteuid() == 0 and not self.has_own_user
            else ""
        )
        if self.has_walls:
            return f"it ran without a network, in a file system of its own, under limits{own}"
        return (
            f"it ran under limits only (no bubblewrap: {self.why_not}){own}: it could reach the network, and what its "
            f"user may read or write; for submissions that you do not trust, {INSTALL}, or use a container "
            "(grading/README.md)"
        )

    def _is_installed(self, path):
        """Return whether a folder belongs to the installation, and not to the project or what it grades."""
        prefixes = [p for p in map(os.path.realpath, (sys.prefix, sys.base_prefix)) if _lies_in(p, [str(ROOT)])]
        is_ours = _lies_in(path, [str(ROOT)]) and not _lies_in(path, prefixes) and not any(Path(path).glob("*-info"))
        return os.path.exists(path) and path not in self.hidden and not is_ours

    def _list_mounts(self):
        """Return bwrap's arguments for what can be seen: outer folders come before those within them."""
        shown = [*SYSTEM, sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))]
        shown += [*self.sys_path, *filter(self._is_installed, editable_folders(self.sys_path)), str(self.folder)]
        shown = {form for path in shown for form in (os.path.abspath(path), os.path.realpath(path))}
        hidden = {path for path in self.hidden if os.path.exists(path) and _lies_in(path, shown)}
        mounts = []
        for path in sorted({*shown, *hidden, *WRITABLE}):
            if path in WRITABLE:
                mounts += ["--perms", "1777", "--size", str(FOLDER_MB << 20), "--tmpfs", path]
            elif path not in hidden:  # the folder above it, or it would be closed to others
                mounts += ["--dir", os.path.dirname(path), "--ro-bind-try", path, path]
            elif os.path.isdir(path):
                mounts += ["--tmpfs", path]
            else:
                mounts += ["--ro-bind", "/dev/null", path]
        for path in (*filter(os.path.isdir, hidden), "/dev"):
            mounts += ["--remount-ro", path]
        for name in ("passwd", "group"):
            mounts += ["--ro-bind", str(self.folder / name), f"/etc/{name}"]
        return [*mounts, "--remount-ro", "/"]

    def _choose_way(self, bwrap):
        """Find the first way in which this Python starts: behind walls, as a user of its own where root can give one.

        Raises:
            SandboxError: in none. Root runs no submission as itself where it could be another user.
        """
        is_root = os.geteuid() == 0
        own = next((uid for uid in FIRST_UIDS if _can_become(uid)), None) if is_root else None
        self.why_not = "it is switched off" if not bwrap else None if shutil.which("bwrap") else "it is not installed"
        for walls, uid in [*([] if self.why_not else [(True, own), (True, None)]), (False, own)]:
            self.has_walls, self.has_own_user = walls, uid is not None
            self._uids = users(uid)
            failed = self._fails_to_start()
            if failed is None:
                return
            self.why_not = failed if walls else self.why_not
        raise SandboxError(
            f"this Python ({sys.prefix}) does not start as a submission's process: {failed}; root has to become "
            f"another user, who must be able to read it: run grade.py as an ordinary user, or {INSTALL}"
        )

    def _fails_to_start(self):
        """Return why this Python does not start in the way chosen, or None."""
        code = "import os, sys; [os.listdir(path) for path in sys.path if os.path.isdir(path)]"
        try:
            done = subprocess.run(**self.popen(code, {}), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        return (said or f"exit status {done.returncode}")[:300] if done.returncode else None

    def popen(self, code, environment):
        """Return what `subprocess.Popen` takes to run Python code in the way chosen."""
        code = f"import sys; sys.path[:] = {[str(self.folder), *self.sys_path]!r}; {code}"
        python = [os.path.abspath(sys.executable), "-I", "-X", "utf8", "-c", code]
        environment = ENVIRONMENT | {k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ} | environment
        uid = next(self._uids) if self.has_own_user else None
        if not self.has_walls:
            as_user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
            dies_too = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            return {"args": [*dies_too, *python], "env": environment, **as_user}
        bwrap = shutil.which("bwrap")
        walls = [bwrap, "--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
        walls += ["--unshare-uts", "--unshare-cgroup-try", "--proc", "/proc", "--dev", "/dev", *self._mounts]
        walls += ["--chdir", HOME, "--cap-drop", "ALL"]
        if uid is not None:  # root shows what only root may reach, becomes another user, and is no more
            walls += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
            walls += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all"]
            walls += [bwrap, "--dev-bind", "/", "/", "--cap-drop", "ALL"]
        walls += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        if "--disable-userns" in _bwrap_help():
            walls.append("--disable-userns")
        return {"args": [*walls, *python], "env": environment}

    def stop(self):
        """End all processes, from any thread, and start no more: who waits for an answer waits no longer."""
        self.is_stopped = True
        for worker in list(self.workers):
            worker.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


def _lies_in(path, folders):
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _can_become(uid):
    """Return whether this process may start one of the user `uid`."""
    try:
        return subprocess.run(["/bin/sh", "-c", ":"], user=uid, group=uid, extra_groups=[]).returncode == 0
    except OSError:
        return False


@functools.cache
def _bwrap_help():
    return subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout


def editable_folders(sys_path):
    """Return the folders of packages that are installed where they are written (pip install --editable)."""
    folders = []
    for distribution in importlib.metadata.distributions(path=sys_path):
        found = json.loads(distribution.read_text("direct_url.json") or "{}")
        if found.get("dir_info", {}).get("editable"):
            folders.append(os.path.realpath(unquote(urlsplit(found["url"]).path)))
    return folders
