"""Files that are read again when they change: a bad new one is logged and counted, and the old one goes on."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.stdlib.get_logger(__name__)

LOOK_SECONDS = 0.5
"""Seconds between two looks. A new file is read at the second look that finds it the same, so not half written."""

MAX_FILE_BYTES = 4 << 20

_Content = TypeVar("_Content")


class SecurityError(Exception):
    """What secures the service can't be used; the message says in one sentence which file and why, without a secret."""


class WatchedFiles(Generic[_Content]):
    """What some files hold together, such as a certificate and its key.

    `what` names it in logs and metrics. `parse` makes it of the files' bytes, and raises SecurityError where they are
    invalid. So does the constructor; later the old content stays in use, and `failures` counts.
    """

    def __init__(self, what: str, paths: Sequence[str], parse: Callable[[Sequence[bytes]], _Content]) -> None:
        self.what = what
        self.failures = 0
        self._paths = [Path(path) for path in paths]
        self._parse = parse
        self._on_change: Callable[[_Content], object] = lambda _: None
        self._users: list[Callable[[_Content], object]] = []
        self._read_from = self._seen = self._identity()
        self.current = self._read()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, on_change: Callable[[_Content], object] | None = None) -> None:
        """Watch the files from now on, in a thread of its own, which calls `on_change` with new content."""
        self._on_change = on_change or self._on_change
        self._thread = threading.Thread(target=self._watch, name=f"watch-{self.what}", daemon=True)
        self._thread.start()

    def use_in(self, use: Callable[[_Content], object]) -> None:
        """Have new content used, before it is current; what raises SecurityError makes it invalid."""
        self._users.append(use)

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Read the files if they have changed, and have been the same since the last look."""
        found = self._identity()
        settled, self._seen = found == self._seen, found
        if not settled or found == self._read_from:
            return
        # Once for each change, good or bad.
        self._read_from = found
        try:
            content = self._read()
            for use in self._users:
                use(content)
            self.current = content
        except SecurityError as error:
            # What was exchanged while it was read is read again.
            if self._identity() != found:
                return
            self.failures += 1
            log.error("new file is invalid, the old one stays in use", what=self.what, why=str(error))  # noqa: TRY400
            return
        log.info("new file in use", what=self.what, files=[str(path) for path in self._paths])
        self._on_change(self.current)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                self.failures += 1
                log.exception("watching files failed", what=self.what)

    def _identity(self) -> list[tuple[int, ...]]:
        """Return what changes with the files, behind links too: Kubernetes exchanges the folder that they lead to."""
        return [_identity(path) for path in self._paths]

    def _read(self) -> _Content:
        return self._parse([_read(path) for path in self._paths])


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(path: Path) -> bytes:
    try:
        # A pipe without a writer would hold us forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SecurityError(f"{path} is not a file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SecurityError(f"{path} can't be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise SecurityError(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    return content
