"""Landlock: what a process may write to, and whom it may reach, whatever user it runs as."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

from .kernel import NotSupported, system_call

_VERSION = 1
"""LANDLOCK_CREATE_RULESET_VERSION."""

_PATH_BENEATH = 1

# Rights to files, by the version of the interface that has them.
_WRITE_FILE = 1 << 1
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
_MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
_REFER = 1 << 13
_TRUNCATE = 1 << 14

_DEVICES = _MAKE_CHAR | _MAKE_BLOCK
_CHANGES = (
    *(_WRITE_FILE, _REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_SYM),
    *(_REFER, _TRUNCATE),
)
_SINCE = {_REFER: 2, _TRUNCATE: 3}

_TCP = 0b11
"""To bind and to connect; since version 4."""

_ABSTRACT_SOCKETS = 1 << 0
_SIGNALS = 1 << 1
"""Since version 6."""


def version() -> int:
    """Tell the version of the kernel's interface.

    Raises:
        OSError: The kernel has none, or it is turned off.
    """
    return system_call("landlock_create_ruleset", None, 0, _VERSION)


def confine_reach(writable: Iterable[str] | None, *, network: bool) -> dict[str, str]:
    """Confine the calling thread and what it starts: never other threads.

    Reading and running files stays allowed everywhere. Whatever is given, the memory and the environment of processes
    outside can't be read any more, and no device can be made.

    Args:
        writable: Folders and device files that it may write to, and nothing else; None for everything.
        network: Whether it may use TCP.

    Returns:
        Which of `signals`, `sockets` and `tcp` the kernel is too old for, and why.

    Raises:
        OSError: The kernel has no Landlock, or a path is not there.
    """
    known = version()
    if known < 1:
        raise NotSupported("Landlock is turned off")
    changes = sum(right for right in _CHANGES if _SINCE.get(right, 1) <= known)
    ruleset = struct.pack(
        "=QQQ",
        _DEVICES | changes,
        _TCP if known >= 4 and not network else 0,
        _ABSTRACT_SOCKETS | _SIGNALS if known >= 6 else 0,
    )
    descriptor = system_call("landlock_create_ruleset", ruleset, len(ruleset), 0)
    try:
        # To move a file into another folder must be allowed in any case.
        for path in ("/",) if writable is None else writable:
            _allow(descriptor, path, changes)
        system_call("landlock_restrict_self", descriptor, 0)
    finally:
        os.close(descriptor)
    older: dict[str, str] = {}
    if known < 6:
        older |= dict.fromkeys(("signals", "sockets"), "Landlock is too old for it, Linux 6.12 has it")
    if known < 4 and not network:
        older["tcp"] = "Landlock is too old for it, Linux 6.7 has it"
    return older


def _allow(ruleset: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _WRITE_FILE | _TRUNCATE
        system_call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)
