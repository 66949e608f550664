"""One call of `WatchModels`: first the catalog, or the changes that were missed, then every change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from google.rpc import status_pb2

from prinz_enricher.catalog import CatalogModel, ChangeKind, ChangeSet, Union
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import Overloaded
from prinz_enricher.service.status import to_status

MAX_BEHIND = 256
"""Revisions that a caller may be behind before its watch ends."""


class WatchSource:
    """The events of one watch, pulled as fast as its caller reads.

    A slow caller costs next to nothing: at most `MAX_BEHIND` references to changes that all watches share.

    Args:
        catalog: The catalog.
        token: The resume token of the last event that the caller has seen; empty to begin with the whole catalog.
        to_message: Returns the message of a model, in the view that the caller wants.
        wake: Called when there is something to pull again.

    Raises:
        RegistryUnavailable: No registry was read yet.
        ResyncRequired: The token is too old.
    """

    def __init__(
        self,
        catalog: Union,
        token: str,
        to_message: Callable[[CatalogModel], model_pb2.Model],
        wake: Callable[[], None],
    ) -> None:
        self._to_message = to_message
        self._wake = wake
        self._waiting: deque[ChangeSet] = deque()
        self._is_behind = False
        self._watch = catalog.watch(token, self._receive)
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

    def _receive(self, change_set: ChangeSet) -> None:
        """Keep a change; called by the thread that reads the registry."""
        if len(self._waiting) < MAX_BEHIND:
            self._waiting.append(change_set)
        else:
            self._is_behind = True
        self._wake()

    def _all_events(self) -> Iterator[pb.WatchModelsResponse | None]:
        if self._watch.snapshot is not None:
            for model in self._watch.snapshot.models.values():
                yield pb.WatchModelsResponse(added=self._to_message(model))
        for change_set in self._watch.missed:
            yield from self._events_of(change_set)
        self._token = self._watch.token
        yield self._bookmark(self._watch.revision)
        while True:
            # Removed once it was sent: until then it counts as what the caller is behind.
            if self._waiting:
                yield from self._events_of(self._waiting[0])
                self._waiting.popleft()
            else:
                yield None

    def _events_of(self, change_set: ChangeSet) -> Iterator[pb.WatchModelsResponse]:
        """Yield the changes of one revision; only the last of them moves the token."""
        after = change_set.position.token()
        for number, change in enumerate(change_set.changes, start=1):
            token = after if number == len(change_set.changes) else self._token
            if change.kind is ChangeKind.REMOVED or change.model is None:
                yield pb.WatchModelsResponse(removed_name=change.name, resume_token=token)
            elif change.kind is ChangeKind.ADDED:
                yield pb.WatchModelsResponse(added=self._to_message(change.model), resume_token=token)
            else:
                yield pb.WatchModelsResponse(changed=self._to_message(change.model), resume_token=token)
        self._token = after
        if not change_set.changes:
            yield self._bookmark(change_set.position.revision)

    def _bookmark(self, revision: str) -> pb.WatchModelsResponse:
        return pb.WatchModelsResponse(bookmark=pb.Bookmark(catalog_revision=revision), resume_token=self._token)
