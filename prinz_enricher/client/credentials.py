"""What a client shows of itself, and how it knows the service: TLS and bearer tokens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc

from prinz_enricher.client.errors import ServiceError

Pem: TypeAlias = str | Path | bytes
"""PEM: the path of a file, or its contents as bytes."""

TokenSource: TypeAlias = str | Path | Callable[[], str]
"""A token, the file that holds it, or what gives it."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted, and who is believed.

    Files are read once, when the client is made.

    Attributes:
        ca: The authorities that may have signed the service's certificate; None for those that come with gRPC.
        certificate: The client's own certificate, where the service asks for one; with `key`.
        key: Its private key, without a password.
        server_name: The name that the service's certificate must bear, where it is not the one in the address.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        """Refuse half a pair.

        Raises:
            ValueError: A certificate without its key, or a key without its certificate.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and its key go together: give both, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            OSError: A file can't be read.
        """
        return grpc.ssl_channel_credentials(_contents(self.ca), _contents(self.key), _contents(self.certificate))


def _contents(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()


class Bearer:
    """Gives the metadata of each call: `authorization: Bearer …`, or nothing where there is no token.

    Args:
        source: Where the token comes from. A file is read again once it is another one or was written to; a function is
            called for each message, so it is to be quick, and to keep what it gets from elsewhere.

    Raises:
        ValueError: The token is empty, or could not be a header's value.
    """

    def __init__(self, source: TokenSource | None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._read: tuple[object, Metadata] | None = None
        self._fixed: Metadata | None = None
        if source is None:
            self._fixed = ()
        elif isinstance(source, str):
            self._fixed = _header(source)

    def metadata(self) -> Metadata:
        """Return the metadata of a call.

        Raises:
            ServiceError: UNAUTHENTICATED, where there is no token to be had: nothing was sent.
        """
        if self._fixed is not None:
            return self._fixed
        try:
            if isinstance(self._source, Path):
                return self._from_file(self._source)
            assert callable(self._source)  # noqa: S101 - what else it could be was dealt with
            return _header(self._source())
        except (OSError, ValueError) as error:
            raise ServiceError(grpc.StatusCode.UNAUTHENTICATED, f"there is no token to send: {error}") from error

    def _from_file(self, path: Path) -> Metadata:
        with self._lock:
            seen = os.stat(path)  # noqa: PTH116 - on the way of every message, and a third of the price
            mark = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
            if self._read is None or self._read[0] != mark:
                self._read = (mark, _header(path.read_text()))
            return self._read[1]


def _header(token: str) -> Metadata:
    token = token.strip()
    # Never the token itself: what is wrong with it ends up in logs.
    if not token:
        raise ValueError("the token is empty")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("the token has blanks, or characters that a header can't hold")
    return (("authorization", f"Bearer {token}"),)
