"""A folder of entries that are each made once under a key, and used by all processes of a machine.

    <key>           the entry; appears by a rename when it is whole
    <key>.json      its manifest
    <key>.lock      locked by the one who looks the entry up, makes it or removes it
    <key>.use       locked, shared, by each lease
    <key>.tmp-*     an entry in the making or on its way out; whoever gets the key's lock may remove it

There are two locks for each key since a lock that is turned from exclusive into shared may be lost on the way.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import structlog

from prinz_enricher.provision.errors import ShelfFault
from prinz_enricher.provision.locks import FileLock, lock, try_lock
from prinz_enricher.provision.manifest import IrregularFile, describe, difference, folder_bytes, read_manifest

_KEY = re.compile(r"[0-9a-f]{8,128}")
_TEMPORARY = ".tmp-"
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_log = structlog.stdlib.get_logger(__name__)


def never() -> bool:
    """Say that nobody cancels."""
    return False


class Lease:
    """An entry that stays for as long as the lease is held: until it is closed, or the process ends.

    Attributes:
        path: The entry, or a place within.
        fresh: Whether it was made by this call.
    """

    def __init__(self, path: Path, held: FileLock, *, fresh: bool) -> None:
        self.path = path
        self.fresh = fresh
        self._held = held

    def at(self, name: str) -> Lease:
        """Give the same lease, with a place within the entry as its path; one of the two is to be closed."""
        return Lease(self.path / name, self._held, fresh=self.fresh)

    def close(self) -> None:
        """Let go of the entry; a second time does nothing."""
        self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Shelf:
    """A folder of entries; threads and processes may share it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Touch nothing yet.

        Args:
            folder: Where the entries are; made where it is not there. It belongs to this user alone.
            max_bytes: How large all entries may be together before those that nobody holds are removed.
        """
        self._folder = folder.absolute()
        self._max_bytes = max_bytes

    def acquire(
        self,
        key: str,
        fill: Callable[[Path], None],
        *,
        cancelled: Callable[[], bool] = never,
        check: bool = False,
        usable: Callable[[Path], bool] = lambda _: True,
    ) -> Lease:
        """Get an entry, and make it where it is not there; waits while someone else makes it.

        Args:
            key: Its key: 8 to 128 digits, 0 to 9 and a to f.
            fill: Writes the entry into an empty folder, which is another one than it has later.
            cancelled: Asked again and again while waiting; `fill` asks by itself.
            check: Whether the entry is compared with what it was when it was made; what differs is made anew.
            usable: Tells of an entry that is there whether it still does; otherwise it is made anew.

        Returns:
            A lease on the entry, to be closed.

        Raises:
            Cancelled: The caller cancelled.
            ShelfFault: The shelf can't be used, or the disk is full; what `fill` raises as OSError counts as that.
            ValueError: The key is none.
            Exception: What else `fill` raises; then nothing is left behind.
        """
        if not _KEY.fullmatch(key):
            raise ValueError("a key has 8 to 128 digits, 0 to 9 and a to f")
        try:
            self._open_folder()
            with lock(self._lock(key), cancelled=cancelled):
                fresh = not self._is_good(key, usable, check=check)
                if fresh:
                    self._make(key, fill, check=check)
                # Nobody waits for it with the first lock held; whoever wants it alone gives up at once.
                lease = Lease(self._folder / key, lock(self._use(key), shared=True, cancelled=never), fresh=fresh)
                with contextlib.suppress(OSError):
                    os.utime(self._use(key))
            if fresh:
                self._tidy(key)
        except OSError as exc:
            raise ShelfFault(f"the cache {self._folder} can't be used: {exc.strerror}", may_pass=True) from exc
        return lease

    def _open_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._folder.stat()
        if status.st_uid != os.geteuid():
            raise ShelfFault(f"the cache {self._folder} belongs to another user")
        if status.st_mode & _OF_OTHERS:
            self._folder.chmod(0o700)

    def _is_good(self, key: str, usable: Callable[[Path], bool], *, check: bool) -> bool:
        """Tell whether an entry is there and may be used; with its lock held."""
        entry = self._folder / key
        if not os.path.lexists(entry):
            return False
        fault = None
        if entry.is_symlink() or not entry.is_dir():
            fault = "it is no folder"
        elif check:
            manifest = read_manifest(self._manifest(key))
            fault = "it has no manifest" if manifest is None or manifest.files is None else difference(entry, manifest)
        if fault is None and not usable(entry):
            fault = "it can't be used any more"
        if fault is not None:
            _log.warning("an entry of the cache is not what it was, and is made anew", entry=str(entry), fault=fault)
            # Leases that are held have the same path again in a moment.
            self._remove(key)
        return fault is None

    def _make(self, key: str, fill: Callable[[Path], None], *, check: bool) -> None:
        """Make an entry that is not there; with its lock held."""
        self._sweep(key)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=key + _TEMPORARY, dir=self._folder))
            fill(temporary)
            try:
                manifest = describe(temporary, check=check)
            except IrregularFile as exc:
                raise ShelfFault(f"what was to be kept in a cache can't be: {exc}") from exc
            # First, so that no entry is ever there without its manifest.
            self._write(self._manifest(key), manifest.to_json())
            temporary.rename(self._folder / key)
        except BaseException:
            self._manifest(key).unlink(missing_ok=True)
            self._sweep(key)
            self._forget(key)
            raise

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(path.stem + _TEMPORARY + "json")
        temporary.write_bytes(content)
        temporary.replace(path)

    def _tidy(self, made: str) -> None:
        """Remove what killed processes left, and the entries that were not used for longest where there are too many.

        What fails is left for the next time: the entry that was wanted is there.
        """
        with contextlib.suppress(OSError):
            keys = {path.name.partition(".")[0] for path in self._folder.iterdir()} - {made}
            for key in sorted(filter(_KEY.fullmatch, keys)):
                if not os.path.lexists(self._folder / key):
                    self._clear(key)
            entries = [self._folder / made, *self._by_use(made)]
            sizes = {entry.name: self._bytes(entry.name) for entry in entries}
            total = sum(sizes.values())
            for entry in entries[1:]:
                if total <= self._max_bytes:
                    break
                if self._clear(entry.name, also_entry=True):
                    total -= sizes[entry.name]
                    _log.info("an entry was removed from the cache", entry=str(entry), bytes=sizes[entry.name])

    def _by_use(self, made: str) -> list[Path]:
        """List the other entries, the one that was not used for longest first."""
        others = [path for path in self._folder.iterdir() if _KEY.fullmatch(path.name) and path.name != made]
        return sorted(others, key=self._last_use)

    def _last_use(self, entry: Path) -> float:
        for path in (self._use(entry.name), entry):
            with contextlib.suppress(OSError):
                return path.lstat().st_mtime
        return 0.0

    def _bytes(self, key: str) -> int:
        manifest = read_manifest(self._manifest(key))
        if manifest is not None:
            return manifest.size
        with contextlib.suppress(OSError):
            return folder_bytes(self._folder / key)
        return 0

    def _clear(self, key: str, *, also_entry: bool = False) -> bool:
        """Remove what is left of a key, unless someone is at it or holds it; without `also_entry`, not its entry."""
        with contextlib.suppress(OSError):
            held = try_lock(self._lock(key))
            if held is None:
                return False
            with held:
                used = try_lock(self._use(key))
                if used is None:
                    return False
                used.release()
                if also_entry:
                    self._remove(key)
                self._sweep(key)
                self._forget(key)
                return True
        return False

    # With the key's lock held.

    def _remove(self, key: str) -> None:
        """Remove an entry; a process that is killed meanwhile leaves none of it under its name."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / key).rename(self._folder / f"{key}{_TEMPORARY}{os.urandom(6).hex()}")
        self._manifest(key).unlink(missing_ok=True)
        self._sweep(key)

    def _sweep(self, key: str) -> None:
        for path in self._temporaries(key):
            remove_tree(path)

    def _temporaries(self, key: str) -> Iterator[Path]:
        yield from list(self._folder.glob(f"{key}{_TEMPORARY}*"))

    def _forget(self, key: str) -> None:
        """Remove the files of a key that has no entry, unless leases on an earlier one are held."""
        if os.path.lexists(self._folder / key):
            return
        with contextlib.suppress(OSError):
            used = try_lock(self._use(key))
            if used is not None:
                with used:
                    self._manifest(key).unlink(missing_ok=True)
                    self._use(key).unlink(missing_ok=True)
                    self._lock(key).unlink(missing_ok=True)

    def _lock(self, key: str) -> Path:
        return self._folder / f"{key}.lock"

    def _use(self, key: str) -> Path:
        return self._folder / f"{key}.use"

    def _manifest(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as well as it can be."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        # What is in a folder that can't be written can't be removed.
        for root, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                Path(root).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
