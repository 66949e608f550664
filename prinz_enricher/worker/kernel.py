"""What Linux offers to confine a process and Python has no function for: Landlock, and filters of system calls."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# System calls that no model needs, with their numbers on x86_64 and aarch64.
DENIED = {
    # Into other processes; their descriptors and limits.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    # Rings take orders that no filter sees.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Mounts, namespaces, and files by their number instead of their path.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    # The kernel itself, and the keys that it keeps.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}

# Calls that do nothing and report success: whatever a model starts stays in its worker's process group, and ends with
# it. Many programs ask for a session of their own, but none needs it to work.
IGNORED = {"setsid": (112, 157), "setpgid": (109, 154)}

_NUMBERS = {
    **DENIED,
    **IGNORED,
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "seccomp": (317, 277),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "unshare": (272, 97),
}


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
# SECCOMP_FILTER_FLAG_TSYNC.
_ALL_THREADS = 1
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
