"""A cache on disk: entries that are each made once under a key, and used by all processes of a machine.

    <key>           the entry; appears by a rename when it is complete
    <key>.json      its manifest: its size, and the digest of each file where it is checked
    <key>.lock      locked by whoever looks the entry up, makes it or removes it
    <key>.use       locked, shared, by each lease
    <key>.tmp-*     an entry being made or removed; whoever gets the key's lock may remove it

There are two locks for each key since a lock may be lost while it is turned from exclusive into shared.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from prinz_enricher.provision.file_lock import FileLock, try_lock, wait_for_lock
from prinz_enricher.provision.provision_errors import CacheUnusable

_KEY = re.compile(r"[0-9a-f]{8,128}")
_TEMPORARY = ".tmp-"
_MAX_MANIFEST_BYTES = 256 * 1024 * 1024
_Files = Mapping[str, tuple[int, str]]  # Size and SHA-256 of each file, by its relative path.
_log = structlog.stdlib.get_logger(__name__)


@dataclass
class Lease(contextlib.AbstractContextManager["Lease"]):
    """An entry, or a place in it, that stays until the lease is closed or the process ends; `fresh` if just made."""

    path: Path
    fresh: bool
    _held: FileLock

    def close(self) -> None:
        """Release the entry; a second time does nothing."""
        self._held.release()

    def __exit__(self, *_: object) -> None:
        self.close()


class DiskCache:
    """A private folder of entries, shared by processes; beyond `max_bytes` those without a lease are removed."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder.absolute()
        self._max_bytes = max_bytes

    def acquire(
        self,
        key: str,
        fill: Callable[[Path], None],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        check: bool = False,
        usable: Callable[[Path], bool] = lambda _: True,
    ) -> Lease:
        """Return a lease on an entry, which is made if missing; waits while someone else makes it.

        `fill` writes the entry into an empty folder, which is renamed later. `cancelled` is polled while waiting;
        `fill` is to poll it by itself. An entry that is not `usable` is made anew, and with `check` one whose files
        differ from its manifest. Raises Cancelled; CacheUnusable if the cache can't be used or the disk is full, as by
        an OSError of `fill`; ValueError if the key is not of 8 to 128 hexadecimal digits in lower case; and what else
        `fill` raises, of which nothing is left behind.
        """
        if not _KEY.fullmatch(key):
            raise ValueError("a key has 8 to 128 digits, 0 to 9 and a to f")
        try:
            self._open_folder()
            with wait_for_lock(self._file(key, "lock"), cancelled=cancelled):
                fresh = not self._is_good(key, usable, check=check)
                if fresh:
                    self._make(key, fill, check=check)
                # Nobody waits for it with the first lock held; whoever wants it exclusively gives up at once.
                held = wait_for_lock(self._file(key, "use"), shared=True, cancelled=lambda: False)
                with contextlib.suppress(OSError):
                    os.utime(self._file(key, "use"))
            if fresh:
                self._evict(key)
        except OSError as exc:
            raise CacheUnusable(f"the cache {self._folder} can't be used: {exc.strerror}", may_pass=True) from exc
        return Lease(self._folder / key, fresh, held)

    def has(self, key: str) -> bool:
        """Return whether there is an entry now."""
        return (self._folder / key).is_dir()

    def _open_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._folder.stat()
        if status.st_uid != os.geteuid():
            raise CacheUnusable(f"the cache {self._folder} belongs to another user")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            self._folder.chmod(0o700)

    def _file(self, key: str, ending: str) -> Path:
        return self._folder / f"{key}.{ending}"

    def _evict(self, made: str) -> None:
        """Remove what killed processes left, then the least recently used entries beyond the limit, if possible."""
        with contextlib.suppress(OSError):
            keys = sorted({path.name.partition(".")[0] for path in self._folder.iterdir()} - {made})
            entries = []
            for key in filter(_KEY.fullmatch, keys):
                if os.path.lexists(self._folder / key):
                    entries.append(key)
                else:
                    self._clear(key)
            sizes = {key: self._size(key) for key in (made, *entries)}
            total = sum(sizes.values())
            for key in sorted(entries, key=self._last_use):
                if total <= self._max_bytes:
                    break
                if self._clear(key, evict=True):
                    total -= sizes[key]
                    _log.info("an entry was removed from the cache", entry=str(self._folder / key), bytes=sizes[key])

    def _size(self, key: str) -> int:
        return _read_manifest(self._file(key, "json"))[0] or _folder_bytes(self._folder / key)

    def _last_use(self, key: str) -> float:
        for path in (self._file(key, "use"), self._folder / key):
            with contextlib.suppress(OSError):
                return path.lstat().st_mtime
        return 0.0

    def _clear(self, key: str, *, evict: bool = False) -> bool:
        """Remove the files of a key, unless someone has one of its locks; with `evict` its entry too."""
        with contextlib.suppress(OSError):
            if (lock := try_lock(self._file(key, "lock"))) is None:
                return False
            with lock:
                if (used := try_lock(self._file(key, "use"))) is None:
                    return False
                used.release()
                if evict:
                    self._remove(key)
                self._sweep(key)
                self._forget(key)
                return True
        return False

    # With the key's lock held.

    def _is_good(self, key: str, usable: Callable[[Path], bool], *, check: bool) -> bool:
        entry = self._folder / key
        if not os.path.lexists(entry):
            return False
        fault = ""
        if entry.is_symlink() or not entry.is_dir():
            fault = "it is not a folder"
        elif check:
            _, expected = _read_manifest(self._file(key, "json"))
            fault = "it has no manifest" if expected is None else _difference(entry, expected)
        if not fault and not usable(entry):
            fault = "it can't be used any more"
        if fault:
            _log.warning("an entry of the cache is not what it was, and is made anew", entry=str(entry), fault=fault)
            # Leases that are held have the same path again in a moment.
            self._remove(key)
        return not fault

    def _make(self, key: str, fill: Callable[[Path], None], *, check: bool) -> None:
        self._sweep(key)
        manifest = self._file(key, "json")
        try:
            temporary = Path(tempfile.mkdtemp(prefix=key + _TEMPORARY, dir=self._folder))
            fill(temporary)
            files = dict(_digests(temporary)) if check else None
            size = _folder_bytes(temporary) if files is None else sum(size for size, _ in files.values())
            # First, so that no entry is ever there without its manifest.
            written = self._folder / f"{key}{_TEMPORARY}json"
            written.write_bytes(json.dumps({"bytes": size, "files": files}).encode())
            written.replace(manifest)
            temporary.rename(self._folder / key)
        except BaseException:
            manifest.unlink(missing_ok=True)
            self._sweep(key)
            self._forget(key)
            raise

    def _remove(self, key: str) -> None:
        """Remove an entry; a process that is killed meanwhile leaves none of it under its name."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / key).rename(self._folder / f"{key}{_TEMPORARY}{os.urandom(6).hex()}")
        self._file(key, "json").unlink(missing_ok=True)
        self._sweep(key)

    def _sweep(self, key: str) -> None:
        for path in list(self._folder.glob(f"{key}{_TEMPORARY}*")):
            remove_tree(path)

    def _forget(self, key: str) -> None:
        """Remove the files of a key without an entry, unless leases on an earlier one are held."""
        if os.path.lexists(self._folder / key):
            return
        with contextlib.suppress(OSError):
            if (used := try_lock(self._file(key, "use"))) is not None:
                with used:
                    for ending in ("json", "use", "lock"):
                        self._file(key, ending).unlink(missing_ok=True)


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


def _read_manifest(path: Path) -> tuple[int, _Files | None]:
    """Return an entry's bytes, and its files where they are checked; 0 and None without a valid manifest."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_MANIFEST_BYTES))
        files = content["files"]
        if files is not None:
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
        return int(content["bytes"]), files
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0, None


def _difference(folder: Path, expected: _Files) -> str:
    """Return how the files of a folder differ from what is expected; empty for not at all."""
    try:
        found = dict(_digests(folder))
    except CacheUnusable as exc:
        return str(exc)
    except OSError as exc:
        return f"a file can't be read ({exc.strerror})"
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            how = "is additional" if name not in expected else "is missing" if name not in found else "has changed"
            return f"{name} {how}"
    return ""


def _digests(folder: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield the relative path of each file with its size and SHA-256; links and devices are refused."""
    for root, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            path = Path(root) / name
            shown = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise CacheUnusable(f"{shown} is not a regular file")
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                yield shown, (os.fstat(file.fileno()).st_size, digest)


def _raise(error: OSError) -> None:
    raise error


def _folder_bytes(folder: Path) -> int:
    """Add up the sizes of a folder's files, as they would be without hard links."""
    # An environment has fifty thousand of them.
    paths = (os.path.join(root, name) for root, _, files in os.walk(folder) for name in files)  # noqa: PTH118
    return sum(os.lstat(path).st_size for path in paths)
