"""Exports spans by OpenTelemetry's SDK: its batches, exporters and variables. Imported only where calls are traced."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from importlib.metadata import entry_points
from typing import Any, Final

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from prinz_enricher import __version__
from prinz_enricher.telemetry.tracing import Span

_LIBRARY: Final = "opentelemetry"
_SCOPE: Final = InstrumentationScope("prinz_enricher", __version__)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_OK: Final = Status(StatusCode.UNSET)

_QUIET_SECONDS: Final = 600.0
"""How long no other problem is logged: each batch, or even each span, may have the same."""

_PRIVATE: Final = re.compile(r"(?<=with url: )\S+|(?<=//)[^/@\s]+@")
"""What a URL may have of a secret, in the words of an exporter."""

log = structlog.stdlib.get_logger(__name__)


class SpanExport:
    """Exports spans in batches, by a thread of the SDK; see `Spans`. What can't be exported is lost, which is logged.

    Raises ImportError where an exporter is not installed, and ValueError for a variable that can't be used.
    """

    def __init__(self, exporters: str) -> None:
        self._problems = _Problems()
        self._problems.attach()
        try:
            resource = Resource.create()
            if str(resource.attributes["service.name"]).startswith("unknown_service"):
                resource = resource.merge(Resource({"service.name": "prinz-enricher", "service.version": __version__}))
            self._resource = _Resource(resource.attributes, resource.schema_url)
            sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
            self.parent_based = isinstance(sampler, ParentBased)
            root = getattr(sampler, "_root", sampler)
            self.bound = root.bound if isinstance(root, TraceIdRatioBased) else (1 << 64) * (root is ALWAYS_ON)
            self._processors = [BatchSpanProcessor(_exporter(name.strip())) for name in exporters.split(",")]
        except BaseException:
            self._problems.detach()
            raise
        # What was wrong with a variable, whose default counts then, was logged.
        self._problems.quiet_until = 0.0

    def add(self, span: Span) -> None:
        """Export a span soon; see `Spans`."""
        try:
            ended = self._span(span)
            for processor in self._processors:
                processor.on_end(ended)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call goes on
            self._problems.note(f"a span can't be made ({type(error).__name__})")

    def _span(self, span: Span) -> ReadableSpan:
        trace_id, offset = int(span.trace_id, 16), time.time_ns() - time.monotonic_ns()
        state = TraceState.from_header([span.state]) if span.state else None
        parent = SpanContext(trace_id, int(span.parent, 16), span.from_afar, _SAMPLED) if span.parent else None
        return ReadableSpan(
            span.name,
            SpanContext(trace_id, int(span.id, 16), is_remote=False, trace_flags=_SAMPLED, trace_state=state),
            parent,
            self._resource,
            span.attributes,
            links=[Link(SpanContext(int(of, 16), int(id, 16), is_remote=False)) for of, id in span.links],
            kind=SpanKind[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else _OK,
            start_time=int(span.began * 1e9) + offset,
            end_time=int(span.ended * 1e9) + offset,
            instrumentation_scope=_SCOPE,
        )

    def close(self, seconds: float) -> None:
        """Export what is left, for so many seconds at most."""
        # Where nobody answers, a shutdown takes as long as the exporter tries.
        threads = [threading.Thread(target=processor.shutdown, daemon=True) for processor in self._processors]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._problems.detach()


def _exporter(name: str) -> SpanExporter:
    """Return an exporter by its name in OTEL_TRACES_EXPORTER."""
    if name == "otlp":
        protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = next((value for key in protocols if (value := os.environ.get(key, "").strip())), "http/protobuf")
        if protocol not in ("http/protobuf", "grpc"):
            raise ImportError(f"there is no exporter for the protocol {protocol[:40]!r} of OTLP")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        exporter: SpanExporter = entry.load()()
        return exporter
    raise ImportError(f"there is no exporter {name[:40]!r}")


class _Resource(Resource):
    """Hashed once: the hash is that of a JSON text, asked for with each span, and took a third of the export."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _Problems(logging.Handler):
    """Logs what OpenTelemetry says of a problem, and then nothing for a while."""

    quiet_until = 0.0

    def attach(self) -> None:
        """Take all that it logs."""
        logger = logging.getLogger(_LIBRARY)
        logger.addHandler(self)
        logger.propagate = False

    def detach(self) -> None:
        """Take no more."""
        logger = logging.getLogger(_LIBRARY)
        logger.removeHandler(self)
        logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        # What is wrong with a caller's `tracestate` is not our problem, and not logged.
        if record.levelno >= logging.WARNING and record.name != TraceState.__module__:
            # It repeats headers that it can't read, and they have keys of the collector.
            headers = record.name.startswith("opentelemetry.util")
            why = "a header in OTEL_EXPORTER_OTLP_HEADERS can't be read" if headers else record.getMessage()
            self.note(_PRIVATE.sub("…", why)[:400])

    def note(self, why: str) -> None:
        """Log a problem, unless one was just logged."""
        now = time.monotonic()
        if now >= self.quiet_until:
            self.quiet_until = now + _QUIET_SECONDS
            log.warning("spans are not exported as they should be", why=why)
