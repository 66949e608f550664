"""What an entry of a shelf holds, written beside it: how large it is and, where it is checked, each file's digest."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 256 * 1024 * 1024


class IrregularFile(Exception):
    """There is something that is neither file nor folder, or can't be read; the message says what."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was in an entry when it was made.

    Attributes:
        size: How large its files are together, in bytes.
        files: Size and SHA-256 of each file by its relative path; None where they are not checked.
    """

    size: int
    files: Mapping[str, tuple[int, str]] | None

    def to_json(self) -> bytes:
        """Write it."""
        return json.dumps({"bytes": self.size, "files": self.files}).encode()


def describe(folder: Path, *, check: bool) -> Manifest:
    """Describe a folder as it is.

    Args:
        folder: The entry.
        check: Whether to read each file for its digest; links are refused then.

    Raises:
        IrregularFile: With `check`, there is something else than files and folders.
        OSError: A file can't be read.
    """
    if not check:
        return Manifest(folder_bytes(folder), None)
    files = dict(_digests(folder))
    return Manifest(sum(size for size, _ in files.values()), files)


def difference(folder: Path, manifest: Manifest) -> str | None:
    """Compare a folder with its manifest: None where all files are the same, else what differs first."""
    expected = dict(manifest.files or {})
    try:
        for name, found in _digests(folder):
            if (known := expected.pop(name, None)) is None:
                return f"{name} is additional"
            if known != found:
                return f"{name} has changed"
    except IrregularFile as exc:
        return str(exc)
    except OSError as exc:
        return f"a file can't be read ({exc.strerror})"
    return f"{next(iter(expected))} is missing" if expected else None


def read_manifest(path: Path) -> Manifest | None:
    """Read what `to_json` wrote; None where there is nothing that can be used."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        files = content["files"]
        if files is not None:
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
        return Manifest(int(content["bytes"]), files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def folder_bytes(folder: Path) -> int:
    """Add up the sizes of a folder's files, as they would be without hard links, in bytes."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            # A whole environment has fifty thousand of them.
            total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
    return total


def _digests(folder: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """Give size and SHA-256 of each file, by its relative path."""
    for root, folders, files in os.walk(folder, onerror=_raise):
        place = Path(root)
        for name in (*folders, *files):
            path = place / name
            shown = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise IrregularFile(f"{shown} is no regular file")
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                yield shown, (os.fstat(file.fileno()).st_size, digest)


def _raise(error: OSError) -> None:
    raise error
