"""Publishes snapshots: the current one and those before it, what each changed, and who is notified."""

import hashlib
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import structlog

from prinz_enricher.catalog.snapshot import CatalogModel, Snapshot
from prinz_enricher.errors import RegistryUnavailable, ResyncRequired

MAX_REVISIONS = 256
# Kept in all, so that the history of a large registry that changes as a whole does not hold many copies.
MAX_CHANGES = 10_000
# How long a snapshot is kept after another took its place, and how many are, however old they are, and at most; what
# two of them have in common is stored once.
KEPT_SECONDS = 60.0
MIN_KEPT = 3
MAX_KEPT = 16
_TOKEN = re.compile(
    r"(?P<place>(?P<epoch>[0-9a-f]{16})-(?P<counter>[0-9]{1,15})-(?P<revision>[0-9a-f]{32}))-(?P<checksum>[0-9a-f]{8})"
)

_log = structlog.get_logger(__name__)


class ChangeKind(StrEnum):
    """What happened to a model. One that was renamed is removed and added."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One model's change; `model` is None where it was removed."""

    kind: ChangeKind
    name: str
    model: CatalogModel | None = None


def diff(old: Snapshot | None, new: Snapshot) -> tuple[Change, ...]:
    """Return what changed: removals first, so that a renamed model is never there twice; then the rest by name."""
    before = {} if old is None else old.models
    changes = [Change(ChangeKind.REMOVED, name) for name in before if name not in new.models]
    for name, model in new.models.items():
        former = before.get(name)
        if former is None:
            changes.append(Change(ChangeKind.ADDED, name, model))
        elif former is not model and former.fingerprint != model.fingerprint:
            changes.append(Change(ChangeKind.CHANGED, name, model))
    return tuple(changes)


class Position(NamedTuple):
    """A place in the history of one process, identified by `epoch`; it had seen `counter` revisions."""

    epoch: str
    counter: int
    revision: str

    def token(self) -> str:
        """Return the position as an opaque text for callers."""
        place = f"{self.epoch}-{self.counter}-{self.revision}"
        return f"{place}-{_checksum(place)}"


def read_token(token: str) -> Position:
    """Read what `Position.token` wrote; raises ResyncRequired if the token is not valid."""
    found = _TOKEN.fullmatch(token)
    if found is None or found["checksum"] != _checksum(found["place"]):
        raise ResyncRequired
    return Position(found["epoch"], int(found["counter"]), found["revision"])


def _checksum(place: str) -> str:
    # Against damage alone: who makes up a token harms nobody else.
    return hashlib.sha256(place.encode()).hexdigest()[:8]


class ChangeSet(NamedTuple):
    """What changed with one revision, in the order of `diff`, and where the catalog was after it."""

    position: Position
    changes: tuple[Change, ...]


class History:
    """The change sets of the last revisions, so that a watch resumes where it was cut off. Not thread-safe."""

    def __init__(self, limit: int = MAX_REVISIONS, *, max_changes: int = MAX_CHANGES) -> None:
        self._limit = limit
        self._max_changes = max_changes
        self._epoch = secrets.token_hex(8)
        # The first one is the earliest position that a watch can be resumed from; its own changes are not kept.
        self._sets: deque[ChangeSet] = deque()
        self._kept_changes = 0
        self._counter = 0

    def append(self, old: Snapshot | None, new: Snapshot) -> ChangeSet:
        """Add a snapshot, and return what changed; that may be nothing, where only faults outside of models did."""
        self._counter += 1
        news = ChangeSet(Position(self._epoch, self._counter, new.revision), diff(old, new))
        self._sets.append(news if self._sets else ChangeSet(news.position, ()))
        self._kept_changes += len(self._sets[-1].changes)
        while len(self._sets) > self._limit + 1 or self._kept_changes > self._max_changes:
            self._sets.popleft()
            first = self._sets[0]
            self._kept_changes -= len(first.changes)
            self._sets[0] = ChangeSet(first.position, ())
        return news

    def since(self, position: Position) -> tuple[ChangeSet, ...] | None:
        """Return the change sets after a position, oldest first; None where they are not known.

        A position of another process counts where the catalog had the same revision here: the same revision is the
        same content.
        """
        sets = tuple(self._sets)
        for index in range(len(sets) - 1, -1, -1):
            ours = sets[index].position
            same_place = position.epoch != ours.epoch or position.counter == ours.counter
            if position.revision == ours.revision and same_place:
                return sets[index + 1 :]
        return None

    @property
    def position(self) -> Position:
        """Where the catalog is now; there was a snapshot."""
        return self._sets[-1].position


class RecentSnapshots:
    """The last few snapshots, so that a caller pages through the one that it began with. One thread writes."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[float, Snapshot], ...] = ()

    def keep(self, snapshot: Snapshot, now: float) -> None:
        """Add the snapshot that is current from now on, in seconds of a monotonic clock; forget what is too old."""
        others = [(since, one) for since, one in self._kept if one.revision != snapshot.revision]
        kept = deque([*others, (now, snapshot)], MAX_KEPT)
        # A snapshot was replaced when the next one came.
        while len(kept) > MIN_KEPT and now - kept[1][0] > KEPT_SECONDS:
            kept.popleft()
        self._kept = tuple(kept)

    def all(self) -> tuple[Snapshot, ...]:
        """Return those that are kept, the latest last."""
        return tuple([one for _, one in self._kept])

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision; None where it is not kept."""
        return next((one for one in self.all() if one.revision == revision), None)


Subscriber = Callable[[Snapshot | None, Snapshot], None]
Listener = Callable[[ChangeSet], None]


@dataclass(frozen=True)
class Watch:
    """The start of a watch; what comes after it goes to its listener, without a gap or a duplicate.

    It has all that there is, or, where it was resumed, what changed since the token, oldest first; and the catalog
    after that, where `token` resumes. The listener is not called after `end` has returned.
    """

    snapshot: Snapshot | None
    missed: tuple[ChangeSet, ...]
    current: Snapshot
    token: str
    end: Callable[[], None]


class Publisher:
    """Answers from the last published snapshot; one thread publishes, and `ready` is set once there is one."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self._current: Snapshot | None = None
        self._recent = RecentSnapshots()
        self._history = History()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._listeners: dict[object, Listener] = {}
        self._publishing = threading.Lock()

    @property
    def current(self) -> Snapshot | None:
        """The last good snapshot; None where there was none yet."""
        return self._current

    def snapshot(self) -> Snapshot:
        """Return the last good snapshot; raises RegistryUnavailable if there was none yet."""
        if self._current is None:
            raise self._unavailable()
        return self._current

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision of the last minute; None where it is not known any more."""
        return self._recent.find(revision)

    def recent(self) -> tuple[Snapshot, ...]:
        """Return the snapshots of the last minute, the current one last."""
        return self._recent.all()

    def publish(self, new: Snapshot) -> Snapshot:
        """Make a snapshot current and notify who watches, unless its revision is current; return the current one."""
        with self._publishing:
            old = self._current
            if old is not None and old.revision == new.revision:
                return old
            self._recent.keep(new, time.monotonic())
            self._current = new
            self.ready.set()
            news = self._history.append(old, new)
            for listener in list(self._listeners.values()):
                _guarded(listener, news)
        for subscriber in self._subscribers:
            _guarded(subscriber, old, new)
        return new

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have a quick function called with the old snapshot (first None) and the new one after each change."""
        self._subscribers += (subscriber,)

    def watch(self, token: str, listener: Listener) -> Watch:
        """Begin a watch with the whole catalog, or resume one by a token; nothing is sent twice, nothing left out.

        The thread that publishes calls the listener with each set of changes after the start, in order, before `watch`
        has returned if need be. It may only put the set into a queue. Raises ResyncRequired if it is not known what
        changed since the token, RegistryUnavailable if there is no snapshot yet.
        """
        self.snapshot()
        position = read_token(token) if token else None
        identity = object()

        def end() -> None:
            with self._publishing:
                self._listeners.pop(identity, None)

        with self._publishing:
            missed = self._history.since(position) if position else ()
            if missed is None:
                raise ResyncRequired
            self._listeners[identity] = listener
            current = self.snapshot()
            return Watch(None if position else current, missed, current, self._history.position.token(), end)

    def _unavailable(self) -> RegistryUnavailable:
        return RegistryUnavailable("", "nothing was published yet")


def _guarded(function: Callable[..., None], *arguments: object) -> None:
    try:
        function(*arguments)
    except Exception:  # noqa: BLE001 - a subscriber must not take the catalog, or other subscribers, down
        _log.exception("subscriber to the catalog failed")
