"""Which versions of a registry are in use, on disk, so that the next process loads them without a call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import structlog

from prinz_enricher.catalog.private_file import StoreError, check_folder, opened, replaced, say

MAX_BYTES = 1024 * 1024
"""How large the file may be."""

_KIND = "prinz-enricher versions in use, format 1"

_log = structlog.get_logger(__name__)


class Used(NamedTuple):
    """A version that is in use.

    Attributes:
        name: Its model's name in its registry.
        version: Its number.
        content: Tells its files and its signature from those of another version with that name and number.
    """

    name: str
    version: str
    content: str


class UsedFile:
    """Keeps which versions of one registry are in use; no fault of the disk reaches the caller, it is logged."""

    def __init__(self, snapshot: Path) -> None:
        """Touch nothing yet.

        Args:
            snapshot: The file of the registry's snapshot, which this one is kept beside.
        """
        self.path = snapshot.with_suffix(".used.json")
        # What sweeps up after the snapshot finds what a killed process has left of this one too.
        self._temporary_prefix = f".{snapshot.stem}-"
        self._saved: set[Used] | None = None
        self._told = False

    def load(self) -> set[Used]:
        """Return what is stored; nothing where it can't be used."""
        try:
            check_folder(self.path.parent)
            with opened(self.path, MAX_BYTES) as (file, _):
                return _read(file.read(MAX_BYTES + 1))
        except FileNotFoundError:
            return set()
        except (OSError, StoreError) as error:
            _log.warning("the list of versions in use is not used", file=str(self.path), fault=say(error))
            return set()

    def save(self, used: Iterable[Used]) -> None:
        """Write which versions are in use, where that is not what was written last."""
        now = set(used)
        if now == self._saved:
            return
        self._saved = now
        try:
            with replaced(self.path, self._temporary_prefix) as file:
                file.write(json.dumps({"kind": _KIND, "used": sorted(now)}).encode())
            self._told = False
        except (OSError, StoreError) as error:
            if not self._told:
                _log.warning("the list of versions in use can't be stored", file=str(self.path), fault=say(error))
            self._told = True


def _read(content: bytes) -> set[Used]:
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or stored.get("kind") != _KIND or not isinstance(stored.get("used"), list):
        raise StoreError("it is damaged, or no such list")
    for one in stored["used"]:
        if not isinstance(one, list) or len(one) != len(Used._fields) or not all(isinstance(text, str) for text in one):
            raise StoreError("it is damaged")
    return {Used(*one) for one in stored["used"]}
