"""Whether a port is free for the processes of one service to share."""

from __future__ import annotations

import errno
import socket

from prinz_enricher.service.front import FrontError


def refuse_taken(host: str, port: int) -> None:
    """Check that nobody listens on a port, which the kernel does not once it may be shared.

    Two services that share a port by accident would each get half of the calls. The check is made once, before the
    first front listens: of two services that start in the same moment it may see neither.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 is always free.

    Raises:
        FrontError: Somebody listens there.
    """
    if not port:
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        # The front says what is wrong with the address.
        return
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            # Connections of a service before this one may linger; only one that listens is in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise FrontError(
                        f"can't listen on {host}:{port}: is the port taken, or the address not here?"
                    ) from error
