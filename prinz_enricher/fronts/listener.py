"""Sockets that listen, and the sentence for an address where that is impossible."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds until a silent peer is asked and between two questions, and the questions, as of tcp(7)."""


def address_text(host: str, port: int) -> str:
    """Return an address as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, protocol: str, error: type[Exception]) -> socket.socket:
    """Return a socket that listens on an address for a protocol; raises `error`, with one sentence."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((str(address[0]), port), family=family, dualstack_ipv6=both)
    except OSError as failed:
        # Python adds the address once more.
        why = failed.strerror if isinstance(failed, socket.gaierror) else os.strerror(failed.errno or 0)
        advice = "end what listens there, or choose another port"
        if failed.errno != errno.EADDRINUSE:
            advice = "choose an address of this machine that this user may listen on"
        raise error(f"can't listen on {address_text(host, port)} for {protocol}: {why}; {advice}") from None
    # Connections inherit it: one whose other end has gone without a word ends within two minutes.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return listener
