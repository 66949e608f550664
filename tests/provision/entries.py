"""Entries of disk caches, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

LARGE = 1 << 30
KEYS = [f"{number:08x}" for number in range(10)]
KEY = KEYS[0]


def filling(text: str = "content") -> Callable[[Path], None]:
    """Return what fills an entry with one file."""

    def fill(folder: Path) -> None:
        (folder / "file").write_text(text)

    return fill


def unwanted(_: Path) -> None:
    """Fill nothing: it must not be called."""
    raise AssertionError("it was made again")


def names(folder: Path) -> list[str]:
    """List what is in a folder."""
    return sorted(path.name for path in folder.iterdir())
