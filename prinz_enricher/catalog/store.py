"""The last good snapshot on disk, so that a process that starts while the registry is down serves what was known."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from prinz_enricher.catalog.assembly import Files
from prinz_enricher.catalog.private_file import StoreError, check_folder, opened, replaced, say
from prinz_enricher.catalog.reading import Reading
from prinz_enricher.catalog.snapshot_lines import StoredLinesError, read_lines, write_lines

MAX_BYTES = 256 * 1024 * 1024
"""How large a stored snapshot may be."""

SAVE_SECONDS = 10.0
"""Between two writings at the least; a registry that changes all the time must not keep the disk busy."""

FORMAT = 1
_KIND = "prinz-enricher catalog"
_TEMPORARY_SECONDS = 3600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Stored:
    """What was in the store.

    Attributes:
        reading: What the registry listed.
        files: What MLmodel files held, by name and number of the version; only those that had been read.
        age: Seconds since the registry was last read; never negative, whatever the clock did.
    """

    reading: Reading
    files: Files
    age: float


class SnapshotStore:
    """Keeps the snapshot of one registry in a folder; several processes may share it.

    The time of its file's last change is that of the last good look at the registry. No fault of the disk reaches the
    caller: it is logged, once.
    """

    def __init__(
        self,
        folder: Path,
        registry: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Touch nothing yet.

        Args:
            folder: Where the file is; made where it is not there.
            registry: What tells the registry from others; no credentials.
            clock: Tells seconds, and never goes back.
            wall_clock: Tells seconds since the epoch.
        """
        self.path = folder / f"{hashlib.sha256(registry.encode()).hexdigest()[:32]}.jsonl"
        self._clock = clock
        self._wall_clock = wall_clock
        self._saved_revision = ""
        self._saved_at = float("-inf")
        self._told = False

    def load(self) -> Stored | None:
        """Return what is stored; None where there is nothing that can be used."""
        try:
            check_folder(self.path.parent)
            with opened(self.path, MAX_BYTES) as (file, changed):
                reading, files = _read(file)
        except FileNotFoundError:
            return None
        except (OSError, StoreError, StoredLinesError) as error:
            _log.warning("the stored catalog is not used", file=str(self.path), fault=say(error))
            return None
        self._sweep()
        return Stored(reading, files, max(0.0, self._wall_clock() - changed))

    def outdated(self, revision: str, *, at_once: bool = False) -> bool:
        """Tell whether it is time to save.

        Args:
            revision: Of what is known now.
            at_once: Whether the last time of writing does not matter.
        """
        return revision != self._saved_revision and (at_once or self._clock() - self._saved_at >= SAVE_SECONDS)

    def save(self, revision: str, reading: Reading, files: Files) -> None:
        """Write what is known now.

        Args:
            revision: Of the snapshot that it makes.
            reading: What the registry listed.
            files: What MLmodel files hold.
        """
        self._saved_at = self._clock()
        with self._log_faults():
            with replaced(self.path, self._temporary_prefix) as file:
                _write(file, reading, files)
                # Before its time is set, which what is written later would change.
                file.flush()
                now = self._wall_clock()
                os.utime(file.fileno(), (now, now))
            self._saved_revision = revision
            self._told = False

    def touch(self, revision: str) -> None:
        """Take down that the registry was read now, where it is as it was saved.

        Args:
            revision: Of what is known now.
        """
        if revision == self._saved_revision:
            with self._log_faults():
                now = self._wall_clock()
                os.utime(self.path, (now, now))

    @property
    def _temporary_prefix(self) -> str:
        return f".{self.path.stem}-"

    @contextmanager
    def _log_faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, StoreError, StoredLinesError) as error:
            if not self._told:
                _log.warning("the catalog can't be stored", file=str(self.path), fault=say(error))
            self._told = True
            # What is there may be gone; the next change writes it anew.
            self._saved_revision = ""

    def _sweep(self) -> None:
        """Remove what a process that was killed has left."""
        for file in self.path.parent.glob(f"{self._temporary_prefix}*"):
            with suppress(OSError):
                if self._wall_clock() - file.lstat().st_mtime > _TEMPORARY_SECONDS:
                    file.unlink()


def _write(file: IO[bytes], reading: Reading, files: Files) -> None:
    digest = hashlib.sha256()
    written = 0
    for content in ({"kind": _KIND, "format": FORMAT}, *write_lines(reading, files)):
        line = json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        written += len(line)
        if written > MAX_BYTES:
            raise StoreError(f"it would be larger than {MAX_BYTES} bytes")
        digest.update(line)
        file.write(line)
    file.write(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")


def _read(file: IO[bytes]) -> tuple[Reading, Files]:
    """Read what `_write` wrote. The checksum comes last, so nothing is believed before the end."""
    head = _parse(file.readline())
    if head.get("kind") != _KIND:
        raise StoreError("it is no stored catalog")
    if head.get("format") != FORMAT:
        raise StoreError("it was written by another version of this program")
    file.seek(0)
    return read_lines(_checked(file))


def _checked(file: IO[bytes]) -> Iterator[dict[str, object]]:
    digest = hashlib.sha256()
    former = file.readline()
    digest.update(former)
    line = file.readline()
    while following := file.readline():
        digest.update(line)
        yield _parse(line)
        line = following
    if _parse(line).get("sha256") != digest.hexdigest():
        raise StoreError("it is damaged")


def _parse(line: bytes) -> dict[str, object]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise StoreError("it is damaged")
    return content
