"""The CLIENT span of a request, and the headers that continue its trace, where the application has OpenTelemetry.

Where it has not imported OpenTelemetry's API, nothing of that is imported here either.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, TypeAlias

import grpc

from prinz_enricher.contract import enricher_service_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["EnricherService"].full_name
_API: Final = "opentelemetry.trace"

Context: TypeAlias = Any
"""A context of OpenTelemetry."""


class CallSpan:
    """The span of a request, which ends with the block; without OpenTelemetry it is none, and adds nothing."""

    __slots__ = ("_span",)

    def __init__(self, request: object, server: Mapping[str, str | int], contexts: Sequence[Context] = ()) -> None:
        """Begin the span of a message of the contract, a serialised one being a `ScoreRequest`.

        It is a part of the first of its callers' contexts that has a span, or else of the current one, and linked to
        the others.
        """
        self._span = None
        if _API in sys.modules:
            method = "Score" if isinstance(request, bytes) else type(request).__name__.removesuffix("Request")
            self._span = _begin(f"{_SERVICE}/{method}", server, contexts)

    def __enter__(self) -> tuple[tuple[str, str], ...]:
        """Return what to add to the metadata of the request."""
        if self._span is None:
            return ()
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, set_span_in_context(self._span))
        return tuple(headers.items())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is not None:
            code = error.code() if isinstance(error, grpc.RpcError) else None
            self.end(code or (grpc.StatusCode.OK if error is None else grpc.StatusCode.CANCELLED))

    def end(self, code: grpc.StatusCode) -> None:
        """End the span of a request that has this code."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.response.status_code", code.name)
        if code is not grpc.StatusCode.OK:
            self._span.set_attribute("error.type", code.name)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def caller_context() -> Context | None:
    """Return the context of who calls now; None where the application has no OpenTelemetry."""
    if _API not in sys.modules:
        return None
    from opentelemetry.context import get_current

    return get_current()


def _begin(method: str, server: Mapping[str, str | int], contexts: Sequence[Context]) -> Any:
    from opentelemetry.trace import Link, SpanKind, get_current_span, get_tracer_provider

    parent, links = contexts[0] if contexts else None, []
    seen: set[int] = set()
    for context in contexts:
        found = get_current_span(context).get_span_context()
        if found.is_valid and found.span_id not in seen:
            if seen:
                links.append(Link(found))
            else:
                parent = context
            seen.add(found.span_id)
    known = {"rpc.system.name": "grpc", "rpc.method": method, **server}
    tracer = _tracer(get_tracer_provider())
    return tracer.start_span(method, context=parent, kind=SpanKind.CLIENT, attributes=known, links=links)


@lru_cache(1)
def _tracer(provider: Any) -> Any:
    return provider.get_tracer("prinz_enricher.client")


def server_attributes(target: str) -> dict[str, str | int]:
    """Return the attributes of spans that say where requests go, as far as gRPC's target tells."""
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    if not host or not port.isdecimal():
        return {"server.address": target}
    return {"server.address": host.strip("[]"), "server.port": int(port)}
