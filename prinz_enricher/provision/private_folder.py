"""A private folder of a worker: gone with it, and swept up by the next front where this one was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "prinz-worker-"
_LOCK = ".lock"
_YOUNG = 60.0
"""Seconds in which a new folder may not have its lock yet."""


class PrivateFolder:
    """A new temporary folder that only this user can enter, locked for as long as it is in use.

    The kernel lets go of the lock when this process ends, however it ends: that tells the folders of the dead, across
    containers that share a disk too, where process ids say nothing.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the folder with all that is in it; a second time does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sweep_folders() -> list[Path]:
    """Remove the folders that fronts left when they were killed.

    Returns:
        What was removed.
    """
    swept = []
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < _YOUNG or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
            finally:
                os.close(lock)
    return swept
