"""The live catalog of one registry: a thread reads the registry again and again, and keeps the last good snapshot."""

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import structlog

from prinz_enricher.catalog.model_files import ModelFiles
from prinz_enricher.catalog.publisher import Publisher
from prinz_enricher.catalog.reading import Reading, most_needed, read_registry, select
from prinz_enricher.catalog.serving_rules import Selection
from prinz_enricher.catalog.snapshot import Assembler, CatalogVersion, Files, Snapshot
from prinz_enricher.catalog.store import SnapshotStore
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry.registry_client import RegistryClient
from prinz_enricher.registry.registry_errors import RegistryError, RegistryUnreachable

MAX_BACKOFF_SECONDS = 60.0
# How long MLmodel files may hold up what is known. A larger registry's are read in such steps: all models are listed
# after the first one, and the signature that a call waits for is read in the next one.
READING_SECONDS = 2.0
MIN_INTERVAL_SECONDS = 1.0  # Between two refreshes at least, however often someone requests one.
_FIRST_RETRY_SECONDS = 0.5
_JITTER = 0.1
_log = structlog.get_logger(__name__)
_Settings = tuple[float, float, Selection, SnapshotStore | None]  # Refresh interval, time to live of signatures.


@dataclass(frozen=True, slots=True)
class CatalogState:
    """Refresh status and size of a catalog.

    `faults` counts versions, and what else the registry lists. `age` is in seconds, None where the registry was never
    read. It is stale where the last refresh failed, which `fault` explains, or where there was none yet.
    """

    models: int
    versions: int
    faults: int
    revision: str
    age: float | None
    stale: bool
    fault: str
    last_refresh_seconds: float
    failures_in_row: int
    refreshes: int


class Catalog(Publisher):
    """What one registry offers, answered from memory; the caller closes its client, after `stop`.

    It is refreshed every `refresh_interval` seconds, MLmodel files several at a time, and each signature is checked
    within `signature_ttl` seconds. `refreshed` is whether there was a refresh, with or without success.
    """

    def __init__(
        self,
        client: RegistryClient,
        refresh_interval: float = 10.0,
        *,
        threads: int = 8,
        signature_ttl: float = 300.0,
        selection: Selection | None = None,
        store: SnapshotStore | None = None,
    ) -> None:
        super().__init__()
        self.refreshed = False
        self._on_stale_change: tuple[Callable[[], None], ...] = ()
        self._client = client
        self._interval = refresh_interval
        # One of our own: the global one belongs to the program that we are a part of.
        self._random = random.Random()  # noqa: S311 - no secret
        self._selection = selection or Selection()
        self._store = store
        self._files = ModelFiles(client, threads, time_to_live=signature_ttl)
        self._assembler = Assembler()
        self._reading: Reading | None = None
        self._wanted: _Settings | None = None
        self._last_fault = "it was not read yet"
        self._last_good = self._last_seconds = 0.0
        self._failures = self._refreshes = 0
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
        self._requested = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load what is in the store, and begin to refresh in a thread of its own, at first at once."""
        if self._thread is None:
            self._stopping.clear()
            self._restore()
            self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop refreshing, and wait for requests under way, at most `timeout` seconds; the last snapshot stays."""
        self._stopping.set()
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout)
        self._files.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def age(self) -> float:
        """Return the seconds since the registry was read, by whichever process; raises RegistryUnavailable if never."""
        self.snapshot()
        return time.monotonic() - self._last_good

    def state(self) -> CatalogState:
        """Return the refresh status and the size of the catalog."""
        snapshot = self.current
        versions = [version for model in snapshot.models.values() for version in model.versions] if snapshot else []
        faulty = sum(1 for version in versions if version.fault)
        return CatalogState(
            models=len(snapshot.models) if snapshot else 0,
            versions=len(versions),
            faults=faulty + len(snapshot.faults) if snapshot else 0,
            revision=snapshot.revision if snapshot else "",
            age=time.monotonic() - self._last_good if snapshot else None,
            stale=self.stale,
            fault=self._last_fault,
            last_refresh_seconds=self._last_seconds,
            failures_in_row=self._failures,
            refreshes=self._refreshes,
        )

    @property
    def stale(self) -> bool:
        """Whether the last refresh failed, or there was none yet."""
        return bool(self._last_fault)

    def on_stale_change(self, callback: Callable[[], None]) -> None:
        """Call a function, which must be quick and not raise, after the first refresh and when `stale` changes."""
        self._on_stale_change += (callback,)

    def request_refresh(self) -> None:
        """Request a refresh soon; never blocks. However often it is called, there is one refresh a second."""
        self._requested.set()
        self._wake.set()

    def change(self, *settings: *_Settings) -> None:
        """Go on with other settings within a second; models that are not selected any more go without a refresh."""
        self._wanted = settings
        self.request_refresh()

    def prioritize(self, version: CatalogVersion) -> None:
        """Have a signature that was not read yet read before others; never blocks."""
        if version.pending:
            self._files.prioritize(version.name, version.version)
            self._wake.set()

    def observe(self, name: str, version: str, outputs: str) -> None:
        """Serve a version with observed outputs, in MLflow's JSON of a schema; raises SignatureError if invalid."""
        self._files.observe(name, version, outputs)
        self._wake.set()

    def refresh(self) -> Snapshot:
        """Read the registry, and all MLmodel files that are due, now; raises RegistryError if it can't be read."""
        return self._refresh(math.inf)

    def _unavailable(self) -> RegistryUnavailable:
        return RegistryUnavailable(self._client.url, self._last_fault)

    def _refresh(self, budget: float) -> Snapshot:
        with self._refreshing:
            began = time.monotonic()
            self._refreshes += 1
            try:
                reading = read_registry(self._client, self._reading, self._selection)
                files = self._files.read(
                    reading.versions.values(), self._stopping.is_set, first=most_needed(reading), budget=budget
                )
                if self._stopping.is_set():
                    raise RegistryUnreachable("the catalog was stopped")
            except RegistryError as error:
                self._failures += 1
                self._end_refresh(str(error), began)
                raise
            self._failures = 0
            self._last_good = time.monotonic()
            self._reading = reading
            snapshot = self._assemble(reading, files)
            self._end_refresh("", began)
            self._save(snapshot, reading)
            return snapshot

    def _end_refresh(self, fault: str, began: float) -> None:
        self._last_seconds = time.monotonic() - began
        was_stale, self._last_fault = self.stale, fault
        was_refreshed, self.refreshed = self.refreshed, True
        if was_stale != self.stale or not was_refreshed:
            for callback in self._on_stale_change:
                callback()

    def _take_over(self, wanted: _Settings) -> None:
        with self._refreshing:
            self._wanted = None
            self._interval, self._files.time_to_live, self._selection, self._store = wanted
            if self._reading is not None:
                self._reading = select(self._reading, self._selection)
        self._read_on()

    def _read_on(self) -> None:
        """Read more MLmodel files, without reading the lists."""
        with self._refreshing:
            try:
                files = self._files.read_on(self._stopping.is_set, budget=READING_SECONDS)
                if self._reading is not None and not self._stopping.is_set():
                    self._assemble(self._reading, files)
            except Exception:  # noqa: BLE001 - as in `_run`
                _log.exception("MLmodel files can't be read")

    def _assemble(self, reading: Reading, files: Files) -> Snapshot:
        """Publish what was read, and log the faults that are new."""
        new = self._assembler.assemble(reading.models.values(), reading.versions.values(), files, reading.faults)
        old = self.current
        for fault in set(new.faults) - set(old.faults if old else ()):
            _log.warning("registry entity can't be read", fault=fault)
        for name, model in new.models.items():
            former = old.models.get(name) if old else None
            if model.fault and (former is None or former.fault != model.fault):
                _log.warning("model has a fault", model=name, fault=model.fault)
        return self.publish(new)

    def _restore(self) -> None:
        """Serve what an earlier process knew, until the registry is read."""
        if self._store is None or self.current is not None or (stored := self._store.load()) is None:
            return
        self._reading = select(stored.reading, self._selection)
        files = self._files.adopt(self._reading.versions.values(), stored.files)
        # From here on by a clock that does not jump.
        self._last_good = time.monotonic() - stored.age
        snapshot = self._assemble(self._reading, files)
        _log.info("catalog restored", models=len(snapshot.models), age_seconds=round(stored.age))

    def _save(self, snapshot: Snapshot, reading: Reading, *, at_once: bool = False) -> None:
        if self._store is None:
            return
        if self._store.outdated(snapshot.revision, at_once=at_once):
            self._store.save(snapshot.revision, reading, self._files.settled)
        else:
            self._store.touch(snapshot.revision)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._requested.clear()
            try:
                self._refresh(READING_SECONDS)
            except RegistryError as error:
                if self._stopping.is_set():
                    break
                _log.warning(
                    "registry can't be read", registry=self._client.url, fault=str(error), failures=self._failures
                )
            except Exception:  # noqa: BLE001 - the only thread that refreshes must survive what nobody foresaw
                self._failures += 1
                self._end_refresh("its answer could not be processed", began)
                _log.exception("refresh of the catalog failed", failures=self._failures)
            self._rest(began)
        if self.current is not None and self._reading is not None and not self.stale:
            self._save(self.current, self._reading, at_once=True)

    def _rest(self, began: float) -> None:
        """Wait for the next refresh; meanwhile read the files that there was no time for."""
        due = time.monotonic() + self._pause()
        while not self._stopping.is_set():
            if (wanted := self._wanted) is not None:
                self._take_over(wanted)
            now = time.monotonic()
            requested = self._requested.is_set()
            if now >= due or (requested and now >= began + MIN_INTERVAL_SECONDS):
                return
            if self._files.behind:
                self._read_on()
                continue
            self._wake.wait(min(due, began + MIN_INTERVAL_SECONDS if requested else due) - now)
            self._wake.clear()

    def _pause(self) -> float:
        """Return the seconds until the next refresh, jittered so that replicas spread theirs."""
        pause = self._interval
        growth = 2.0 ** min(self._failures - 1, 10)
        if self._failures and self.current is None:
            pause = min(self._interval, _FIRST_RETRY_SECONDS * growth)
        elif self._failures:
            pause = max(self._interval, min(MAX_BACKOFF_SECONDS, self._interval * growth))
        return pause * self._random.uniform(1 - _JITTER, 1 + _JITTER)
