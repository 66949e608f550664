"""What a worker does to itself before it runs any code of a model.

A model is someone else's code, and runs as the same user as the front. Each part is enforced as far as the system can;
what could not be enforced is reported, for the front to judge.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import platform
import resource
import signal
import socket
import stat
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Bytes for each processor on top of the limit on memory: threads reserve stacks, and libraries of linear algebra
# buffers for each thread, most of which they never touch.
RESERVE = 64 << 20

_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_VERSION = 0x20080522
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: the model may belong to another user than root, who runs this.
_READS_ANY_FILE = 0b110
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000

# What may always be written to: it holds no files of anyone else.
_DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"),
    # Semaphores and arrays that the processes of a model share.
    "/dev/shm",  # noqa: S108 - it is what the system has for this
    *("/dev/nvidia*", "/dev/dri", "/dev/kfd"),
)

# Where libraries write by default, by the variable that changes it.
_CACHES = {
    "XDG_CACHE_HOME": "~/.cache",
    "MPLCONFIGDIR": "~/.config/matplotlib",
    "NUMBA_CACHE_DIR": "~/.cache/numba",
    # Not shared memory, where others could put their own objects in place of the arrays.
    "JOBLIB_TEMP_FOLDER": "/dev/shm",  # noqa: S108 - as said
}


@dataclass(frozen=True)
class Policy:
    """What a model may have; None for no limit."""

    memory: int | None = None  # bytes, of which the interpreter's own count too
    file: int | None = None  # bytes of the largest file that it may write
    open_files: int | None = None  # how many descriptors
    network: bool = True
    writable: tuple[str, ...] | None = None  # folders that it may write to, the first of them its own

    @classmethod
    def read(cls, written: object) -> Policy:
        """Read a policy that came as JSON, or raise ValueError; what is left out is not limited."""
        if not isinstance(written, dict) or written.keys() - cls.__dataclass_fields__.keys():
            raise ValueError("a policy of another form")
        limits: dict[str, Any] = {name: written.get(name) for name in ("memory", "file", "open_files")}
        network, writable = written.get("network", True), written.get("writable")
        folders = [] if writable is None else writable
        are_folders = isinstance(folders, list) and all(isinstance(one, str) for one in folders)
        are_limits = all(one is None or (type(one) is int and one > 0) for one in limits.values())
        if not (are_limits and are_folders and isinstance(network, bool)):
            raise ValueError("a policy of another form")
        return cls(**limits, network=network, writable=None if writable is None else tuple(writable))


@dataclass(frozen=True)
class SandboxReport:
    """What became of a policy: what is enforced, and what was wanted and is not enforced, and why."""

    confined: list[str] = field(default_factory=list)
    unconfined: dict[str, str] = field(default_factory=dict)

    def attempt(self, what: str, do: Callable[[], object]) -> bool:
        """Enforce a part, and note whether that succeeded."""
        try:
            do()
        except (OSError, ValueError) as exc:
            self.unconfined[what] = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            return False
        self.confined.append(what)
        return True


def confine(policy: Policy) -> SandboxReport:
    """Confine this process and all that it will start; it can't be undone.

    The report has these names: `privileges` (none can be gained, and root has few left), `memory`, `file` and
    `open_files` as in the policy, `calls` (system calls that no model needs), `network`, `files` (writing), `processes`
    (the memory and environment of others), `signals` (to others), `sockets` (of others, in Linux's abstract namespace),
    `threads` (all of this holds for those that ran before, too).
    """
    report = SandboxReport()
    report.attempt("threads", _end_other_threads)
    report.attempt("privileges", lambda: system_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _limit(report, policy)
    filtered = report.attempt("calls", lambda: filter_calls(network=policy.network))
    if not policy.network:
        report.attempt("network", (lambda: None) if filtered else _leave_network)
    _restrict_access(report, policy)
    if os.geteuid() == 0 and "privileges" in report.confined:
        header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
        try:
            system_call("capset", header, struct.pack("=6I", _READS_ANY_FILE, _READS_ANY_FILE, 0, 0, 0, 0))
        except OSError:
            report.confined.remove("privileges")
            report.unconfined["privileges"] = "root keeps its capabilities"
    return report


def _end_other_threads() -> None:
    # Most parts apply to the calling thread alone. OpenBLAS, which numpy brings, started threads at its import; it ends
    # them before a fork, and starts others when next it needs them.
    with warnings.catch_warnings():
        # A child that ends at once can't meet a lock that another thread held.
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    others = sum(1 for _ in Path("/proc/self/task").iterdir()) - 1
    if others:
        raise OSError(f"{others} ran before, and are not confined")


def _limit(report: SandboxReport, policy: Policy) -> None:
    with contextlib.suppress(OSError, ValueError):
        _set_limit(resource.RLIMIT_CORE, 0)
    if (memory := policy.memory) is not None:
        report.attempt("memory", lambda: _set_limit(resource.RLIMIT_DATA, memory + _reserved()))
    if (file := policy.file) is not None:
        report.attempt("file", lambda: _set_limit(resource.RLIMIT_FSIZE, file))
        # A file that would be too large is an error to whoever writes it, and no end of the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if (open_files := policy.open_files) is not None:
        report.attempt("open_files", lambda: _set_limit(resource.RLIMIT_NOFILE, open_files))


def _set_limit(kind: int, limit: int) -> None:
    _, most = resource.getrlimit(kind)
    if most not in (-1, resource.RLIM_INFINITY):
        limit = min(limit, most)
    resource.setrlimit(kind, (limit, limit))


def _reserved() -> int:
    """Return how many bytes count for the kernel's limit and are not used: so far, and by threads that will be."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    counted, used = (int(status.get(name, "0").split()[0]) << 10 for name in ("VmData", "RssAnon"))
    return max(0, counted - used) + RESERVE * len(os.sched_getaffinity(0))


def _leave_network() -> None:
    """Move into an empty network namespace, where system calls can't be filtered."""
    with contextlib.suppress(OSError):
        system_call("unshare", _NEW_NETWORK)
        return
    user, group = os.geteuid(), os.getegid()
    system_call("unshare", _NEW_USER | _NEW_NETWORK)
    # Without them the process would be nobody.
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(content, encoding="ascii")


def _restrict_access(report: SandboxReport, policy: Policy) -> None:
    wanted = ["files"] * (policy.writable is not None) + ["processes", "signals", "sockets"]
    paths = None
    if policy.writable is not None:
        paths = [*policy.writable, *(path for pattern in _DEVICES for path in glob.glob(pattern))]  # noqa: PTH207 - patterns of absolute paths
    try:
        missing = restrict_access(paths, network=policy.network)
    except OSError as exc:
        report.unconfined.update(dict.fromkeys(wanted, exc.strerror or str(exc)))
        return
    report.confined.extend(name for name in wanted if name not in missing)
    report.unconfined.update(missing)
    if policy.writable:
        _move_caches(policy.writable)


def _move_caches(writable: tuple[str, ...]) -> None:
    """Have libraries that would write elsewhere write to the first folder."""
    for name, default in _CACHES.items():
        path = Path(os.environ.get(name) or default).expanduser().resolve()
        if not any(path.is_relative_to(Path(folder).resolve()) for folder in writable):
            own = Path(writable[0], "cache")
            own.mkdir(exist_ok=True)
            os.environ[name] = str(own)


# What Linux offers to confine a process and Python has no function for: Landlock, and filters of system calls.

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# System calls that no model needs, with their numbers on x86_64 and aarch64.
DENIED = (
    # Into other processes; their descriptors and limits.
    {"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)}
    | {"process_madvise": (440, 440), "pidfd_getfd": (438, 438)}
    # Rings take orders that no filter sees.
    | {"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)}
    # Mounts, namespaces, and files by their number instead of their path.
    | {"mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "open_tree": (428, 428)}
    | {"open_tree_attr": (467, 467), "move_mount": (429, 429), "mount_setattr": (442, 442), "fsopen": (430, 430)}
    | {"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433)}
    | {"setns": (308, 268), "open_by_handle_at": (304, 265)}
    # The kernel itself, and the keys that it keeps.
    | {"bpf": (321, 280), "perf_event_open": (298, 241), "init_module": (175, 105), "finit_module": (313, 273)}
    | {"delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294)}
    | {"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)}
)

# Calls that do nothing and report success: whatever a model starts stays in its worker's process group, and ends with
# it. Many programs ask for a session of their own, but none needs it to work.
IGNORED = {"setsid": (112, 157), "setpgid": (109, 154)}

_NUMBERS = (
    (DENIED | IGNORED | {"capset": (126, 91), "clone": (56, 220), "clone3": (435, 435)})
    | {"landlock_add_rule": (445, 445), "landlock_create_ruleset": (444, 444), "landlock_restrict_self": (446, 446)}
    | {"prctl": (157, 167), "prlimit64": (302, 261), "seccomp": (317, 277)}
    | {"socket": (41, 198), "socketpair": (53, 199), "unshare": (272, 97)}
)


class NotSupported(OSError):
    """This platform has no such system call, or its number is not known here."""


def _machine() -> str:
    name = platform.machine()
    if not sys.platform.startswith("linux") or name not in _ARCHITECTURES or sys.maxsize < 2**32:
        raise NotSupported(f"not supported on {sys.platform} {name}")
    return name


def number_of(call: str) -> int:
    """Return the number of a system call on this machine; raises NotSupported where it is not known."""
    return _NUMBERS[call][list(_ARCHITECTURES).index(_machine())]


def system_call(call: str, *arguments: Any) -> int:
    """Make a system call with integers, and what ctypes accepts as pointers; raises OSError where it fails."""
    # As wide as the kernel reads them: ctypes would pass 32 bits of a number.
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in (number_of(call), *arguments)]
    result = int(_libc.syscall(*wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# Landlock: what a process may write to, and whom it may reach, whatever user it runs as.

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

# Rights to files.
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
_MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
_CHANGES = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM

_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1


def landlock_version() -> int:
    """Return the version of the kernel's Landlock; raises OSError where it has none, or it is turned off."""
    return system_call("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)


def restrict_access(writable: Iterable[str] | None, *, network: bool) -> dict[str, str]:
    """Restrict the calling thread and what it starts, not other threads, in what they can write to and reach.

    Reading and executing files stays allowed everywhere; `writable` has the folders and device files that may be
    written to, None for all. In any case the memory and the environment of processes outside can't be read any more,
    and no device can be made. Returns which of `signals` and `sockets` the kernel is too old for, and why; raises
    OSError where it has no Landlock, or a path does not exist.
    """
    version = landlock_version()
    if version < 1:
        raise NotSupported("Landlock is turned off")
    changes = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    tcp = _BIND_AND_CONNECT_TCP if version >= 4 and not network else 0
    scopes = _ABSTRACT_SOCKETS | _SIGNALS if version >= 6 else 0
    ruleset = struct.pack("=QQQ", _MAKE_CHAR | _MAKE_BLOCK | changes, tcp, scopes)
    descriptor = system_call("landlock_create_ruleset", ruleset, len(ruleset), 0)
    try:
        # Moving a file into another folder must be allowed in any case.
        for path in ("/",) if writable is None else writable:
            _allow(descriptor, path, changes)
        system_call("landlock_restrict_self", descriptor, 0)
    finally:
        os.close(descriptor)
    if version < 6:
        return dict.fromkeys(("signals", "sockets"), "Landlock is too old for it, Linux 6.12 has it")
    return {}


def _allow(ruleset: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _WRITE_FILE | _TRUNCATE
        system_call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


# A filter of system calls (seccomp): no network, no access to other processes, no change of the system.

_SET_MODE_FILTER = 1
_ALL_THREADS = 1  # SECCOMP_FILTER_FLAG_TSYNC
_X32_BIT = 0x40000000

# Offsets in the kernel's `struct seccomp_data`. Both machines store the low half of an argument first.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000
# All CLONE_NEW… flags but that of time, which shares its bit with a signal in `clone`.
_NAMESPACES = 0x7E020000
_NEW_TIME = 0x80

# Code, how many to skip where a comparison holds, how many where not, and a number.
Instruction = tuple[int, int, int, int]


def filter_calls(*, network: bool) -> None:
    """Have the kernel refuse system calls of this process, of all its threads and of what it starts.

    Without network it can make Unix sockets alone. Raises OSError where there is no filter, or a thread has another.
    """
    code = b"".join(struct.pack("=HBBI", *one) for one in filter_program(os.getpid(), network=network))
    held = ctypes.create_string_buffer(code, len(code))
    # The kernel's `struct sock_fprog`.
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    if system_call("seccomp", _SET_MODE_FILTER, _ALL_THREADS, program):
        raise OSError(errno.EBUSY, "a thread can't be confined")


def filter_program(pid: int, *, network: bool) -> list[Instruction]:
    """Return the filter that lets a process change the limits of itself, `pid`, alone; raises NotSupported."""
    machine = _machine()
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        # The calls of a 32-bit machine have other numbers.
        _failure(errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, _X32_BIT), _failure(errno.ENOSYS)]
    # The flags of `clone3` can't be seen here. Without it the C library uses `clone`.
    failures = {**dict.fromkeys(DENIED, errno.EPERM), **dict.fromkeys(IGNORED, 0), "clone3": errno.ENOSYS}
    for call, error in failures.items():
        lines += [(_EQUAL, 0, 1, number_of(call)), _failure(error)]
    for call, flags in (("clone", _NAMESPACES), ("unshare", _NAMESPACES | _NEW_TIME)):
        lines += _where(call, (_ANY_BIT, 0, 1, flags), _failure(errno.EPERM))
    lines += _where("prlimit64", (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, pid), _failure(errno.EPERM))
    if not network:
        for call in ("socket", "socketpair"):
            lines += _where(call, (_EQUAL, 1, 0, socket.AF_UNIX), _failure(errno.EACCES))
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _where(call: str, *checks: Instruction) -> Iterator[Instruction]:
    """Check the first argument of a system call; it is allowed where the checks come to their end."""
    yield (_EQUAL, 0, len(checks) + 2, number_of(call))
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield from checks
    yield (_RETURN, 0, 0, _ALLOW)


def _failure(number: int) -> Instruction:
    return (_RETURN, 0, 0, _FAIL | number)
