"""Models as messages of the contract, kept while neither the model nor the status of its versions changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

from google.protobuf.timestamp_pb2 import Timestamp

from prinz_enricher.catalog import CatalogModel, CatalogVersion
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.scoring import Status, Target, WorkerState
from prinz_enricher.signature import to_wire

MAX_BYTES = 32 * 1024 * 1024
"""Bytes of messages that are kept; the least recently used go first."""


_STATES = {
    WorkerState.DISCOVERED: model_pb2.ModelVersion.STATE_DISCOVERED,
    WorkerState.LOADING: model_pb2.ModelVersion.STATE_LOADING,
    WorkerState.AVAILABLE: model_pb2.ModelVersion.STATE_AVAILABLE,
    WorkerState.UNLOADING: model_pb2.ModelVersion.STATE_UNLOADING,
    WorkerState.FAILED: model_pb2.ModelVersion.STATE_FAILED,
}


def state_of(version: CatalogVersion, status: Status | None) -> Status:
    """Return the status of a version: by the registry, then by the pool, whose `status` is None without a target."""
    if version.pending:
        return Status(WorkerState.DISCOVERED, version.fault)
    if status is None:
        return Status(WorkerState.FAILED, version.fault)
    return status if status.message or not version.fault else replace(status, message=version.fault)


def model_message(
    model: CatalogModel,
    default_version: CatalogVersion | None,
    status_of: Callable[[CatalogVersion], Status],
    *,
    full: bool,
) -> model_pb2.Model:
    """Return the message of a registered model with its versions.

    Args:
        model: The model.
        default_version: The version that a ModelRef without a selector means; None for none.
        status_of: Returns the status of each version.
        full: Whether signatures are included (MODEL_VIEW_FULL).
    """
    return model_pb2.Model(
        name=model.name,
        description=model.description,
        tags=model.tags,
        aliases=model.aliases,
        default_version="" if default_version is None else default_version.version,
        versions=[_version_of(model, version, status_of(version), full=full) for version in model.versions],
        create_time=_timestamp(model.created_ms),
        update_time=_timestamp(model.updated_ms),
    )


def _version_of(model: CatalogModel, version: CatalogVersion, status: Status, *, full: bool) -> model_pb2.ModelVersion:
    if model.fault and not status.message:
        # A fault of the model has no place of its own in the contract.
        status = replace(status, message=f"its model {model.fault}")
    return model_pb2.ModelVersion(
        version=version.version,
        aliases=version.aliases,
        description=version.description,
        tags=version.tags,
        state=_STATES[status.state],
        state_message=status.message,
        flavors=version.flavors,
        run_id=version.run_id,
        source=version.source,
        create_time=_timestamp(version.created_ms),
        update_time=_timestamp(version.updated_ms),
        route=model_pb2.ModelVersion.ROUTE_REMOTE if status.remote else model_pb2.ModelVersion.ROUTE_LOCAL,
        batching=model_pb2.ModelVersion.BATCHING_ON if status.batching else model_pb2.ModelVersion.BATCHING_OFF,
        signature=to_wire(version.signature) if full and version.signature is not None else None,
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

    Args:
        default_version: Returns the version that a ModelRef without a selector means; depends on the model alone.
        target: Returns the target of a version, if any; depends on the version alone.
        status: Returns the pool's status of a target.
        state: Returns the status of a version by that of its target; depends on nothing else that changes.
        max_bytes: Bytes of messages that are kept.
    """

    def __init__(
        self,
        default_version: Callable[[CatalogModel], CatalogVersion | None],
        target: Callable[[CatalogVersion], Target | None],
        status: Callable[[Target], Status],
        state: Callable[[CatalogVersion, Status | None], Status],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._default_version = default_version
        self._target = target
        self._status = status
        self._state = state
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
            kept, targets = None, tuple(self._target(version) for version in model.versions)
        status = self._status
        statuses = tuple([None if target is None else status(target) for target in targets])
        if kept is not None and kept.statuses == statuses:
            return kept.content
        by_version = dict(zip(model.by_number, statuses, strict=True))
        message = model_message(
            model,
            self._default_version(model),
            lambda version: self._state(version, by_version[version.version]),
            full=full,
        )
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
