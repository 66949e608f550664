"""Why a call failed, in one word: the service's own reason, or the gRPC code where it gave none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

WRONG_ANSWER: Final = "WRONG_ANSWER"
"""The reason of an answer that is not the one which the same rows had in a scoring of their own."""

NO_ANSWER: Final = "NO_ANSWER"
"""The reason of a call that had neither answer nor error when the time for its answer was over."""

_DETAILS: Final = "grpc-status-details-bin"


class CallFailedError(Exception):
    """A call was answered with an error.

    Attributes:
        reason: In one word.
        message: In one sentence, of the server.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason = reason
        self.message = message


def failure_of_call(error: grpc.RpcError) -> CallFailedError:
    """Tell why a call of gRPC failed."""
    details: Any = next((value for key, value in _metadata(error) if key == _DETAILS), b"")
    reason = _reason(status_pb2.Status.FromString(details)) if details else ""
    return CallFailedError(reason or error.code().name, error.details() or "")


def failure_of_status(status: status_pb2.Status) -> CallFailedError:
    """Tell why a scoring of a stream failed."""
    return CallFailedError(_reason(status) or code_pb2.Code.Name(status.code), status.message)


def _metadata(error: grpc.RpcError) -> Iterable[tuple[str, str | bytes]]:
    return cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""
