"""The whole service before registries that want authentication: real servers, real workers, and no secret anywhere."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import model_pb2
from tests.support.basic_auth_server import BasicAuthServer
from tests.support.certificates import Authority
from tests.support.hostile_server import Answer, HostileServer
from tests.support.processes import children
from tests.support.running_service import LONG
from tests.support.serve_process import Serve, serve
from tests.support.token_server import CheckingProxy, TokenEndpoint
from tests.support.typed_model import save_typed_model
from tests.support.unity_catalog import UnityCatalogServer, UnityModel

pytestmark = pytest.mark.slow

DECOY = "someone-else-s-token"
"""What the service's own environment has for MLflow."""


def write_settings(folder: Path, **keys: str) -> str:
    """Write a settings file; return its path."""
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    file = folder / "prinz.toml"
    file.write_text(f"[registry]\n{text}\nrefresh_interval = 0.5\n[logging]\nlevel = 'debug'\n")
    return str(file)


def until_true(ask: Callable[[], bool], what: str) -> None:
    """Ask until it is so."""
    limit = time.monotonic() + LONG
    while not ask():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def scored(client: Client, name: str) -> list[object]:
    """Return what the typed model makes of 21."""
    return [value for row in client.score(name, [{"n": 21}]).to_rows() for value in row.values()]


def assert_kept(front: Serve, secrets: list[str]) -> None:
    """Hold the service to it that no secret is in what it wrote, in a command line, or in a worker's environment."""
    workers = children(front.process.pid)
    assert workers
    for pid in (front.process.pid, *workers):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert not [secret for secret in secrets if secret.encode() in command]
    for pid in workers:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert not [secret for secret in (*secrets, DECOY) if secret.encode() in environment]
    assert front.end() == 0
    written = "".join(front.lines)
    assert "worker is ready" in written
    assert not [secret for secret in secrets if secret in written]


def test_basic_auth(basic_auth_registry: BasicAuthServer, tmp_path: Path) -> None:
    """A wrong password is told to callers and mended by the file; then models are listed, described and scored."""
    file = tmp_path / "password"
    wrong = "not-the-pa55word"
    file.write_text(wrong)
    settings = write_settings(
        tmp_path, url=basic_auth_registry.url, username=basic_auth_registry.user, password_file=str(file)
    )
    with (
        serve(
            "--config", settings, until="registry can't be read", variables={"MLFLOW_TRACKING_TOKEN": DECOY}
        ) as front,
        Client(front.address, timeout=LONG) as client,
    ):
        with pytest.raises(ServiceError, match=r"HTTP 401.*the credentials are missing or wrong") as refused:
            list(client.list_models())
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        file.write_text(basic_auth_registry.password)

        def is_listed() -> bool:
            try:
                return [model.name for model in client.list_models()] == ["typed"]
            except ServiceError:
                return False

        until_true(is_listed, "a mended password was not used")
        _, signature = client.signature("typed")
        assert [field.name for field in signature.inputs] == ["n"]
        assert scored(client, "typed") == [42]
        assert_kept(front, [wrong, basic_auth_registry.password])


def test_password_in_the_url(basic_auth_registry: BasicAuthServer, tmp_path: Path) -> None:
    """User and password of the URL let the service and its workers in, and are shown nowhere."""
    login = f"{basic_auth_registry.user}:{basic_auth_registry.password}@"
    settings = write_settings(tmp_path, url=basic_auth_registry.url.replace("://", f"://{login}"))
    with serve("--config", settings) as front, Client(front.address, timeout=LONG) as client:
        assert scored(client, "typed") == [42]
        assert_kept(front, [basic_auth_registry.password])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "https://h", "ca_file": "/not/there.pem"}, "ca_file: /not/there.pem can't be read: No such file"),
        ({"url": "https://h", "token": "hunter2", "password": "hunter2"}, "password does not go with auth by token"),
        ({"url": "http://:hunter2"}, "url"),
    ],
)
def test_a_start_that_fails(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    """Settings that can't be used end the service at once, with one sentence."""
    command = [sys.executable, "-m", "prinz_enricher.cli", "serve", "--port", "0"]
    ended = subprocess.run(
        [*command, "--config", write_settings(tmp_path, **keys)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


@pytest.fixture
def proxy(hostile_server: HostileServer, basic_auth_registry: BasicAuthServer) -> Iterator[CheckingProxy]:
    """A proxy before MLflow, that itself logs in there; a test says whom it lets through."""
    proxy = CheckingProxy(basic_auth_registry.url, lambda _: False)
    proxy.log_in(basic_auth_registry.user, basic_auth_registry.password)
    hostile_server.respond = proxy
    yield proxy
    proxy.close()


def test_oauth2(hostile_server: HostileServer, proxy: CheckingProxy, tmp_path: Path) -> None:
    """Tokens that live for a second keep the catalog fresh; a worker gets one that is good when it starts."""
    endpoint = TokenEndpoint(scope="mlflow")
    proxy.accepts = endpoint.accepts
    with HostileServer() as tokens:
        tokens.respond = endpoint
        settings = write_settings(
            tmp_path,
            url=hostile_server.url,
            oauth2_token_url=f"{tokens.url}/token",
            oauth2_client_id=endpoint.client_id,
            oauth2_scope="mlflow",
        )
        variables = {"PRINZ_REGISTRY__OAUTH2_CLIENT_SECRET": endpoint.secret, "MLFLOW_TRACKING_TOKEN": DECOY}
        endpoint.lifetime = 1.0
        with (
            serve("--config", settings, variables=variables) as front,
            Client(front.address, timeout=LONG) as client,
        ):
            until_true(lambda: endpoint.asked > 2, "no token was renewed")
            # The next is for the download, which needs it for as long as the download takes.
            endpoint.lifetime = 3600.0
            asked = endpoint.asked
            until_true(lambda: endpoint.asked > asked, "no token was renewed")
            assert scored(client, "typed") == [42]
            assert f"Bearer {endpoint.tokens[-1]}" in {header for path, header in proxy.seen if "artifacts" in path}
            assert_kept(front, [endpoint.secret, *endpoint.tokens])


def test_no_token_for_a_worker(hostile_server: HostileServer, proxy: CheckingProxy, tmp_path: Path) -> None:
    """A worker that can't have a token is told as a registry that is away, with the reason, and starts later."""
    endpoint = TokenEndpoint()
    endpoint.lifetime = 60.0
    proxy.accepts = endpoint.accepts
    with HostileServer() as tokens:
        tokens.respond = endpoint
        settings = write_settings(
            tmp_path,
            url=hostile_server.url,
            oauth2_token_url=f"{tokens.url}/token",
            oauth2_client_id=endpoint.client_id,
            oauth2_client_secret=endpoint.secret,
        )
        with serve("--config", settings) as front, Client(front.address, timeout=LONG) as client:
            endpoint.broken = Answer(b"", 503)
            endpoint.revoke_all()
            # Only once the service knows that its token is no good.
            until_true(lambda: endpoint.asked > 1, "the endpoint was not asked again")
            with pytest.raises(
                ServiceError, match=r"does not give its files: the token endpoint .* HTTP 503"
            ) as refused:
                client.score("typed", [{"n": 21}])
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
            endpoint.broken = None

            def is_scored() -> bool:
                try:
                    return scored(client, "typed") == [42]
                except ServiceError:
                    return False

            until_true(is_scored, "no worker came after the endpoint was mended")


def test_client_certificate(proxy: CheckingProxy, tmp_path: Path) -> None:
    """A server that wants a client certificate, signed by an authority of one's own, serves front and worker."""
    authority = Authority(tmp_path)
    pair = authority.sign("prinz")
    proxy.accepts = lambda _: True
    with HostileServer(authority.server_context(ask_clients=True)) as server:
        server.respond = proxy
        settings = write_settings(
            tmp_path,
            url=server.url,
            ca_file=str(authority.file),
            client_certificate=str(pair.certificate),
            client_key=str(pair.key),
        )
        with serve("--config", settings) as front, Client(front.address, timeout=LONG) as client:
            assert scored(client, "typed") == [42]
            assert_kept(front, [pair.key.read_text().splitlines()[1]])


def test_unity_catalog(hostile_server: HostileServer, tmp_path: Path) -> None:
    """A model of a Unity Catalog is listed, described, and scored by a worker with MLflow's and Databricks' clients."""
    save_typed_model(tmp_path / "model")
    workspace = UnityCatalogServer()
    workspace.models["prod.risk.typed"] = UnityModel({"1": tmp_path / "model"}, {"champion": "1"})
    hostile_server.respond = workspace
    settings = write_settings(
        tmp_path,
        url=hostile_server.url,
        kind="unity",
        oauth2_client_id=workspace.tokens.client_id,
        oauth2_client_secret=workspace.tokens.secret,
    )
    with (
        serve("--config", settings, variables={"DATABRICKS_TOKEN": DECOY}) as front,
        Client(front.address, timeout=LONG) as client,
    ):
        (model,) = client.list_models()
        assert (model.name, dict(model.aliases)) == ("prod.risk.typed", {"champion": "1"})
        assert scored(client, "prod.risk.typed@champion") == [42]
        (model,) = client.list_models()
        assert model.versions[0].state == model_pb2.ModelVersion.STATE_AVAILABLE
        assert_kept(front, [workspace.tokens.secret, *workspace.tokens.tokens])
