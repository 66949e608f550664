"""Sockets that listen."""

from __future__ import annotations

import socket

import pytest

from prinz_enricher.fronts.listener import listen
from prinz_enricher.service.calls import FrontError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_peer_that_has_gone(host: str) -> None:
    """Each connection is asked whether its other end is still there, and ends within two minutes if not."""
    with listen(host, 0, "gRPC", FrontError) as listener:
        with socket.create_connection(listener.getsockname()[:2], 10.0):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, pause, count = (
                accepted.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + pause * count <= 120


@pytest.mark.parametrize(
    ("host", "advice"),
    [("192.0.2.1", "choose an address of this machine"), ("no.such.host.invalid", "choose an address of this machine")],
)
def test_addresses_that_are_not_ours(host: str, advice: str) -> None:
    """The error says what is wrong, and what to do."""
    with pytest.raises(FrontError, match=f"can't listen on {host}:5 for gRPC: .*; {advice}"):
        listen(host, 5, "gRPC", FrontError)


def test_an_address_that_is_taken() -> None:
    """The error says so."""
    with listen("127.0.0.1", 0, "gRPC", FrontError) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(FrontError, match="end what listens there, or choose another port"):
            listen("127.0.0.1", port, "gRPC", FrontError)
