"""The `Front` port: how calls come in from the network, whatever library speaks the protocol.

A front hands over raw calls, many at a time, and is answered by callback from any thread; so nothing behind it belongs
to an event loop, and a front that receives batches loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from google.rpc import code_pb2, status_pb2

from prinz_enricher.config import ServerSettings
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.status import reason_of, with_trace_id
from prinz_enricher.telemetry.series import VersionSeries
from prinz_enricher.telemetry.tracing import AnyTrace, CallTrace

SERVICE: Final = "prinz.enricher.v1.EnricherService"

_FAULTS: Final = {2, 4, 12, 13, 14, 15}
"""Codes for which the service is at fault, as OpenTelemetry's conventions for gRPC have it."""

MAX_REQUEST_ID = 256
"""Characters of a request_id."""


class CallRecord(Protocol):
    """What is noted of one call: by the service what it scores, by the front how it ends.

    Attributes:
        request_id: As the caller sent it, and so of any length.
        trace_id: Of the trace that it belongs to, 32 hexadecimal digits; empty for none.
        arrived: As its call has it; 0 for a stream.
        queue: Seconds that it waited for a worker; None for a call that was not scored.
        compute: Seconds of the model call that it was part of; None for a call that was not scored.
    """

    model: str
    version: str
    rows: int
    request_id: str
    trace_id: str
    arrived: float
    queue: float | None
    compute: float | None

    def end(self, status: status_pb2.Status | None) -> None:
        """Note the end: an answer (None), or an error; code 1 (CANCELLED) alone where the caller has gone.

        Called once, from any thread; never blocks for long and never raises.
        """


class CallLog(Protocol):
    """Notes calls for the audit and the log of requests, and counts those of a caller that are in flight."""

    def begin(self, method: str, principal: Principal | None, peer: str) -> CallRecord | status_pb2.Status:
        """Note that a call has come in, or return why it is refused, which is noted then. From any thread."""

    def refuse(self, method: str, principal: Principal | None, peer: str, status: status_pb2.Status) -> None:
        """Note a call that the front has refused, such as one of a caller who is not known. From any thread."""


@dataclass(slots=True, eq=False)
class Call:
    """One unary call; each front has a class of its own, which knows how to answer.

    The first answer counts, by `respond` or `fail`, from any thread; neither blocks nor raises, and both do nothing
    once there was one or the caller has gone.

    Attributes:
        method: The name of the RPC, such as `Score`.
        request: The request message, serialised.
        arrived: When it came in, by `time.monotonic()`.
        deadline: When its answer is of no more use, by `time.monotonic()`; None for no limit.
        principal: Who calls; None where nobody is asked.
        peer: The address that the call comes from, as gRPC writes it, such as `ipv4:10.0.0.7:40312`; empty if unknown.
        audit: Takes what is noted of the call, for the audit and other logs; None where nothing is.
        series: Counts the call, once it is known which version it scores.
        trace: Where it stands in a trace; None where it is in none.
        lone: Whether none came with it.
    """

    method: str
    request: bytes
    arrived: float
    deadline: float | None
    principal: Principal | None = field(default=None, kw_only=True)
    peer: str = field(default="", kw_only=True)
    audit: CallRecord | None = field(default=None, kw_only=True)
    series: VersionSeries | None = field(default=None, kw_only=True)
    trace: AnyTrace | None = field(default=None, kw_only=True)
    lone: bool = field(default=False, init=False)

    def respond(self, message: bytes) -> bool:
        """Answer with a serialised response message.

        Returns whether that ends the call, and not an error: who scores counts it then. Any other end of a call is for
        its front to count, by `note_failure`.
        """
        raise NotImplementedError

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        """Answer calls that came together, this one among them; returns how many `respond` is true of."""
        return sum([call.respond(message) for call, message in zip(calls, messages, strict=True)])

    def fail(self, status: status_pb2.Status) -> None:
        """Answer with an error."""
        raise NotImplementedError

    def note_failure(self, status: status_pb2.Status) -> None:
        """Count the call as one that ended with an error; once, by its front."""
        if self.series is not None:
            self.series.failed(reason_of(status))

    @property
    def trace_id(self) -> str:
        """The trace that it is in, as 32 hexadecimal digits; empty for none."""
        return "" if self.trace is None else self.trace.id

    def traced(self, status: status_pb2.Status) -> status_pb2.Status:
        """Return an error of this call, with the id of its trace."""
        return status if self.trace is None else with_trace_id(status, self.trace.id)

    def end_trace(self, status: status_pb2.Status | None) -> None:
        """Make the span of the call, which ends with an answer (None) or an error; once, by its front."""
        if not isinstance(self.trace, CallTrace):
            return
        code = 0 if status is None else status.code
        error = "" if status is None or code not in _FAULTS else reason_of(status)
        served = self.series
        known = {} if served is None else {"prinz.model": served.model, "prinz.version": served.version}
        self.trace.end(f"{SERVICE}/{self.method}", self.arrived, str(code_pb2.Code.Name(code)), error, known)

    def cancelled(self) -> bool:
        """Return whether the caller has gone."""
        raise NotImplementedError

    def hold(self, size: int) -> None:
        """Count so many bytes more among those of requests in flight, until the call ends; raises Overloaded."""


def are_noted(calls: Sequence[Call]) -> bool:
    """Return whether calls that came together have records: all or none, unless that was changed between them."""
    return calls[0].audit is not None or calls[-1].audit is not None


CallHandler = Callable[[Sequence[Call]], None]
"""Takes calls; never blocks for long, and never raises."""


class Source(Protocol):
    """The messages of a server stream, pulled as fast as the caller reads: nothing piles up for one who does not."""

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next message, or the status that ends the stream; None where there is nothing to send now."""

    def close(self) -> None:
        """Note that nothing is pulled any more."""


SourceOpener = Callable[[str, bytes, Callable[[], None], Principal | None], Source | status_pb2.Status]
"""Opens the stream of a method for a request, or refuses it. Gets a function too, which it calls, from any thread, each
time that there is something to pull again; and the principal, as a call has it."""


class Front(Protocol):
    """Receives calls."""

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen, hand every unary call to the handler, and serve every server stream from its source.

        Calls and streams are noted in the log, if there is one. Returns the port; raises FrontError where the address
        can't be listened on.
        """

    def set_health(self, services: dict[str, bool]) -> None:
        """Tell which services are SERVING (True) or NOT_SERVING (False), by their names in grpc.health.v1."""

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Go on with other numbers of calls and bytes in flight, other rules and another log, for new calls."""

    def refusals(self) -> dict[str, int]:
        """Return how many connections, or answers, each limit on them has ended; empty where that is not known."""

    def drain(self, grace: float) -> None:
        """Take no new calls, wait at most `grace` seconds for those in flight, and stop listening. Once is enough."""


class FrontError(Exception):
    """The front can't listen; the message says where and why."""
