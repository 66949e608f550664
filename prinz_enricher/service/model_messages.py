"""Models as messages of the contract: in lists, kept while nothing of them changes, and in the events of a watch."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from threading import Lock

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from prinz_enricher.catalog import CatalogModel, CatalogVersion, ChangeKind, ChangeSet
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, signature_pb2
from prinz_enricher.errors import Overloaded, ResyncRequired
from prinz_enricher.scoring.ports import Status, Target, WorkerPool
from prinz_enricher.service.catalog_view import CatalogView
from prinz_enricher.service.status import to_status
from prinz_enricher.service.targets import Targets
from prinz_enricher.signature import to_wire

MAX_BYTES = 32 * 1024 * 1024
"""Bytes of messages that are kept; the least recently used go first."""

MAX_SIGNATURES_BYTES = 3 * 1024 * 1024
"""Bytes of the signatures of one model in one message: a model with them is within what clients accept by default."""

MAX_BEHIND = 256
"""Revisions that a caller may be behind before its watch ends."""


def model_message(
    model: CatalogModel, default_version: CatalogVersion | None, statuses: Iterable[Status], *, full: bool
) -> model_pb2.Model:
    """Return the message of a registered model with its versions in these statuses, and their signatures if `full`.

    Of signatures that have more than `MAX_SIGNATURES_BYTES` together those of older versions are left out, and say so.
    """
    versions = []
    left = MAX_SIGNATURES_BYTES if full else 0
    for version, found in zip(model.versions, statuses, strict=True):
        status = found
        signature = to_wire(version.signature) if left > 0 and version.signature is not None else None
        left -= 0 if signature is None else signature.ByteSize()
        if full and left < 0:
            signature = None
        if full and signature is None and version.signature is not None:
            why = "the signatures of this model are too large for one message; GetSignature returns this one"
            status = replace(found, message="; ".join(filter(None, (found.message, why))))
        versions.append(_version_of(model, version, status, signature))
    return model_pb2.Model(
        name=model.name,
        description=model.description,
        tags=model.tags,
        aliases=model.aliases,
        default_version="" if default_version is None else default_version.version,
        versions=versions,
        create_time=_timestamp(model.created_ms),
        update_time=_timestamp(model.updated_ms),
    )


def _version_of(
    model: CatalogModel, version: CatalogVersion, status: Status, signature: signature_pb2.Signature | None
) -> model_pb2.ModelVersion:
    if model.fault and not status.message:
        # A fault of the model has no place of its own in the contract.
        status = replace(status, message=f"its model {model.fault}")
    return model_pb2.ModelVersion(
        version=version.version,
        aliases=version.aliases,
        description=version.description,
        tags=version.tags,
        state=f"STATE_{status.state.name}",
        state_message=status.message,
        flavors=version.flavors,
        run_id=version.run_id,
        source=version.source,
        create_time=_timestamp(version.created_ms),
        update_time=_timestamp(version.updated_ms),
        route=model_pb2.ModelVersion.ROUTE_REMOTE if status.remote else model_pb2.ModelVersion.ROUTE_LOCAL,
        batching=model_pb2.ModelVersion.BATCHING_ON if status.batching else model_pb2.ModelVersion.BATCHING_OFF,
        signature=signature,
    )


def _timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A message as it was written, and what it depends on: targets and statuses by version, None without a target."""

    model: CatalogModel
    targets: tuple[Target | None, ...]
    statuses: tuple[Status | None, ...]
    content: bytes


class ModelMessages:
    """Writes models, and keeps what was written while neither the model nor the status of its versions changes.

    Unchanged models are the same objects from one snapshot to the next, so that identity shows whether one changed.
    A default version depends on its model alone, and a target on its version.
    """

    def __init__(self, targets: Targets, pool: WorkerPool, *, max_bytes: int = MAX_BYTES) -> None:
        self._targets = targets
        self._pool = pool
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, bool], _Kept] = OrderedDict()
        self._lock = Lock()

    def get(self, model: CatalogModel, *, full: bool) -> bytes:
        """Return a serialised ListModelsResponse with this model alone, with signatures if `full`."""
        key = (model.name, full)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is not None and kept.model is model:
            targets = kept.targets
        else:
            kept, targets = None, tuple(self._targets.find(version) for version in model.versions)
        status = self._pool.status
        statuses = tuple([None if target is None else status(target) for target in targets])
        if kept is not None and kept.statuses == statuses:
            return kept.content
        states = map(self._targets.state, model.versions, statuses)
        message = model_message(model, self._targets.default_version(model), states, full=full)
        content = pb.ListModelsResponse(models=[message]).SerializeToString()
        self._keep(key, _Kept(model, targets, statuses, content))
        return content

    def _keep(self, key: tuple[str, bool], new: _Kept) -> None:
        with self._lock:
            former = self._kept.pop(key, None)
            self._bytes += len(new.content) - (len(former.content) if former else 0)
            self._kept[key] = new
            while self._bytes > self._max_bytes:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.content)


class WatchSource:
    """The events of one watch of what its caller may see, pulled as fast as it reads.

    A slow caller costs next to nothing: at most `MAX_BEHIND` references to changes that all watches share.

    `token` is of the last event that the caller has seen; empty to begin with the whole catalog. `wake` is called when
    there is something to pull again. Raises RegistryUnavailable, and ResyncRequired where the token is too old.
    The watch ends where it `is_outdated`, since its caller may see other models by now.
    """

    def __init__(
        self,
        view: CatalogView,
        token: str,
        to_message: Callable[[CatalogModel], model_pb2.Model],
        wake: Callable[[], None],
        is_outdated: Callable[[], bool] = lambda: False,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_close = on_close
        self._to_message = to_message
        self._is_outdated = is_outdated
        self._wake = wake
        self._waiting: deque[ChangeSet] = deque()
        self._is_behind = False
        self._view = view
        self._watch = view.watch(token, self._receive)
        self._token = token
        self._events = self._all_events()

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next event; None where nothing has changed."""
        if self._is_outdated():
            return to_status(ResyncRequired())
        if self._is_behind:
            return to_status(Overloaded(f"this watch is more than {MAX_BEHIND} changes behind"))
        event = next(self._events)
        return None if event is None else event.SerializeToString()

    def close(self) -> None:
        """End the watch."""
        self._on_close()
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
        self._token = self._view.resume_token(self._watch.token)
        yield self._bookmark(self._watch.current.revision)
        while True:
            # Removed once it was sent: until then it counts as what the caller is behind.
            if self._waiting:
                yield from self._events_of(self._waiting[0])
                self._waiting.popleft()
            else:
                yield None

    def _events_of(self, change_set: ChangeSet) -> Iterator[pb.WatchModelsResponse]:
        """Yield the changes of one revision; only the last of them moves the token."""
        after = self._view.resume_token(change_set.position.token())
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
