"""What outlives the process: the last good snapshot of a registry, and which of its versions are in use.

So a process that starts while the registry is down serves what was known, and loads what was in use without a call.
Only files that nobody else can have written are read; each is replaced as a whole. No fault of the disk reaches the
caller: it is logged, at writing once.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import structlog
from google.protobuf.message import DecodeError
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from prinz_enricher.catalog.reading import Reading
from prinz_enricher.catalog.snapshot import Files, ModelFile, VersionKey
from prinz_enricher.contract import signature_pb2
from prinz_enricher.registry.entities import ModelVersion, RegisteredModel
from prinz_enricher.signature.types import Signature, SignatureError
from prinz_enricher.signature.wire import from_wire, to_wire

MAX_BYTES = 256 * 1024 * 1024
"""How large a stored snapshot may be."""

MAX_USED_BYTES = 1024 * 1024
"""How large the list of versions in use may be."""

SAVE_SECONDS = 10.0
"""Between two writes at least, so that a registry that changes all the time does not keep the disk busy."""

FORMAT = 2
_HEAD = '{"kind":"prinz-enricher catalog","format":'
_TEMPORARY_SECONDS = 3600.0
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

_log = structlog.get_logger(__name__)


class StoreError(Exception):
    """What is stored can't be used, or can't be stored; the text says why."""


class _StoredFile(NamedTuple):
    """A `ModelFile`, with the position of its signature in the list of all."""

    name: str
    version: str
    flavors: tuple[str, ...]
    fault: str
    loader: str
    signature: int | None


def _check_number(version: ModelVersion) -> ModelVersion:
    if not (version.version.isascii() and version.version.isdecimal() and len(version.version) <= 18):
        raise ValueError("a version has no number")
    return version


class _Content(BaseModel):
    """A stored snapshot: what the registry listed, what MLmodel files held, and each signature once, as on the wire."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    models: list[RegisteredModel]
    versions: list[Annotated[ModelVersion, AfterValidator(_check_number)]]
    files: list[_StoredFile]
    signatures: list[bytes]


def encode(reading: Reading, files: Files) -> bytes:
    """Return what is known as JSON; a file that can't be written exactly is left out, and read from the registry again.

    Args:
        reading: What the registry listed.
        files: What MLmodel files hold; none that is pending.
    """
    positions: dict[bytes, int | None] = {}
    signatures: list[bytes] = []
    stored: list[_StoredFile] = []
    for (name, version), file in files.items():
        position = None
        if any("\ud800" <= character <= "\udfff" for character in "".join((file.fault, file.loader, *file.flavors))):
            # A lone surrogate, which an MLmodel file may hold, and UTF-8 can't.
            continue
        if file.signature is not None:
            if file.fingerprint not in positions:
                message = _exact_message(file.signature)
                positions[file.fingerprint] = None if message is None else len(signatures)
                signatures += [] if message is None else [message]
            position = positions[file.fingerprint]
            if position is None:
                continue
        stored.append(_StoredFile(name, version, file.flavors, file.fault, file.loader, position))
    models, versions = list(reading.models.values()), list(reading.versions.values())
    content = _Content.model_construct(models=models, versions=versions, files=stored, signatures=signatures)
    return content.model_dump_json().encode()


def decode(content: bytes) -> tuple[Reading, Files]:
    """Return what `encode` was called with; without signatures that this program reads otherwise than the one before.

    Raises:
        StoreError: It is not such a content.
    """
    try:
        stored = _Content.model_validate_json(content)
        signatures = [_read_signature(one) for one in stored.signatures]
    except (ValidationError, DecodeError) as error:
        raise StoreError("it is damaged") from error
    files: dict[VersionKey, ModelFile] = {}
    for name, version, flavors, fault, loader, position in stored.files:
        if position is not None and not 0 <= position < len(signatures):
            raise StoreError("it is damaged")
        signature = None if position is None else signatures[position]
        if signature is not None or position is None:
            files[name, version] = ModelFile(signature, flavors, fault, loader=loader)
    models = {model.name: model for model in stored.models}
    return Reading(models, {(version.name, version.version): version for version in stored.versions}), files


def _exact_message(signature: Signature) -> bytes | None:
    try:
        message = to_wire(signature, schemas=False)
        exact = from_wire(message).digest == signature.digest
    except ValueError:
        return None
    return message.SerializeToString(deterministic=True) if exact else None


def _read_signature(content: bytes) -> Signature | None:
    message = signature_pb2.Signature.FromString(content)
    try:
        signature = from_wire(message)
    except SignatureError:
        return None
    return signature if signature.digest == message.digest else None


@dataclass(frozen=True)
class Stored:
    """A stored snapshot.

    Attributes:
        reading: What the registry listed.
        files: What MLmodel files held; only those that had been read.
        age: Seconds since the registry was last read; never negative, whatever the clock did.
    """

    reading: Reading
    files: Files
    age: float


class SnapshotStore:
    """Keeps the snapshot of one registry in a folder; several processes may share it.

    The modification time of its file is the time of the last good refresh.

    Args:
        folder: Created where it does not exist.
        registry: Tells the registry from others; no credentials.
        clock: Monotonic, in seconds.
        wall_clock: Seconds since the epoch.
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
        self._clock = clock
        self._wall_clock = wall_clock
        self._saved_revision = ""
        self._saved_at = float("-inf")
        self._has_failed = False

    def load(self) -> Stored | None:
        """Return what is stored; None where there is nothing that can be used."""
        try:
            content, changed = _read(self.path, MAX_BYTES)
            reading, files = decode(_unseal(content))
        except FileNotFoundError:
            return None
        except (OSError, StoreError) as error:
            _log.warning("the stored catalog is not used", file=str(self.path), fault=_describe(error))
            return None
        self._remove_leftovers()
        return Stored(reading, files, max(0.0, self._wall_clock() - changed))

    def outdated(self, revision: str, *, at_once: bool = False) -> bool:
        """Return whether it is time to save a revision; `at_once`: even soon after the last time."""
        return revision != self._saved_revision and (at_once or self._clock() - self._saved_at >= SAVE_SECONDS)

    def save(self, revision: str, reading: Reading, files: Files) -> None:
        """Write what is known now; see `encode`."""
        self._saved_at = self._clock()
        try:
            _replace(self.path, _seal(encode(reading, files)), f".{self.path.stem}-", self._wall_clock())
        except (OSError, StoreError) as error:
            self._failed(error)
        else:
            self._saved_revision = revision
            self._has_failed = False

    def touch(self, revision: str) -> None:
        """Note that the registry was read now, where its revision is the one that was saved."""
        if revision == self._saved_revision:
            now = self._wall_clock()
            try:
                os.utime(self.path, (now, now))
            except OSError as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._has_failed:
            _log.warning("the catalog can't be stored", file=str(self.path), fault=_describe(error))
        self._has_failed = True
        # What is there may be gone; the next change writes it anew.
        self._saved_revision = ""

    def _remove_leftovers(self) -> None:
        """Remove what a process that was killed has left."""
        for file in self.path.parent.glob(f".{self.path.stem}-*"):
            with suppress(OSError):
                if self._wall_clock() - file.lstat().st_mtime > _TEMPORARY_SECONDS:
                    file.unlink()


class UsedVersion(NamedTuple):
    """A version that is in use.

    Attributes:
        name: Its model's name in its registry.
        version: Its number.
        content: Tells its files and its signature from those of another version with that name and number.
    """

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
        # The snapshot's own, so that it removes what a killed process has left of this file too.
        self._temporary_prefix = f".{snapshot.stem}-"
        self._saved: set[UsedVersion] | None = None
        self._has_failed = False

    def load(self) -> set[UsedVersion]:
        """Return what is stored; nothing where it can't be used."""
        try:
            return set(_Used.model_validate_json(_read(self.path, MAX_USED_BYTES)[0]).used)
        except FileNotFoundError:
            pass
        except (OSError, StoreError, ValidationError) as error:
            _log.warning("the list of versions in use is not used", file=str(self.path), fault=_describe(error))
        return set()

    def save(self, used: Iterable[UsedVersion]) -> None:
        """Write which versions are in use, where that is not what was written last."""
        now = set(used)
        if now == self._saved:
            return
        self._saved = now
        content = _Used(kind="prinz-enricher versions in use, format 1", used=sorted(now))
        try:
            _replace(self.path, content.model_dump_json().encode(), self._temporary_prefix)
        except (OSError, StoreError) as error:
            if not self._has_failed:
                _log.warning("the list of versions in use can't be stored", file=str(self.path), fault=_describe(error))
            self._has_failed = True
        else:
            self._has_failed = False


def _seal(body: bytes) -> bytes:
    """Put a line before a content that says what it is, and its checksum."""
    content = f'{_HEAD}{FORMAT},"sha256":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode() + body
    if len(content) > MAX_BYTES:
        raise StoreError(f"it would be larger than {MAX_BYTES} bytes")
    return content


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


def _check_folder(folder: Path) -> None:
    """Refuse a folder that others could put a file into."""
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError("its folder is not a folder")
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_MAY_WRITE:
        raise StoreError("its folder is writable by other users; choose a subfolder, which is created with mode 0700")


def _read(path: Path, max_bytes: int) -> tuple[bytes, float]:
    """Return the content of a file that only we can have written, and its modification time."""
    _check_folder(path.parent)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError("it is not a file")
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_MAY_WRITE:
            raise StoreError("it is writable by other users")
        if status.st_size > max_bytes:
            raise StoreError(f"it is larger than {max_bytes} bytes")
        return file.read(max_bytes), status.st_mtime


def _replace(path: Path, content: bytes, temporary_prefix: str, changed: float | None = None) -> None:
    """Write a file as a whole, with a modification time; its folder is created where it does not exist."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
    _check_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=temporary_prefix, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            # Before its time is set, which a later write would change.
            file.flush()
            if changed is not None:
                os.utime(descriptor, (changed, changed))
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _describe(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "it is damaged, or not such a list"
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
