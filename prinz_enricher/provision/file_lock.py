"""Locks on files that processes share: the kernel releases them when a process ends, however it ends.

Process ids would not do, since containers may share a disk.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from prinz_enricher.provision.provision_errors import Cancelled

FOLDER_PREFIX = "prinz-worker-"
_POLL_SECONDS = 0.02
_FOLDER_LOCK = ".lock"
_NEW_SECONDS = 60.0  # A folder that is younger may not have its lock yet.


class FileLock(contextlib.AbstractContextManager["FileLock"]):
    """A lock that is held until it is released. Two threads exclude each other as two processes do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mutex = threading.Lock()

    def release(self) -> None:
        """Release it; a second time does nothing."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Not by closing alone: a child that is being forked at this moment has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Lock a file, which is made if missing; None where someone else holds the lock. Raises OSError."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # The previous holder may have removed the file: this lock would exclude nobody.
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


def wait_for_lock(path: Path, *, shared: bool = False, cancelled: Callable[[], bool]) -> FileLock:
    """Lock a file as soon as it is free; raises Cancelled or OSError."""
    while not cancelled():
        if (lock := try_lock(path, shared=shared)) is not None:
            return lock
        # Not by a blocking call, which nothing but a signal could end.
        time.sleep(_POLL_SECONDS)
    raise Cancelled


class PrivateFolder:
    """A new temporary folder of a process, for this user alone, locked for as long as it is in use."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._lock = try_lock(self.path / _FOLDER_LOCK)

    def remove(self) -> None:
        """Remove the folder with all that is in it; a second time does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()


def sweep_folders() -> list[Path]:
    """Remove, and return, the private folders that killed processes left."""
    swept = []
    for folder in Path(tempfile.gettempdir()).glob(FOLDER_PREFIX + "*"):
        with contextlib.suppress(OSError):
            status, path = folder.stat(), folder / _FOLDER_LOCK
            if time.time() - status.st_mtime < _NEW_SECONDS or status.st_uid != os.getuid() or not path.exists():
                continue
            if lock := try_lock(path):
                with lock:
                    shutil.rmtree(folder, ignore_errors=True)
                    swept.append(folder)
    return swept
