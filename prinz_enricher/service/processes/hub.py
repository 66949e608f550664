"""What all front processes are told: each snapshot of the catalog, and what else changes."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable

import structlog

from prinz_enricher.catalog import Member, Snapshot, Union
from prinz_enricher.scoring import Status, Target, WorkerPool, WorkerState
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.processes.begin import Alias, Begin, CatalogChange, News, Plan, Registry
from prinz_enricher.service.processes.codec import Key
from prinz_enricher.service.processes.frames import Kind
from prinz_enricher.service.processes.sender import Sender

log = structlog.stdlib.get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at what nobody tells the hub of: when the registries were last read, which aliases are in use."""

KEPT_SECONDS = 600.0
"""How long a target is known after it left the catalog: longer than a front process can hold on to it."""

SAME_READING = 0.01
"""Seconds: two times of a reading that are nearer to each other are one."""

_DISCOVERED = Status(WorkerState.DISCOVERED)


class Hub:
    """Tells front processes what the main one knows. All are told the same, in the same order.

    Args:
        plan: What stays.
        catalog: The registries' models.
        service: The main process's own.
        pool: Where all jobs are scored.
    """

    def __init__(self, plan: Plan, catalog: Union, service: EnricherService, pool: WorkerPool) -> None:
        self._plan = plan
        self._catalog = catalog
        self._service = service
        self._pool = pool
        self._lock = threading.Lock()
        self._senders: set[Sender] = set()
        self._told: Snapshot | None = None
        self._offered: dict[str, list[Target]] = {}
        self._targets: dict[Key, Target] = {}
        self._left: dict[Key, tuple[float, Target]] = {}
        self._health: dict[str, bool] = {}
        self._registries: tuple[Registry, ...] = ()
        self._statuses: dict[Key, Status] = {}
        self._serving: dict[Alias, str] = {}
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="processes-hub", daemon=True)

    def start(self) -> None:
        """Begin to tell what changes."""
        self._catalog.subscribe(lambda _old, new: self._guarded(lambda: self._tell_catalog(new)))
        self._tell_news(statuses=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell nothing more."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def attach(self, sender: Sender) -> None:
        """Tell a front process all, and from then on what changes."""
        with self._lock:
            catalog = self._catalog.copy()
            # Where it was published just now, and not told to the others yet.
            self._tell_change(catalog.current)
            news = News(self._health, self._registries, self._statuses, (), self._serving)
            sender.send(Kind.BEGIN, body=pickle.dumps(Begin(self._plan, catalog, news), pickle.HIGHEST_PROTOCOL))
            self._senders.add(sender)

    def detach(self, sender: Sender) -> None:
        """Tell a front process nothing more."""
        with self._lock:
            self._senders.discard(sender)

    def tell_health(self, health: dict[str, bool]) -> None:
        """Tell what is SERVING, and that the status of targets may have changed; never blocks for long."""
        with self._lock:
            if health != self._health:
                self._health = health
                self._send(Kind.NEWS, News(health=health))
        self._wake.set()

    def sync(self, sender: Sender, number: int) -> None:
        """Answer a front process once it has been told all that is known."""
        with self._lock:
            self._tell_change(self._catalog.current)
            sender.send(Kind.SYNCED, id=number)

    def target_of(self, key: Key) -> Target | None:
        """Return the target of a key; None where it left the catalog long ago, or never was in it."""
        target = self._targets.get(key)
        if target is None:
            left = self._left.get(key)
            target = None if left is None else left[1]
        return target

    def want(self, model: object, version: object) -> None:
        """Have a signature read before others that a front process waits for."""
        snapshot = self._catalog.current
        known = None if snapshot is None or not isinstance(model, str) else snapshot.models.get(model)
        wanted = None if known is None or not isinstance(version, str) else known.by_number.get(version)
        if wanted is not None:
            self._catalog.want(wanted)

    def use(self, model: object, alias: object) -> None:
        """Note that an alias, or a default, is called in a front process."""
        if self._catalog.current is not None and isinstance(model, str) and (alias is None or isinstance(alias, str)):
            self._service.use(model, alias)
            self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            changed = self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            self._guarded(lambda: self._tell_news(statuses=changed))  # noqa: B023 - called at once

    def _guarded(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            # The catalog and all front processes hang on the thread.
            log.exception("front processes could not be told")

    def _tell_catalog(self, new: Snapshot) -> None:
        with self._lock:
            self._tell_change(new)
        self._wake.set()

    def _tell_news(self, *, statuses: bool) -> None:
        snapshot = self._catalog.current
        if statuses and snapshot is not None:
            # No call may come to this process that has an alias served by a version that is available by now.
            self._service.follow(snapshot)
        serving = self._service.serving()
        with self._lock:
            registries = tuple(_registry(member, known=snapshot is not None) for member in self._catalog.members)
            changed, gone = self._changed_statuses() if statuses else ({}, ())
            news = News(
                registries=None if _same(registries, self._registries) else registries,
                statuses=changed or None,
                gone=gone,
                serving=None if serving == self._serving else serving,
            )
            if news == News():
                return
            self._registries = news.registries or self._registries
            self._serving = serving
            self._statuses = {key: status for key, status in self._statuses.items() if key not in gone} | changed
            self._send(Kind.NEWS, news)

    # With the lock held.

    def _changed_statuses(self) -> tuple[dict[Key, Status], tuple[Key, ...]]:
        told = self._statuses
        now = {
            key: status for key, target in self._targets.items() if (status := self._pool.status(target)) != _DISCOVERED
        }
        return {k: s for k, s in now.items() if told.get(k) != s}, tuple(k for k in told if k not in now)

    def _tell_change(self, new: Snapshot | None) -> None:
        """Tell the next snapshot, unless it was told; targets are known before anyone can ask for them."""
        old = self._told
        if new is None or new is old:
            return
        change = CatalogChange.between(old, new)
        for name, model in change.changed.items():
            found = (self._service.target(version) for version in model.versions)
            self._offered[name] = [target for target in found if target is not None]
        for name in self._offered.keys() - new.models.keys():
            del self._offered[name]
        targets = {target.key: target for offered in self._offered.values() for target in offered}
        now = time.monotonic()
        left = {key: one for key, one in self._left.items() if one[0] > now - KEPT_SECONDS}
        left |= {key: (now, target) for key, target in self._targets.items() if key not in targets}
        self._left, self._targets = left, targets
        self._told = new
        self._send(Kind.CATALOG, change)

    def _send(self, kind: Kind, told: object) -> None:
        if self._senders:
            body = pickle.dumps(told, pickle.HIGHEST_PROTOCOL)
            for sender in self._senders:
                sender.send(kind, body=body)


def _registry(member: Member, *, known: bool) -> Registry:
    read = None if member.catalog.current is None else time.monotonic() - member.catalog.age()
    fault = "" if known and read is not None else member.catalog.state().fault
    return Registry(member.name, member.prefix, member.url, read, fault)


def _same(some: tuple[Registry, ...], others: tuple[Registry, ...]) -> bool:
    """Tell whether registries fare the same; the time of a reading is computed, and differs a little each time."""
    return len(some) == len(others) and all(
        (one.read is None) == (other.read is None)
        and abs((one.read or 0.0) - (other.read or 0.0)) < SAME_READING
        and one.fault == other.fault
        for one, other in zip(some, others, strict=True)
    )
