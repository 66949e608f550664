"""The channel of a synchronous client, and the calls on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from prinz_enricher.client.connection import SERVICE, Connection
from prinz_enricher.client.service_error import client_closed, service_error
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc

_R = TypeVar("_R")


class Channel:
    """A gRPC channel; deadlines are by `time.monotonic()`, and errors are `ServiceError`."""

    def __init__(self, connection: Connection) -> None:
        target, options, credentials = connection.target, list(connection.options), connection.credentials
        self._channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        self.stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        # Requests are already serialised.
        self._score: Any = self._channel.unary_unary(
            f"/{SERVICE}/Score", request_serializer=None, response_deserializer=pb.ScoreResponse.FromString
        )
        self._bearer = connection.bearer
        self._closed = False

    def close(self) -> None:
        """Close the channel; calls in flight fail."""
        self._closed = True
        self._channel.close()

    def call(self, method: Callable[..., _R], request: object, deadline: float) -> _R:
        """Call a method, and return its response."""
        metadata = self._bearer.metadata()
        try:
            return method(request, timeout=seconds_until(deadline), metadata=metadata)
        except grpc.RpcError as error:
            raise service_error(error) from error
        except ValueError as error:
            raise self._error(error) from error

    def score(self, request: bytes, deadline: float) -> pb.ScoreResponse:
        """Score a serialised request; a quarter quicker than `start_score`."""
        return self.call(self._score, request, deadline)  # type: ignore[no-any-return]  # grpc has no types

    def start_score(self, request: bytes, deadline: float) -> PendingScore:
        """Score a serialised request without waiting."""
        metadata = self._bearer.metadata()
        try:
            return PendingScore(self._score.future(request, timeout=seconds_until(deadline), metadata=metadata))
        except ValueError as error:
            raise self._error(error) from error

    def _error(self, error: ValueError) -> Exception:
        # gRPC raises it for a closed channel, but not for that alone.
        return client_closed() if self._closed else error


class PendingScore:
    """A call in flight."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self, timeout: float) -> pb.ScoreResponse:
        """Return the response; raises TimeoutError where there is none within `timeout` seconds."""
        try:
            return self._future.result(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))  # type: ignore[no-any-return]
        except grpc.FutureTimeoutError:
            raise TimeoutError from None
        except grpc.FutureCancelledError as error:
            raise client_closed() from error
        except grpc.RpcError as error:
            raise service_error(error) from error

    def add_done_callback(self, done: Callable[[], None]) -> None:
        """Call a function, in another thread, once there is a response."""
        self._future.add_done_callback(lambda _: done())


def seconds_until(deadline: float) -> float:
    """Return the seconds until a deadline by `time.monotonic()`, not below 0."""
    return min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
