"""Sockets that obey a call's deadline and its cancellation at every step.

httpx and httpcore bound each read and write, but not their sum: a server that sends its headers a byte at a time holds
a thread for ever. httpcore hands the time-outs of a request to its network backend as they are, so that an `Attempt`,
which is one, reaches these sockets and tells them how long there is left.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, Self, TypeVar

import httpcore

from prinz_enricher.scoring.remote.errors import CallCancelled

SLICE_SECONDS = 0.1
"""How often a wait looks whether its call was cancelled."""

CONNECT_SECONDS = 3.0
"""How long a connection may take: two packets that open it may be lost on the way, and not more."""

_ERRANDS = 4

T = TypeVar("T")


class Attempt(float):
    """How long one request may take, and what came of it; as a number, the seconds that it had at first.

    Attributes:
        until: When it must be over, by `time.monotonic()`.
        connected: Whether a connection was made for it; else it has one that had served before.
        sent: Bytes that were sent.
        received: Bytes that came.
    """

    def __new__(cls, until: float, cancelled: Callable[[], bool]) -> Self:  # noqa: ARG004 - kept by __init__
        """Begin now.

        Args:
            until: When it must be over, by `time.monotonic()`.
            cancelled: Tells whether nobody waits for it any more.
        """
        return super().__new__(cls, max(0.0, until - time.monotonic()))

    def __init__(self, until: float, cancelled: Callable[[], bool]) -> None:
        self.until = until
        self.connected = False
        self.sent = 0
        self.received = 0
        self._cancelled = cancelled

    def left(self, over: type[Exception]) -> float:
        """Return the seconds that are left, more than 0.

        Args:
            over: What is raised where there are none.

        Raises:
            CallCancelled: Nobody waits for it any more.
        """
        if self._cancelled():
            raise CallCancelled("the call was cancelled")
        left = self.until - time.monotonic()
        if left <= 0:
            raise over("the time is over")
        return left

    def slice(self, over: type[Exception]) -> float:
        """Return the seconds until the next look, otherwise as `left`."""
        return min(self.left(over), SLICE_SECONDS)


class Errands:
    """Runs what may block without a time limit, such as a look-up of a name, in threads of its own."""

    def __init__(self) -> None:
        self._threads = futures.ThreadPoolExecutor(_ERRANDS, "remote-errand")

    def run(self, errand: Callable[[], T], attempt: Attempt, over: type[Exception]) -> T:
        """Wait for an errand as long as the attempt may take; what takes longer goes on unseen.

        Args:
            errand: What is to be done.
            attempt: For which it is done.
            over: What is raised where it takes too long.

        Returns:
            What the errand returns; it raises what the errand raises.
        """
        try:
            running = self._threads.submit(errand)
        except RuntimeError as error:
            # Closed meanwhile.
            raise over("no more errands are taken") from error
        try:
            while not running.done():
                futures.wait([running], attempt.slice(over))
        finally:
            running.cancel()
        return running.result()

    def close(self) -> None:
        """Take no more errands."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class BoundedBackend(httpcore.NetworkBackend):
    """Makes connections for requests whose time-outs are an `Attempt`."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that answers.

        Raises:
            ConnectError: None of them does.
            ConnectTimeout: None of them does in time.
            CallCancelled: Nobody waits for it any more.
        """
        attempt = _attempt(timeout)
        try:
            addresses = self._errands.run(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), attempt, httpcore.ConnectTimeout
            )
        except OSError as error:
            raise httpcore.ConnectError("the host is not found") from error
        until = time.monotonic() + CONNECT_SECONDS
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            left = min(attempt.left(httpcore.ConnectTimeout), max(until - time.monotonic(), 0.001))
            # One that does not answer leaves time for the others.
            made = _connect(socket.socket(family, kind, protocol), address, left / (len(addresses) - index))
            if made is not None:
                attempt.connected = True
                return BoundedStream(made)
        raise httpcore.ConnectError("no connection: the host refuses it, or does not answer")


class BoundedStream(httpcore.NetworkStream):
    """A connection whose reads and writes end when their request must be over."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return some of what comes; nothing where the other side has ended.

        Raises:
            ReadTimeout: Nothing came in time.
            ReadError: The connection broke.
            CallCancelled: Nobody waits for it any more.
        """
        attempt = _attempt(timeout)
        while True:
            self._socket.settimeout(attempt.slice(httpcore.ReadTimeout))
            try:
                content = self._socket.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.ReadError("the connection broke") from error
            attempt.received += len(content)
            return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it.

        Raises:
            WriteTimeout: Not all of it was taken in time.
            WriteError: The connection broke.
            CallCancelled: Nobody waits for it any more.
        """
        attempt = _attempt(timeout)
        rest = memoryview(buffer)
        while rest:
            self._socket.settimeout(attempt.slice(httpcore.WriteTimeout))
            try:
                sent = self._socket.send(rest)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.WriteError("the connection broke") from error
            attempt.sent += sent
            rest = rest[sent:]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Secure the connection.

        Raises:
            ConnectTimeout: The other side did not do its part in time.
            ConnectError: The two sides do not agree, or one does not trust the other.
        """
        if isinstance(self._socket, ssl.SSLSocket):
            # Its second layer would be left out: a proxy is refused before it comes to this.
            raise httpcore.ConnectError("a secure connection in a secure connection is not made")
        try:
            self._socket.settimeout(_attempt(timeout).left(httpcore.ConnectTimeout))
            # The handshake as a whole ends by this time.
            secure = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except TimeoutError as error:
            self._socket.close()
            raise httpcore.ConnectTimeout("no secure connection in time") from error
        except OSError as error:
            self._socket.close()
            raise httpcore.ConnectError("no secure connection") from error
        except BaseException:
            self._socket.close()
            raise
        return BoundedStream(secure)

    def get_extra_info(self, info: str) -> Any:
        """Tell what httpcore asks for; None for what it does not need."""
        match info:
            case "ssl_object":
                return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
            case "socket":
                return self._socket
            case "is_readable":
                return _is_readable(self._socket)
            case _:
                return None


def _attempt(timeout: float | None) -> Attempt:
    if not isinstance(timeout, Attempt):
        raise TypeError("a request needs an Attempt as each of its time-outs")
    return timeout


def _connect(connection: socket.socket, address: Any, seconds: float) -> socket.socket | None:
    try:
        connection.settimeout(seconds)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _is_readable(connection: socket.socket) -> bool:
    """Tell whether a read would return at once: on a connection at rest, because the other side has ended it."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
