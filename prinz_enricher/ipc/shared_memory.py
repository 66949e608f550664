"""Large bodies in sealed memory, handed over by its descriptor whether or not the other side is reading.

Sealed means that nobody can change the bytes or shorten the memory any more. Otherwise a hostile worker could change
what the front has already checked, or crash it by removing a page.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import stat
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from .faults import FrameError

# Bytes of a body above which a socket may not accept it while nobody reads.
SHARED_FROM = 64 * 1024
# Bytes of control data for one descriptor; a second one does not fit.
ONE_DESCRIPTOR = socket.CMSG_LEN(array("i").itemsize)
# Parts of one system call, below the smallest IOV_MAX that a system may have (1024).
MOST_PARTS = 512
# MFD_NOEXEC_SEAL: the content can't be executed; unknown before Linux 6.3, mandatory on some later systems.
_NOEXEC_SEAL = 0x8
_PROT_READ = _MAP_SHARED = 1

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


def can_share() -> bool:
    """Return whether this platform has sealed memory."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


def _seals() -> int:
    # Without these the bytes could change or vanish while they are read.
    return fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def sealed_memory(views: Sequence[memoryview], size: int) -> int | None:
    """Copy bytes, `size` in all and in parts of format "B" of which none is empty, into sealed memory.

    Returns a descriptor that the caller closes; None where the platform, or a limit on descriptors, file sizes or
    memory, does not allow one.
    """
    if not can_share():
        return None
    descriptor = -1
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            descriptor = os.memfd_create("prinz-body", flags | _NOEXEC_SEAL)
        except OSError:
            descriptor = os.memfd_create("prinz-body", flags)
        # First, so that a limit on file sizes shows before anything is copied.
        os.ftruncate(descriptor, size)
        rest = list(views)
        while rest:
            skip(rest, os.writev(descriptor, rest[:MOST_PARTS]))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals() | fcntl.F_SEAL_SEAL)
    except BaseException as exc:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(exc, OSError):
            return None
        raise
    return descriptor


def skip(views: list[memoryview], count: int) -> None:
    """Remove bytes from the front of a list of parts."""
    while views and count >= len(views[0]):
        count -= len(views.pop(0))
    if count:
        views[0] = views[0][count:]


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in received control data; the caller closes them."""
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def mapped_memory(descriptor: int, size: int) -> pa.Buffer:
    """Map sealed memory of a known size into a read-only buffer; the caller closes the descriptor.

    Raises FrameError where it is something else, could still change, or has another size; OSError where that fails.
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
    address = _mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pa.foreign_buffer(address, size, _Mapping(address, size))


class _Mapping:
    """Unmaps memory when it is gone; Python's own mmap would hold a descriptor as long, and bodies may be many."""

    def __init__(self, address: int, size: int) -> None:
        self._address = address
        self._size = size

    def __del__(self, unmap: Any = _munmap) -> None:
        # An argument, since the module's globals are gone when the interpreter ends.
        unmap(self._address, self._size)
