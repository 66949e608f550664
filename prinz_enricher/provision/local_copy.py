"""Copies a model's folder that is on this machine, as MLflow's client would, without it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prinz_enricher.provision.errors import FetchFailed


def copy_local(uri: str, target: Path, max_bytes: int, watch: Callable[[int, int], object]) -> bool:
    """Copy the folder of a URI, where that is one of this machine.

    Args:
        uri: A path, or one of the scheme `file`.
        target: A folder that is made.
        max_bytes: How large all files may be together.
        watch: Called after each file with the bytes that were copied, and those of all; what it raises ends it.

    Returns:
        Whether it was copied; False, with nothing made, where it is elsewhere, no model, can't be read, or holds more
        than plain files and folders, which MLflow's client is to judge.

    Raises:
        FetchFailed: It is too large.
    """
    source = _path(uri)
    if source is None or not (source / "MLmodel").is_file():
        return False
    sizes: dict[Path, int] = {}
    folders: list[Path] = []
    for root, inner, files in os.walk(source):
        folders.append(Path(root).relative_to(source))
        for name in (*inner, *files):
            status = (Path(root) / name).lstat()
            if name in inner and stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode) or not os.access(Path(root) / name, os.R_OK):
                return False
            sizes[(Path(root) / name).relative_to(source)] = status.st_size
    total, done = sum(sizes.values()), 0
    if total > max_bytes:
        raise FetchFailed(f"the download failed: the model is larger than the {max_bytes} bytes that it may have")
    for folder in folders:
        (target / folder).mkdir(mode=0o700)
    for path, size in sizes.items():
        watch(done, total)
        shutil.copyfile(source / path, target / path, follow_symlinks=False)
        done += size
    return True


def _path(uri: str) -> Path | None:
    if not uri.startswith("/"):
        parts = urlsplit(uri)
        uri = unquote(parts.path) if parts.scheme == "file" and parts.netloc in ("", "localhost") else ""
    return Path(uri) if uri.startswith("/") else None
