"""What outlives the process: the last good snapshot of a registry, and which of its versions are in use.

So a process that starts while the registry is down serves what was known, and loads what was in use without a call.
Only files that nobody else can have written are read; each is replaced as a whole. No fault of the disk reaches the
caller: it is logged, at writing once.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import structlog
from google.protobuf.message import DecodeError
from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt, ValidationError

from prinz_enricher.catalog.reading import Reading
from prinz_enricher.catalog.snapshot import Files, ModelFile
from prinz_enricher.contract import signature_pb2
from prinz_enricher.registry.entities import ModelVersion, RegisteredModel
from prinz_enricher.signature.signature_message import from_wire, to_wire
from prinz_enricher.signature.types import SignatureError

# Of a stored snapshot, and of the list of versions in use.
MAX_BYTES = 256 * 1024 * 1024
MAX_USED_BYTES = 1024 * 1024
# Between two writes at least, so that a registry that changes all the time does not keep the disk busy.
SAVE_SECONDS = 10.0
_SAVE_PAUSE = 20.0  # And so many times as long as a write takes, which is time of this process.
FORMAT = 2
_HEAD = '{"kind":"prinz-enricher catalog","format":'
_TEMPORARY_SECONDS = 3600.0
_log = structlog.get_logger(__name__)
T = TypeVar("T")


class StoreError(Exception):
    """What is stored can't be used, or can't be stored; the text says why."""


def _check_number(version: ModelVersion) -> ModelVersion:
    if not (version.version.isascii() and version.version.isdecimal() and len(version.version) <= 18):
        raise ValueError("a version has no number")
    return version


class StoredFile(NamedTuple):
    """A `ModelFile`, with its signature as on the wire."""

    signature: bytes | None
    flavors: tuple[str, ...]
    fault: str
    loader: str


class _Content(BaseModel):
    """A stored snapshot: each different MLmodel file once, and with each version the position of its own."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    models: list[RegisteredModel]
    files: list[StoredFile]
    versions: list[tuple[Annotated[ModelVersion, AfterValidator(_check_number)], NonNegativeInt | None]]


def encode(reading: Reading, files: Files) -> bytes:
    """Return what is known, no pending files, as JSON; without files that can't be written exactly."""
    positions: dict[bytes, int | None] = {}
    stored: list[StoredFile] = []
    versions: list[tuple[ModelVersion, int | None]] = []
    for key, version in reading.versions.items():
        position = None
        if (file := files.get(key)) is not None:
            if file.fingerprint not in positions:
                written = write_file(file)
                positions[file.fingerprint] = None if written is None else len(stored)
                stored += [] if written is None else [written]
            position = positions[file.fingerprint]
        versions.append((version, position))
    content = _Content.model_construct(models=list(reading.models.values()), files=stored, versions=versions)
    return content.model_dump_json().encode()


def decode(content: bytes) -> tuple[Reading, Files]:
    """Return what `encode` got, but for files whose signature is read otherwise; raises StoreError if invalid."""
    try:
        stored = _Content.model_validate_json(content)
        known = [read_file(one) for one in stored.files]
        files = {
            (version.name, version.version): file
            for version, position in stored.versions
            if position is not None and (file := known[position]) is not None
        }
    except (ValidationError, DecodeError, IndexError) as error:
        raise StoreError("it is damaged") from error
    versions = {(version.name, version.version): version for version, _ in stored.versions}
    return Reading({model.name: model for model in stored.models}, versions), files


def write_file(file: ModelFile) -> StoredFile | None:
    """Return a file as it is stored; None where that would not be exact."""
    message = None
    try:
        # An MLmodel file may hold a lone surrogate, which UTF-8 can't.
        "".join((file.fault, file.loader, *file.flavors)).encode()
        if file.signature is not None:
            message = to_wire(file.signature, schemas=False)
            if from_wire(message).digest != file.signature.digest:
                return None
    except ValueError:
        return None
    content = None if message is None else message.SerializeToString(deterministic=True)
    return StoredFile(content, file.flavors, file.fault, file.loader)


def read_file(stored: StoredFile) -> ModelFile | None:
    """Return what `write_file` got; None where this version reads its signature otherwise."""
    signature = None
    if stored.signature is not None:
        message = signature_pb2.Signature.FromString(stored.signature)
        try:
            signature = from_wire(message)
        except SignatureError:
            return None
        if signature.digest != message.digest:
            return None
    return ModelFile(signature, stored.flavors, stored.fault, loader=stored.loader)


def _seal(body: bytes) -> bytes:
    """Put a line before a content that says what it is, and its checksum."""
    return f'{_HEAD}{FORMAT},"sha256":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode() + body


def _unseal(content: bytes) -> bytes:
    """Return what `_seal` was called with."""
    if not content.startswith(_HEAD.encode()):
        raise StoreError("it is not a stored catalog")
    if not content.startswith(f"{_HEAD}{FORMAT},".encode()):
        raise StoreError("it was written by another version of this program")
    body = content.partition(b"\n")[2]
    if content != _seal(body):
        raise StoreError("it is damaged")
    return body


@dataclass(frozen=True)
class Stored:
    """A stored snapshot: what the registry listed, the files that had been read, and its age in seconds, at least 0."""

    reading: Reading
    files: Files
    age: float


class SnapshotStore:
    """Keeps the snapshot of one registry in a folder; several processes may share it.

    The modification time of its file is the time of the last good refresh. `registry` identifies the registry, without
    credentials; `clock` is monotonic.
    """

    def __init__(
        self,
        folder: Path,
        registry: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = folder / f"{hashlib.sha256(registry.encode()).hexdigest()[:32]}.jsonl"
        self._file = _PrivateFile(self.path, f".{self.path.stem}-", "the stored catalog")
        self._clock = clock
        self._wall_clock = wall_clock
        self._saved_revision = ""
        self._due = float("-inf")

    def load(self) -> Stored | None:
        """Return what is stored; None where there is nothing that can be used."""
        found = self._file.read(lambda content: decode(_unseal(content)), MAX_BYTES)
        if found is None:
            return None
        now = self._wall_clock()
        self._file.remove_leftovers(now - _TEMPORARY_SECONDS)
        (reading, files), changed = found
        return Stored(reading, files, max(0.0, now - changed))

    def outdated(self, revision: str, *, at_once: bool = False) -> bool:
        """Return whether it is time to save a revision; `at_once`: even soon after the last time."""
        return revision != self._saved_revision and (at_once or self._clock() >= self._due)

    def save(self, revision: str, reading: Reading, files: Files) -> None:
        """Write what is known now; see `encode`."""
        began = self._clock()
        is_written = self._file.write(_seal(encode(reading, files)), MAX_BYTES, self._wall_clock())
        # Otherwise what is there may be gone; the next change writes it anew.
        self._saved_revision = revision if is_written else ""
        self._due = began + max(SAVE_SECONDS, (self._clock() - began) * _SAVE_PAUSE)

    def touch(self, revision: str) -> None:
        """Note that the registry was read now, where its revision is the one that was saved."""
        if revision == self._saved_revision and not self._file.touch(self._wall_clock()):
            self._saved_revision = ""


class UsedVersion(NamedTuple):
    """A version that is in use, by its model's name in its registry; `content` is a hash of its files and signature."""

    name: str
    version: str
    content: str


class _Used(BaseModel):
    kind: Literal["prinz-enricher versions in use, format 1"]
    used: list[UsedVersion]


class UsedFile:
    """Keeps which versions of one registry are in use, beside the file of its snapshot."""

    def __init__(self, snapshot: Path) -> None:
        self.path = snapshot.with_suffix(".used.json")
        # With the snapshot's prefix, so that its store removes what a killed process has left of this file too.
        self._file = _PrivateFile(self.path, f".{snapshot.stem}-", "the list of versions in use")
        self._saved: set[UsedVersion] | None = None

    def load(self) -> set[UsedVersion]:
        """Return what is stored; nothing where it can't be used."""
        found = self._file.read(_Used.model_validate_json, MAX_USED_BYTES)
        return set() if found is None else set(found[0].used)

    def save(self, used: Iterable[UsedVersion]) -> None:
        """Write which versions are in use, where that is not what was written last."""
        now = set(used)
        if now != self._saved:
            self._saved = now
            content = _Used(kind="prinz-enricher versions in use, format 1", used=sorted(now))
            self._file.write(content.model_dump_json().encode(), MAX_USED_BYTES)


class _PrivateFile:
    """A file that nobody else can have written, replaced as a whole. Violations are logged, at writing once."""

    def __init__(self, path: Path, temporary_prefix: str, what: str) -> None:
        self._path = path
        self._temporary_prefix = temporary_prefix
        self._what = what
        self._has_failed = False

    def read(self, parse: Callable[[bytes], T], max_bytes: int) -> tuple[T, float] | None:
        """Return the content and the time of the last change; None where the file can't be used."""
        try:
            content, changed = self._read(max_bytes)
            return parse(content), changed
        except FileNotFoundError:
            return None
        except (OSError, StoreError, ValidationError) as error:
            event = f"{self._what} is not used"
            _log.warning(event, file=str(self._path), fault=_describe(error))
            return None

    def write(self, content: bytes, max_bytes: int, changed: float | None = None) -> bool:
        """Replace the content; return whether that worked."""
        try:
            self._replace(content, max_bytes, changed)
        except (OSError, StoreError) as error:
            return self._fail(error)
        self._has_failed = False
        return True

    def touch(self, changed: float) -> bool:
        """Set the time of the last change; return whether that worked."""
        try:
            os.utime(self._path, (changed, changed))
        except OSError as error:
            return self._fail(error)
        return True

    def remove_leftovers(self, before: float) -> None:
        """Remove what a process that was killed before a time has left."""
        for file in self._path.parent.glob(f"{self._temporary_prefix}*"):
            with suppress(OSError):
                if file.lstat().st_mtime < before:
                    file.unlink()

    def _fail(self, error: Exception) -> bool:
        if not self._has_failed:
            event = f"{self._what} can't be stored"
            _log.warning(event, file=str(self._path), fault=_describe(error))
        self._has_failed = True
        return False

    def _read(self, max_bytes: int) -> tuple[bytes, float]:
        _check_folder(self._path.parent)
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError("it is not a file")
            if _others_may_write(status):
                raise StoreError("it is writable by other users")
            if status.st_size > max_bytes:
                raise StoreError(f"it is larger than {max_bytes} bytes")
            return file.read(max_bytes), status.st_mtime

    def _replace(self, content: bytes, max_bytes: int, changed: float | None) -> None:
        if len(content) > max_bytes:
            raise StoreError(f"it would be larger than {max_bytes} bytes")
        folder = self._path.parent
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _check_folder(folder)
        descriptor, name = tempfile.mkstemp(prefix=self._temporary_prefix, dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                # Before its time is set, which a later write would change.
                file.flush()
                if changed is not None:
                    os.utime(descriptor, (changed, changed))
                os.fsync(descriptor)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _check_folder(folder: Path) -> None:
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError("its folder is not a folder")
    if _others_may_write(status):
        raise StoreError("its folder is writable by other users; choose a subfolder, which is created with mode 0700")


def _others_may_write(status: os.stat_result) -> bool:
    return status.st_uid not in (os.geteuid(), 0) or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _describe(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "it is damaged, or not such a list"
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
