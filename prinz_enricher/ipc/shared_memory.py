"""Large bodies in sealed memory that is handed over by its descriptor, whether or not the other side reads meanwhile.

Sealed means that nobody can change the bytes any more, nor cut the memory short: a hostile worker could else change
what the front has checked already, or have it die of a page that is gone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from .faults import FrameError

SHARED_FROM = 64 * 1024
"""Bytes of a body that may be more than a socket takes on while nobody reads."""

ONE_DESCRIPTOR = socket.CMSG_LEN(array("i").itemsize)
"""Bytes of control data that one descriptor takes; a second one does not fit."""

_NAME = "prinz-body"
_MOST_PARTS = 512
"""Below the least IOV_MAX that a system may have (1024)."""

_NOEXEC_SEAL = 0x8
"""MFD_NOEXEC_SEAL: nothing in it can be run; not known before Linux 6.3, demanded by some later systems."""

_PROT_READ = 1
_MAP_SHARED = 1
_MAP_FAILED = ctypes.c_void_p(-1).value


def can_share() -> bool:
    """Tell whether this platform has sealed memory."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


def sealed_memory(views: Sequence[memoryview], size: int) -> int | None:
    """Copy bytes into sealed memory.

    Args:
        views: The bytes, in parts of format "B", none of them empty.
        size: The sum of their lengths.

    Returns:
        A descriptor that the caller closes; None where there is none to be had: the platform, or a limit on
        descriptors, on the size of files, or on memory, stands against it.
    """
    if not can_share():
        return None
    try:
        descriptor = _create()
    except OSError:
        return None
    try:
        # First, so that a limit on the size of files shows before anything is copied.
        os.ftruncate(descriptor, size)
        write_all(descriptor, views)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals() | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(_NAME, flags | _NOEXEC_SEAL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return os.memfd_create(_NAME, flags)


def _seals() -> int:
    """Give the seals without which the bytes could change or vanish under who reads them."""
    return fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def write_all(descriptor: int, views: Sequence[memoryview]) -> None:
    """Write parts one after the other, however few of their bytes a system call takes."""
    rest = list(views)
    while rest:
        drop(rest, os.writev(descriptor, rest[:_MOST_PARTS]))


def drop(views: list[memoryview], count: int) -> None:
    """Take some bytes from the front of a list of parts."""
    while views and count >= len(views[0]):
        count -= len(views.pop(0))
    if count:
        views[0] = views[0][count:]


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Give the descriptors that came as control data; they are the caller's to close."""
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def mapped_memory(descriptor: int, size: int) -> pa.Buffer:
    """Map sealed memory, to be read where it is.

    Args:
        descriptor: Of the memory; not needed any more afterwards, and the caller's to close.
        size: How many bytes it must have.

    Returns:
        A buffer that can't be written into; the memory is unmapped when it is gone.

    Raises:
        FrameError: It is something else, its bytes could still change, or it has another size.
        OSError: It can't be mapped.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) if can_share() else 0
    except OSError:
        seals = 0
    if seals & _seals() != _seals():
        raise FrameError("the memory of a body is not sealed")
    status = os.fstat(descriptor)
    if not size or not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise FrameError("the memory of a body has another size than announced")
    mapping = _Mapping(descriptor, size)
    return pa.foreign_buffer(mapping.address, size, mapping)


_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class _Mapping:
    """Memory that is mapped as long as this object lives.

    Not Python's own mmap: it keeps a descriptor open for as long, and bodies may be many.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self.address = 0
        address = _mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.address = int(address)

    def __del__(self, unmap: Any = _munmap) -> None:
        # An argument, since the module's own names are gone when the interpreter ends.
        if self.address:
            unmap(self.address, self.size)
