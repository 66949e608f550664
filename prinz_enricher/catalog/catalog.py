"""The live catalog: a thread looks at the registry again and again, and keeps the last good snapshot."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from prinz_enricher.catalog.model_files import ModelFiles
from prinz_enricher.catalog.snapshot import Snapshot, assemble
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry.client import RegistryClient
from prinz_enricher.registry.errors import RegistryError, RegistryUnreachable

Subscriber = Callable[[Snapshot | None, Snapshot], None]

MAX_BACKOFF_SECONDS = 60.0
_FIRST_RETRY_SECONDS = 0.5
_JITTER = 0.1

_log = structlog.get_logger(__name__)


class Catalog:
    """What the registry offers, answered from memory.

    Attributes:
        ready: Set once the registry has been read for the first time.
    """

    def __init__(self, client: RegistryClient, refresh_interval: float = 10.0, *, threads: int = 8) -> None:
        """Read nothing yet.

        Args:
            client: Of the registry; the caller closes it, after `stop`.
            refresh_interval: Seconds between two looks at the registry.
            threads: How many MLmodel files are read at once.
        """
        self.ready = threading.Event()
        self._client = client
        self._interval = refresh_interval
        # One of our own: the global one belongs to the program that we are a part of.
        self._chance = random.Random()  # noqa: S311 - no secret
        self._files = ModelFiles(client, threads)
        self._snapshot: Snapshot | None = None
        self._told: tuple[object, ...] = ()
        self._last_good = 0.0
        self._last_fault = "it was not looked at yet"
        self._subscribers: tuple[Subscriber, ...] = ()
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look at the registry, in a thread of its own; the first time at once."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Look no more. The last snapshot stays.

        Args:
            timeout: Seconds to wait for requests under way; a registry that does not answer must not hold us longer.
        """
        self._stopping.set()
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

    def snapshot(self) -> Snapshot:
        """Return the last good snapshot.

        Raises:
            RegistryUnavailable: The registry has never been read.
        """
        snapshot = self._snapshot
        if snapshot is None:
            raise RegistryUnavailable(self._client.url, self._last_fault)
        return snapshot

    def age(self) -> float:
        """Return how many seconds ago the registry was last read.

        Raises:
            RegistryUnavailable: It has never been.
        """
        self.snapshot()
        return time.monotonic() - self._last_good

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Have a function called with the old and the new snapshot after each change.

        It is called in the thread that refreshes, so it must be quick; what it raises is logged.

        Args:
            subscriber: Gets None as the old snapshot at the first one.

        Returns:
            A function that ends the subscription.
        """
        self._subscribers += (subscriber,)

        def end() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return end

    def refresh(self) -> Snapshot:
        """Look at the registry now.

        Returns:
            The snapshot that is current then.

        Raises:
            RegistryError: The registry can't be read; the former snapshot stays.
        """
        with self._refreshing:
            old = self._snapshot
            try:
                new = self._read()
            except RegistryError as error:
                self._last_fault = str(error)
                raise
            self._last_good = time.monotonic()
            if old is not None and old.revision == new.revision:
                return old
            self._snapshot = new
            self.ready.set()
            _log.info("catalog changed", models=len(new.models), revision=new.revision, registry=new.registry)
            for subscriber in self._subscribers:
                try:
                    subscriber(old, new)
                except Exception:  # noqa: BLE001 - a subscriber must not take the catalog, or other subscribers, down
                    _log.exception("subscriber to the catalog failed")
            return new

    def _read(self) -> Snapshot:
        # Models first: an alias that moves to a new version between the two requests still points to the old one then,
        # never to a version that is not there.
        models = self._client.registered_models()
        listed = self._client.model_versions()
        names = {model.name for model in models.items}
        versions = [version for version in listed.items if version.name in names]
        faults = (*models.faults, *listed.faults)
        for fault in set(faults) - set(self._snapshot.faults if self._snapshot else ()):
            _log.warning("registry entity can't be read", fault=fault)
        files = self._files.read(versions, self._stopping.is_set)
        if self._stopping.is_set():
            raise RegistryUnreachable("the catalog was stopped")
        told = (models.items, versions, files, faults)
        # Most looks find nothing new; comparing costs a fraction of putting thousands of versions together again.
        if self._snapshot is None or told != self._told:
            snapshot = assemble(self._client.url, *told)
            self._told = told
            return snapshot
        return self._snapshot

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self.refresh()
                failures = 0
            except RegistryError as error:
                if self._stopping.is_set():
                    return
                failures += 1
                _log.warning("registry can't be read", registry=self._client.url, fault=str(error), failures=failures)
            except Exception:  # noqa: BLE001 - the only thread that refreshes must outlive what nobody foresaw
                failures += 1
                _log.exception("refresh of the catalog failed", failures=failures)
            self._stopping.wait(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """Return how long to wait until the next look, in seconds, jittered so that replicas spread their looks."""
        pause = self._interval
        if failures and self._snapshot is None:
            pause = min(self._interval, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
        elif failures:
            pause = max(self._interval, min(MAX_BACKOFF_SECONDS, self._interval * 2.0 ** min(failures - 1, 10)))
        return pause * self._chance.uniform(1 - _JITTER, 1 + _JITTER)
