"""Downloads a folder of artifacts that an MLflow server hands out itself, some files at a time.

A registry can lie: its listing decides neither where files are written nor how many, how large or how deep they are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO, TypeVar
from urllib.parse import quote

from prinz_enricher.registry.errors import ArtifactsRefused, RegistryError, RegistryRefused, RegistryUnreadable
from prinz_enricher.registry.pages import MAX_PAGE_BYTES
from prinz_enricher.registry.transport import Transport
from prinz_enricher.registry.words import hidden

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
"""Where the server hands them out."""

MLMODEL = "MLmodel"
FIRST = frozenset({MLMODEL, "requirements.txt", "python_env.yaml", "conda.yaml"})
"""What tells the loader and the environment of a model; the wheels among its files do, too."""

MOST_FILES = 100_000
"""Files and folders of one model."""

MOST_DEPTH = 32
MOST_NAME_BYTES = 255
MOST_PATH_BYTES = 1024
THREADS = 4

_PAUSES = (0.0, 0.5, 1.0)
"""Seconds before each try of a file or a listing."""

_WATCH_SECONDS = 0.05

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def download_folder(
    transport: Transport,
    place: Sequence[str],
    folder: Path,
    *,
    max_bytes: int,
    watch: Callable[[int, int], object],
    begun: Callable[[Path], object],
) -> None:
    """Download a model's folder; blocks.

    Args:
        transport: To the server.
        place: The folder's path there, segment by segment.
        folder: A folder that is made; what is in it after a failure is for the caller to remove.
        max_bytes: How large all files may be together.
        watch: Called again and again, by this thread, with the bytes that were got and those that were listed. What it
            raises ends the download, and is raised.
        begun: Called once, by this thread, with the folder as soon as it has the files of `FIRST` and the wheels, and
            before there are any others. What it raises ends the download, and is raised.

    Raises:
        RegistryError: The files can't be got.
        ArtifactsRefused: They are not what a model may be.
        OSError: They can't be written.
    """
    download = _Download(transport, place, folder, max_bytes, watch)
    try:
        download.list_files()
        first: list[_File] = []
        rest: list[_File] = []
        for file in download.files:
            (first if file.path in FIRST or file.path.endswith(".whl") else rest).append(file)
        download.each(download.get, first)
        begun(folder)
        download.each(download.get, rest)
    finally:
        download.end()


def is_plain(name: object) -> bool:
    """Tell whether a name is that of a file in a folder, and nothing else."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= MOST_NAME_BYTES
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True)
class _File:
    """A file as the server lists it.

    Attributes:
        path: Its path in the folder.
        size: Its length in bytes; None where that is not told.
    """

    path: str
    size: int | None


class _Ended(Exception):
    """Nobody waits for it any more."""


class _Download:
    """One download; `get` may be called by several threads at once."""

    def __init__(
        self,
        transport: Transport,
        place: Sequence[str],
        folder: Path,
        max_bytes: int,
        watch: Callable[[int, int], object],
    ) -> None:
        self.files: list[_File] = []
        self._transport = transport
        self._place = place
        self._folder = folder
        self._max_bytes = max_bytes
        self._watch = watch
        self._folders = [""]
        self._paths: set[str] = set()
        self._done = self._total = 0
        self._lock = threading.Lock()
        self._over = threading.Event()

    def end(self) -> None:
        """Have no thread write anything from now on: one that waits for the server is not waited for."""
        with self._lock:
            self._over.set()

    def list_files(self) -> None:
        """List all files, and make their folders."""
        for _ in range(MOST_DEPTH):
            level, self._folders = self._folders, []
            for inner in level:
                (self._folder / inner).mkdir(mode=0o700)
            self.each(self._list, level)
            if not self._folders:
                break
        else:
            raise ArtifactsRefused(f"the registry lists folders in folders, more than {MOST_DEPTH} deep")
        if not any(file.path == MLMODEL for file in self.files):
            # What the server says of it tells more, such as that there is no such folder.
            self.each(self._look_for, [MLMODEL])
            raise ArtifactsRefused("there is no MLmodel file among the files that the registry lists")

    def each(self, call: Callable[[_Item], object], items: Sequence[_Item]) -> None:
        """Call for each item, some at a time, and watch; the first failure is raised."""
        self._watch(self._done, self._total)
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
            self._watch(self._done, self._total)

    def get(self, file: _File) -> None:
        """Download a file."""
        with self._open(file) as target:

            def write(piece: bytes) -> None:
                self._count(len(piece))
                target.write(piece)
                if file.size is not None and target.tell() > file.size:
                    raise self._other_length(file)

            def fill() -> None:
                self._count(-target.tell())
                target.seek(0)
                target.truncate()
                self._transport.save(self._url(file.path), write)
                if file.size not in (None, target.tell()):
                    raise self._other_length(file)

            self._tried(fill)

    def _look_for(self, path: str) -> None:
        self._transport.save(self._url(path), lambda piece: self._count(len(piece)))

    def _list(self, inner: str) -> None:
        """List one folder."""
        params = {"path": "/".join([*self._place, inner] if inner else self._place)}
        answer = self._tried(lambda: self._transport.get_json(ARTIFACTS, params, max_bytes=MAX_PAGE_BYTES))
        entries = answer.get("files", [])
        if not isinstance(entries, list):
            raise RegistryUnreadable(f"the answer to {ARTIFACTS} has no list of files")
        with self._lock:
            for entry in entries:
                self._take(inner, entry if isinstance(entry, Mapping) else {})

    def _take(self, inner: str, entry: Mapping[str, object]) -> None:
        """Take an entry of a folder's listing."""
        name = entry.get("path")
        path = f"{inner}/{name}" if inner else f"{name}"
        if not is_plain(name) or len(path.encode()) > MOST_PATH_BYTES:
            raise ArtifactsRefused(f'the registry lists a file "{hidden(path)}", whose name is none, or too long')
        if path in self._paths:
            raise ArtifactsRefused(f'the registry lists "{hidden(path)}" twice')
        self._paths.add(path)
        if len(self._paths) > MOST_FILES:
            raise ArtifactsRefused(f"the model has more than {MOST_FILES} files")
        if entry.get("is_dir") is True:
            self._folders.append(path)
            return
        told = entry.get("file_size")
        size = int(told) if isinstance(told, str) and told.isdecimal() and len(told) < 20 else told
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise ArtifactsRefused(f'the registry lists "{hidden(path)}" with a length that is none')
        self.files.append(_File(path, size))
        self._total += size or 0
        if self._total > self._max_bytes:
            raise self._too_large()

    def _open(self, file: _File) -> BinaryIO:
        with self._lock:
            # Once it is over the caller removes the folder.
            if self._over.is_set():
                raise _Ended
            try:
                return open(
                    self._folder / file.path,
                    "xb",
                    opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600),
                )
            except FileExistsError as error:
                raise ArtifactsRefused(f'"{hidden(file.path)}" is the same file as another one here') from error

    def _count(self, length: int) -> None:
        with self._lock:
            if self._over.is_set():
                raise _Ended
            self._done += length
            if self._done > self._max_bytes:
                raise self._too_large()

    def _tried(self, call: Callable[[], _Result]) -> _Result:
        """Call, and a few times more after failures that may pass."""
        failure: Exception = _Ended()
        for pause in _PAUSES:
            if self._over.wait(pause):
                raise _Ended
            try:
                return call()
            except RegistryError as error:
                if not _passes(error):
                    raise
                failure = error
        raise failure

    def _url(self, path: str) -> str:
        return "/".join([ARTIFACTS, *(quote(segment, safe="") for segment in (*self._place, *path.split("/")))])

    def _too_large(self) -> ArtifactsRefused:
        return ArtifactsRefused(f"the model is larger than the {self._max_bytes} bytes that it may have")

    def _other_length(self, file: _File) -> RegistryUnreadable:
        return RegistryUnreadable(f'"{hidden(file.path)}" has not the {file.size} bytes that the registry lists')


def _passes(error: RegistryError) -> bool:
    """Tell whether a failure may have passed in a moment; other credentials were tried already."""
    refused = isinstance(error, RegistryRefused) and error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return error.transient and not refused
