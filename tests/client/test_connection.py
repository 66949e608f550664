"""How a channel is made: targets, and whom a token may go to."""

import json

import pytest

from prinz_enricher.client import Client, Tls
from prinz_enricher.client.connection import Connection, is_loopback


def made(address: str | list[str], tls: Tls | None = None) -> Connection:
    """Make a connection without a token."""
    return Connection(address, tls, None, allow_insecure_token=False, retry=True)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("localhost:50051", "localhost:50051"),
        ("dns:///prinz.example:50051", "dns:///prinz.example:50051"),
        (["unix:/run/prinz.sock"], "unix:/run/prinz.sock"),
        (["127.0.0.1:1", "127.0.0.2:2"], "ipv4:127.0.0.1:1,127.0.0.2:2"),
        (["127.0.0.1:1", "127.0.0.1:1"], "ipv4:127.0.0.1:1"),
        (["[::1]:1", "[::1]:2"], "ipv6:[::1]:1,[::1]:2"),
        (["127.0.0.1:1", "[::1]:2"], "ipv6:[::ffff:127.0.0.1]:1,[::1]:2"),
    ],
)
def test_targets(address: str | list[str], target: str) -> None:
    """One address is gRPC's own affair; several are one target of literals, each once."""
    assert made(address).target == target


@pytest.mark.parametrize("address", ["", [], ["a:1", ""], ["127.0.0.1:1", "nowhere"], ["127.0.0.1:1", "::1:2"]])
def test_what_is_no_address(address: str | list[str]) -> None:
    """Nothing, and what is not HOST:PORT among several, is refused at once."""
    with pytest.raises(ValueError, match=r"address|HOST:PORT"):
        made(address)


def test_a_host_that_nobody_knows() -> None:
    """A name among several that can't be resolved is told with its address."""
    with pytest.raises(ValueError, match=r"a\.\.b:1 is not known"):
        made(["127.0.0.1:1", "a..b:1"])


def test_several_hosts_with_tls_need_one_name() -> None:
    """A certificate is checked for one name: that of the only host, or the one that is said."""
    with pytest.raises(ValueError, match="server_name"):
        made(["127.0.0.1:1", "127.0.0.2:1"], Tls())
    assert dict(made(["127.0.0.1:1", "127.0.0.1:2"], Tls()).options)["grpc.default_authority"] == "127.0.0.1:1"
    assert made(["127.0.0.1:1", "127.0.0.2:1"], Tls(server_name="prinz")).target == "ipv4:127.0.0.1:1,127.0.0.2:1"


def test_only_what_is_unavailable_is_retried() -> None:
    """The service config retries UNAVAILABLE alone, four attempts in all, and goes round robin."""
    config = json.loads(dict(made("localhost:1").options)["grpc.service_config"])
    policy = config["methodConfig"][0]["retryPolicy"]
    assert (policy["retryableStatusCodes"], policy["maxAttempts"]) == (["UNAVAILABLE"], 4)
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("localhost:50051", True),
        ("127.0.0.1:50051", True),
        ("127.8.0.1", True),
        ("[::1]:50051", True),
        ("[::1]", True),
        ("::1", True),
        ("unix:/run/prinz.sock", True),
        ("dns:///localhost:50051", True),
        ("dns://8.8.8.8/localhost:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("10.0.0.1:50051", False),
        ("localhost.example:50051", False),
        ("dns:///prinz:50051", False),
        ("dns://127.0.0.1/prinz:50051", False),
        ("[2001:db8::1]:50051", False),
        ("xds:///localhost:1", False),
        ("prinz", False),
    ],
)
def test_which_addresses_stay_on_this_machine(address: str, near: bool) -> None:
    """Only literal addresses of loopback, `localhost` and Unix sockets do."""
    assert is_loopback(address) is near


def test_a_token_goes_nowhere_unencrypted() -> None:
    """Without TLS a token is refused for another machine, unless the caller says that it may."""
    with pytest.raises(ValueError, match="unencrypted") as raised:
        Client("prinz.example:50051", token="hush")  # noqa: S106 - made up
    assert "hush" not in str(raised.value)
    with pytest.raises(ValueError, match="unencrypted"):
        Client(["127.0.0.1:50051", "10.0.0.1:50051"], token="hush")  # noqa: S106 - made up
    Client("prinz.example:50051", token="hush", allow_insecure_token=True).close()  # noqa: S106 - made up
    Client("prinz.example:50051", token="hush", tls=Tls()).close()  # noqa: S106 - made up


def test_messages_of_no_row() -> None:
    """A limit below one row is refused, and one beyond what the service takes."""
    with pytest.raises(ValueError, match="max_coalesced_rows"):
        Client("localhost:1", max_coalesced_rows=0)
    with pytest.raises(ValueError, match="max_coalesced_rows"):
        Client("localhost:1", max_coalesced_rows=4097)
