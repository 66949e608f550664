"""The catalog as messages of the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from prinz_enricher.catalog import CatalogModel, CatalogVersion
from prinz_enricher.contract import model_pb2
from prinz_enricher.scoring import Status, WorkerState
from prinz_enricher.signature import to_wire

_STATES = {
    WorkerState.DISCOVERED: model_pb2.ModelVersion.STATE_DISCOVERED,
    WorkerState.LOADING: model_pb2.ModelVersion.STATE_LOADING,
    WorkerState.AVAILABLE: model_pb2.ModelVersion.STATE_AVAILABLE,
    WorkerState.UNLOADING: model_pb2.ModelVersion.STATE_UNLOADING,
    WorkerState.FAILED: model_pb2.ModelVersion.STATE_FAILED,
}


def state_of(version: CatalogVersion, status: Status | None) -> Status:
    """Tell where a version is in its life: what the registry says of it, then what the pool does.

    Args:
        version: The version.
        status: What the pool says; None where it can't be scored.
    """
    if version.pending:
        return Status(WorkerState.DISCOVERED, version.fault)
    if status is None:
        return Status(WorkerState.FAILED, version.fault)
    return status if status.message or not version.fault else replace(status, message=version.fault)


StatusOf = Callable[[CatalogVersion], Status]
"""Tells where a version is in its life in this service."""


def model_message(
    model: CatalogModel, default_version: CatalogVersion | None, status_of: StatusOf, *, full: bool
) -> model_pb2.Model:
    """Return a registered model with its versions.

    Args:
        model: The model.
        default_version: What a ModelRef without a selector means; None where no version can be scored.
        status_of: Tells the state of each version.
        full: Whether signatures are wanted too (MODEL_VIEW_FULL).
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
    # A fault of the model has no place of its own in the contract.
    told = status if status.message or not model.fault else replace(status, message=f"its model {model.fault}")
    return version_message(version, told, full=full)


def version_message(version: CatalogVersion, status: Status, *, full: bool) -> model_pb2.ModelVersion:
    """Return one version, with its signature if `full`."""
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
