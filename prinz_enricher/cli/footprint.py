"""Keeps the front's memory small: gives back what only the start needed, and takes no more than is in use."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import pyarrow as pa

MADV_DONTNEED = 4
M_ARENA_MAX = -8
MOST_HEAPS = 2


def take_memory_from_libc() -> None:
    """Have Arrow take its memory from the C library; called before there are any batches.

    Arrow's own allocator keeps pieces of each size that it ever gave: under requests of all sizes the front grew by
    4 MiB with each 30,000 of them. The C library's has a heap for each of many threads, and what is freed in one of
    them serves no other: with as many as it likes the front grew by 78 MiB in 700,000 requests, with two by 12.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    # Others than glibc have no such heaps.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, MOST_HEAPS)


def release_start_memory() -> None:
    """Give back what only the start needed, and spare the collector what stays; called once all is imported.

    The kernel maps 64 KiB of a library around each page that is touched, and importing touches most of them: 50 MB of
    mapped code that is not needed again. Dropping the mapping of code is safe: its pages were never written to, stay in
    the page cache, and come back with the next call into them (madvise(2), MADV_DONTNEED on a file mapping).
    """
    gc.collect()
    # What was imported lives as long as the process; the collector need not look at it again.
    gc.freeze()
    # A system without /proc, madvise or malloc_trim keeps the memory; nothing else is lost.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for line in Path("/proc/self/maps").read_text().splitlines():
            # address permissions offset device inode path, proc_pid_maps(5)
            words = line.split(maxsplit=5)
            # Only code: data of a library that is read-only by now was written to when it was relocated.
            if words[1] == "r-xp" and words[-1].startswith("/"):
                start, end = (int(address, 16) for address in words[0].split("-"))
                libc.madvise(start, end - start, MADV_DONTNEED)
        libc.malloc_trim(0)
