"""The live catalog: a thread looks at the registry again and again, and keeps the last good snapshot."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from prinz_enricher.catalog.assembly import Assembler, Files
from prinz_enricher.catalog.model_files import ModelFiles
from prinz_enricher.catalog.publisher import Listener, Publisher, Subscriber, Watch
from prinz_enricher.catalog.reading import Reading, read_registry, select, sought_after
from prinz_enricher.catalog.selection import Selection
from prinz_enricher.catalog.snapshot import CatalogVersion, Snapshot
from prinz_enricher.catalog.store import SnapshotStore
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry.client import RegistryClient
from prinz_enricher.registry.errors import RegistryError, RegistryUnreachable

MAX_BACKOFF_SECONDS = 60.0

READING_SECONDS = 2.0
"""How long MLmodel files may hold up what is known. What a larger registry has of them comes in such steps: all models
are listed after the first one, and the signature that a call waits for is in the next one."""

HASTE_SECONDS = 1.0
"""Between two looks at the least, however often someone asks for one."""

_FIRST_RETRY_SECONDS = 0.5
_JITTER = 0.1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """How the catalog fares.

    Attributes:
        models: How many are served.
        versions: How many those have.
        faults: How many of the versions, and of what the registry told besides, have something amiss.
        revision: Of the current snapshot; empty where there is none.
        age: Seconds since the registry was last read; None where it never was.
        stale: Whether it could not be read the last time, or was not read yet.
        fault: Why; empty where it could.
        last_refresh_seconds: How long the last look took.
        failures_in_row: How many looks failed since the last good one.
        refreshes: How many looks there were.
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


class Catalog:
    """What the registry offers, answered from memory.

    Attributes:
        ready: Set once there is a snapshot: the registry was read, or an earlier one was in the store.
        looked: Whether the registry was looked at since the start, with or without success.
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
        """Read nothing yet.

        Args:
            client: Of the registry; the caller closes it, after `stop`.
            refresh_interval: Seconds between two looks at the registry.
            threads: How many MLmodel files are read at once.
            signature_ttl: Seconds within which each signature is looked at again.
            selection: Which models are served; all by default.
            store: Where the last good snapshot outlives the process; nowhere by default.
        """
        self.ready = threading.Event()
        self.looked = False
        self._look_subscribers: tuple[Callable[[], None], ...] = ()
        self._client = client
        self._interval = refresh_interval
        # One of our own: the global one belongs to the program that we are a part of.
        self._chance = random.Random()  # noqa: S311 - no secret
        self._selection = selection or Selection()
        self._store = store
        self._files = ModelFiles(client, threads, time_to_live=signature_ttl)
        self._assembler = Assembler(client.url)
        self._publisher = Publisher()
        self._reading: Reading | None = None
        self._last_good = 0.0
        self._last_fault = "it was not looked at yet"
        self._last_seconds = 0.0
        self._failures = 0
        self._refreshes = 0
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
        self._hastened = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take what is in the store, and begin to look at the registry, in a thread of its own; at first at once."""
        if self._thread is None:
            self._stopping.clear()
            self._restore()
            self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Look no more. The last snapshot stays.

        Args:
            timeout: Seconds to wait for requests under way; a registry that does not answer must not hold us longer.
        """
        self._stopping.set()
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def current(self) -> Snapshot | None:
        """The last good snapshot; None where the registry has never been read."""
        return self._publisher.current

    def snapshot(self) -> Snapshot:
        """Return the last good snapshot.

        Raises:
            RegistryUnavailable: The registry has never been read.
        """
        snapshot = self._publisher.current
        if snapshot is None:
            raise RegistryUnavailable(self._client.url, self._last_fault)
        return snapshot

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision of the last minute; None where it is not known any more."""
        return self._publisher.find(revision)

    def age(self) -> float:
        """Return how many seconds ago the registry was last read, by this process or by one before it.

        Raises:
            RegistryUnavailable: It has never been.
        """
        self.snapshot()
        return time.monotonic() - self._last_good

    def state(self) -> CatalogState:
        """Tell how the catalog fares."""
        snapshot = self._publisher.current
        versions = [version for model in snapshot.models.values() for version in model.versions] if snapshot else []
        amiss = sum(1 for version in versions if version.fault)
        return CatalogState(
            models=len(snapshot.models) if snapshot else 0,
            versions=len(versions),
            faults=amiss + len(snapshot.faults) if snapshot else 0,
            revision=snapshot.revision if snapshot else "",
            age=time.monotonic() - self._last_good if snapshot else None,
            stale=bool(self._last_fault),
            fault=self._last_fault,
            last_refresh_seconds=self._last_seconds,
            failures_in_row=self._failures,
            refreshes=self._refreshes,
        )

    @property
    def stale(self) -> bool:
        """Whether the registry could not be read the last time, or was not read yet."""
        return bool(self._last_fault)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Have a function called with the old and the new snapshot after each change.

        It is called in the thread that refreshes, so it must be quick; what it raises is logged.

        Args:
            subscriber: Gets None as the old snapshot at the first one.

        Returns:
            A function that ends the subscription.
        """
        return self._publisher.subscribe(subscriber)

    def subscribe_looks(self, subscriber: Callable[[], None]) -> None:
        """Have a function called after the first look, and when the registry can be read again, or no more.

        It is called in the thread that refreshes, so it must be quick, and it must not raise.
        """
        self._look_subscribers += (subscriber,)

    def watch(self, token: str, listener: Listener) -> Watch:
        """Begin a watch, or resume one, so that nothing is told twice and nothing is left out.

        Args:
            token: Where to go on; empty to begin with the whole catalog.
            listener: Called with each set of changes after the start, in order. It is called in the thread that
                refreshes, before `watch` has returned if need be, so it may only put the set into a queue.

        Returns:
            What there is, or what was missed.

        Raises:
            ResyncRequired: It is not known what changed since the token.
            RegistryUnavailable: The registry has never been read.
        """
        self.snapshot()
        return self._publisher.watch(token, listener)

    def hasten(self) -> None:
        """Have the registry looked at soon; never blocks. However often it is called, there is one look a second."""
        self._hastened.set()
        self._wake.set()

    def want(self, version: CatalogVersion) -> None:
        """Have a signature that was not read yet read before others; never blocks."""
        if version.pending:
            self._files.want(version.name, version.version)
            self._wake.set()

    def observe(self, name: str, version: str, outputs: str) -> None:
        """Have a version served with the outputs that it was seen to give; never blocks.

        Args:
            name: Of its model, in the registry.
            version: Its number.
            outputs: MLflow's JSON of a schema.

        Raises:
            SignatureError: They can't be read.
        """
        self._files.observe(name, version, outputs)
        self._wake.set()

    def refresh(self) -> Snapshot:
        """Look at the registry now, and at all MLmodel files that are due.

        Returns:
            The snapshot that is current then.

        Raises:
            RegistryError: The registry can't be read; the former snapshot stays.
        """
        return self._refresh(math.inf)

    def _refresh(self, budget: float) -> Snapshot:
        with self._refreshing:
            began = time.monotonic()
            self._refreshes += 1
            try:
                reading = read_registry(self._client, self._reading, self._selection)
                files = self._files.read(
                    reading.versions.values(), self._stopping.is_set, first=sought_after(reading), budget=budget
                )
                if self._stopping.is_set():
                    raise RegistryUnreachable("the catalog was stopped")
            except RegistryError as error:
                self._failures += 1
                self._looked(str(error), began)
                raise
            self._failures = 0
            self._last_good = time.monotonic()
            self._reading = reading
            snapshot = self._publish(reading, files)
            self._looked("", began)
            self._save(snapshot, reading)
            return snapshot

    def _read_on(self) -> None:
        """Read more MLmodel files, without a look at the lists."""
        with self._refreshing:
            try:
                files = self._files.read_on(self._stopping.is_set, budget=READING_SECONDS)
                if self._reading is not None and not self._stopping.is_set():
                    self._publish(self._reading, files)
            except Exception:  # noqa: BLE001 - as in `_look_on`
                _log.exception("MLmodel files can't be read")

    def _publish(self, reading: Reading, files: Files) -> Snapshot:
        new = self._assembler.assemble(reading.models.values(), reading.versions.values(), files, reading.faults)
        old = self._publisher.current
        for fault in set(new.faults) - set(old.faults if old else ()):
            _log.warning("registry entity can't be read", fault=fault)
        for name, model in new.models.items():
            former = old.models.get(name) if old else None
            if model.fault and (former is None or former.fault != model.fault):
                _log.warning("model has a fault", model=name, fault=model.fault)
        snapshot = self._publisher.publish(new)
        self.ready.set()
        return snapshot

    def _looked(self, fault: str, began: float) -> None:
        """Keep how a look went, and tell where that is not as before."""
        self._last_seconds = time.monotonic() - began
        was_stale, self._last_fault = self.stale, fault
        was_looked, self.looked = self.looked, True
        if was_stale != self.stale or not was_looked:
            for subscriber in self._look_subscribers:
                subscriber()

    def _restore(self) -> None:
        """Serve what an earlier process knew, until the registry is read."""
        if self._store is None or self._publisher.current is not None:
            return
        stored = self._store.load()
        if stored is None:
            return
        self._reading = select(stored.reading, self._selection)
        files = self._files.adopt(self._reading.versions.values(), stored.files)
        # From here on by a clock that does not jump.
        self._last_good = time.monotonic() - stored.age
        snapshot = self._publish(self._reading, files)
        _log.info("catalog restored", models=len(snapshot.models), age_seconds=round(stored.age))

    def _save(self, snapshot: Snapshot, reading: Reading, *, at_once: bool = False) -> None:
        if self._store is None:
            return
        if self._store.outdated(snapshot.revision, at_once=at_once):
            self._store.save(snapshot.revision, reading, self._files.settled)
        else:
            self._store.touch(snapshot.revision)

    def _run(self) -> None:
        self._look_on()
        snapshot = self._publisher.current
        if snapshot is not None and self._reading is not None and not self.stale:
            self._save(snapshot, self._reading, at_once=True)

    def _look_on(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._hastened.clear()
            try:
                self._refresh(READING_SECONDS)
            except RegistryError as error:
                if self._stopping.is_set():
                    return
                _log.warning(
                    "registry can't be read", registry=self._client.url, fault=str(error), failures=self._failures
                )
            except Exception:  # noqa: BLE001 - the only thread that refreshes must outlive what nobody foresaw
                self._failures += 1
                self._looked("its answer could not be worked on", began)
                _log.exception("refresh of the catalog failed", failures=self._failures)
            self._rest(began)

    def _rest(self, began: float) -> None:
        """Wait for the next look; read the files meanwhile that there was no time for."""
        due = time.monotonic() + self._pause(self._failures)
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= due or (self._hastened.is_set() and now >= began + HASTE_SECONDS):
                return
            if self._files.behind:
                self._read_on()
                continue
            self._wake.wait(min(due, began + HASTE_SECONDS if self._hastened.is_set() else due) - now)
            self._wake.clear()

    def _pause(self, failures: int) -> float:
        """Return how long to wait until the next look, in seconds, jittered so that replicas spread their looks."""
        pause = self._interval
        if failures and self._publisher.current is None:
            pause = min(self._interval, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
        elif failures:
            pause = max(self._interval, min(MAX_BACKOFF_SECONDS, self._interval * 2.0 ** min(failures - 1, 10)))
        return pause * self._chance.uniform(1 - _JITTER, 1 + _JITTER)
