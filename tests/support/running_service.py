"""A running service, and what its refusals say."""

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.application import Application
from prinz_enricher.contract import enricher_service_pb2_grpc

LONG = 60.0
"""Seconds that a call may take which waits for a worker to load."""


@dataclass(frozen=True)
class Service:
    """A running service."""

    application: Application
    address: str
    registry: str

    def stub(self) -> Any:
        """Return the generated stub on a new channel."""
        return enricher_service_pb2_grpc.EnricherServiceStub(self.channel())  # type: ignore[no-untyped-call]  # generated

    def channel(self) -> grpc.Channel:
        """Return a new channel."""
        return grpc.insecure_channel(self.address)


@dataclass(frozen=True)
class Refusal:
    """What a call was refused with."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    violations: list[str]
    details: list[str]


def refused(method: Any, request: Message | bytes) -> Refusal:
    """Call, expect an error, and return what it says."""
    with pytest.raises(grpc.RpcError) as raised:
        method(request, timeout=LONG)
    error = raised.value
    details = next(entry.value for entry in error.trailing_metadata() if entry.key == "grpc-status-details-bin")
    status = status_pb2.Status.FromString(details)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert info.domain == "prinz.enricher"
    assert (status.code, status.message) == (error.code().value[0], error.details())
    for detail in status.details:
        detail.Unpack(bad_request)
    return Refusal(
        error.code(),
        info.reason,
        dict(info.metadata),
        [violation.field for violation in bad_request.field_violations],
        [detail.TypeName() for detail in status.details],
    )
