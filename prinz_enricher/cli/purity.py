"""Keeps libraries that nothing needs out of this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class KeptOut(MetaPathFinder):
    """A finder that tells importers that a library is not installed.

    Some libraries import others as soon as these are there, and go on without where they are not: pyarrow imports
    pandas (0.3 s, 40 MB) when it first sees a Python list; httpx and structlog import rich (5 MB).
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Refuse what is kept out; leave all else to the finders that follow."""
        if fullname in self.names:
            raise ModuleNotFoundError(f"{fullname} is kept out of this process", name=fullname)


_KEPT_OUT = KeptOut()


def keep_out(*libraries: str) -> None:
    """Let no one import these libraries in this process from now on."""
    _KEPT_OUT.names.update(libraries)
    if _KEPT_OUT not in sys.meta_path:
        sys.meta_path.insert(0, _KEPT_OUT)
