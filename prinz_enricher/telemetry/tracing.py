"""Traces: where a call stands in its caller's, and the spans that it leaves. Nothing of OpenTelemetry is imported here.

A call that is not sampled costs the reading of its metadata, or a random number. A span is made once it is over, from
the times that are known anyway.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

MAX_LINKS: Final = 128
"""Links of a span, as OpenTelemetry's own limit."""

_MAX_STATE: Final = 512
"""Characters of a `tracestate` that is passed on."""

# https://www.w3.org/TR/trace-context/: a later version may have more after what is known here.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_LENGTH: Final = 55
"""Characters of a `traceparent`."""

Metadata = Sequence[tuple[str, str | bytes]]
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Span:
    """A span that is over; times by `time.monotonic()`, ids in hexadecimal.

    Attributes:
        kind: `SERVER`, `CLIENT` or `INTERNAL`.
        parent: Id of the span that it is a part of; empty for none. `from_afar` if that is another process's.
        state: The `tracestate` of its trace.
        links: Spans of other calls that it has to do with, each by the ids of its trace and its own.
        error: Why it failed; empty if it did not.
    """

    name: str
    kind: str
    trace_id: str
    id: str
    parent: str
    state: str
    began: float
    ended: float
    attributes: Mapping[str, str | int]
    links: Sequence[tuple[str, str]] = ()
    error: str = ""
    from_afar: bool = False


class Spans(Protocol):
    """Takes spans. A call without a parent is sampled if the low 64 bits of its trace id are below `bound`.

    One with a parent is sampled as that is, if the sampler is `parent_based`.
    """

    bound: int
    parent_based: bool

    def add(self, span: Span) -> None:
        """Export a span soon; from any thread, never blocks and never raises."""

    def close(self, seconds: float) -> None:
        """Export what is left, for so many seconds at most."""


@dataclass(slots=True, eq=False)
class CallTrace:
    """Where a call that is sampled stands in a trace.

    Attributes:
        id: The trace, in 32 hexadecimal digits.
        parent: The caller's span, in 16; empty where the trace begins with the call.
        state: The caller's `tracestate`.
        spans: Takes the spans of the call.
        span: The call's own span.
        rows: Of the call; 0 where they were not read.
        batch_rows: Of the model call that it was part of.
        predicts: The spans of model calls that it shared.
    """

    id: str
    parent: str
    state: str
    spans: Spans
    span: str
    rows: int = 0
    batch_rows: int = 0
    queued: bool = False
    predicts: list[tuple[str, str]] = field(default_factory=list)

    def end(self, method: str, began: float, code: str, error: str, attributes: Mapping[str, str]) -> None:
        """Make the span of a call that ends with a gRPC code, by its name; `error` where the service is at fault."""
        known: dict[str, str | int] = {"rpc.system.name": "grpc", "rpc.method": method}
        known |= {"rpc.response.status_code": code, **attributes}
        known |= {"prinz.rows": self.rows} if self.rows else {}
        known |= {"prinz.batch_rows": self.batch_rows} if self.batch_rows else {}
        known |= {} if code == "OK" else {"error.type": code}
        ids = (self.id, self.span, self.parent, self.state)
        times = (began, time.monotonic())
        links = self.predicts[:MAX_LINKS]
        self.spans.add(Span(method, "SERVER", *ids, *times, known, links, error, from_afar=bool(self.parent)))


class UnsampledTrace:
    """A trace of which the caller wants no spans; read only where an error, a line or a request has to name it."""

    __slots__ = ("_metadata", "rows")

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.rows = 0

    @property
    def id(self) -> str:
        """The trace; empty if what the caller sent is not valid."""
        found = _read(self._metadata)
        return "" if found is None else found[0]

    @property
    def headers(self) -> Headers:
        """What tells another server of it."""
        found = _read(self._metadata)
        return [] if found is None else _headers(found[0], found[1], "00", found[3])


AnyTrace: TypeAlias = CallTrace | UnsampledTrace


class BatchTrace:
    """A model call of one or more calls, each with the time when it was queued.

    Its span `predict` is part of the first sampled call; where several share it, it and their spans link each other.
    """

    __slots__ = ("_callers", "_headers", "_id", "_rows")

    def __init__(self, callers: Sequence[tuple[AnyTrace, float]], rows: int) -> None:
        self._callers = [(trace, queued) for trace, queued in callers if isinstance(trace, CallTrace)]
        self._rows = rows
        self._id = new_id() if self._callers else ""
        # Of calls that are not sampled, servers further on must not sample one either.
        self._headers = callers[0][0].headers if isinstance(callers[0][0], UnsampledTrace) else []
        for trace, _ in self._callers:
            trace.batch_rows = rows
            if len(self._callers) > 1:
                trace.predicts.append((self._callers[0][0].id, self._id))

    def end(self, began: float, error: str = "") -> None:
        """Make its span, which began when a worker was free for it, and those of the calls in the queue until then."""
        now = time.monotonic()
        for trace, queued in self._callers:
            if not trace.queued:
                # Once: a batch that failed is scored again in parts.
                trace.queued = True
                ids = (trace.id, new_id(), trace.span, trace.state)
                trace.spans.add(Span("queue", "INTERNAL", *ids, min(queued, began), began, {}))
        if self._callers:
            first = self._callers[0][0]
            ids = (first.id, self._id, first.span, first.state)
            links = [(trace.id, trace.span) for trace, _ in self._callers[:MAX_LINKS]] if len(self._callers) > 1 else []
            rows = {"prinz.batch_rows": self._rows}
            first.spans.add(Span("predict", "INTERNAL", *ids, began, now, rows, links, error))

    def begin_request(self) -> UpstreamRequest:
        """Begin a request to a model server, one of those that the model call takes."""
        return UpstreamRequest(self._callers[0][0] if self._callers else None, self._id, self._headers)


class UpstreamRequest:
    """One HTTP request to a model server; `headers` tell it which trace it is a part of."""

    __slots__ = ("_began", "_id", "_parent", "_trace", "headers")

    def __init__(self, trace: CallTrace | None, parent: str, headers: Headers) -> None:
        self._trace, self._parent, self._id = trace, parent, new_id()
        self._began = time.monotonic()
        self.headers = headers if trace is None else _headers(trace.id, self._id, "01", trace.state)

    def end(self, url: str, status: str) -> None:
        """Make its span; the status is a word where there was no answer."""
        trace = self._trace
        if trace is None:
            return
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # Without a user and a password.
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        known: dict[str, str | int] = {"http.request.method": "POST", "url.full": place}
        known |= {"server.address": host, "server.port": port}
        known |= {"http.response.status_code": int(status)} if status.isdecimal() else {}
        error = "no_answer" if not status.isdecimal() else status if int(status) >= 400 else ""
        known |= {"error.type": error} if error else {}
        ids = (trace.id, self._id, self._parent, trace.state)
        trace.spans.add(Span("POST", "CLIENT", *ids, self._began, time.monotonic(), known, (), error))


class Tracing:
    """Begins the traces of calls. From any thread."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._bound = spans.bound
        self._parent_based = spans.parent_based
        self.close = spans.close
        """Exports what is left, for some seconds at most."""

    def begin(self, metadata: Metadata) -> CallTrace | UnsampledTrace | None:
        """Return where a call with this metadata stands; None where it has no parent and is not sampled."""
        parent: Any = dict(metadata).get("traceparent")
        if parent is not None:
            if self._parent_based and len(parent) == _LENGTH and parent[-2:] == "00":
                # Nearly all calls of callers that sample a few.
                return UnsampledTrace(metadata)
            found = _read(metadata)
            if found is not None:
                trace_id, span, flags, state = found
                sampled = int(flags, 16) & 1 if self._parent_based else int(trace_id[16:], 16) < self._bound
                return CallTrace(trace_id, span, state, self._spans, new_id()) if sampled else UnsampledTrace(metadata)
        low = getrandbits(64)
        if low >= self._bound:
            return None
        return CallTrace(f"{getrandbits(64):016x}{low:016x}", "", "", self._spans, new_id())


def _read(metadata: Metadata) -> tuple[str, str, str, str] | None:
    """Return the ids of a trace and the caller's span, the flags, and the `tracestate`; None without a valid one."""
    parents = [str(value) for key, value in metadata if key == "traceparent"]
    state = ",".join([str(value) for key, value in metadata if key == "tracestate"])
    found = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None or (found[1] == "00" and len(parents[0]) != _LENGTH):
        return None
    passed_on = len(state) <= _MAX_STATE and state.isascii() and state.isprintable()
    return found[2], found[3], found[4], state if passed_on else ""


def _headers(trace_id: str, span: str, flags: str, state: str) -> Headers:
    headers = [(b"traceparent", f"00-{trace_id}-{span}-{flags}".encode())]
    return [*headers, (b"tracestate", state.encode())] if state else headers


def new_id() -> str:
    """Return the id of a new span."""
    return f"{getrandbits(64) or 1:016x}"
