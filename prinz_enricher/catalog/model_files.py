"""The MLmodel files of the versions: read several at a time, kept, and looked at again in turn.

`mlflow.models.set_signature` writes a file anew in its place, and no time in the registry tells of it. So each file is
looked at again within a time to live, in one conditional request; those looked at longest ago first.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import structlog

from prinz_enricher.catalog.snapshot import NOT_READ, ModelFile
from prinz_enricher.registry.client import RegistryClient
from prinz_enricher.registry.entities import READY, ModelVersion
from prinz_enricher.registry.errors import RegistryError, RegistryRefused, RegistryUnreachable
from prinz_enricher.registry.mlmodel_file import MlmodelFile, MlmodelPlace
from prinz_enricher.signature.mlflow_json import read_signature, with_outputs
from prinz_enricher.signature.types import Origin, SignatureError

MAX_UNREACHABLE = 8
"""After how many requests without an answer, one after the other, the others wait for the next look."""

CHECKED_EACH_TIME = 64
"""Files that are looked at again each time, at least: a registry of no more is seen whole each time."""

_HASTE = 1.25
"""How much faster than the time to live asks the files are gone through, so that a slow look does not break it."""

_MIN_PAUSE = 1.0
"""Seconds between two requests for a file that calls wait for, and that can't be read."""

_log = structlog.get_logger(__name__)

VersionKey = tuple[str, str]
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one file.

    Attributes:
        version: Whose it is.
        file: What it holds.
        checked: When it was last looked at, in seconds of the clock.
        place: Where it is; None where we were not told yet.
        read: The file as the server gave it; None where there is nothing to compare a later one with.
        doubted: Whether it was worse the last time than `file`, which was good.
        failing: Whether it could not be looked at the last time.
    """

    version: ModelVersion
    file: ModelFile
    checked: float = -math.inf
    place: MlmodelPlace | None = None
    read: MlmodelFile | None = None
    doubted: bool = False
    failing: bool = False


class ModelFiles:
    """Reads MLmodel files and keeps what they hold, by name, number and source of the version.

    One thread reads; any may call `want` and `observe`.
    """

    def __init__(
        self,
        client: RegistryClient,
        threads: int = 8,
        *,
        time_to_live: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            client: Where to read them.
            threads: How many to read at once.
            time_to_live: Seconds within which each file is looked at again.
            clock: Tells seconds, and never goes back.
        """
        self._client = client
        self._threads = threads
        self._time_to_live = time_to_live
        self._clock = clock
        self._known: dict[_Key, _Known] = {}
        self._last_look = -math.inf
        self._to_do: list[_Key] = []
        self._wanted: set[VersionKey] = set()
        # What is the same in many versions is there once.
        self._shared: weakref.WeakValueDictionary[bytes, ModelFile] = weakref.WeakValueDictionary()
        # By the version: its file, and the same with the outputs that were observed.
        self._observed: dict[VersionKey, tuple[ModelFile, ModelFile]] = {}
        self._news = False

    def adopt(
        self, versions: Iterable[ModelVersion], files: Mapping[VersionKey, ModelFile]
    ) -> Mapping[VersionKey, ModelFile]:
        """Take in what was known before this process began; it is looked at again in turn.

        Args:
            versions: The versions that were there.
            files: What their files held; only those that had been read.

        Returns:
            What each READY version's file holds, as `read` does.
        """
        for version in versions:
            if version.status == READY:
                file = files.get((version.name, version.version), NOT_READ)
                self._known[_key(version)] = _Known(version, self._share(file))
        return self._contents()

    def want(self, name: str, version: str) -> None:
        """Have the file of a version read before others, because a call waits for it."""
        self._wanted.add((name, version))

    def observe(self, name: str, version: str, outputs: str) -> None:
        """Take note of the outputs that a version was seen to give, until its file changes.

        Args:
            name: Of its model.
            version: Its number.
            outputs: MLflow's JSON of a schema.

        Raises:
            SignatureError: They can't be read.
        """
        known = next((one for key, one in self._known.items() if key[:2] == (name, version)), None)
        if known is not None and known.file.signature is not None:
            seen = replace(known.file, observed=with_outputs(known.file.signature, outputs))
            self._observed[name, version] = (known.file, seen)
            self._news = True

    @property
    def behind(self) -> bool:
        """Whether there is something to read, or to tell, before the next look at the registry."""
        return bool(self._to_do or self._wanted or self._news)

    @property
    def settled(self) -> Mapping[VersionKey, ModelFile]:
        """What each file holds that was read, by name and number of the version."""
        return {key[:2]: known.file for key, known in self._known.items() if not known.file.pending}

    def read(
        self,
        versions: Iterable[ModelVersion],
        stopped: Callable[[], bool] = lambda: False,
        *,
        first: Collection[VersionKey] = (),
        budget: float = math.inf,
    ) -> Mapping[VersionKey, ModelFile]:
        """Read the files that are not known yet, look again at some that are, and forget those that are gone.

        A file that can't be read for a passing reason is a fault of its version now where it was never read, and is
        tried again next time; where it was, it stays as it was.

        Args:
            versions: All versions of the registry; only those that are READY are looked at.
            stopped: Whether to read no more.
            first: Versions whose files go before others.
            budget: Seconds after which no more requests are begun; `read_on` goes on.

        Returns:
            What each READY version's file holds, by name and number.
        """
        ready = {_key(version): version for version in versions if version.status == READY}
        former = self._known
        self._known = {key: former.get(key) or _Known(version, NOT_READ) for key, version in ready.items()}
        began = self._clock()
        unread = [key for key, known in self._known.items() if known.file.pending]
        unread.sort(key=lambda key: key[:2] not in first)
        self._to_do = [*unread, *self._due(first, began)]
        self._last_look = began
        return self.read_on(stopped, budget=budget)

    def read_on(self, stopped: Callable[[], bool] = lambda: False, *, budget: float) -> Mapping[VersionKey, ModelFile]:
        """Go on with the files that `read` had no time for, those that a call waits for first; otherwise as `read`."""
        wanted, self._wanted = self._wanted, set()
        now = self._clock()
        hurried = [
            key
            for key, known in self._known.items()
            if key[:2] in wanted and known.file.pending and now - known.checked >= _MIN_PAUSE
        ]
        # What is in both is read once: a dictionary keeps the order.
        keys = list(dict.fromkeys([*hurried, *self._to_do]))
        self._to_do = []
        self._to_do = self._look_at(keys, stopped, now + budget)
        return self._contents()

    def _contents(self) -> Mapping[VersionKey, ModelFile]:
        self._news = False
        contents = {key[:2]: known.file for key, known in self._known.items()}
        for key, (file, seen) in list(self._observed.items()):
            if contents.get(key) is file:
                contents[key] = seen
            else:
                del self._observed[key]
        return contents

    def _due(self, first: Collection[VersionKey], now: float) -> list[_Key]:
        """Return what to look at again: what is in doubt, and what was not looked at for longest."""
        known = [key for key, one in self._known.items() if not one.file.pending]
        share = max(0.0, now - self._last_look) / self._time_to_live if self._last_look > -math.inf else 0.0
        count = max(CHECKED_EACH_TIME, math.ceil(len(known) * min(1.0, share * _HASTE)))
        known.sort(key=lambda key: (not self._known[key].doubted, self._known[key].checked, key[:2] not in first))
        return known[:count]

    def _look_at(self, keys: list[_Key], stopped: Callable[[], bool], deadline: float) -> list[_Key]:
        """Look at files; return those for which there was no time."""
        breaker = _Breaker(MAX_UNREACHABLE)
        # One time for all: those of one look are of the same age.
        now = self._clock()
        late: set[_Key] = set()

        def look(key: _Key) -> None:
            if stopped() or breaker.open:
                return
            if self._clock() >= deadline:
                late.add(key)
                return
            known = self._known[key]
            try:
                found = self._check(known)
                breaker.record(reached=True)
            except RegistryError as error:
                breaker.record(reached=not isinstance(error, RegistryUnreachable))
                found = self._failed(known, error)
            self._known[key] = replace(found, checked=now)

        if keys:
            with ThreadPoolExecutor(min(self._threads, len(keys)), thread_name_prefix="mlmodel") as pool:
                # The list asks each for its result, so that an error of ours is not lost.
                list(pool.map(look, keys))
        return [key for key in keys if key in late]

    def _check(self, known: _Known) -> _Known:
        """Look at a file; what is worse than what we know of it is believed the second time."""
        place = known.place or self._client.mlmodel_place(known.version)
        read = self._client.mlmodel_at(place, known.read)
        same = replace(known, place=place, read=replace(read, entries=None), doubted=False, failing=False)
        if read.entries is None:
            return same
        file = self._share(_read_file(read.entries))
        if _worse(file, known.file) and not known.doubted:
            # It may be written just now.
            return _doubt(known, file.fault)
        return replace(same, file=file)

    def _failed(self, known: _Known, error: RegistryError) -> _Known:
        was_read = not known.file.pending
        # Who may not read a file any more may again, so what it held stays; one that we never could read is refused.
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
        # Where it is may have changed too, so that is forgotten.
        return _Known(known.version, self._share(file))

    def _share(self, file: ModelFile) -> ModelFile:
        """Return the one object for this content."""
        return NOT_READ if file is NOT_READ else self._shared.setdefault(file.fingerprint, file)


class _Breaker:
    """Opens when a registry has given no answer several times in a row, so that a frozen one holds no refresh long."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        return self._failures >= self._limit

    def record(self, *, reached: bool) -> None:
        with self._lock:
            self._failures = 0 if reached else self._failures + 1


def _key(version: ModelVersion) -> _Key:
    return (version.name, version.version, version.source)


def _read_file(entries: Mapping[str, object]) -> ModelFile:
    listed = entries.get("flavors")
    flavors = tuple(sorted(str(flavor) for flavor in listed)) if isinstance(listed, Mapping) else ()
    python = listed.get("python_function") if isinstance(listed, Mapping) else None
    named = python.get("loader_module") if isinstance(python, Mapping) else None
    loader = named if isinstance(named, str) else ""
    try:
        signature = read_signature(entries)
    except SignatureError as error:
        return ModelFile(None, flavors, f"has a signature that can't be read: {error}", loader=loader)
    fault = "has no signature" if signature.origin is Origin.MISSING else ""
    return ModelFile(signature, flavors, fault, loader=loader)


def _worse(new: ModelFile, old: ModelFile) -> bool:
    """Tell whether less is known now of a file that was read before."""
    lost = new.signature is None and old.signature is not None
    return not old.pending and (lost or (bool(new.fault) and not old.fault))


def _doubt(known: _Known, fault: str) -> _Known:
    """Keep what is known for one more look, which begins from nothing."""
    _warn(known, fault)
    return replace(known, place=None, read=None, doubted=True, failing=False)


def _fault(error: RegistryError, now: str = "") -> str:
    if isinstance(error, RegistryRefused) and error.missing:
        told = f" ({error.error_code}: {error.words})" if error.words else ""
        return f"has no MLmodel file where the registry says that it is{told}"
    return f"can't be read{now}: {error}"


def _warn(known: _Known, fault: str) -> None:
    _log.warning("version can't be read", model=known.version.name, version=known.version.version, fault=fault)
