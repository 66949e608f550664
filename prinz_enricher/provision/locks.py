"""Locks on files that processes share: the kernel lets go of them when a process ends, however it ends.

Process ids would say nothing, since containers may share a disk.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from prinz_enricher.provision.errors import Cancelled

_POLL_SECONDS = 0.02


class FileLock:
    """A lock that is held, until it is released. Two threads exclude each other as two processes do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mutex = threading.Lock()

    def release(self) -> None:
        """Let go; a second time does nothing."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Not by closing alone: a child that is being forked at this moment has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Lock a file, which is made where it is not there; None where someone else has it.

    Raises:
        OSError: It can't be made.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # Whoever had the lock may have removed the file: then the lock is one on nothing, and others get another.
        held, there = os.fstat(descriptor), path.lstat()
        if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
            lock, descriptor = FileLock(descriptor), -1
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def lock(path: Path, *, shared: bool = False, cancelled: Callable[[], bool]) -> FileLock:
    """Wait for the lock of a file.

    Raises:
        Cancelled: The caller does not want it any more.
        OSError: The file can't be made.
    """
    while True:
        if cancelled():
            raise Cancelled
        if (held := try_lock(path, shared=shared)) is not None:
            return held
        # Not by a blocking call, which nothing but a signal could end.
        time.sleep(_POLL_SECONDS)
