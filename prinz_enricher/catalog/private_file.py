"""Files that only we may have written: read, and replaced as a whole."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class StoreError(Exception):
    """What is stored can't be used; the text says why."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that others could put a file into.

    Raises:
        StoreError: It is such a one, or no folder.
        OSError: It is not there.
    """
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError("its folder is none")
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_MAY_WRITE:
        raise StoreError("others may write into its folder; a folder within it, which is made, would do")


@contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[tuple[IO[bytes], float]]:
    """Open a file that only we can have written; give the time of its last change too.

    Raises:
        StoreError: It is none.
        OSError: It can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError("it is no file")
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_MAY_WRITE:
            raise StoreError("others may write it")
        if status.st_size > max_bytes:
            raise StoreError(f"it is larger than {max_bytes} bytes")
        yield file, status.st_mtime


@contextmanager
def replaced(path: Path, prefix: str) -> Iterator[IO[bytes]]:
    """Give a file to write, that takes the place of another one at the end; its folder is made where it is not there.

    Args:
        path: The other one.
        prefix: Of the name that it has until then.

    Raises:
        StoreError: Others may write into the folder.
        OSError: It can't be written.
    """
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
    check_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def say(error: Exception) -> str:
    """Return what went wrong with a file."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
