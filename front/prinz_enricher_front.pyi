"""A gRPC server in Rust: HTTP/2, TLS and limits outside the GIL, calls many at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

__version__: str

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

Peer: TypeAlias = tuple[int, str, bytes | None]
"""The number of a connection, its address as gRPC writes it, and the certificate that TLS has verified, in DER. It is
the same object for all calls of a connection."""

class Large:
    """A request of 64 KiB or more, which is not Python's bytes yet; it has a length."""

    def __len__(self) -> int: ...
    def read(self) -> bytes:
        """Copy it without the GIL; once."""

Arrival: TypeAlias = tuple[int, int, bytes | Large | None, tuple[str, int] | None, float, float | None, Metadata, Peer]
"""A call: its number, the place of its method, the request, why there is none ("large" and its size, "late", "room"),
the seconds since it came, the seconds that it may take in all, and the metadata that was asked for."""

Batch: TypeAlias = tuple[list[Arrival], list[int], list[int], list[tuple[int, int, int]]]
"""Calls; the numbers of those whose callers have gone; of those whose large answers are not needed any more; and how
many of a method ended with a code before they were handed over."""

class Server:
    """A server of some methods, each a path and a kind.

    The kind is 0 for unary calls that come in batches, 1 for calls that come as events with their request, and 2 for
    streams, whose messages come as events.

    Args:
        methods: Paths and kinds.
        metadata: The names of what is handed over of a call's metadata.
        limits: As the struct `Limits` of the crate has them.
        waiting: Unary calls that may wait for `recv_batch`.
    """

    def __init__(
        self, methods: Sequence[tuple[str, int]], metadata: Sequence[str], limits: Mapping[str, float], waiting: int
    ) -> None: ...
    def start(
        self,
        fds: Sequence[int],
        *,
        unix: bool = False,
        chain: bytes | None = None,
        key: bytes | None = None,
        client_ca: bytes | None = None,
        threads: int = 1,
    ) -> None:
        """Serve on sockets that listen, which are the server's from then on; with TLS by a chain and a key in PEM."""

    def exchange(self, chain: bytes, key: bytes, client_ca: bytes | None) -> None:
        """Have new connections begin with other certificates; raises ValueError where these can't be used."""

    def recv_batch(self, max: int) -> Batch | None:
        """Wait for unary calls, without the GIL; None once the server has stopped."""

    def respond(self, numbers: Sequence[int], messages: Sequence[bytes]) -> None:
        """Answer unary calls; does nothing for those that are over."""

    def fail(self, number: int, code: int, message: str, metadata: Sequence[tuple[str, bytes]]) -> None:
        """Answer a unary call with an error; values of names in -bin are written in base64."""

    @property
    def events_fd(self) -> int:
        """The descriptor that is readable while there are events."""

    def events(self) -> list[tuple[str, int, Any]] | None:
        """Return what has happened to streams, without waiting; None once the server has stopped.

        "open" with an `Arrival`, "message" with bytes, "end" after the last message, "writable" after `send` returned
        False, "gone" with a code.
        """

    def consume(self, number: int, count: int) -> None:
        """Let so many messages of a stream more come."""

    def send_headers(self, number: int, metadata: Sequence[tuple[str, bytes]]) -> None:
        """Send the headers of a stream before its first message."""

    def send(self, number: int, message: bytes) -> bool:
        """Send a message of a stream; returns whether another one may be sent at once."""

    def finish(self, number: int, code: int, message: str, metadata: Sequence[tuple[str, bytes]]) -> None:
        """End a stream."""

    def counts(self) -> dict[str, int]:
        """Return how many connections are open, and how many connections or calls each limit has ended."""

    def stop(self, grace: float) -> None:
        """Stop listening, and end all connections within some seconds."""
