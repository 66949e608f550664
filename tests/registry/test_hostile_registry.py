"""The registry client before a server that answers wrongly."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prinz_enricher.registry import (
    MlmodelUnreadable,
    ModelVersion,
    RegistryClient,
    RegistryRefused,
    RegistryUnreachable,
    RegistryUnreadable,
    transport,
)
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json

SECRET = "hunter2"  # noqa: S105 - made up
VERSION = ModelVersion("wine", "1", "", {}, "READY", "", "", "models:/m-1", 0, 0)


@pytest.fixture
def client(hostile_server: HostileServer) -> Iterator[RegistryClient]:
    """A client of the hostile server, with a password in its URL."""
    url = hostile_server.url.replace("http://", f"http://user:{SECRET}@")
    with RegistryClient(f"{url}/mlflow/", timeout=2.0) as opened:
        yield opened


def test_path_prefix_and_credentials(client: RegistryClient, hostile_server: HostileServer) -> None:
    """Requests go below the path of the URL, with its user and password; what is shown of it has neither."""
    assert client.registered_models().items == ()
    (request,) = hostile_server.requests
    assert request.path == "/mlflow/api/2.0/mlflow/registered-models/search"
    assert request.headers["authorization"].startswith("Basic ")
    assert request.headers["user-agent"].startswith("prinz-enricher/")
    assert client.url == f"{hostile_server.url}/mlflow"


@pytest.mark.parametrize(
    ("status", "content", "hint"),
    [
        (500, b"<html>boom</html>", "HTTP 500"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "hunter2"}', "HTTP 403 PERMISSION_DENIED"),
        (401, b"", "credentials"),
        (429, b"", "HTTP 429"),
        (599, b"", "HTTP 599"),
    ],
)
def test_refusals(
    client: RegistryClient, hostile_server: HostileServer, status: int, content: bytes, hint: str
) -> None:
    """A status that is not 200 is told with MLflow's code and words, but without our password."""
    hostile_server.respond = lambda _: Answer(content, status)
    with pytest.raises(RegistryRefused, match=hint) as refused:
        client.registered_models()
    assert refused.value.status == status
    assert refused.value.transient
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("source", ["runs:/r1/deep", "models:/m-1"])
@pytest.mark.parametrize(
    "lie",
    [
        "/etc",
        "file:///etc",
        "http://127.0.0.1:1/etc",
        "mlflow-artifacts://127.0.0.1:1/etc",
        "mlflow-artifacts:/a/../etc",
    ],
)
def test_a_run_or_logged_model_that_lies(
    client: RegistryClient, hostile_server: HostileServer, source: str, lie: str
) -> None:
    """Wherever a registry says that the files of a run or a logged model are, it is asked for them, and nobody else."""

    def respond(request: Request) -> Answer:
        if request.path.endswith("get-download-uri"):
            return answer_json({"artifact_uri": source})
        if request.path.endswith("runs/get"):
            return answer_json({"run": {"info": {"artifact_uri": lie, "experiment_id": "0"}}})
        if request.path.endswith("logged-models/search"):
            return answer_json({})
        if request.path.endswith("logged-models/m-1"):
            return answer_json({"model": {"info": {"artifact_uri": lie, "model_id": "m-1"}}})
        return Answer(b"flavors: {}")

    hostile_server.respond = respond
    if ".." in lie:
        with pytest.raises(MlmodelUnreadable, match="outside of the artifacts"):
            client.mlmodel(VERSION)
        return
    assert client.mlmodel(VERSION) == {"flavors": {}}
    last = hostile_server.requests[-1]
    files = ("/get-artifact", "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files")
    assert last.path.removeprefix("/mlflow") in files


ELSEWHERE = [
    "mlflow-artifacts://127.0.0.1:1/a",
    "mlflow-artifacts://{other}/a",
    "mlflow-artifacts://{host}@127.0.0.1:1/a",
    "MLflow-Artifacts://127.0.0.1:1/a",
    "mlflow-arti\tfacts://127.0.0.1:1/a",
    "mlflow-artifacts://[/a",
    "http://127.0.0.1:1/api/2.0/mlflow-artifacts/artifacts/a",
    "http://{host}.example.com/mlflow/a",
    "http://{host}@127.0.0.1:1/mlflow/a",
    "HTTPS://{host}/mlflow/a",
    " http://127.0.0.1:1/a",
    "Runs:/r1/deep",
    "Models:/m-1",
]


@pytest.mark.parametrize("lie", ELSEWHERE)
@pytest.mark.parametrize("through", ["", "runs:/r1/deep", "models:/m-1"])
def test_files_with_another_server(
    client: RegistryClient, hostile_server: HostileServer, through: str, lie: str
) -> None:
    """No client with our credentials is sent there, whichever way a registry says that they are there."""
    ours = hostile_server.url.removeprefix("http://")
    uri = lie.format(host=ours, other=f"{ours}1")
    hostile_server.respond = _leading_to(uri, through)
    with pytest.raises(MlmodelUnreadable, match=r"another server|does not say where"):
        client.folder_uri("wine", "1")


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("mlflow-artifacts:/a b?c#d/100%", "mlflow-artifacts:/a b?c#d/100%"),
        ("mlflow-artifacts://{host}/a", "mlflow-artifacts:/a"),
        ("mlflow-artifacts://127.0.0.1/a", "mlflow-artifacts:/a"),
        ("http://{host}/mlflow/api/a", "http://{host}/mlflow/api/a"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("/mnt/a", "/mnt/a"),
        ("file:///mnt/a", "file:///mnt/a"),
        ("mlruns/a", f"{Path.cwd().as_uri()}/mlruns/a"),
    ],
)
def test_files_with_the_registry_or_a_store(
    client: RegistryClient, hostile_server: HostileServer, uri: str, folder: str
) -> None:
    """A server's own artifacts are named without its host, so that they are asked for where the registry is."""
    ours = hostile_server.url.removeprefix("http://")
    hostile_server.respond = _leading_to(uri.format(host=ours), "")
    assert client.folder_uri("wine", "1") == folder.format(host=ours)


def _leading_to(uri: str, through: str) -> Callable[[Request], Answer]:
    """Answer as a registry whose one version has its files there, said at once or by what its source leads to."""

    def respond(request: Request) -> Answer:
        if request.path.endswith("get-download-uri"):
            return answer_json({"artifact_uri": through or uri})
        if request.path.endswith("runs/get"):
            return answer_json({"run": {"info": {"artifact_uri": uri, "experiment_id": "0"}}})
        if request.path.endswith("logged-models/m-1"):
            return answer_json({"model": {"info": {"artifact_uri": uri, "model_id": "m-1"}}})
        return answer_json({})

    return respond


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("models:/wine@champion", '"models:/wine@champion"'),
        ("models://ann:hunter2@databricks/wine/1", '"models:/…"'),
        ("models:/wine/Production?token=hunter2", '"models:/…"'),
        ("models:/\x1b[31mred/\x00", '"models:/ [31mred/ "'),
    ],
)
def test_a_source_that_is_quoted(client: RegistryClient, hostile_server: HostileServer, source: str, told: str) -> None:
    """It is printable, and without credentials."""
    hostile_server.respond = lambda _: answer_json({"artifact_uri": source})
    with pytest.raises(MlmodelUnreadable) as unreadable:
        client.mlmodel(VERSION)
    assert f"its source {told} does not name one version" in str(unreadable.value)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Invalid source: 'models:/x/1'.\nTraceback: secrets", "Invalid source: 'models:/x/1'."),
        ("see https://user:pw@host/a?sig=1 for s3://bucket/key", "see … for …"),
        ("of user:pw@host/a by /files?X-Amz-Signature=abc", "of … by …"),
        ("it has Authorization: Bearer abc.def, token=xyz; my_password = 'p w' is", "it has …"),
        ("access_key: AKIA and Basic dXNlcg==", "…"),
        ("a\x1b[31mred\x00 text", "a [31mred  text"),
        ("ż" * 500, "ż" * 399 + "…"),
        ("we know hunter2 and more", "we know … and more"),
        ("", ""),
        (["no", "text"], ""),
    ],
)
def test_words_of_a_refusal(client: RegistryClient, hostile_server: HostileServer, message: object, words: str) -> None:
    """Of MLflow's message the first line is told: printable, bounded, without addresses and credentials."""
    hostile_server.respond = lambda _: answer_json({"error_code": "INVALID_PARAMETER_VALUE", "message": message}, 400)
    with pytest.raises(RegistryRefused) as refused:
        client.registered_models()
    assert refused.value.words == words
    assert f"INVALID_PARAMETER_VALUE{': ' if words else ''}{words}" in str(refused.value)
    assert not refused.value.transient


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"message": "boom"}', b'{"error_code": "no code", "message": "x"}', b"[" * 100_000],
)
def test_errors_that_are_not_mlflow_s(client: RegistryClient, hostile_server: HostileServer, content: bytes) -> None:
    """What others say, such as a proxy, is not told on."""
    hostile_server.respond = lambda _: Answer(content, 404)
    with pytest.raises(RegistryRefused) as refused:
        client.registered_models()
    assert (refused.value.error_code, refused.value.words) == ("", "")
    assert refused.value.missing


@pytest.mark.parametrize("content", [b'{"registered_models": [', b"[]", b"\xff", b"", b"[" * 100_000])
def test_no_json(client: RegistryClient, hostile_server: HostileServer, content: bytes) -> None:
    """What is no JSON object is refused."""
    hostile_server.respond = lambda _: Answer(content)
    with pytest.raises(RegistryUnreadable):
        client.registered_models()


def test_truncated_answer(client: RegistryClient, hostile_server: HostileServer) -> None:
    """An answer that ends before its declared length is none."""
    hostile_server.respond = lambda _: Answer(b"{}", declared_length=100)
    with pytest.raises(RegistryUnreachable):
        client.registered_models()


@pytest.mark.parametrize("token", [lambda _: "again", lambda request: str(len(request.query))])
def test_pages_in_a_circle(
    client: RegistryClient, hostile_server: HostileServer, token: Callable[[Request], str]
) -> None:
    """A page token that comes again ends the reading."""
    hostile_server.respond = lambda request: answer_json({"registered_models": [], "next_page_token": token(request)})
    with pytest.raises(RegistryUnreadable, match="circle"):
        client.registered_models()
    assert len(hostile_server.requests) <= 4


def test_pages_without_end(
    client: RegistryClient, hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages with ever new tokens are read up to a limit."""
    monkeypatch.setattr(transport, "MAX_PAGES", 5)
    hostile_server.respond = lambda _: answer_json({"next_page_token": f"t{len(hostile_server.requests)}"})
    with pytest.raises(RegistryUnreadable, match="more than 5 pages"):
        client.model_versions()


def test_redirect_is_not_followed(client: RegistryClient, hostile_server: HostileServer) -> None:
    """A redirect leads nowhere, so that credentials and requests stay with the registry."""
    with HostileServer() as elsewhere:
        hostile_server.respond = lambda _: Answer(b"", 302, {"Location": f"{elsewhere.url}/{SECRET}"})
        with pytest.raises(RegistryRefused, match="redirect") as refused:
            client.registered_models()
        assert elsewhere.requests == []
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_huge_answer(
    client: RegistryClient, hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch, *, compressed: bool
) -> None:
    """An answer that is too long is not read to its end, even where it comes compressed."""
    monkeypatch.setattr(transport, "MAX_PAGE_BYTES", 100_000)
    content = b'{"padding": "' + b"x" * 10_000_000 + b'"}'
    answer = Answer(gzip.compress(content), headers={"Content-Encoding": "gzip"}) if compressed else Answer(content)
    hostile_server.respond = lambda _: answer
    with pytest.raises(RegistryUnreadable, match="longer than 100000 bytes"):
        client.registered_models()


def test_false_compression(client: RegistryClient, hostile_server: HostileServer) -> None:
    """An answer that is not compressed as it says is refused."""
    hostile_server.respond = lambda _: Answer(b"no gzip", headers={"Content-Encoding": "gzip"})
    with pytest.raises(RegistryUnreadable, match="decompressed"):
        client.registered_models()


def test_broken_entities_leave_the_others(client: RegistryClient, hostile_server: HostileServer) -> None:
    """Entities that can't be read are told as faults, and the others are there."""
    broken = [None, {}, {"name": ""}, {"name": "bad", "version": "one"}, {"name": "bad", "version": "1", "tags": 5}]
    good = {"name": "good", "version": 7, "creation_timestamp": "1700000000000", "unknown": []}
    hostile_server.respond = lambda _: answer_json({"model_versions": [*broken, good]})
    listing = client.model_versions()
    assert [(v.name, v.version, v.created_ms) for v in listing.items] == [("good", "7", 1_700_000_000_000)]
    assert len(listing.faults) == len(broken)


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("mlflow-artifacts:/1/m", "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/m/MLmodel"),
        ("mlflow-artifacts:///1/m", "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/m/MLmodel"),
        ("mlflow-artifacts://elsewhere:80/1/m", "/mlflow/model-versions/get-artifact"),
        ("http://169.254.169.254/latest", "/mlflow/model-versions/get-artifact"),
        ("file:///etc", "/mlflow/model-versions/get-artifact"),
        ("/etc", "/mlflow/model-versions/get-artifact"),
        ("s3://bucket/m", "/mlflow/model-versions/get-artifact"),
        ("mlflow-artifacts://[/1", "/mlflow/model-versions/get-artifact"),
    ],
)
def test_only_our_server_is_asked_for_files(
    client: RegistryClient, hostile_server: HostileServer, uri: str, asked: str
) -> None:
    """Wherever the registry says that files are, its own server is asked for them."""

    def respond(request: Request) -> Answer:
        return answer_json({"artifact_uri": uri} if request.path.endswith("get-download-uri") else {"flavors": {}})

    hostile_server.respond = respond
    assert client.mlmodel(VERSION) == {"flavors": {}}
    assert [request.path for request in hostile_server.requests[1:]] == [asked]


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/../../registered-models", "mlflow-artifacts:/a/./b", "", None])
def test_files_outside_of_the_artifacts(client: RegistryClient, hostile_server: HostileServer, uri: object) -> None:
    """A path that leads out of the artifacts is not asked for."""
    hostile_server.respond = lambda _: answer_json({"artifact_uri": uri})
    with pytest.raises(MlmodelUnreadable):
        client.mlmodel(VERSION)
    assert len(hostile_server.requests) == 1


@pytest.mark.parametrize("url", ["", "mlflow", "ftp://host", "http://", "http://host:port", "sqlite:///mlflow.db"])
def test_no_url_of_a_server(url: str) -> None:
    """What is no URL of a server is refused at once."""
    with pytest.raises(ValueError, match="URL"):
        RegistryClient(url)
