"""The server that is tested, and how it is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import grpc

from prinz_enricher.client.connection import is_loopback
from prinz_enricher.loadtest.errors import LoadTestError

METHOD_PREFIX: Final = "/prinz.enricher.v1.EnricherService/"
SCORE: Final = f"{METHOD_PREFIX}Score"
SCORE_STREAM: Final = f"{METHOD_PREFIX}ScoreStream"
GET_SIGNATURE: Final = f"{METHOD_PREFIX}GetSignature"

_MAX_MESSAGE_BYTES: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server listens, and what it wants of its callers.

    Attributes:
        addresses: At least one; calls go to them in turn.
        connections: Of each process to each address.
        tls: Whether TLS is spoken.
        authority: Certificates (PEM) of those who may vouch for the server; None for the usual ones.
        token: A bearer token; None where none is wanted.
        timeout: Seconds that one call may take.
    """

    addresses: tuple[str, ...]
    connections: int = 1
    tls: bool = False
    authority: str | None = None
    token: str | None = field(default=None, repr=False)
    timeout: float = 30.0

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries beside its message."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return the credentials of a channel; None for plain text."""
        return grpc.ssl_channel_credentials(self.authority.encode() if self.authority else None) if self.tls else None

    def check(self) -> None:
        """Refuse to send a token over a network for all to read.

        Raises:
            LoadTestError: There is a token and no TLS, and an address is another machine's.
        """
        far = [address for address in self.addresses if not is_loopback(address)]
        if self.token is not None and not self.tls and far:
            raise LoadTestError(f"the token would go to {', '.join(far)} unencrypted: use --tls")

    def channel(self, address: str) -> grpc.Channel:
        """Open a channel to one of the addresses, to ask before the test."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(address, _options())
        return grpc.secure_channel(address, credentials, _options())

    def channels(self) -> list[grpc.aio.Channel]:
        """Open all connections of a process, each with a socket of its own; those to different addresses take turns."""
        credentials = self.credentials()
        return [
            grpc.aio.insecure_channel(address, _options())
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, _options())
            for _ in range(self.connections)
            for address in self.addresses
        ]

    def to_json(self) -> dict[str, Any]:
        """Write it as what JSON can tell, the token too: for a process of the generator, not for a report."""
        return asdict(self)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{**written, "addresses": tuple(written["addresses"])})


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        # An error is to be counted, not tried again.
        ("grpc.enable_retries", 0),
        # Or channels of one process would share a connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
