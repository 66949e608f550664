"""The readers' side of the catalog: the snapshot that is current, those before it, and whoever watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from prinz_enricher.catalog.history import ChangeSet, History, read_token
from prinz_enricher.catalog.recent import RecentSnapshots
from prinz_enricher.catalog.snapshot import Snapshot
from prinz_enricher.errors import ResyncRequired

Subscriber = Callable[[Snapshot | None, Snapshot], None]
Listener = Callable[[ChangeSet], None]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Watch:
    """The start of a watch; what comes after it, without gap or double, goes to its listener.

    Attributes:
        snapshot: All that there is; None where the watch was resumed.
        missed: What changed since the token that it was resumed from, oldest first.
        revision: Of the catalog after all of that.
        token: Resumes after all of that.
        end: Ends the watch; the listener is called no more once it has returned.
    """

    snapshot: Snapshot | None
    missed: tuple[ChangeSet, ...]
    revision: str
    token: str
    end: Callable[[], None]


class Publisher:
    """Gives out one snapshot after the other. One thread publishes, any may read and watch."""

    def __init__(self) -> None:
        """Have nothing yet."""
        self._current: Snapshot | None = None
        self._recent = RecentSnapshots()
        self._history = History()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._listeners: dict[object, Listener] = {}
        self._lock = threading.Lock()

    def copy(self) -> Publisher:
        """Return another one that knows the same and that nobody watches: for another process, which is told the rest.

        Where that publishes the same snapshots, tokens of the one resume watches of the other.
        """
        other = Publisher()
        with self._lock:
            other._current, other._recent = self._current, self._recent.copy()
            other._history = self._history.copy()
        return other

    def __getstate__(self) -> tuple[Snapshot | None, RecentSnapshots, History]:
        return (self._current, self._recent, self._history)

    def __setstate__(self, state: tuple[Snapshot | None, RecentSnapshots, History]) -> None:
        self.__init__()  # type: ignore[misc]  # what can't travel is made anew
        self._current, self._recent, self._history = state

    @property
    def current(self) -> Snapshot | None:
        """The newest snapshot; None where there was none yet."""
        return self._current

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision of the last minute; None where it is not known."""
        return self._recent.find(revision)

    def publish(self, new: Snapshot) -> Snapshot:
        """Make a snapshot the current one, and tell who watches; does nothing where its revision is current.

        Returns:
            The snapshot that is current then.
        """
        with self._lock:
            old = self._current
            if old is not None and old.revision == new.revision:
                return old
            self._recent.keep(new, time.monotonic())
            self._current = new
            news = self._history.append(old, new)
            for listener in list(self._listeners.values()):
                _guarded(listener, news)
        for subscriber in self._subscribers:
            _guarded(subscriber, old, new)
        return new

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Have a function called with the old and the new snapshot after each change; return what ends that."""
        self._subscribers += (subscriber,)

        def end() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return end

    def watch(self, token: str, listener: Listener) -> Watch:
        """Begin, or resume, a watch; see `Catalog.watch`. There is a current snapshot."""
        position = read_token(token) if token else None
        identity = object()

        def end() -> None:
            with self._lock:
                self._listeners.pop(identity, None)

        with self._lock:
            missed = self._history.since(position) if position else ()
            if missed is None:
                raise ResyncRequired
            self._listeners[identity] = listener
            start = None if position else self._current
            here = self._history.position
            return Watch(start, missed, here.revision, here.token(), end)


def _guarded(function: Callable[..., None], *arguments: object) -> None:
    try:
        function(*arguments)
    except Exception:  # noqa: BLE001 - who is told must not take the catalog, or others who are told, down
        _log.exception("subscriber to the catalog failed")
