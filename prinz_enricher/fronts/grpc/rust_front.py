"""The front on our own server in Rust, `front/`: TLS and limits outside the GIL, calls many at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID
from google.rpc import status_pb2
from prinz_enricher_front import Server

from prinz_enricher.config import ServerSettings
from prinz_enricher.errors import MessageTooLarge, Overloaded
from prinz_enricher.fronts.grpc.admission import SMALL, Admission, FrontLimits, limits_of, max_connections
from prinz_enricher.fronts.grpc.authentication import (
    Callers,
    FrontSecurity,
    Verdict,
    authorization_of,
    gone,
    note_begin,
)
from prinz_enricher.fronts.grpc.counted_handlers import SERVICE, served_methods
from prinz_enricher.fronts.grpc.grpcio_front import LINGER, GrpcioFront, error_metadata, note_flight
from prinz_enricher.fronts.grpc.rust_streams import RustStreams, encoded
from prinz_enricher.fronts.listener import listen
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import ClientCertificate, Principal
from prinz_enricher.security.watched_files import SecurityError
from prinz_enricher.service.calls import Call, CallHandler, CallLog, FrontError, SourceOpener
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Metadata, Tracing

if TYPE_CHECKING:
    from prinz_enricher_front import Arrival, Batch, Large

    from prinz_enricher.security.certificates import Certificates

log = structlog.stdlib.get_logger(__name__)

METHODS = tuple(method.name for method in SERVICE.methods if not (method.client_streaming or method.server_streaming))
OK = status_pb2.Status()

MAX_CALLS = 256
"""Calls that are received at once."""

METADATA = ("authorization", "traceparent", "tracestate")
"""What is asked of the metadata of calls."""

BACKLOG = 4096
"""Connections that wait to be accepted."""

_UNARY, _WHOLE, _STREAM = range(3)


class RustFront:
    """Serves gRPC by `prinz_enricher_front.Server` at `host:port`, or at `unix:path`.

    Its thread receives unary calls in batches; a `GrpcioFront` serves the other methods by the same server.
    """

    def __init__(
        self,
        address: str,
        limits: FrontLimits,
        security: FrontSecurity = FrontSecurity(),  # noqa: B008
        series: Series | None = None,
        tracing: Tracing | None = None,
        *,
        flight: str | None = None,
    ) -> None:
        self._flight = flight
        self._tracing = tracing
        self._series = series or Series()
        self._address = address
        self._limits = limits
        self._security = security
        self._max_message_bytes = limits.message_bytes
        self._admission = Admission(limits)
        self.grow = self._admission.grow
        """Counts bytes more for a call in flight."""
        self._log: CallLog | None = None
        self._calls: dict[int, RustCall] = {}
        # Calls whose tokens were verified are handed over by other threads.
        self._handing_over = threading.Lock()
        self._large = ThreadPoolExecutor(1, "large-requests")
        self._thread = threading.Thread(target=self._run, name="rust-front", daemon=True)

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen, and hand every call to the handler; returns the port."""
        self._handler = handler
        self._log = log
        port = self._listen(open_source)
        self._methods = {method: self._series.methods[f"/{SERVICE.full_name}/{method}"] for method in METHODS}
        self._thread.start()
        return port

    def set_health(self, services: dict[str, bool]) -> None:
        """Set which services are SERVING (True) or NOT_SERVING (False)."""
        self.streams.set_health(services)

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Go on with other numbers of calls and bytes in flight, other rules and another log."""
        self._admission.change(limits_of(settings))
        self._log = log
        self.streams.change(settings, rules, log)

    def drain(self, grace: float) -> None:
        """Refuse new calls, wait up to `grace` seconds for those in flight, and stop listening."""
        if not self._thread.is_alive():
            return
        until = time.monotonic() + grace
        self._admission.draining = True
        self.streams.refuse()
        self._admission.wait_idle(grace)
        # While it lingers, callers that were just answered still hear SHUTTING_DOWN.
        self.streams.drain(max(0.0, until - time.monotonic()))
        self._server.stop(LINGER)
        self._thread.join()
        self._large.shutdown()

    def _listen(self, open_source: SourceOpener) -> int:
        served = served_methods(self._series, flight=self._flight is not None)
        unary = [f"/{SERVICE.full_name}/{method}" for method in METHODS]
        # Those of the service first: a batch has their numbers.
        paths = [*unary, *(path for path in served if path not in unary)]
        self._series_of = [served[path] for path in paths]
        kinds = {"unary": _WHOLE, "server_stream": _WHOLE, "bidi_stream": _STREAM}
        self._server = Server(
            [(path, _UNARY if path in unary else kinds[served[path].type]) for path in paths],
            METADATA,
            limits_for_rust(self._limits),
            2 * self._limits.calls + MAX_CALLS,
        )
        sockets, port = _open_sockets(self._address)
        if self._flight is not None:
            more, flight_port = ([], port) if self._flight == self._address else _open_sockets(self._flight)
            sockets += more
            note_flight(flight_port)
        self.streams = GrpcioFront(
            self._address,
            self._limits,
            self._security,
            self._series,
            self._tracing,
            flight=self._flight,
            make_server=partial(RustStreams, self._server, paths, certificate_of),
            admission=self._admission,
        )
        files = self._security.certificates
        chain, key, client_ca = (None, None, None) if files is None else _pem(files.current)
        self.streams.start(self._handler, open_source, self._log)
        try:
            unix = self._address.startswith("unix:")
            self._server.start([one.detach() for one in sockets], unix=unix, chain=chain, key=key, client_ca=client_ca)
        except (OSError, ValueError) as error:
            self.streams.drain(0.0)
            raise FrontError(f"can't serve on {self._address}: {error}") from error
        if files is not None:
            files.use_in(self._exchange)
        return port

    def refusals(self) -> dict[str, int]:
        """Return how many connections, or answers, each limit on them has ended."""
        counts = self._server.counts()
        del counts["open"]
        return counts

    def _exchange(self, certificates: Certificates) -> None:
        """Have new connections begin with other certificates."""
        try:
            self._server.exchange(*_pem(certificates))
        except ValueError as error:
            raise SecurityError(f"TLS can't use the new certificate: {error}") from None

    def _take(self, batch: Batch) -> None:
        arrivals, left, read, dropped = batch
        now = time.monotonic()
        for method, code, count in dropped:
            # They were over before anybody saw them.
            self._series_of[method].start(count)
            self._series_of[method].end(code, 0.0, count)
        self._count_started(arrival[1] for arrival in arrivals)
        for number in read:
            self._admission.leave(number)
        self._begin_all([(self._call_of(arrival, now), arrival[6]) for arrival in arrivals], left)

    def _call_of(self, arrival: Arrival, now: float) -> RustCall:
        number, method, request, fault, waited, timeout, _, (_, peer, certificate) = arrival
        arrived = now - waited
        deadline = None if timeout is None else arrived + timeout
        # A large one becomes bytes before it is handed over.
        held: Any = request or b""
        call = RustCall(METHODS[method], held, arrived, deadline, self, number, peer=peer)
        if certificate is not None:
            call.certificate = certificate_of(certificate)
        if fault is not None:
            call.fault = self._status_of(*fault)
        return call

    def _status_of(self, fault: str, size: int) -> status_pb2.Status:
        if fault == "large":
            return to_status(MessageTooLarge("request", size, self._max_message_bytes))
        if fault == "late":
            return to_status(Overloaded(f"the request did not come within {self._limits.patience:g} seconds"))
        return to_status(Overloaded(f"requests of {self._limits.inflight_bytes // 4} bytes are being received"))

    def _give_up(self, batch: Batch, status: status_pb2.Status) -> None:
        for arrival in batch[0]:
            self.fail(arrival[0], status)

    def _send(self, numbers: Sequence[int], messages: Sequence[bytes]) -> None:
        self._server.respond(numbers, messages)

    def _send_failure(self, number: int, status: status_pb2.Status) -> None:
        self._server.fail(number, status.code, status.message, encoded(error_metadata(status)))

    def is_open(self, number: int) -> bool:
        """Return whether a call is unanswered and its caller has not gone."""
        return number in self._calls

    def _run(self) -> None:
        while (batch := self._server.recv_batch(MAX_CALLS)) is not None:
            try:
                self._take(batch)
            except Exception as error:  # noqa: BLE001 - without this thread no call would ever be received
                self._give_up(batch, internal_failure(log, "calls failed", error))
            # The next receive may block for long; large requests must not live until then.
            del batch

    def _begin_all(self, arrivals: Iterable[tuple[RustCall, Metadata]], ended: Collection[int]) -> None:
        """Hand over the calls that are admitted, and end those whose callers have gone, whenever they came."""
        callers = self._security.callers
        recent = {} if callers is None else callers.recent()
        calls: list[RustCall] = []
        for call, metadata in arrivals:
            if self._tracing is not None:
                call.trace = self._tracing.begin(metadata)
            if call.number in ended and self._log is None:
                # Of a flood, before more is asked of it.
                self._methods[call.method].end(gone(call).code, 0.0)
                continue
            if callers is not None:
                authorization = authorization_of(metadata)
                principal = recent.get(authorization) or self._authenticate(callers, call, authorization)
                if principal is None:
                    # The call is another thread's by now.
                    continue
                call.principal = principal
            if self._enter(call) and self._begin(call):
                calls.append(call)
        for number in ended:
            self._end(number)
        self._hand_over(calls)

    def _hand_over(self, calls: Sequence[RustCall]) -> None:
        read: list[Call] = []
        for call in calls:
            request: Any = call.request
            if isinstance(request, bytes):
                read.append(call)
            else:
                self._large.submit(self._hand_over_large, call, request)
        if read:
            with self._handing_over:
                self._handler(read)

    def _hand_over_large(self, call: RustCall, request: Large) -> None:
        """Hand over a call whose request is to be copied, which would hold up the thread that receives calls."""
        try:
            if not call.cancelled():
                call.request = request.read()
                self._hand_over([call])
        except Exception as error:  # noqa: BLE001 - nobody else would answer the call
            call.fail(internal_failure(log, "calls failed", error, calls=1))

    def _count_started(self, methods: Iterable[int]) -> None:
        for method, came in Counter(methods).items():
            self._methods[METHODS[method]].start(came)

    def _authenticate(self, callers: Callers, call: RustCall, authorization: str | None) -> Principal | None:
        """Return who calls; None where the call was refused, or goes on when its token is verified."""
        verdict = callers.known(authorization, call.certificate)
        if isinstance(verdict, Principal):
            return verdict
        if verdict is not None:
            self._refuse(call, verdict)
        elif self._enter(call):
            callers.verify(authorization).add_done_callback(partial(self._verified, call))
        return None

    def _verified(self, call: RustCall, verified: Future[Verdict]) -> None:
        """Go on with a call whose token was verified; by another thread."""
        verdict = verified.result()
        if not isinstance(verdict, Principal):
            if self._end(call.number, verdict):
                self._send_refusal(call, verdict)
            return
        call.principal = verdict
        try:
            if not call.cancelled() and self._begin(call):
                self._hand_over([call])
        except Exception as error:  # noqa: BLE001 - nobody else would answer the call
            call.fail(internal_failure(log, "calls failed", error, calls=1))

    def _enter(self, call: RustCall) -> bool:
        """Count a call as open; returns False after answering one that is refused."""
        refusal = call.fault
        if refusal is None:
            size = len(call.request)
            if size > self._max_message_bytes and not self._admission.draining:
                refusal = to_status(MessageTooLarge("request", size, self._max_message_bytes))
            else:
                refusal = self._admission.enter(call.number, call.principal or call.peer, size)
        if refusal is None:
            self._calls[call.number] = call
        else:
            self._refuse(call, refusal)
        return refusal is None

    def _begin(self, call: RustCall) -> bool:
        """Note a call that is open, where calls are noted; returns False after answering one that is refused."""
        refusal = note_begin(self._log, call)
        if refusal is not None:
            call.fail(refusal)
        return refusal is None

    def _refuse(self, call: RustCall, status: status_pb2.Status) -> None:
        """Answer a call that is not open."""
        self._methods[call.method].end(status.code, time.monotonic() - call.arrived)
        self._send_refusal(call, status)

    def _send_refusal(self, call: RustCall, status: status_pb2.Status) -> None:
        status = call.traced(status)
        if self._log is not None:
            self._log.refuse(call.method, call.principal, call.peer, status)
        self._send_failure(call.number, status)

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        """Answer calls that came together, which are all of this front; returns how many had this answer."""
        numbers, answers = [], []
        for call, message in zip(calls, messages, strict=True):
            if isinstance(call, RustCall) and self._may_answer(call.number, message):
                numbers.append(call.number)
                answers.append(message)
        if numbers:
            self._send(numbers, answers)
            self._methods[calls[0].method].end(0, time.monotonic() - calls[0].arrived, len(numbers))
        return len(numbers)

    def respond(self, number: int, message: bytes) -> bool:
        """Answer a call, if it is open; returns whether it was, and the answer is not refused."""
        call = self._calls.get(number)
        if call is None or not self._may_answer(number, message):
            return False
        self._methods[call.method].end(0, time.monotonic() - call.arrived)
        self._send([number], [message])
        return True

    def _may_answer(self, number: int, message: bytes) -> bool:
        """Count a call as answered; returns False after answering one whose answer is refused, or that is not open."""
        size = len(message)
        if size > self._max_message_bytes:
            self.fail(number, to_status(MessageTooLarge("answer", size, self._max_message_bytes)))
            return False
        if size <= SMALL:
            return self._end(number, OK, counts=False)
        if (refusal := self._admission.resize(number, size)) is not None:
            self.fail(number, refusal)
            return False
        # It counts until it is read, which a batch says.
        return self._end(number, OK, counts=False, leaves=False)

    def fail(self, number: int, status: status_pb2.Status) -> None:
        """Answer a call with an error, if it is open."""
        call = self._calls.get(number)
        if call is not None:
            status = call.traced(status)
        if self._end(number, status):
            self._send_failure(number, status)

    def _end(
        self, number: int, status: status_pb2.Status | None = None, *, counts: bool = True, leaves: bool = True
    ) -> bool:
        """Count a call as ended, with this status, or because its caller has gone; returns whether it was open.

        It `counts` here, or with others; and it `leaves` the admission, or does so once its answer is read.
        """
        call = self._calls.pop(number, None)
        if call is None:
            return False
        if leaves:
            self._admission.leave(number)
        status = gone(call) if status is None else status
        if counts:
            self._methods[call.method].end(status.code, time.monotonic() - call.arrived)
        if status is not OK:
            call.note_failure(status)
        if call.audit is not None:
            call.audit.end(None if status is OK else status)
        if call.trace is not None:
            call.end_trace(None if status is OK else status)
        return True


@dataclass(slots=True, eq=False)
class RustCall(Call):
    """A unary call.

    Attributes:
        certificate: Of the client, which its connection has.
        fault: Why the request was not received, and so why the call is refused; None where it was.
    """

    front: RustFront
    number: int
    certificate: ClientCertificate | None = field(default=None, kw_only=True)
    fault: status_pb2.Status | None = field(default=None, kw_only=True)

    def respond(self, message: bytes) -> bool:
        """Answer with a message."""
        return self.front.respond(self.number, message)

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        """Answer calls that came together."""
        return self.front.respond_all(calls, messages)

    def fail(self, status: status_pb2.Status) -> None:
        """Answer with an error."""
        self.front.fail(self.number, status)

    def cancelled(self) -> bool:
        """Return whether the caller has gone."""
        return not self.front.is_open(self.number)

    def hold(self, size: int) -> None:
        """Count so many bytes more."""
        self.front.grow(self.number, size)


@lru_cache(maxsize=10_000)
def certificate_of(der: bytes) -> ClientCertificate:
    """Return the names in a certificate; none of one that can't be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        common = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        uris, dns_names = [], []
        with contextlib.suppress(x509.ExtensionNotFound):
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = [
                uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("spiffe:")
            ]
            dns_names = names.get_values_for_type(x509.DNSName)
    except ValueError:
        return ClientCertificate("", (), "")
    return ClientCertificate(next(iter(uris), ""), tuple(dns_names), next(iter(common), ""))


def _pem(certificates: Certificates) -> tuple[bytes, bytes, bytes | None]:
    return certificates.chain, certificates.key, certificates.client_ca


def _open_sockets(address: str) -> tuple[list[socket.socket], int]:
    """Return sockets that listen on an address, and their port; raises FrontError."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        one = socket.socket(socket.AF_UNIX)
        try:
            one.bind(path)
            # For this user alone: whoever can reach the socket can call the service.
            Path(path).chmod(0o600)
            one.listen(BACKLOG)
        except OSError as error:
            one.close()
            raise FrontError(f"can't listen on {address}: {error.strerror}") from None
        return [one], 0
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    sockets = [listen("127.0.0.1" if host == "localhost" else host, int(port), "gRPC", FrontError)]
    number: int = sockets[0].getsockname()[1]
    if host == "localhost":
        with contextlib.suppress(FrontError):
            sockets.append(listen("::1", number, "gRPC", FrontError))
    for one in sockets:
        one.listen(BACKLOG)
    return sockets, number


def limits_for_rust(limits: FrontLimits) -> dict[str, float]:
    """Return limits by the names that the server has for them."""
    connection = limits.connection
    connections = max_connections(connection)
    return {
        "message_bytes": limits.message_bytes,
        "inflight_bytes": limits.inflight_bytes,
        "unread_bytes": connection.unread_bytes,
        "header_bytes": connection.header_bytes,
        "connections": connections,
        "connections_of_peer": connection.per_peer or max(1, connections // 2),
        "streams": connection.streams,
        "resets_per_second": connection.resets_per_second,
        "frames_per_second": connection.frames_per_second,
        "handshake_seconds": connection.handshake_seconds,
        "idle_seconds": connection.idle_seconds,
        "patience_seconds": limits.patience,
        "connection_seconds": limits.connection_seconds,
        "connection_grace_seconds": connection.age_grace,
    }
