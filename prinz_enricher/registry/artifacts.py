"""Downloads a folder of artifacts that an MLflow server proxies, some files at a time.

A registry is not trusted: its listing decides neither where files are written nor how many, how large or how deep they
are.
"""

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO, TypeVar

from prinz_enricher.registry.mlmodel import ARTIFACTS, MLMODEL, artifact_path
from prinz_enricher.registry.registry_errors import (
    ArtifactsRefused,
    RegistryError,
    RegistryRefused,
    RegistryUnreadable,
    redact,
)
from prinz_enricher.registry.transport import Transport

# Describe the loader and the environment of a model, together with the wheels among its files.
FIRST = frozenset({MLMODEL, "requirements.txt", "python_env.yaml", "conda.yaml"})
# Files and folders of one model.
MAX_FILES = 100_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
THREADS = 4
_PAUSES = (0.0, 0.5, 1.0)  # Seconds before each attempt to get a file or a listing.
_WATCH_SECONDS = 0.05
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def is_plain(name: object) -> bool:
    """Return whether a name is that of a file in a folder, and nothing else."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


class _Stopped(Exception):
    """The download is not waited for any more."""


@dataclass(slots=True)
class FolderDownload:
    """Downloads a model's folder, at a path of the server segment by segment, into one that is made.

    After a failure the caller removes it. All files may have `max_bytes` together. `watch` is called again and again
    with the bytes that came and those that are listed.
    """

    transport: Transport
    place: Sequence[str]
    folder: Path
    max_bytes: int
    watch: Callable[[int, int], object]
    # The bytes of each listed file, by its path in the folder; None if the server does not list them.
    _sizes: dict[str, int | None] = field(default_factory=dict)
    _level: list[str] = field(default_factory=lambda: [""])
    _paths: set[str] = field(default_factory=set)
    _done: int = 0
    _total: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, begun: Callable[[Path], object]) -> None:
        """Download; blocks. What `watch` and `begun` raise ends the download, and is raised; this thread calls them.

        `begun` is called once with the folder, when it has the files of `FIRST` and the wheels, and no others yet.
        Raises RegistryError if the files can't be had, or can't be those of a model; OSError if they can't be written.
        """
        try:
            self._list_files()
            first = {path for path in self._sizes if path in FIRST or path.endswith(".whl")}
            self._run_each(self._get, first)
            begun(self.folder)
            self._run_each(self._get, [path for path in self._sizes if path not in first])
        finally:
            # From now on no thread writes anything: one that waits for the server is not waited for.
            with self._lock:
                self._stopped.set()

    def _list_files(self) -> None:
        """List all files, level by level, and make their folders."""
        for _ in range(MAX_DEPTH):
            level, self._level = self._level, []
            for inner in level:
                (self.folder / inner).mkdir(mode=0o700)
            self._run_each(self._list, level)
            if not self._level:
                break
        else:
            raise ArtifactsRefused(f"the registry lists folders in folders, more than {MAX_DEPTH} deep")
        if MLMODEL not in self._sizes:
            # The server's own error says more, such as that there is no such folder.
            self._run_each(lambda path: self.transport.save(self._request_path(path), self._count), [MLMODEL])
            raise ArtifactsRefused("there is no MLmodel file among the files that the registry lists")

    def _run_each(self, call: Callable[[_Item], object], items: Collection[_Item]) -> None:
        """Call for each item, some at a time, and watch; the first failure is raised."""
        self.watch(self._done, self._total)
        shared, ended = iter(items), SimpleQueue[BaseException | None]()

        def work() -> None:
            try:
                for item in shared:
                    call(item)
                ended.put(None)
            except BaseException as fault:  # noqa: BLE001 - it is raised where it is waited for
                ended.put(fault)

        workers = min(THREADS, len(items))
        for _ in range(workers):
            # The end of this process waits for no server.
            threading.Thread(target=work, name="artifacts", daemon=True).start()
        while workers:
            with suppress(Empty):
                fault = ended.get(timeout=_WATCH_SECONDS)
                if fault is not None:
                    raise fault
                workers -= 1
            self.watch(self._done, self._total)

    def _get(self, path: str) -> None:
        size = self._sizes[path]

        def wrong_size() -> RegistryUnreadable:
            return RegistryUnreadable(f'"{redact(path)}" does not have the {size} bytes that the registry lists')

        with self._open(path) as target:

            def write(piece: bytes) -> None:
                self._count(piece)
                target.write(piece)
                if size is not None and target.tell() > size:
                    raise wrong_size()

            def fill() -> None:
                with self._lock:
                    self._done -= target.tell()
                target.seek(0)
                target.truncate()
                self.transport.save(self._request_path(path), write)
                if size not in (None, target.tell()):
                    raise wrong_size()

            self._retry(fill)

    def _list(self, inner: str) -> None:
        params = {"path": "/".join([*self.place, inner] if inner else self.place)}
        entries = self._retry(lambda: self.transport.get_json(ARTIFACTS, params)).get("files", [])
        if not isinstance(entries, list):
            raise RegistryUnreadable(f"the answer to {ARTIFACTS} has no list of files")
        with self._lock:
            for entry in entries:
                self._add(inner, entry if isinstance(entry, Mapping) else {})

    def _add(self, inner: str, entry: Mapping[str, object]) -> None:
        """Add an entry of a folder's listing."""
        name = entry.get("path")
        path = f"{inner}/{name}" if inner else f"{name}"
        if not is_plain(name) or len(path.encode()) > MAX_PATH_BYTES:
            raise ArtifactsRefused(f'the registry lists "{redact(path)}", an invalid or too long name')
        if path in self._paths:
            raise ArtifactsRefused(f'the registry lists "{redact(path)}" twice')
        self._paths.add(path)
        if len(self._paths) > MAX_FILES:
            raise ArtifactsRefused(f"the model has more than {MAX_FILES} files")
        if entry.get("is_dir") is True:
            self._level.append(path)
            return
        size = entry.get("file_size")
        if isinstance(size, str) and size.isdecimal() and len(size) < 20:
            size = int(size)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise ArtifactsRefused(f'the registry lists "{redact(path)}" with an invalid length')
        self._sizes[path] = size
        self._total += size or 0
        self._check_size(self._total)

    def _open(self, path: str) -> BinaryIO:
        with self._lock:
            # Once it is stopped the caller removes the folder.
            if self._stopped.is_set():
                raise _Stopped
            try:
                return open(self.folder / path, "xb", opener=_open_private)
            except FileExistsError as error:
                raise ArtifactsRefused(f'"{redact(path)}" is the same file as another one here') from error

    def _count(self, piece: bytes) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise _Stopped
            self._done += len(piece)
            self._check_size(self._done)

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise ArtifactsRefused(f"the model is larger than the {self.max_bytes} bytes of cache.max_model_bytes")

    def _retry(self, call: Callable[[], _Result]) -> _Result:
        """Call, and a few times more after failures that may pass."""
        failure: Exception = _Stopped()
        for pause in _PAUSES:
            if self._stopped.wait(pause):
                raise _Stopped
            try:
                return call()
            except RegistryError as error:
                # Other credentials were tried already.
                forbidden = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
                if not error.transient or (isinstance(error, RegistryRefused) and error.status in forbidden):
                    raise
                failure = error
        raise failure

    def _request_path(self, path: str) -> str:
        return artifact_path([*self.place, *path.split("/")])
