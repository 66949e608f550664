"""Entries of a cache that are not what they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from prinz_enricher.provision.disk_cache import DiskCache
from prinz_enricher.provision.provision_errors import CacheUnusable
from tests.provision.entries import KEY, LARGE, filling, names, unwanted


def change(entry: Path) -> None:
    """Change a file, but neither its size nor its time."""
    status = (entry / "file").stat()
    (entry / "file").write_text("CONTENT")
    os.utime(entry / "file", ns=(status.st_atime_ns, status.st_mtime_ns))


def remove(entry: Path) -> None:
    """Remove a file."""
    (entry / "file").unlink()


def add(entry: Path) -> None:
    """Add a file."""
    (entry / "more").mkdir()
    (entry / "more" / "file").touch()


def link(entry: Path) -> None:
    """Put a link to the same content in the place of a file."""
    (entry / "file").rename(entry.parent / "elsewhere")
    (entry / "file").symlink_to(entry.parent / "elsewhere")


def link_folder(entry: Path) -> None:
    """Add a link to a folder."""
    (entry / "more").symlink_to(entry.parent)


def link_entry(entry: Path) -> None:
    """Put a link to the same folder in the place of the entry."""
    entry.rename(entry.parent / "elsewhere")
    entry.symlink_to(entry.parent / "elsewhere")


def forget(entry: Path) -> None:
    """Remove the manifest."""
    entry.with_suffix(".json").unlink()


def spoil(entry: Path) -> None:
    """Write nonsense into the manifest."""
    entry.with_suffix(".json").write_text('{"bytes": 7, "files": {"file": 7}}')


@pytest.mark.parametrize("tamper", [change, remove, add, link, link_folder, link_entry, forget, spoil])
def test_an_entry_that_differs_is_made_anew(tmp_path: Path, tamper: Callable[[Path], None]) -> None:
    """Whatever was done to it, it is noticed, told, and thrown away, even while someone holds it."""
    cache = DiskCache(tmp_path, max_bytes=LARGE)
    with cache.acquire(KEY, filling(), check=True) as held:
        tamper(held.path)
        with capture_logs() as logs, cache.acquire(KEY, filling(), check=True) as lease:
            assert lease.fresh
            assert not lease.path.is_symlink()
            assert names(lease.path) == ["file"]
            assert (lease.path / "file").read_text() == "content"
            assert not (lease.path / "file").is_symlink()
    (line,) = (line for line in logs if line["log_level"] == "warning")
    assert line["entry"] == str(tmp_path / KEY)
    assert line["fault"]


def test_an_entry_that_is_of_no_use_any_more_is_made_anew(tmp_path: Path) -> None:
    """The caller can tell of its own entries."""
    cache = DiskCache(tmp_path, max_bytes=LARGE)
    cache.acquire(KEY, filling("old")).close()
    usable = (lambda entry: (entry / "file").read_text() == "new",)
    with cache.acquire(KEY, filling("new"), usable=usable[0]) as lease:
        assert lease.fresh
    with cache.acquire(KEY, unwanted, usable=usable[0]) as lease:
        assert not lease.fresh


def test_links_are_not_kept(tmp_path: Path) -> None:
    """What is to be checked later can't be a link to somewhere else."""

    def fill(folder: Path) -> None:
        (folder / "passwords").symlink_to("/etc/passwd")

    with pytest.raises(CacheUnusable, match="passwords is not a regular file"):
        DiskCache(tmp_path, max_bytes=LARGE).acquire(KEY, fill, check=True)
    assert not names(tmp_path)
