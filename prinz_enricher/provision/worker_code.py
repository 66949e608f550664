"""The code of a worker for an interpreter that does not have this package."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from prinz_enricher.provision.errors import ProvisionError
from prinz_enricher.provision.shelf import Shelf

_PACKAGE = "prinz_enricher"
_PARTS = ("ipc", "worker")
_INIT = '"""What a worker needs of prinz-enricher, and nothing else of it."""\n'
_MAX_BYTES = 64 * 1024 * 1024
"""Of all versions together: some hundred kilobytes each."""


def worker_code(folder: Path) -> Path:
    """Give a folder for the PYTHONPATH of a worker that runs in an interpreter of its own.

    Args:
        folder: Where such folders are kept, one for each version of the code.

    Returns:
        The folder; it has the package with the worker in it, and nothing of the front.

    Raises:
        ProvisionError: It can't be written, or the sources are not there.
    """
    sources = _sources()
    digest = hashlib.sha256()
    for name, content in sources.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)

    def fill(entry: Path) -> None:
        for name, content in sources.items():
            path = entry / _PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    with Shelf(folder, max_bytes=_MAX_BYTES).acquire(digest.hexdigest()[:32], fill, check=True) as lease:
        return lease.path


def _sources() -> dict[str, bytes]:
    files = {"__init__.py": _INIT.encode()}
    for part in _PARTS:
        # Found without being imported: that would bring Arrow's libraries in.
        found = importlib.util.find_spec(f"{_PACKAGE}.{part}")
        if found is None or found.origin is None:
            raise ProvisionError("the sources of the worker are not installed")
        files |= {f"{part}/{path.name}": path.read_bytes() for path in sorted(Path(found.origin).parent.glob("*.py"))}
    return files
