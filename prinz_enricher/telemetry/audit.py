"""The audit log: a JSON line for each call, on standard output or in a file that rotates; never a value of a row."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import structlog

from prinz_enricher.config import AuditSettings

MAX_LINES = 50_000
"""Lines that wait to be written; with `audit.required` also those of the calls in flight."""

MAX_REFUSALS = 20
"""Refusals of a caller in a second that have lines of their own; of further ones a line says how many there were."""

_BATCH = 256
_RETRY_SECONDS = 0.5
_CLOSE_SECONDS = 5.0
_encode = json.JSONEncoder(separators=(",", ":")).encode

log = structlog.stdlib.get_logger(__name__)


class AuditError(Exception):
    """The audit log can't be opened; the message says where and why."""


def _refusal(output: str, error: OSError) -> AuditError:
    return AuditError(f"audit.output: {output} can't be opened ({error.strerror})")


def check_output(output: str) -> None:
    """Raise AuditError where an audit log could not be opened; makes no file."""
    path = Path(output)
    try:
        if path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))
        elif output != "stdout" and not os.access(folder := path.absolute().parent, os.W_OK | os.X_OK):
            folder.stat()
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _refusal(output, error) from error


class AuditLog:
    """Writes lines by a thread of its own, so that no call waits for the disk. From any thread.

    While lines can't be written they wait. Where too many wait, further ones are lost, which is counted and logged;
    with `audit.required` no more places are reserved. Raises AuditError where the file can't be opened.
    """

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._lines: deque[tuple[float, dict[str, object]]] = deque()
        self._reserved = self._lost = self._second = 0
        self._refused: Counter[str] = Counter()
        self._failing = self._losing = False
        self._came, self._closing = threading.Event(), threading.Event()
        try:
            self._file, self._size, self._rotates = self._open()
        except OSError as error:
            raise _refusal(settings.output, error) from error
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many lines were lost so far."""
        return self._lost

    def reserve(self) -> bool:
        """Reserve a place for the line of a call, which `add` takes; False where the call may not go without it."""
        with self._lock:
            if self._settings.required and (self._failing or len(self._lines) + self._reserved >= MAX_LINES):
                return False
            self._reserved += 1
            return True

    def add(self, principal: str, line: dict[str, object], *, refused: bool, reserved: bool) -> None:
        """Write a line about a principal soon. It takes a place if one was `reserved`."""
        with self._lock:
            self._reserved -= reserved
            self._summarize()
            if refused:
                self._refused[principal] += 1
                if self._refused[principal] > MAX_REFUSALS:
                    return
            self._append({"principal": principal} | line, has_place=reserved and self._settings.required)
        if not self._came.is_set():
            self._came.set()

    def close(self) -> None:
        """Write what waits, if that is possible within five seconds, and end."""
        self._closing.set()
        self._came.set()
        self._thread.join(_CLOSE_SECONDS)

    def _append(self, line: dict[str, object], *, has_place: bool = False) -> None:
        """Add a line, with the lock held."""
        if has_place or len(self._lines) < MAX_LINES:
            self._lines.append((time.time(), line))
            return
        self._lost += 1
        if not self._losing:
            self._losing = True
            log.error("audit lines are lost", waiting=len(self._lines), lost=self._lost)

    def _summarize(self) -> None:
        """Write how many refusals of a second that is over have no lines, with the lock held."""
        second = int(time.time())
        if second == self._second and not self._closing.is_set():
            return
        self._second = second
        for principal, count in self._refused.items():
            if count > MAX_REFUSALS:
                self._append({"principal": principal, "omitted": count - MAX_REFUSALS})
        self._refused.clear()

    def _run(self) -> None:
        written, closing = True, False
        while written and not closing:
            # The last turn begins after that, so that it has all there is.
            closing = self._closing.is_set()
            if not closing:
                self._came.wait(1.0 if self._refused else None)
            self._came.clear()
            with self._lock:
                self._summarize()
            while written and self._lines:
                with self._lock:
                    lines = [self._lines.popleft() for _ in range(min(len(self._lines), _BATCH))]
                written = self._write("".join([_text(*line) for line in lines]).encode())
            self._losing = False
        os.close(self._file)
        if self._lost or not written:
            log.error(
                "audit lines are lost", lost=self._lost, unwritten=len(self._lines) + (0 if written else len(lines))
            )

    def _write(self, lines: bytes) -> bool:
        """Write whole lines, however long it takes; False if that is impossible and the log is closing."""
        left = memoryview(lines)
        while left:
            try:
                if self._rotates and len(left) == len(lines) and 0 < self._size > self._settings.max_bytes - len(lines):
                    self._rotate()
                count = os.write(self._file, left)
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    why = error.strerror
                    log.error("audit log can't be written", output=self._settings.output, why=why)  # noqa: TRY400 - no fault
                if self._closing.wait(_RETRY_SECONDS):
                    return False
                continue
            left, self._size = left[count:], self._size + count
        if self._failing:
            self._failing = False
            log.warning("audit log is written again", output=self._settings.output, lost=self._lost)
        return True

    def _open(self) -> tuple[int, int, bool]:
        """Return the open file, its size, and whether it can rotate."""
        if self._settings.output == "stdout":
            return os.dup(1), 0, False
        file = os.open(self._settings.output, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        found = os.fstat(file)
        is_file = stat.S_ISREG(found.st_mode)
        if is_file and found.st_size and os.pread(file, 1, found.st_size - 1) != b"\n":
            # A former process could not write its last line whole.
            os.write(file, b"\n")
        return file, found.st_size, is_file

    def _rotate(self) -> None:
        path = Path(self._settings.output)
        kept = [path.with_name(f"{path.name}.{number}") for number in range(1, self._settings.backups + 1)]
        # Where only the new file could not be made, the old ones were moved before.
        if path.exists():
            for newer, older in reversed(list(pairwise(kept))):
                with suppress(FileNotFoundError):
                    newer.replace(older)
            if kept:
                path.replace(kept[0])
            else:
                path.unlink()
        former = self._file
        self._file, self._size, self._rotates = self._open()
        os.close(former)


def _text(seconds: float, line: dict[str, object]) -> str:
    whole, part = divmod(int(seconds * 1_000), 1_000)
    return _encode({"time": f"{_second(whole)}.{part:03}Z"} | line) + "\n"


@lru_cache(1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
