"""Servers on loopback with TLS of their own making, and what a client of them has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.loadtest.scoring_server import ScoringServer
from tests.support.certificates import Authority, Pair, self_signed


@dataclass(frozen=True)
class TlsServers:
    """Servers that differ in what they show and want.

    Attributes:
        ca: The CA's certificate, of all certificates but those that say otherwise.
        other_ca: That of another CA.
        clients: Those of clients: `client` is good; `old` has expired, `alien` is of another CA, `alone` of none.
        plain: Without TLS.
        tls: With TLS.
        mutual: With TLS, for clients with a certificate of the CA alone.
        expired: With a certificate that has expired.
        unsigned: With a certificate that no CA signed.
    """

    ca: Path
    other_ca: Path
    clients: dict[str, Pair]
    plain: ScoringServer
    tls: ScoringServer
    mutual: ScoringServer
    expired: ScoringServer
    unsigned: ScoringServer


@contextlib.contextmanager
def tls_servers(folder: Path) -> Iterator[TlsServers]:
    """Run the servers, which answer everybody; a test that changes what they answer changes it back."""
    authority, other = Authority(folder), Authority(folder, "other")
    server = authority.server()
    with contextlib.ExitStack() as stack:

        def start(pair: Pair | None, client_ca: Path | None = None) -> ScoringServer:
            if pair is None:
                return stack.enter_context(ScoringServer())
            shown = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
            wanted = None if client_ca is None else client_ca.read_bytes()
            credentials = grpc.ssl_server_credentials(shown, wanted, require_client_auth=wanted is not None)
            return stack.enter_context(ScoringServer(credentials))

        yield TlsServers(
            ca=authority.file,
            other_ca=other.file,
            clients={
                "client": authority.sign("client"),
                "old": authority.sign("old", expired=True),
                "alien": other.sign("alien"),
                "alone": self_signed(folder, "alone"),
            },
            plain=start(None),
            tls=start(server),
            mutual=start(server, authority.file),
            expired=start(authority.sign("expired", expired=True)),
            unsigned=start(self_signed(folder, "unsigned")),
        )
