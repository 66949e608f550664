"""An OTLP receiver that keeps the spans it gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SERVER, CLIENT, INTERNAL = 2, 3, 1
"""Kinds of spans."""
ERROR = 2
"""A span's status."""


class Received:
    """A span as it came."""

    def __init__(self, span: Any, resource: Any) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.state: str = span.trace_state
        self.status: int = span.status.code
        self.began: int = span.start_time_unix_nano
        self.ended: int = span.end_time_unix_nano
        self.links: set[tuple[str, str]] = {(one.trace_id.hex(), one.span_id.hex()) for one in span.links}
        self.attributes = {one.key: _value(one.value) for one in span.attributes}
        self.resource = {one.key: _value(one.value) for one in resource.attributes}

    def __repr__(self) -> str:
        return f"{self.name} {self.trace_id[-6:]}/{self.id[-4:]} in {self.parent[-4:]} {self.attributes}"


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


class SpanReceiver:
    """Receives spans over OTLP/HTTP as long as its context lasts; answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.spans: list[Received] = []
        self.requests = 0
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer._receive(ExportTraceServiceRequest.FromString(body))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        self.variables = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        """What has a process send its spans here, soon."""
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, request: Any) -> None:
        found = [
            Received(span, one.resource)
            for one in request.resource_spans
            for scope in one.scope_spans
            for span in scope.spans
        ]
        with self._changed:
            self.requests += 1
            if self.status == 200:
                self.spans += found
            self._changed.notify_all()

    def wait(self, complete: Callable[[list[Received]], bool], seconds: float = 60.0) -> list[Received]:
        """Wait until the spans so far are what a test wants; return them."""
        until = time.monotonic() + seconds
        with self._changed:
            while not complete(self.spans):
                assert self._changed.wait(until - time.monotonic()), f"the spans that came: {self.spans}"
            return list(self.spans)

    def of_trace(self, trace_id: str, names: list[str]) -> dict[str, Received]:
        """Wait until a trace has spans of these names, with an asterisk for a CLIENT span; return them by that."""

        def found(spans: list[Received]) -> dict[str, Received]:
            own = [span for span in spans if span.trace_id == trace_id]
            return {f"{'*' if span.kind == CLIENT else ''}{span.name}": span for span in own}

        return found(self.wait(lambda spans: set(names) <= found(spans).keys()))
