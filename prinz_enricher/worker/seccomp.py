"""A filter of system calls: no network, no look into other processes, no change of the system."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

from .kernel import machine, number_of, system_call

DENIED = (
    # Into other processes; their descriptors and limits.
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd"),
    # Rings take orders that no filter sees.
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # Mounts, namespaces, and files by their number instead of their path.
    *("mount", "umount2", "pivot_root", "open_tree", "open_tree_attr", "move_mount", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "setns", "open_by_handle_at"),
    # The kernel itself, and the keys that it keeps.
    *("bpf", "perf_event_open", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
    *("add_key", "request_key", "keyctl"),
)
"""What no model needs."""

IGNORED = ("setsid", "setpgid")
"""What does nothing and says that it did: all that a model starts stays in its worker's group, and ends with it. Many
programs ask for a session of their own, but none needs it to work."""

_MODE_FILTER = 1
_ALL_THREADS = 1
"""SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# Offsets in the kernel's `struct seccomp_data`. Both machines have the low half of an argument first.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000

_NAMESPACES = 0x7E020000
"""All CLONE_NEW… flags but that of time, which shares its bit with a signal in `clone`."""

_NEW_TIME = 0x80

Instruction = tuple[int, int, int, int]
"""Code, how many to skip where a comparison holds, how many where not, and a number."""


def confine_calls(*, network: bool) -> None:
    """Have the kernel refuse system calls of this process, of all its threads and of what it starts.

    Args:
        network: Whether it may make sockets of other families than Unix.

    Raises:
        OSError: The platform has no such filter, or a thread has another one.
    """
    code = b"".join(struct.pack("=HBBI", *one) for one in program(os.getpid(), network=network))
    held = ctypes.create_string_buffer(code, len(code))
    # The kernel's `struct sock_fprog`.
    filter = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    if system_call("seccomp", _MODE_FILTER, _ALL_THREADS, filter):
        raise OSError(errno.EBUSY, "a thread can't be confined")


def program(pid: int, *, network: bool) -> list[Instruction]:
    """Write the filter.

    Args:
        pid: The process whose limits may be changed, beside the caller's own.
        network: Whether sockets of other families than Unix may be made.

    Raises:
        NotSupported: The machine's system calls are not known.
    """
    this = machine()
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[this]),
        # The calls of a 32-bit machine have other numbers.
        _failure(errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if this == "x86_64":
        lines += [(_AT_LEAST, 0, 1, _X32_BIT), _failure(errno.ENOSYS)]
    for call in DENIED:
        lines += [(_EQUAL, 0, 1, number_of(call)), _failure(errno.EPERM)]
    for call in IGNORED:
        lines += [(_EQUAL, 0, 1, number_of(call)), _failure(0)]
    # Its flags can't be seen here. The C library goes on with `clone` where there is none.
    lines += [(_EQUAL, 0, 1, number_of("clone3")), _failure(errno.ENOSYS)]
    for call, flags in (("clone", _NAMESPACES), ("unshare", _NAMESPACES | _NEW_TIME)):
        lines += _where(call, (_ANY_BIT, 0, 1, flags), _failure(errno.EPERM))
    lines += _where("prlimit64", (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, pid), _failure(errno.EPERM))
    if not network:
        for call in ("socket", "socketpair"):
            lines += _where(call, (_EQUAL, 1, 0, socket.AF_UNIX), _failure(errno.EACCES))
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _where(call: str, *checks: Instruction) -> Iterator[Instruction]:
    """Check the first argument of a system call; it passes where the checks come to their end."""
    yield (_EQUAL, 0, len(checks) + 2, number_of(call))
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield from checks
    yield (_RETURN, 0, 0, _ALLOW)


def _failure(number: int) -> Instruction:
    return (_RETURN, 0, 0, _FAIL | number)
