"""One call of `WatchModels`: first the catalog as it is, or what was missed, then every change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from google.rpc import status_pb2

from prinz_enricher.catalog import CatalogModel, CatalogView, ChangeSet, Kind
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import Overloaded
from prinz_enricher.service.status import to_status

MAX_BEHIND = 256
"""Revisions that a caller may be behind before it is cut off."""


class WatchSource:
    """The events of one watch, pulled as fast as its caller reads.

    What waits for a slow caller are references to changes that all watches share, and no more than `MAX_BEHIND` of
    them, so that it costs the service next to nothing, and the other callers no time.

    Args:
        catalog: What is watched.
        token: Of the last event that the caller has seen; empty to begin with the whole catalog.
        to_message: Tells a model in the view that the caller wants.
        wake: Called when there is something to pull again.

    Raises:
        RegistryUnavailable: Nothing is known yet.
        ResyncRequired: The token is too old.
    """

    def __init__(
        self,
        catalog: CatalogView,
        token: str,
        to_message: Callable[[CatalogModel], model_pb2.Model],
        wake: Callable[[], None],
    ) -> None:
        self._to_message = to_message
        self._wake = wake
        self._waiting: deque[ChangeSet] = deque()
        self._is_behind = False
        self._watch = catalog.watch(token, self._take_in)
        self._token = token
        self._events = self._all_events()

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next event; None where nothing has changed."""
        if self._is_behind:
            return to_status(Overloaded(f"this watch is more than {MAX_BEHIND} changes behind"))
        event = next(self._events)
        return None if event is None else event.SerializeToString()

    def close(self) -> None:
        """End the watch."""
        self._watch.end()
        self._waiting.clear()

    def _take_in(self, news: ChangeSet) -> None:
        """Keep what changed; called by the thread that reads the registry."""
        if len(self._waiting) < MAX_BEHIND:
            self._waiting.append(news)
        else:
            self._is_behind = True
        self._wake()

    def _all_events(self) -> Iterator[pb.WatchModelsResponse | None]:
        if self._watch.snapshot is not None:
            for model in self._watch.snapshot.models.values():
                yield pb.WatchModelsResponse(added=self._to_message(model))
        for news in self._watch.missed:
            yield from self._events_of(news)
        self._token = self._watch.token
        yield self._bookmark(self._watch.revision)
        while True:
            # Taken out once it has been told: what a caller is behind counts until then.
            if self._waiting:
                yield from self._events_of(self._waiting[0])
                self._waiting.popleft()
            else:
                yield None

    def _events_of(self, news: ChangeSet) -> Iterator[pb.WatchModelsResponse]:
        """Tell the changes of one revision; only with the last of them the token moves on."""
        after = news.position.token()
        for number, change in enumerate(news.changes, start=1):
            token = after if number == len(news.changes) else self._token
            if change.kind is Kind.REMOVED or change.model is None:
                yield pb.WatchModelsResponse(removed_name=change.name, resume_token=token)
            elif change.kind is Kind.ADDED:
                yield pb.WatchModelsResponse(added=self._to_message(change.model), resume_token=token)
            else:
                yield pb.WatchModelsResponse(changed=self._to_message(change.model), resume_token=token)
        self._token = after
        if not news.changes:
            yield self._bookmark(news.position.revision)

    def _bookmark(self, revision: str) -> pb.WatchModelsResponse:
        return pb.WatchModelsResponse(bookmark=pb.Bookmark(catalog_revision=revision), resume_token=self._token)
