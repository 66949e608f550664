"""The registry client before real MLflow servers that want authentication, or behind a proxy that does."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from prinz_enricher.catalog import Catalog
from prinz_enricher.config import Settings
from prinz_enricher.registry import RegistryClient, RegistryRefused, RegistryUnreachable, open_access, secret_sources
from prinz_enricher.registry.registry_errors import CredentialsUnavailable, TokenRefused
from tests.conftest import RunningRegistry
from tests.support.basic_auth_server import BasicAuthServer
from tests.support.certificates import Authority
from tests.support.hostile_server import Answer, HostileServer
from tests.support.token_server import CheckingProxy, TokenEndpoint

pytestmark = pytest.mark.slow


class Open(Protocol):
    """Opens a client of the proxy with these settings, and closes it after the test."""

    def __call__(self, **keys: object) -> RegistryClient:
        """Do so."""


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    """A token endpoint; `token_server` answers by it."""
    endpoint = TokenEndpoint()
    yield endpoint
    endpoint.gate.set()


@pytest.fixture
def token_server(endpoint: TokenEndpoint) -> Iterator[HostileServer]:
    """The server of the token endpoint."""
    with HostileServer() as server:
        server.respond = endpoint
        yield server


@pytest.fixture
def proxy(
    hostile_server: HostileServer, sample_registry: RunningRegistry, endpoint: TokenEndpoint
) -> Iterator[CheckingProxy]:
    """A proxy before the sample models' MLflow that wants the endpoint's tokens."""
    proxy = CheckingProxy(sample_registry.url, endpoint.accepts)
    hostile_server.respond = proxy
    yield proxy
    proxy.close()


@pytest.fixture
def open_client(hostile_server: HostileServer, proxy: CheckingProxy) -> Iterator[Open]:
    """Return a function that opens a client of the proxy."""
    assert hostile_server.respond is proxy
    opened: list[RegistryClient] = []

    def open_one(**keys: object) -> RegistryClient:
        settings = Settings.load({"registry": {"url": hostile_server.url, **keys}}, environment={}).registry
        access = open_access(settings)
        client = RegistryClient(
            access.url,
            timeout=10.0,
            credentials=access.credentials,
            tls=access.tls_context(),
            models_per_page=1,
            versions_per_page=1,
        )
        opened.append(client)
        return client

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture
def oauth2_client(open_client: Open, token_server: HostileServer, endpoint: TokenEndpoint) -> RegistryClient:
    """A client that gets its tokens from the endpoint; one model to a page."""
    return open_client(
        oauth2_token_url=f"{token_server.url}/token",
        oauth2_client_id=endpoint.client_id,
        oauth2_client_secret=endpoint.secret,
    )


def after(requests: int, act: Callable[[], object], accepts: Callable[[str], bool]) -> Callable[[str], bool]:
    """Return a check that does something once, when so many requests have come."""
    seen = 0

    def check(authorization: str) -> bool:
        nonlocal seen
        seen += 1
        if seen == requests:
            act()
        return accepts(authorization)

    return check


def test_basic_auth_of_mlflow(basic_auth_registry: BasicAuthServer, tmp_path: Path) -> None:
    """MLflow's own basic-auth app: a wrong password is told as such, the right one in the same file lets us in."""
    file = tmp_path / "password"
    file.write_text("wrong-" + basic_auth_registry.password)
    registry = {"url": basic_auth_registry.url, "username": basic_auth_registry.user, "password_file": str(file)}
    access = open_access(Settings.load({"registry": registry}, environment={}).registry)
    with RegistryClient.of(access) as client:
        catalog = Catalog(client)
        with pytest.raises(RegistryRefused, match=r"HTTP 401.*the credentials are missing or wrong") as refused:
            catalog.refresh()
        assert basic_auth_registry.password not in str(refused.value)
        file.write_text(basic_auth_registry.password + "\n")
        assert catalog.refresh().models["typed"].versions[0].signature is not None


def test_oauth2(oauth2_client: RegistryClient, endpoint: TokenEndpoint, proxy: CheckingProxy) -> None:
    """One token is enough for a whole refresh of the catalog, all its threads included."""
    assert samples(Catalog(oauth2_client).refresh().models) == 3
    assert (endpoint.asked, proxy.refusals) == (1, 0)


def test_a_token_that_ends_between_two_pages(
    oauth2_client: RegistryClient, endpoint: TokenEndpoint, proxy: CheckingProxy
) -> None:
    """A token that the registry takes for one page and not for the next is replaced, and the listing goes on."""
    proxy.accepts = after(2, endpoint.revoke_all, endpoint.accepts)
    assert samples(model.name for model in oauth2_client.registered_models().items) == 3
    assert (endpoint.asked, proxy.refusals) == (2, 1)


def test_a_token_that_ends_among_many_threads(
    oauth2_client: RegistryClient, endpoint: TokenEndpoint, proxy: CheckingProxy
) -> None:
    """All threads that are refused at once share one new token."""
    versions = oauth2_client.model_versions().items
    endpoint.revoke_all()
    asked = endpoint.asked
    together = threading.Barrier(16)

    def read(number: int) -> object:
        together.wait(30)
        return oauth2_client.mlmodel(versions[number % len(versions)])["flavors"]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))
    assert endpoint.asked == asked + 1
    assert 0 < proxy.refusals <= 16


def test_a_storm_of_refusals(oauth2_client: RegistryClient, endpoint: TokenEndpoint, proxy: CheckingProxy) -> None:
    """A registry that refuses every token costs the endpoint one more request, and the caller an error."""
    proxy.accepts = lambda _: False

    def read(_: int) -> object:
        with pytest.raises(RegistryRefused, match="HTTP 401"):
            oauth2_client.registered_models()
        return None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(40)))
    assert endpoint.asked == 2
    assert proxy.refusals <= 40 + 8


def test_a_token_endpoint_that_fails(
    oauth2_client: RegistryClient, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is no token the catalog says why, keeps what it knew, and recovers by itself."""
    monkeypatch.setattr(secret_sources, "PAUSE_SECONDS", 0.0)
    catalog = Catalog(oauth2_client)
    known = catalog.refresh()
    endpoint.revoke_all()
    endpoint.broken = Answer(b"no token for you", 503)
    with pytest.raises(TokenRefused, match=r"token endpoint .*HTTP 503"):
        catalog.refresh()
    endpoint.broken = Answer(b"<html>")
    with pytest.raises(Exception, match="without a token"):
        catalog.refresh()
    assert catalog.snapshot() is known
    endpoint.broken = None
    assert catalog.refresh() is known


def test_a_token_file_that_is_rotated(open_client: Open, proxy: CheckingProxy, tmp_path: Path) -> None:
    """The new token is used as soon as it is there; before it is there, the refusal is told."""
    file = tmp_path / "token"
    good = ["first"]
    proxy.accepts = lambda header: header == f"Bearer {good[0]}"
    client = open_client(token_file=str(file))
    with pytest.raises(CredentialsUnavailable, match=str(file)):
        client.registered_models()
    file.write_text("first\n")
    assert samples(model.name for model in client.registered_models().items) == 3
    good[0] = "second"
    with pytest.raises(RegistryRefused, match="HTTP 401"):
        client.registered_models()
    # In the same file, of the same length, maybe within one tick of the disk's clock.
    good[0] = "third"
    file.write_text("third\n")
    assert samples(model.name for model in client.registered_models().items) == 3
    assert {header for _, header in proxy.seen} == {"Bearer first", "Bearer third"}


def test_no_secret_goes_to_another_server(
    oauth2_client: RegistryClient, proxy: CheckingProxy, endpoint: TokenEndpoint, token_server: HostileServer
) -> None:
    """The registry gets tokens alone, the endpoint no token."""
    oauth2_client.registered_models()
    assert {header for _, header in proxy.seen} == {f"Bearer {token}" for token in endpoint.tokens}
    assert all(request.headers["authorization"].startswith("Basic ") for request in token_server.requests)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that nobody knows."""
    return Authority(tmp_path)


def samples(names: Iterable[str]) -> int:
    """Count the sample models; other tests may have registered more."""
    return sum(name.startswith("MLF-") for name in names)


def listed(url: str, **keys: object) -> int:
    """Return how many of the sample models a registry lists."""
    settings = Settings.load({"registry": {"url": url, **keys}}, environment={}).registry
    with RegistryClient.of(open_access(settings), timeout=10.0) as client:
        return samples(model.name for model in client.registered_models().items)


def test_an_authority_of_one_s_own(
    authority: Authority, sample_registry: RunningRegistry, endpoint: TokenEndpoint, tmp_path: Path
) -> None:
    """A server's certificate is trusted by `ca_file` alone, the token endpoint's too; what is wrong is told."""
    other = tmp_path / "other"
    other.mkdir()
    proxy = CheckingProxy(sample_registry.url, endpoint.accepts)
    tls = authority.server_context(authority.sign("address"))
    with HostileServer(tls) as registry, HostileServer(tls) as tokens:
        registry.respond, tokens.respond = proxy, endpoint
        oauth = {
            "oauth2_token_url": f"{tokens.url}/token",
            "oauth2_client_id": endpoint.client_id,
            "oauth2_client_secret": endpoint.secret,
        }
        assert listed(registry.url, ca_file=str(authority.file), **oauth) == 3
        with pytest.raises(RegistryUnreachable, match="certificate is not trusted"):
            listed(registry.url, **oauth)
        with pytest.raises(RegistryUnreachable, match="certificate is not trusted"):
            listed(registry.url, token="x", ca_file=str(Authority(other).file))  # noqa: S106 - made up
        by_name = registry.url.replace("127.0.0.1", "localhost")
        with pytest.raises(RegistryUnreachable, match=r"not trusted.*[Hh]ostname mismatch"):
            listed(by_name, token="x", ca_file=str(authority.file))  # noqa: S106 - made up
    proxy.close()


def test_a_client_certificate(authority: Authority, sample_registry: RunningRegistry) -> None:
    """A server that wants a certificate gets ours, from one file or two; without it the refusal is told."""
    pair = authority.sign("client")
    proxy = CheckingProxy(sample_registry.url, lambda _: True)
    with HostileServer(authority.server_context(ask_clients=True)) as server:
        server.respond = proxy
        known = {"ca_file": str(authority.file)}
        two = {"client_certificate": str(pair.certificate), "client_key": str(pair.key)}
        assert listed(server.url, **known, **two) == 3
        assert listed(server.url, **known, client_certificate=str(pair.both)) == 3
        with pytest.raises(RegistryUnreachable, match=r"no secure connection .*CERTIFICATE_REQUIRED"):
            listed(server.url, **known)
    proxy.close()
