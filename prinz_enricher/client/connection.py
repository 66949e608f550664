"""Connections: target, TLS and tokens; retries and load balancing, which are gRPC's own; and the calls of a client."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import grpc

from prinz_enricher.client.call_span import CallSpan, Context, server_attributes
from prinz_enricher.client.service_error import (
    GRPC_MESSAGE,
    Encryption,
    ServiceError,
    client_closed,
    service_error,
    timed_out,
)
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc

SERVICE: Final = pb.DESCRIPTOR.services_by_name["EnricherService"].full_name

MAX_MESSAGE_BYTES: Final = 2**31 - 1

_SERVICE_CONFIG: Final = json.dumps(
    {
        # With one address the same as `pick_first`; with several, one that fails is left out until it is back.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                # Every method is idempotent. Calls do not wait for a missing service (`waitForReady`): a wrong address
                # fails within a second, not after the timeout.
                "name": [{"service": SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    # Not RESOURCE_EXHAUSTED: an overloaded service must not get more calls.
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # No retries while more than half of the tokens are gone: a failure costs one, an answer returns a half.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }
)

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", _SERVICE_CONFIG),
    # Larger messages are not retried; they are kept without a copy.
    ("grpc.per_rpc_retry_buffer_size", 1 << 30),
    # A service that was restarted is found within about a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Names are resolved again once an address fails, but not more often than this.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # gRPC's servers disconnect a client that pings more often than every five minutes. Its timeout ends a connection
    # whose data nobody acknowledges for 20 s, where a host is gone.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Connections and back-off are not shared with other clients.
    ("grpc.use_local_subchannel_pool", 1),
)


_EXAMINED: Final = 4
"""How many addresses of a name are examined."""

Pem: TypeAlias = str | Path | bytes
"""PEM: the path of a file, or its contents as bytes."""

TokenSource: TypeAlias = str | Path | Callable[[], str]
"""A token, its file, or a function that returns it."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings of a client; files are read once, when the client is made.

    Attributes:
        ca: The CAs that are trusted; None for those that come with gRPC.
        certificate: The client's certificate, with `key`.
        key: Its private key, without a password.
        server_name: The name in the service's certificate, if not the one in the address.

    Raises:
        ValueError: A certificate without a key, or a key without a certificate.

    Examples:
        >>> from pathlib import Path
        >>> client = Client("prinz.example:443", tls=Tls(), token=lambda: Path("/run/secrets/token").read_text())
        >>> client.close()
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and its key go together: give both, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel; raises OSError for an unreadable file, and ValueError for no PEM."""
        ca, certificate = _read_pem(self.ca, "CERTIFICATE"), _read_pem(self.certificate, "CERTIFICATE")
        key = _read_pem(self.key, "PRIVATE KEY")
        if key is not None and b"ENCRYPTED" in key:
            raise ValueError("the private key of the client has a password: remove it, as `openssl pkey` does")
        return grpc.ssl_channel_credentials(ca, key, certificate)


def _read_pem(source: Pem | None, label: str) -> bytes | None:
    """Read PEM, and check that it is; gRPC would say no more than that it can't use it."""
    if source is None:
        return None
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not re.search(rf"-----BEGIN [A-Z0-9 ]*{label}-----".encode(), content):
        where = "the text" if isinstance(source, bytes) else source
        raise ValueError(f"{where} has no {label.lower()}: it needs one in PEM, from -----BEGIN {label}----- on")
    return content


def open_channel(library: Any, target: str, tls: Tls | None, options: Sequence[tuple[str, Any]] = ()) -> Any:
    """Open a channel of `grpc` or `grpc.aio`; raises what `Tls.credentials` raises."""
    if tls is None:
        return library.insecure_channel(target, options)
    name = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return library.secure_channel(target, tls.credentials(), (*options, *name))


def encryption(tls: Tls | None) -> Encryption:
    """Return how a client with these settings connects."""
    return "plaintext" if tls is None else "TLS" if tls.certificate is None else "mutual TLS"


class BearerToken:
    """The metadata of each call: `authorization: Bearer …`, or nothing without a token.

    Args:
        source: The token; a file, which is read again when it changes; or a quick function, called for each message.

    Raises:
        ValueError: The token is empty, or can't be the value of a header.
    """

    def __init__(self, source: TokenSource | None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._mark: tuple[int, ...] = ()
        self._header: Metadata = _header(source) if isinstance(source, str) else ()

    def metadata(self) -> Metadata:
        """Return the metadata of a call; raises ServiceError, UNAUTHENTICATED, where there is no token."""
        source = self._source
        if source is None or isinstance(source, str):
            return self._header
        try:
            return self._from_file(source) if isinstance(source, Path) else _header(source())
        except (OSError, ValueError) as error:
            raise ServiceError(grpc.StatusCode.UNAUTHENTICATED, f"there is no token to send: {error}") from error

    def _from_file(self, path: Path) -> Metadata:
        with self._lock:
            seen = os.stat(path)  # noqa: PTH116 - on the way of every message, and a third of the price
            mark = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
            if mark != self._mark:
                token = path.read_text()
                # A file that is being written is empty for a moment.
                if token or not self._header:
                    self._header, self._mark = _header(token), mark
            return self._header


def _header(token: str) -> Metadata:
    token = token.strip()
    # Never the token itself: errors end up in logs.
    if not token:
        raise ValueError("the token is empty")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("the token has blanks, or characters that a header can't hold")
    return (("authorization", f"Bearer {token}"),)


class Connection:
    """The parts of a channel: gRPC's target and options, TLS, and the metadata of calls.

    Its arguments and errors are those of `Client`.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        tls: Tls | None,
        token: TokenSource | None,
        *,
        allow_insecure_token: bool,
        retry: bool,
    ) -> None:
        addresses = [address] if isinstance(address, str) else list(address)
        if not addresses or not all(addresses):
            raise ValueError("an address is needed, such as localhost:50051")
        far = [one for one in addresses if not is_loopback(one)]
        if far and token is not None and tls is None and not allow_insecure_token:
            raise ValueError(
                f"the token would be sent to {', '.join(far)} unencrypted: use TLS, or allow an insecure token"
            )
        self.target = addresses[0] if len(addresses) == 1 else _target_of(addresses)
        self.options = [*_OPTIONS, ("grpc.enable_retries", int(retry))]
        if len(addresses) > 1:
            if tls is not None and not tls.server_name and len({_split(one)[0] for one in addresses}) > 1:
                raise ValueError(
                    "several hosts with TLS have one name between them: say which with Tls(server_name=...)"
                )
            # Without it the literals themselves would be the authority.
            self.options.append(("grpc.default_authority", addresses[0]))
        self.tls = tls
        self.bearer = BearerToken(token)


def _target_of(addresses: Sequence[str]) -> str:
    """Return several addresses as one target."""
    literals: dict[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int], None] = {}
    for one in addresses:
        host, port = _split(one)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"the host of {one} is not known: {error}") from error
        for _, _, _, _, place in found:
            literals[ipaddress.ip_address(place[0]), port] = None
    if all(ip.version == 4 for ip, _ in literals):
        return "ipv4:" + ",".join(f"{ip}:{port}" for ip, port in literals)
    # A target has addresses of one family; IPv4 ones are mapped.
    sixes = ((ip if ip.version == 6 else f"::ffff:{ip}", port) for ip, port in literals)
    return "ipv6:" + ",".join(f"[{ip}]:{port}" for ip, port in sixes)


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or (":" in host and not host.startswith("[")):
        raise ValueError(f"{address} is not HOST:PORT, which each of several addresses must be")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Return whether an address is of this machine, by its text."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    if address.startswith("dns:"):
        # It may name a DNS server, between slashes.
        address = address.removeprefix("dns:").rpartition("/")[2]
    for scheme in ("ipv4:", "ipv6:"):
        address = address.removeprefix(scheme)
    return all(_is_loopback_host(one) for one in address.split(","))


def _is_loopback_host(address: str) -> bool:
    bare = address.startswith("[") or address.count(":") == 1
    host = (address.rpartition(":")[0] if bare and not address.endswith("]") else address).strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Methods:
    """The methods of the service on a channel of `grpc` or `grpc.aio`."""

    _library: Any

    def __init__(self, connection: Connection) -> None:
        self._channel = open_channel(self._library, connection.target, connection.tls, connection.options)
        self._encryption = encryption(connection.tls)
        self._server = server_attributes(connection.target)
        self.stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        # Requests are already serialised.
        self._score: Any = self._channel.unary_unary(
            f"/{SERVICE}/Score", request_serializer=None, response_deserializer=pb.ScoreResponse.FromString
        )
        self._bearer = connection.bearer
        self._closed = False


class Channel(_Methods):
    """The calls of threads; deadlines are by `time.monotonic()`, and errors are `ServiceError`."""

    _library = grpc

    def close(self) -> None:
        """Close the channel; calls in flight fail."""
        self._closed = True
        self._channel.close()

    def call(self, method: Callable[..., _R], request: object, deadline: float, contexts: Sequence[Context] = ()) -> _R:
        """Call a method for callers in these contexts of OpenTelemetry, if any, and return its response."""
        metadata = self._bearer.metadata()
        try:
            with CallSpan(request, self._server, contexts) as traced:
                return method(request, timeout=seconds_until(deadline), metadata=(*metadata, *traced))
        except grpc.RpcError as error:
            raise service_error(error, self._encryption) from error
        except ValueError as error:
            # gRPC raises it for a closed channel, but not for that alone.
            if not self._closed:
                raise
            raise client_closed() from error

    def score(self, request: bytes, deadline: float, contexts: Sequence[Context] = ()) -> pb.ScoreResponse:
        """Score a serialised request; a quarter quicker than `start_score`."""
        return self.call(self._score, request, deadline, contexts)  # type: ignore[no-any-return]  # grpc has no types

    def start_score(self, request: bytes, deadline: float, contexts: Sequence[Context] = ()) -> Any:
        """Score a serialised request without waiting; returns gRPC's future, for `result_of`."""
        metadata, span = self._bearer.metadata(), CallSpan(request, self._server, contexts)
        try:
            future = self._score.future(
                request, timeout=seconds_until(deadline), metadata=(*metadata, *span.__enter__())
            )
        except ValueError as error:
            span.end(grpc.StatusCode.CANCELLED)
            if not self._closed:
                raise
            raise client_closed() from error
        future.add_done_callback(lambda done: span.end(done.code()))
        return future

    def result_of(self, future: Any) -> pb.ScoreResponse:
        """Return the response of a call that is done."""
        try:
            return future.result()  # type: ignore[no-any-return]  # grpc has no types
        except grpc.FutureCancelledError as error:
            raise client_closed() from error
        except grpc.RpcError as error:
            raise service_error(error, self._encryption) from error


def examine(error: ServiceError, address: str, tls: Tls | None) -> ServiceError:
    """Return a better error of a connection that failed, where one address of a name says more than another.

    gRPC has the words of one address alone: for `localhost` often of [::1], where nobody listens. The first ones are
    asked alone, each for a second and without a token.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if error.code is not grpc.StatusCode.UNAVAILABLE or error.reason or error.metadata or not port.isdecimal():
        return error
    with contextlib.suppress(OSError, UnicodeError):
        for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:_EXAMINED]:
            alone = f"[{place[0]}]:{port}" if ":" in str(place[0]) else f"{place[0]}:{port}"
            named = tls and replace(tls, server_name=tls.server_name or host)
            channel = Channel(Connection(alone, named, None, allow_insecure_token=False, retry=False))
            try:
                channel.call(channel.stub.ListModels, pb.ListModelsRequest(page_size=1), time.monotonic() + 1.0)
            except ServiceError as found:
                if GRPC_MESSAGE in found.metadata:
                    return found
            finally:
                channel.close()
    return error


class AsyncChannel(_Methods):
    """The calls of tasks; deadlines are by `time.monotonic()`, and errors are `ServiceError`."""

    _library = grpc.aio

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        self._closed = True
        await self._channel.close()

    async def call(
        self, method: Callable[..., Awaitable[_R]], request: object, deadline: float, contexts: Sequence[Context] = ()
    ) -> _R:
        """Call a method for callers in these contexts of OpenTelemetry, if any, and return its response."""
        metadata = self._bearer.metadata()
        try:
            with CallSpan(request, self._server, contexts) as traced:
                return await method(request, timeout=seconds_until(deadline), metadata=(*metadata, *traced))
        except grpc.RpcError as error:
            raise service_error(error, self._encryption) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise client_closed() from None
            raise
        except grpc.aio.UsageError as error:
            raise client_closed() from error

    async def score(self, request: bytes, deadline: float, contexts: Sequence[Context] = ()) -> pb.ScoreResponse:
        """Score a serialised request."""
        return await self.call(self._score, request, deadline, contexts)


def seconds_until(deadline: float) -> float:
    """Return the seconds until a deadline by `time.monotonic()`, not below 0."""
    return min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)


@contextlib.contextmanager
def acquired(lock: threading.Lock | threading.Semaphore, deadline: float) -> Iterator[None]:
    """Hold a lock; raises `timed_out` where it is not free in time."""
    if not lock.acquire(timeout=seconds_until(deadline)):
        raise timed_out()
    try:
        yield
    finally:
        lock.release()


@contextlib.asynccontextmanager
async def async_acquired(lock: asyncio.Lock | asyncio.Semaphore, deadline: float) -> AsyncIterator[None]:
    """Hold a lock of tasks; raises `timed_out` where it is not free in time."""
    try:
        await asyncio.wait_for(lock.acquire(), seconds_until(deadline))
    except TimeoutError:
        raise timed_out() from None
    try:
        yield
    finally:
        lock.release()
