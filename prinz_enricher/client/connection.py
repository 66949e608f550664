"""How a channel is made: its target, its options, its retries and its load balancing, which all are gRPC's own."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from prinz_enricher.client.credentials import Bearer, Tls, TokenSource
from prinz_enricher.contract import enricher_service_pb2

SERVICE: Final = enricher_service_pb2.DESCRIPTOR.services_by_name["EnricherService"].full_name

MAX_MESSAGE_BYTES: Final = 2**31 - 1

_SERVICE_CONFIG: Final = json.dumps(
    {
        # With one address it is the same as `pick_first`; with several, one that fails is left out until it is back.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                # Every method here may be called again: none changes anything. Calls do not wait for a service that is
                # not there (`waitForReady`): a wrong address is told within a second, not after the timeout.
                "name": [{"service": SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    # Not RESOURCE_EXHAUSTED: a service that has too much to do is not to be asked more often.
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # While more than half of the tokens are gone there are no retries: each failure costs one, each answer gives
        # back a half.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }
)

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", _SERVICE_CONFIG),
    # A call whose message is larger than this is not retried; the messages are kept without a copy.
    ("grpc.per_rpc_retry_buffer_size", 1 << 30),
    # A service that was restarted is found within about a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Names are asked for again once an address fails, but not more often than this.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # gRPC's servers hang up on a client that pings more often than every five minutes. What counts here is what comes
    # along: data that nobody acknowledges for 20 s end the connection, where a host is gone without a word.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # No other client's connection, nor its waiting time after a failure.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """What a channel is made of.

    Attributes:
        target: gRPC's name of the service.
        options: The channel's options.
        credentials: For TLS; None without.
        bearer: Gives the metadata of each call.
    """

    target: str
    options: tuple[tuple[str, Any], ...]
    credentials: grpc.ChannelCredentials | None
    bearer: Bearer


def connection(
    address: str | Sequence[str],
    tls: Tls | None,
    token: TokenSource | None,
    *,
    allow_insecure_token: bool,
    retry: bool,
) -> Connection:
    """Say how a service is reached.

    Args:
        address: `HOST:PORT`, or any target of gRPC; or several `HOST:PORT`, whose names are resolved here and now.
        tls: How it is encrypted; None means not at all.
        token: What is sent to show who calls.
        allow_insecure_token: Whether the token may go unencrypted to another machine.
        retry: Whether calls that fail with UNAVAILABLE are tried again.

    Raises:
        ValueError: There is no address, one of several is not `HOST:PORT` or has a name that nobody knows, or the
            token would go over the network for all to read.
        OSError: A file of `tls` can't be read.
    """
    addresses = [address] if isinstance(address, str) else list(address)
    if not addresses or not all(addresses):
        raise ValueError("an address is needed, such as localhost:50051")
    if token is not None and tls is None and not allow_insecure_token:
        far = [one for one in addresses if not is_loopback(one)]
        if far:
            raise ValueError(
                f"the token would go to {', '.join(far)} unencrypted: give tls=Tls(), or allow_insecure_token=True"
            )
    options = [*_OPTIONS, ("grpc.enable_retries", int(retry))]
    if len(addresses) == 1:
        target = addresses[0]
    else:
        target = _target_of(addresses)
        # Without it the literals themselves would be the name that the service is called by.
        options.append(("grpc.default_authority", _named(addresses, tls)))
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return Connection(target, tuple(options), tls.credentials() if tls else None, Bearer(token))


def _named(addresses: Sequence[str], tls: Tls | None) -> str:
    if tls is not None and not tls.server_name and len({_split(one)[0] for one in addresses}) > 1:
        raise ValueError("several hosts with TLS have one name between them: say which with Tls(server_name=...)")
    return addresses[0]


def _target_of(addresses: Sequence[str]) -> str:
    """Write several addresses as one target."""
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
    # A target holds addresses of one family; those of the other are written in its form.
    sixes = ((ip if ip.version == 6 else f"::ffff:{ip}", port) for ip, port in literals)
    return "ipv6:" + ",".join(f"[{ip}]:{port}" for ip, port in sixes)


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or (":" in host and not host.startswith("[")):
        raise ValueError(f"{address} is not HOST:PORT, which each of several addresses must be")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Tell whether an address never leaves this machine, as far as its text says."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    if address.startswith("dns:"):
        # It may name the server to ask, between slashes.
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
