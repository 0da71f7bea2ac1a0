"""What a submission's process may see and use: namespaces and mounts on Linux, resource limits everywhere.

Nothing here is taken back later: what has been given up cannot be had again by what runs afterwards.
"""

import contextlib
import ctypes
import errno
import os
import resource
import struct
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
MNT_DETACH = 0x2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 36, 38, 22
# Of the system, what a Python process opens while it runs; the rest of the disk is not there.
SYSTEM_PATHS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)
DEVICES = ("null", "zero", "full", "random", "urandom")
IS_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name, *args):
    """Call a C function and raise `OSError` where it says no."""
    args = [ctypes.c_char_p(os.fsencode(a)) if isinstance(a, str | Path) else ctypes.c_long(a or 0) for a in args]
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def prctl(option, value):
    """Set an attribute of this process where the kernel has it."""
    if IS_LINUX:
        with contextlib.suppress(OSError):
            _call("prctl", option, value, 0, 0, 0)


def unshare():
    """Leave the grader's network and names; the next process forked is the first of its own.

    The mounts stay, so that the caller still sees all processes in /proc; `enter_root` leaves them.

    Raises:
        OSError: the kernel, or a container around this process, does not allow it. Nothing has changed then.
    """
    if not IS_LINUX or os.uname().machine not in SYS_PIVOT_ROOT:
        raise OSError(f"no namespaces on {sys.platform} {os.uname().machine}")
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    _call("unshare", flags if uid == 0 else flags | CLONE_NEWUSER)
    if uid != 0:
        prctl(PR_SET_DUMPABLE, 1)  # the files in /proc of a process that is not are root's
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        prctl(PR_SET_DUMPABLE, 0)


def enter_root(base, visible, hidden, scratch_mb):
    """Replace the file system by one in memory: `visible` paths read-only, and /grade-work, the new working directory.

    Args:
        base: an empty folder to build it on.
        visible: folders that Python needs, besides the system's own.
        hidden: folders that are empty even where they lie within a visible one.
        scratch_mb: of /grade-work, the only place that can be written to.

    Raises:
        OSError: the kernel does not allow it.
    """
    _call("unshare", CLONE_NEWNS)
    _call("mount", "none", "/", 0, MS_REC | MS_PRIVATE, 0)  # no mount made here is seen outside
    _call("mount", "tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=755")
    top, base = base, f"{base}/root"
    os.mkdir(base)
    for path in _outermost([*SYSTEM_PATHS, *visible]):
        _show(path, base)
    for path in map(os.path.realpath, hidden):
        if os.path.isdir(f"{base}{path}"):
            keep = [p for p in map(os.path.realpath, visible) if p.startswith(path + "/") and os.path.isdir(p)]
            _call("mount", "tmpfs", f"{base}{path}", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
            for inner in keep:
                _show(inner, base)
    os.makedirs(f"{base}/dev")
    for name in DEVICES:
        open(f"{base}/dev/{name}", "w").close()
        _call("mount", f"/dev/{name}", f"{base}/dev/{name}", 0, MS_BIND, 0)
    os.mkdir(f"{base}/proc")
    with contextlib.suppress(OSError):  # a container that hides parts of /proc does not allow a new one
        _call("mount", "proc", f"{base}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0)
    os.mkdir(f"{base}/grade-work")
    _call(
        "mount",
        "tmpfs",
        f"{base}/grade-work",
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"size={scratch_mb}m,mode=1777,nr_inodes=8k",
    )
    if not os.path.lexists(f"{base}/tmp"):
        os.symlink("grade-work", f"{base}/tmp")
    os.chdir(top)
    if _libc.syscall(ctypes.c_long(SYS_PIVOT_ROOT[os.uname().machine]), b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    _call("umount2", ".", MNT_DETACH)
    _restrict("/", MOUNT_ATTR_RDONLY, recursive=False)
    os.chroot("root")  # a process below the top may make no user namespace, and mount nothing in one
    os.chdir("/grade-work")


def _outermost(paths):
    """Return those paths that exist, without those within another; a symbolic link stays and brings its target."""
    found = {p for p in paths if os.path.lexists(p)}
    found |= {os.path.realpath(p) for p in found}
    links = {p for p in found if os.path.islink(p)}
    kept = []
    for path in sorted(found - links):
        if not any(path == k or path.startswith(k + "/") for k in kept):
            kept.append(path)
    return [*kept, *sorted(p for p in links if not any(p.startswith(k + "/") for k in kept))]


def _show(path, base):
    target = f"{base}{path}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        if not os.path.lexists(target):
            os.symlink(os.path.realpath(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        open(target, "a").close()
    _call("mount", path, target, 0, MS_BIND | MS_REC, 0)
    _restrict(target, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)


def _restrict(path, attributes, recursive=True):
    class MountAttr(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]

    attr = MountAttr(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    result = _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(flags),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    if result != 0:
        raise OSError(ctypes.get_errno(), f"mount_setattr {path}")


def offer_to_oom_killer():
    """Have this process, and all that come of it, ended before any other where the machine runs out of memory."""
    prctl(PR_SET_DUMPABLE, 1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    prctl(PR_SET_DUMPABLE, 0)


def limit(memory_mb, cpu_seconds, n_tasks, file_mb):
    """Limit this process and all that come of it; memory is what may be had beyond what is mapped already.

    Args:
        n_tasks: processes and threads of this process's user, whoever started them.
    """
    megabyte = 1 << 20
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": file_mb * megabyte,
        "RLIMIT_NOFILE": 128,
        "RLIMIT_CPU": cpu_seconds,
    }
    if IS_LINUX:  # elsewhere a process maps more than it may, and no /proc tells how many tasks its user has
        limits["RLIMIT_AS"] = _mapped_bytes() + memory_mb * megabyte
        limits["RLIMIT_NPROC"] = n_tasks
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(number, (value, value))


def first_possible(uids):
    """Return the first user of `uids` that this process could become, or the one that it is.

    A root without capabilities can become none, and a user namespace may have no user of that number.
    """
    for uid in uids:
        child = os.fork()
        if child == 0:
            try:
                become(uid)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1] == 0:
            return uid
    return os.geteuid()


def become(uid):
    """Become the user `uid`, with no group but its own."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_privileges(uid):
    """Become the user `uid` where this process is another, lose every capability, and never gain one again."""
    if os.geteuid() != uid:
        become(uid)
    if IS_LINUX:
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        _libc.syscall(ctypes.c_long({"x86_64": 126, "aarch64": 91}.get(os.uname().machine, -1)), header, data)  # capset
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def forbid_files_in_memory():
    """Let memfd_create, memfd_secret and shmget fail: what they hold is counted for no process. Needs no privilege."""
    if not IS_LINUX or os.uname().machine not in SYS_PIVOT_ROOT:
        return
    arch, calls = {"x86_64": (0xC000003E, (319, 447, 29)), "aarch64": (0xC00000B7, (279, 447, 194))}[os.uname().machine]
    load, if_equal, if_at_least, end = 0x20, 0x15, 0x35, 0x06  # of the kernel's packet filter language
    allow, deny = 0x7FFF0000, 0x00050000 | errno.ENOSYS
    # Any call that comes by another table of calls, 32-bit or x32, fails, too.
    program = [(load, 0, 0, 4), (if_equal, 1, 0, arch), (end, 0, 0, deny)]
    program += [(load, 0, 0, 0), (if_at_least, 0, 1, 0x40000000), (end, 0, 0, deny)]
    for call in calls:
        program += [(if_equal, 0, 1, call), (end, 0, 0, deny)]
    program.append((end, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    _libc.prctl(PR_SET_SECCOMP, 2, filter_, 0, 0)


def _mapped_bytes():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def n_tasks(uid):
    """Return how many processes and threads of this user this process can see."""
    n = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == uid:
                n += len(os.listdir(folder / "task"))
    return n
