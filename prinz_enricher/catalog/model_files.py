"""The MLmodel files of the versions: read several at a time, kept, and checked again in turn.

`mlflow.models.set_signature` replaces a file in its place, and no time in the registry shows it. So each file is
checked again within a time to live, in one conditional request; those checked longest ago first.
"""

import math
import time
import weakref
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

import structlog

from prinz_enricher.catalog.mlmodel_parser import MlmodelParser
from prinz_enricher.catalog.snapshot import NOT_READ, Files, ModelFile, VersionKey
from prinz_enricher.registry.entities import READY, ModelVersion
from prinz_enricher.registry.mlmodel import MlmodelFile, MlmodelPlace
from prinz_enricher.registry.registry_client import RegistryClient
from prinz_enricher.registry.registry_errors import (
    MlmodelUnreadable,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
)
from prinz_enricher.signature.mlflow_json import with_outputs

MAX_UNREACHABLE = 8  # After how many requests in a row without an answer the others wait for the next refresh.
# Files that are checked again each time, at least: a registry of no more is checked whole each time.
CHECKED_EACH_TIME = 64
# How much faster than the time to live demands the files are checked, so that a slow refresh does not break it.
_HASTE = 1.25
MAX_BYTES = 128 * 1024 * 1024  # Of all files with another content; in memory they take two or three times as much.
_MIN_PAUSE = 1.0  # Seconds between two requests for a file that calls wait for, and that can't be read.
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one file."""

    version: ModelVersion
    file: ModelFile
    checked: float = -math.inf  # When it was last checked, in seconds of the clock.
    place: MlmodelPlace | None = None  # Where it is; None where that was not requested yet.
    # The file as the server returned it; None where there is nothing to compare a later one with.
    read: MlmodelFile | None = None
    doubted: bool = False  # Whether it was worse the last time than `file`, which was good.
    failing: bool = False  # Whether it could not be checked the last time.


class ModelFiles:
    """Reads MLmodel files, `threads` at once, and keeps what they hold, until the version's source changes.

    Each is checked again within `time_to_live` seconds of a monotonic clock. One thread calls the methods that read;
    any may call `prioritize` and `observe`.
    """

    def __init__(
        self,
        client: RegistryClient,
        threads: int = 8,
        *,
        time_to_live: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._parser = MlmodelParser()
        self._threads = threads
        self.time_to_live = time_to_live
        self._clock = clock
        self._known: dict[VersionKey, _Known] = {}
        self._last_read = -math.inf
        self._to_do: list[VersionKey] = []
        self._urgent: set[VersionKey] = set()
        # What is the same in many versions is stored once.
        self._shared: weakref.WeakValueDictionary[bytes, ModelFile] = weakref.WeakValueDictionary()
        # Of the files that were parsed, by their fingerprints.
        self._sizes: dict[bytes, int] = {}
        self._bytes = 0
        self._counting = Lock()
        # The file of a version, and the same with the outputs that were observed.
        self._observed: dict[VersionKey, tuple[ModelFile, ModelFile]] = {}
        self._news = False

    def close(self) -> None:
        """End the process that reads large files, until there is another one to read."""
        self._parser.close()

    def adopt(self, versions: Iterable[ModelVersion], files: Files) -> Files:
        """Start from what was known before this process began, to be checked again in turn; return as `read` does."""
        for version in versions:
            if version.status == READY:
                self._known[_key(version)] = _Known(version, self._share(files.get(_key(version), NOT_READ)))
        return self._contents()

    def prioritize(self, name: str, version: str) -> None:
        """Have the file of a version read before others, because a call waits for it."""
        self._urgent.add((name, version))

    def observe(self, name: str, version: str, outputs: str) -> None:
        """Keep a version's observed outputs, in MLflow's JSON of a schema; raises SignatureError if invalid."""
        known = self._known.get((name, version))
        if known is not None and known.file.signature is not None:
            seen = replace(known.file, observed=with_outputs(known.file.signature, outputs))
            self._observed[name, version] = (known.file, seen)
            self._news = True

    @property
    def behind(self) -> bool:
        """Whether there is something to read, or to publish, before the next refresh."""
        return bool(self._to_do or self._urgent or self._news)

    @property
    def settled(self) -> Files:
        """What each file holds that was read."""
        return {key: known.file for key, known in self._known.items() if not known.file.pending}

    def read(
        self,
        versions: Iterable[ModelVersion],
        stopped: Callable[[], bool] = lambda: False,
        *,
        first: Collection[VersionKey] = (),
        budget: float = math.inf,
    ) -> Files:
        """Read the files that are not known yet, check some that are, and forget those that are gone.

        A file that can't be read for a passing reason is a fault of its version now where it was never read, and is
        tried again next time; where it was, it stays as it was. Of all versions only the files of READY ones are read,
        those of `first` before others, and returned. Once `stopped`, or after `budget` seconds, no more requests are
        started; `read_on` goes on.
        """
        former, self._known = self._known, {}
        for version in versions:
            if version.status == READY:
                known = former.get(_key(version))
                if known is None or known.version.source != version.source:
                    known = _Known(version, NOT_READ)
                self._known[_key(version)] = known
        self._sizes = {one: size for one, size in self._sizes.items() if one in self._shared}
        self._bytes = sum(self._sizes.values())
        began = self._clock()
        unread = [key for key, known in self._known.items() if known.file.pending]
        unread.sort(key=lambda key: key not in first)
        self._to_do = [*unread, *self._due(first, began)]
        self._last_read = began
        return self.read_on(stopped, budget=budget)

    def read_on(self, stopped: Callable[[], bool] = lambda: False, *, budget: float) -> Files:
        """Go on with the files that `read` had no time for, those that a call waits for first; otherwise as `read`."""
        requested, self._urgent = self._urgent, set()
        now = self._clock()
        urgent = [
            key
            for key, known in self._known.items()
            if key in requested and known.file.pending and now - known.checked >= _MIN_PAUSE
        ]
        # What is in both is read once: a dictionary keeps the order.
        keys = list(dict.fromkeys([*urgent, *self._to_do]))
        self._to_do = []
        self._to_do = self._check_all(keys, stopped, now + budget)
        return self._contents()

    def _contents(self) -> Files:
        self._news = False
        contents = {key: known.file for key, known in self._known.items()}
        for key, (file, seen) in list(self._observed.items()):
            if contents.get(key) is file:
                contents[key] = seen
            else:
                del self._observed[key]
        return contents

    def _due(self, first: Collection[VersionKey], now: float) -> list[VersionKey]:
        """Return what to check again: what is in doubt, and what was not checked for longest."""
        known = [key for key, one in self._known.items() if not one.file.pending]
        share = max(0.0, now - self._last_read) / self.time_to_live if self._last_read > -math.inf else 0.0
        count = max(CHECKED_EACH_TIME, math.ceil(len(known) * min(1.0, share * _HASTE)))
        known.sort(key=lambda key: (not self._known[key].doubted, self._known[key].checked, key not in first))
        return known[:count]

    def _check_all(self, keys: list[VersionKey], stopped: Callable[[], bool], deadline: float) -> list[VersionKey]:
        """Read or check files; return those for which there was no time."""
        # Since the last answer; so a frozen registry delays no refresh for long.
        unanswered: list[VersionKey] = []
        # One time for all: those of one refresh have the same age.
        now = self._clock()
        late: set[VersionKey] = set()

        def check(key: VersionKey) -> None:
            if stopped() or len(unanswered) >= MAX_UNREACHABLE:
                return
            if self._clock() >= deadline:
                late.add(key)
                return
            known = self._known[key]
            try:
                found = self._check(known)
                unanswered.clear()
            except RegistryError as error:
                if isinstance(error, RegistryUnreachable):
                    unanswered.append(key)
                else:
                    unanswered.clear()
                found = self._failed(known, error)
            self._known[key] = replace(found, checked=now)

        if keys:
            with ThreadPoolExecutor(min(self._threads, len(keys)), thread_name_prefix="mlmodel") as pool:
                # The list gets each result, so that an error of ours is not lost.
                list(pool.map(check, keys))
        return [key for key in keys if key in late]

    def _check(self, known: _Known) -> _Known:
        """Read a file, or check it; what is worse than what we know of it is believed the second time."""
        place = known.place or self._client.mlmodel_place(known.version)
        read = self._client.mlmodel_at(place, known.read)
        same = replace(known, place=place, read=replace(read, content=None), doubted=False, failing=False)
        if read.content is None:
            return same
        try:
            file = self._parser.parse(read.content)
            if not self._has_room(file, len(read.content)):
                why = f"a registry has {MAX_BYTES} bytes of MLmodel files at most; exclude models, or delete versions"
                file = ModelFile(None, file.flavors, f"has a signature that is not kept: {why}", loader=file.loader)
                same = replace(same, read=None)
            file = self._share(file)
        except MlmodelUnreadable as error:
            # Until it changes it is not parsed again.
            file = self._share(ModelFile(None, fault=_fault(error)))
            if known.file.fault != file.fault:
                _warn(known, file.fault)
        if _worse(file, known.file) and not known.doubted:
            # It may be half written.
            return _doubt(known, file.fault)
        return replace(same, file=file)

    def _failed(self, known: _Known, error: RegistryError) -> _Known:
        was_read = not known.file.pending
        # Who may not read a file any more may again, so what it held stays; one that was never read is refused.
        refused = known.file.signature is None and isinstance(error, RegistryRefused) and error.forbidden
        if error.transient and not refused:
            if not known.failing:
                _warn(known, _fault(error, " now"))
            file = known.file if was_read else ModelFile(None, fault=_fault(error, " now"), pending=True)
            return replace(known, file=self._share(file), failing=True)
        file = ModelFile(None, fault=_fault(error))
        if _worse(file, known.file) and not known.doubted:
            return _doubt(known, file.fault)
        if known.file.fault != file.fault:
            _warn(known, file.fault)
        # Its place may have changed too, so that is forgotten.
        return _Known(known.version, self._share(file))

    def _has_room(self, file: ModelFile, size: int) -> bool:
        """Return whether a file of so many bytes can be kept, and count it; what many versions share counts once."""
        with self._counting:
            if file.fingerprint not in self._sizes and self._bytes + size <= MAX_BYTES:
                self._sizes[file.fingerprint] = size
                self._bytes += size
            return file.fingerprint in self._sizes

    def _share(self, file: ModelFile) -> ModelFile:
        """Return the one object for this content."""
        return NOT_READ if file is NOT_READ else self._shared.setdefault(file.fingerprint, file)


def _key(version: ModelVersion) -> VersionKey:
    return version.name, version.version


def _worse(new: ModelFile, old: ModelFile) -> bool:
    """Return whether less is known now of a file that was read before."""
    lost = new.signature is None and old.signature is not None
    return not old.pending and (lost or (bool(new.fault) and not old.fault))


def _doubt(known: _Known, fault: str) -> _Known:
    """Keep what is known for one more check, which begins from nothing."""
    _warn(known, fault)
    return replace(known, place=None, read=None, doubted=True, failing=False)


def _fault(error: RegistryError, now: str = "") -> str:
    if isinstance(error, RegistryRefused) and error.missing:
        words = f" ({error.error_code}: {error.words})" if error.words else ""
        return f"has no MLmodel file where the registry says that it is{words}"
    return f"can't be read{now}: {error}"


def _warn(known: _Known, fault: str) -> None:
    _log.warning("version can't be read", model=known.version.name, version=known.version.version, fault=fault)
