"""The front on our own server in Rust, `front/`: TLS and limits outside the GIL, calls many at a time."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID
from google.rpc import status_pb2
from prinz_enricher_front import Server

from prinz_enricher.errors import MessageTooLarge, Overloaded
from prinz_enricher.fronts.grpc.admission import SMALL, FrontLimits, max_connections
from prinz_enricher.fronts.grpc.batched_front import MAX_CALLS, METHODS, OK, BatchedCall, BatchedFront
from prinz_enricher.fronts.grpc.counted_handlers import SERVICE, served_methods
from prinz_enricher.fronts.grpc.grpcio_front import LINGER, GrpcioFront, error_metadata
from prinz_enricher.fronts.grpc.rust_streams import RustStreams, encoded
from prinz_enricher.fronts.listener import listen
from prinz_enricher.security.principal import ClientCertificate
from prinz_enricher.security.watched_files import SecurityError
from prinz_enricher.service.calls import FrontError, SourceOpener
from prinz_enricher.service.status import to_status

if TYPE_CHECKING:
    from prinz_enricher_front import Arrival, Batch

    from prinz_enricher.security.certificates import Certificates

METADATA = ("authorization", "traceparent", "tracestate")
"""What is asked of the metadata of calls."""

BACKLOG = 4096
"""Connections that wait to be accepted."""

_UNARY, _WHOLE, _STREAM = range(3)


class RustFront(BatchedFront["Batch"]):
    """Serves gRPC by `prinz_enricher_front.Server` at `host:port`, or at `unix:path`."""

    def _listen(self, open_source: SourceOpener) -> int:
        served = served_methods(self._series)
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
        self.streams = GrpcioFront(
            self._address,
            self._limits,
            self._security,
            self._series,
            self._tracing,
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

    def _close(self) -> None:
        self._server.stop(LINGER)

    def _receive(self) -> Batch | None:
        return self._server.recv_batch(MAX_CALLS)

    def _take(self, batch: Batch) -> None:
        arrivals, gone, read, dropped = batch
        now = time.monotonic()
        for method, code, count in dropped:
            # They were over before anybody saw them.
            self._series_of[method].start(count)
            self._series_of[method].end(code, 0.0, count)
        self._count_started(arrival[1] for arrival in arrivals)
        for number in read:
            self._admission.leave(number)
        self._begin_all([(self._call_of(arrival, now), arrival[6]) for arrival in arrivals], gone)

    def _call_of(self, arrival: Arrival, now: float) -> BatchedCall:
        number, method, request, fault, waited, timeout, _, (_, peer, certificate) = arrival
        arrived = now - waited
        deadline = None if timeout is None else arrived + timeout
        call = BatchedCall(METHODS[method], request or b"", arrived, deadline, self, number, peer=peer)
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

    def _may_answer(self, number: int, message: bytes) -> bool:
        size = len(message)
        if not SMALL < size <= self._max_message_bytes:
            return super()._may_answer(number, message)
        if (refusal := self._admission.resize(number, size)) is not None:
            self.fail(number, refusal)
            return False
        # It counts until it is read, which a batch says.
        return self._end(number, OK, counts=False, leaves=False)

    def _send(self, numbers: Sequence[int], messages: Sequence[bytes]) -> None:
        self._server.respond(numbers, messages)

    def _send_failure(self, number: int, status: status_pb2.Status) -> None:
        self._server.fail(number, status.code, status.message, encoded(error_metadata(status)))


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
