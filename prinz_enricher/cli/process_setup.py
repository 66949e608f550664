"""What a process of the service asks of Python and the kernel: imports, memory, scheduling, tracing, signals.

All of it is best effort: another system than Linux, or another C library than glibc, goes without.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_MADV_DONTNEED: Final = 4
_M_ARENA_MAX: Final = -8
_MOST_HEAPS: Final = 2
_WAKE_SECONDS: Final = 1.0
"""How long a signal may wait that the kernel gave to another thread than the main one."""
_FILES: Final = 1 << 16
"""Open files for which the kernel's table has room from the start: half a megabyte."""
_TRIM_SECONDS: Final = 5.0
_TRIM_BYTES: Final = 64 * 1024 * 1024
"""Memory over the least so far that is released every few seconds; four times as much is released at once."""


class _ImportBlocker(MetaPathFinder):
    """Raises ImportError for some libraries, as if they were not installed."""

    def __init__(self, libraries: tuple[str, ...]) -> None:
        self._libraries = libraries

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in self._libraries:
            raise ModuleNotFoundError(f"{fullname} is blocked in this process", name=fullname)


def block_imports(*libraries: str) -> None:
    """Block imports of these libraries in this process from now on.

    Some libraries import others if they are installed, and do without otherwise: pyarrow imports pandas (0.3 s, 40 MB)
    when it first sees a Python list; httpx and structlog import rich (5 MB).
    """
    sys.meta_path.insert(0, _ImportBlocker(libraries))


def disable_ptrace() -> None:
    """Let nobody but root trace this process or read its memory and environment, which hold credentials (prctl(2)).

    A worker runs as the same user. Where there is Landlock, workers can't anyway; root can where there is none.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def use_batch_scheduling() -> None:
    """Use SCHED_BATCH (sched(7)), so that a woken thread does not preempt the one that woke it.

    By default each thread that a call wakes takes the processor from the one that woke it, with two switches for each
    call. With SCHED_BATCH what comes together stays together: on one core twice the calls a second, and a lone call is
    as quick. Threads and processes inherit it: call this before any is started.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def use_libc_allocator() -> None:
    """Let Arrow allocate with the C library, from two heaps at most; call this before there are any batches.

    Arrow's own allocator keeps pieces of each size that it ever allocated: the front grew by 4 MiB with each 30,000
    requests of all sizes. The C library has heaps for many threads, and what is freed in one serves no other: without a
    limit the front grew by 78 MiB in 700,000 requests, with two heaps by 12.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _MOST_HEAPS)


def raise_file_limit() -> int:
    """Allow this process as many open files as it may ask for, each connection being one; returns the number."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    # Each time that the table of files grows, the kernel stops a process of several threads for tens of milliseconds.
    with contextlib.suppress(OSError):
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, (min(limit, _FILES) if limit > 0 else _FILES) - 1))
    return limit


def notify_systemd(state: str) -> None:
    """Report a state such as `READY=1` to systemd, where that has started this process and waits for it (sd_notify(3)).

    An address that begins with @ is an abstract one.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        if address:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(state.encode())


def trim_memory() -> None:
    """Release the memory that only the start needed, and keep the collector off what stays; call this after imports.

    The kernel maps 64 KiB of a library around each page that is touched, and importing touches most of them: 50 MB of
    mapped code that is not needed again. Dropping the mapping of code is safe: its pages were never written to, stay in
    the page cache, and come back with the next call into them (madvise(2), MADV_DONTNEED on a file mapping).
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for line in Path("/proc/self/maps").read_text().splitlines():
            # address permissions offset device inode path, proc_pid_maps(5)
            words = line.split(maxsplit=5)
            # Only code: read-only data of a library was written to when it was relocated.
            if words[1] == "r-xp" and words[-1].startswith("/"):
                start, end = (int(address, 16) for address in words[0].split("-"))
                libc.madvise(start, end - start, _MADV_DONTNEED)
        libc.malloc_trim(0)


def catch_signals(*others: int) -> tuple[SimpleQueue[int], threading.Event]:
    """Handle SIGTERM, SIGINT and others; returns where they are put, and what the first two set."""
    signals: SimpleQueue[int] = SimpleQueue()
    ended = threading.Event()

    def take(number: int, _: object) -> None:
        signals.put(number)
        if number not in others:
            ended.set()

    for number in (signal.SIGTERM, signal.SIGINT, *others):
        signal.signal(number, take)
    return signals, ended


def wait_for_signal(signals: SimpleQueue[int]) -> int:
    """Return the next signal that its handler has put here, in the main thread; meanwhile, release memory after bursts.

    A handler interrupts the main thread anywhere: it may not wait for a lock that this holds, as that of an event.

    The kernel may give a signal to any thread, but Python runs its handler in the main one, once that wakes
    (https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers): it must wake now and then.
    """
    least = trimmed = _resident_bytes()
    trim_at = time.monotonic() + _TRIM_SECONDS
    while True:
        with contextlib.suppress(Empty):
            return signals.get(timeout=_WAKE_SECONDS)
        resident, late = _resident_bytes(), time.monotonic() >= trim_at
        least = min(least, resident)
        if resident > (least + _TRIM_BYTES if late else trimmed + 4 * _TRIM_BYTES):
            # The C library keeps what a burst of large calls has freed.
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)
            trimmed = _resident_bytes()
        if late:
            trim_at = time.monotonic() + _TRIM_SECONDS


def _resident_bytes() -> int:
    try:
        # proc_pid_statm(5): in pages
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0
