"""Counts the calls of every method that the grpcio front serves: whatever handles it, and however it ends."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from prinz_enricher.contract import enricher_service_pb2
from prinz_enricher.errors import Code
from prinz_enricher.fronts.grpc.authentication import CANCELLED, is_late
from prinz_enricher.telemetry.series import MethodSeries, Series

SERVICE = enricher_service_pb2.DESCRIPTOR.services_by_name["EnricherService"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

FLIGHT = "/arrow.flight.protocol.FlightService/DoExchange"

_UNKNOWN = 2


def served_methods(series: Series, *, flight: bool = False) -> dict[str, MethodSeries]:
    """Return what counts the calls of each method, by its path; that of Arrow Flight where it is served."""
    reflection = (_REFLECTION.full_name, _REFLECTION.full_name.replace(".v1alpha.", ".v1."))
    services = [(SERVICE, SERVICE.full_name), (HEALTH, HEALTH.full_name), *((_REFLECTION, name) for name in reflection)]
    types = {f"/{name}/{method.name}": _type_of(method) for service, name in services for method in service.methods}
    if flight:
        types[FLIGHT] = "bidi_stream"
    return {path: series.method(path, type) for path, type in types.items()}


class CountingServer:
    """Adds handlers to a server, each of which counts its calls."""

    def __init__(self, server: grpc.aio.Server, methods: Mapping[str, MethodSeries]) -> None:
        self._server = server
        self._methods = methods

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add handlers."""
        self._server.add_generic_rpc_handlers([_CountedHandlers(one, self._methods) for one in handlers])

    def add_registered_method_handlers(self, name: str, handlers: object) -> None:
        """Do nothing, as grpc.aio: these handlers are among the generic ones already."""


class _CountedHandlers(grpc.GenericRpcHandler):
    def __init__(self, handlers: grpc.GenericRpcHandler, methods: Mapping[str, MethodSeries]) -> None:
        self._handlers = handlers
        self._methods = methods
        # By identity: a handler is kept, so that its id stays its own.
        self._counted: dict[int, tuple[Any, Any]] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler: Any = self._handlers.service(details)
        if handler is None:
            return None
        known = self._counted.get(id(handler))
        if known is None:
            kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
            # A handler has one of them.
            [(kind, serve)] = [(kind, serve) for kind in kinds if (serve := getattr(handler, kind)) is not None]
            changed = {kind: counted(self._methods[details.method], serve)}
            known = self._counted[id(handler)] = handler, handler._replace(**changed)
        return known[1]


def counted(series: MethodSeries, serve: Callable[..., Any]) -> Callable[..., Any]:
    """Return what serves a method and counts its calls."""

    async def serve_once(request: Any, context: Any) -> Any:
        serving = serve(request, context)
        # Large ones go before their call does, and the error of a call holds this frame.
        del request
        with _Counted(series, context):
            return await serving

    async def serve_many(request: Any, context: Any) -> AsyncIterator[Any]:
        with _Counted(series, context):
            async for response in serve(request, context):
                yield response

    return serve_many if inspect.isasyncgenfunction(serve) else serve_once


def _type_of(method: Any) -> str:
    if method.client_streaming:
        return "bidi_stream" if method.server_streaming else "client_stream"
    return "server_stream" if method.server_streaming else "unary"


class _Counted:
    """One call, from its begin to its end."""

    __slots__ = ("_began", "_context", "_series")

    def __init__(self, series: MethodSeries, context: Any) -> None:
        self._series = series
        self._context = context

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._series.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now = time.monotonic()
        # None or a number, as the handler left it.
        code: Any = self._context.code() or 0
        code = code.value[0] if isinstance(code, grpc.StatusCode) else code
        if isinstance(error, Exception):
            code = code or _UNKNOWN
        elif error is not None:
            # Nobody waits for it any more.
            remaining: float | None = self._context.time_remaining()
            late = remaining is not None and is_late(self._began, now + remaining)
            code = Code.DEADLINE_EXCEEDED if late else CANCELLED
        self._series.end(code, now - self._began)
