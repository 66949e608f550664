"""System calls of Linux that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_COLUMNS = {"x86_64": 0, "aarch64": 1}

# Of x86_64 and of aarch64.
_NUMBERS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "umount2": (166, 39),
    "unshare": (272, 97),
}


class NotSupported(OSError):
    """This platform has no such system call, or this module does not know its number."""


def machine() -> str:
    """Name the machine whose system calls this process makes.

    Raises:
        NotSupported: They are not known here.
    """
    name = platform.machine()
    if not sys.platform.startswith("linux") or name not in _COLUMNS or sys.maxsize < 2**32:
        raise NotSupported(f"not supported on {sys.platform} {name}")
    return name


def number_of(call: str) -> int:
    """Give the number of a system call.

    Raises:
        NotSupported: It is not known for this machine.
    """
    return _NUMBERS[call][_COLUMNS[machine()]]


def system_call(call: str, *arguments: Any) -> int:
    """Make a system call.

    Args:
        call: Its name.
        arguments: Whole numbers and what ctypes takes for pointers.

    Raises:
        OSError: It failed.
    """
    # As the kernel takes them: ctypes would pass 32 bits of a number.
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _checked(int(_syscall(ctypes.c_long(number_of(call)), *wide)))


def prctl(option: int, *arguments: int) -> int:
    """Change how the kernel treats the calling thread.

    Raises:
        OSError: It refused.
    """
    machine()
    wide = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(int(_libc.prctl(ctypes.c_int(option), *wide)))


def unshare(flags: int) -> None:
    """Move the calling process into namespaces of its own.

    Raises:
        OSError: It may not.
    """
    system_call("unshare", flags)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
