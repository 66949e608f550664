"""`prinz-enricher check` on what a service needs besides models: each fault has its line, and the exit code is 1."""

import datetime as dt
import hashlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checks.conftest import RunCheck
from tests.support.certificates import Authority, self_signed
from tests.support.hostile_server import Answer, HostileServer
from tests.support.issuer import AUDIENCE, URL, SigningKey, jwks
from tests.support.model_server import HTML, ModelServer, Reply
from tests.support.own_service import own_service
from tests.support.synthetic_registry import SyntheticRegistry

PASSWORD = "geheim"  # noqa: S105 - made up
FEW = ("--no-score", "--models", "none")


@pytest.fixture
def registry(hostile_server: HostileServer) -> dict[str, Any]:
    """The settings of a registry that answers."""
    hostile_server.respond = SyntheticRegistry("wine")
    return {"url": hostile_server.url}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority of certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where somebody else listens, and hangs up."""
    with HostileServer() as server:
        server.respond = lambda _: Answer(b"{}", 404)
        yield int(server.url.rpartition(":")[2])


def tls(authority: Authority, name: str = "server", *, expired: bool = False) -> dict[str, str]:
    """Return the settings of TLS with a new certificate."""
    pair = authority.sign(name, expired=expired)
    return {"certificate": str(pair.certificate), "key": str(pair.key)}


def tokens(folder: Path, expires: dt.date | None = None) -> str:
    """Return a file with a token."""
    file = folder / "tokens.toml"
    end = "" if expires is None else f"expires = {expires}\n"
    file.write_text(f'[[token]]\nname = "nk"\nsha256 = "{hashlib.sha256(b"token").hexdigest()}"\n{end}')
    return str(file)


def test_all_is_well(check: RunCheck, registry: dict[str, Any], authority: Authority, tmp_path: Path) -> None:
    """A line for each thing that is set, none of them a fault but a certificate that is soon to expire; no traces."""
    keys = tmp_path / "jwks.json"
    keys.write_bytes(jwks(SigningKey("one")))
    found = check(
        *FEW,
        registry=registry,
        server={"tls": {**tls(authority), "client_ca": str(authority.file)}},
        auth={
            "tokens_file": tokens(tmp_path),
            "jwt": {"issuer": URL, "audience": AUDIENCE, "jwks_file": str(keys)},
        },
        audit={"output": str(tmp_path / "audit.jsonl")},
        http={"port": 0, "webhook_secret": PASSWORD},
        cache={"folder": str(tmp_path / "cache")},
    )
    assert found.code == 0, found.printed
    assert [what for _, what, *_ in found.findings] == [
        *(
            "settings",
            "certificate",
            "tokens",
            "jwks",
            "audit",
            "webhook",
            "address",
            "address",
            "disk",
            "registry",
            "model",
        ),
    ]
    [certificate] = found.messages("certificate", "warn")
    assert re.fullmatch(r"valid until 20[-\dT:]+\+00:00; renew it; client certificates are required", certificate)
    assert found.messages("tokens", "ok") == ["1 valid token"]
    assert found.messages("jwks", "ok") == [f"1 usable key of {URL}"]
    assert found.messages("registry", "ok") == ["answers: 1 model, 1 version"]
    assert found.messages("model") == ["there is no such model, or registry.include leaves it out"]
    assert PASSWORD not in found.printed
    assert not {"cache", "audit.jsonl"} & {path.name for path in tmp_path.iterdir()}


Break = Callable[[Path, Authority], dict[str, Any]]


def file_of(folder: Path, content: str) -> str:
    """Return a file with a content."""
    path = folder / "broken"
    path.write_text(content)
    return str(path)


def other_key(folder: Path, authority: Authority) -> dict[str, Any]:
    """Return a certificate with the key of another one."""
    return {"server": {"tls": {**tls(authority), "key": str(self_signed(folder, "other").key)}}}


def jwt(**keys: str) -> dict[str, Any]:
    """Return the settings of an issuer."""
    return {"auth": {"jwt": {"issuer": URL, "audience": AUDIENCE, **keys}}}


@pytest.mark.parametrize(
    ("what", "says", "breaks"),
    [
        ("certificate", "; renew it", lambda _, ca: {"server": {"tls": tls(ca, expired=True)}}),
        ("certificate", "does not belong to the first certificate", other_key),
        (
            "certificate",
            "is not a certificate in PEM",
            lambda folder, ca: {"server": {"tls": {**tls(ca), "client_ca": file_of(folder, "x")}}},
        ),
        ("tokens", "is not TOML", lambda folder, _: {"auth": {"tokens_file": file_of(folder, "?")}}),
        ("jwks", "has no usable key", lambda folder, _: jwt(jwks_file=file_of(folder, '{"keys": []}'))),
        (
            "jwks",
            "refuses it; see auth.jwt.jwks_url",
            lambda *_: jwt(jwks_url=f"http://127.0.0.1:9/keys?secret={PASSWORD}"),
        ),
        ("audit", "No such file or directory", lambda folder, _: {"audit": {"output": str(folder / "no" / "log")}}),
        ("audit", "Is a directory", lambda folder, _: {"audit": {"output": str(folder)}}),
        (
            "webhook",
            "webhook secret",
            lambda folder, _: {"http": {"port": 0, "webhook_secret_file": str(folder / "no")}},
        ),
        ("disk", "set cache.folder", lambda folder, _: {"cache": {"folder": file_of(folder, "") + "/cache"}}),
        ("settings", "is not a requirement of a package", lambda *_: {"workers": {"overrides": ["?"]}}),
        (
            "registry",
            "refuses it; see that it runs, and url, ca_file and credentials of [registries.two]",
            lambda *_: {"registries": {"two": {"url": f"http://me:{PASSWORD}@127.0.0.1:9"}}},
        ),
        (
            "endpoint",
            "no connection: the host refuses it, or does not answer; see that it runs, and the keys of [endpoints.e]",
            lambda *_: {"endpoints": {"e": {"urls": ["http://127.0.0.1:9"], "token": PASSWORD}}},
        ),
        ("settings", 'unknown key "hots"', lambda *_: {"server": {"hots": PASSWORD}}),
    ],
)
def test_each_fault_fails(
    what: str, says: str, breaks: Break, check: RunCheck, registry: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    """It is the one line that fails, and shows no secret."""
    found = check(*FEW, **{"registry": registry, **breaks(tmp_path, authority)})
    assert (found.code, [failed for failed, _ in found.failures]) == (1, [what]), found.printed
    assert says in found.failures[0][1]
    assert PASSWORD not in found.printed


@pytest.mark.parametrize(
    "broken",
    [
        {"PRINZ_SERVER__TLS__CERTIFICATE": "/no.crt", "PRINZ_SERVER__TLS__KEY": "/no.key"},
        {"PRINZ_AUTH__TOKENS_FILE": "/no.toml"},
        {"PRINZ_AUDIT__OUTPUT": "/no/log"},
        {"PRINZ_AUTH__JWT__ISSUER": URL, "PRINZ_AUTH__JWT__AUDIENCE": "a", "PRINZ_AUTH__JWT__JWKS_FILE": "/no.json"},
        {"PRINZ_HTTP__PORT": "0", "PRINZ_HTTP__WEBHOOK_SECRET_FILE": "/no.secret"},
        {"PRINZ_HTTP__PORT": "taken"},
        {"PRINZ_SERVER__PORT": "taken"},
        {"PRINZ_REGISTRY__CA_FILE": "/no.crt"},
        {"PRINZ_ENDPOINTS__E__URLS": "https://127.0.0.1:9", "PRINZ_ENDPOINTS__E__CA_FILE": "/no.crt"},
        {"PRINZ_WORKERS__OVERRIDES": "?"},
        {"PRINZ_SERVER__HOTS": "x"},
    ],
)
def test_serve_says_the_same(
    broken: dict[str, str], taken: int, check: RunCheck, registry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` ends at once with the sentence of the check."""
    for name, value in broken.items():
        monkeypatch.setenv(name, value.replace("taken", str(taken)))
    [(_, message)] = check(*FEW, registry=registry, http={"port": 0}).failures
    flags = ["--registry", registry["url"], *(() if "PRINZ_SERVER__PORT" in broken else ("--port", "0"))]
    done = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", "serve", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"Error: {message}")


def test_no_registry(check: RunCheck) -> None:
    """Without a registry nothing else is looked at."""
    found = check()
    assert [(level, what) for level, what, *_ in found.findings] == [("FAIL", "settings")]
    assert "[registry] url" in found.failures[0][1]


@pytest.mark.parametrize("protocol", ["gRPC", "HTTP"])
@pytest.mark.parametrize("secure", [False, True])
def test_an_address_that_is_taken(
    protocol: str, secure: bool, taken: int, check: RunCheck, registry: dict[str, Any], authority: Authority
) -> None:
    """An address where another program listens fails, with the sentence of `serve`."""
    place: dict[str, Any] = {"server" if protocol == "gRPC" else "http": {"port": taken}}
    if secure:
        place["server"] = {**place.get("server", {}), "tls": tls(authority)}
    found = check(*FEW, registry=registry, **place)
    why = f"can't listen on 127.0.0.1:{taken} for {protocol}: Address already in use"
    assert found.failures == [("address", f"{why}; end what listens there, or choose another port")]


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine(host: str, check: RunCheck, registry: dict[str, Any]) -> None:
    """An address that this machine does not have fails, and the advice is another one."""
    [(what, message)] = check(*FEW, registry=registry, server={"host": host, "insecure": True}).failures
    assert (what, message.startswith(f"can't listen on {host}:0 for gRPC: ")) == ("address", True)
    assert message.endswith("; choose an address of this machine that this user may listen on")


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "FAIL"), (1 << 30, "warn"), (1 << 40, "ok")])
def test_a_disk_that_is_full(
    free: int, level: str, check: RunCheck, registry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk fails; one that a large model could fill is to be looked at."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 41, 0, free))
    [message] = check(*FEW, registry=registry).messages("disk", level)
    assert message.endswith("are free" if level == "ok" else "; make room, or lower cache.max_model_bytes")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "the credentials are missing or wrong; see url, ca_file and credentials of [registry]"),
        (404, "answered with HTTP 404; see url, ca_file and credentials of [registry]"),
        (302, "is not followed; give the URL that it leads to; see url, ca_file and credentials of [registry]"),
    ],
)
def test_a_registry_that_refuses(status: int, says: str, check: RunCheck, hostile_server: HostileServer) -> None:
    """A wrong token and a server that is not MLflow's fail; the token is not shown."""
    hostile_server.respond = lambda _: Answer(PASSWORD.encode(), status)
    found = check(*FEW, registry={"url": hostile_server.url, "token": PASSWORD})
    [(what, message)] = found.failures
    assert (what, message.endswith(says)) == ("registry", True), message
    assert PASSWORD not in found.printed


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("expired", "the server's certificate is not trusted (certificate has expired)"),
        ("unknown", "the server's certificate is not trusted (unable to get local issuer certificate)"),
        ("plain", "the server does not speak TLS (is it http://?)"),
    ],
)
def test_a_registry_without_a_secure_connection(
    server: str, says: str, check: RunCheck, authority: Authority, hostile_server: HostileServer
) -> None:
    """Each fault of TLS has its sentence."""
    pair = authority.sign("registry", expired=server == "expired")
    with ModelServer(authority.server_context(pair)) as secure:
        url = f"https://127.0.0.1:{(hostile_server if server == 'plain' else secure).url.rpartition(':')[2]}"
        trusted = {} if server == "unknown" else {"ca_file": str(authority.file)}
        [(what, message)] = check(*FEW, registry={"url": url, **trusted}).failures
    assert what == "registry"
    assert message.endswith(f": {says}; see that it runs, and url, ca_file and credentials of [registry]")


@pytest.mark.parametrize("secure", [False, True])
def test_an_address_where_we_listen(
    secure: bool, check: RunCheck, registry: dict[str, Any], authority: Authority, unused_tcp_port: int
) -> None:
    """A service that runs already is no fault, with TLS and client certificates too."""
    server = {"tls": {**tls(authority), "client_ca": str(authority.file)}} if secure else {}
    http = {"port": unused_tcp_port}
    with own_service(registry["url"], server=server, http=http) as running:
        port = int(running.address.rpartition(":")[2])
        found = check(*FEW, registry=registry, server={**server, "port": port}, http=http)
    assert found.messages("address") == ["a prinz-enricher listens there already"] * 2
    assert found.code == 0


@pytest.mark.parametrize(
    ("reply", "level", "says"),
    [
        (Reply(b"{}", 404), "ok", "answers"),
        (Reply(b"<html>", 200, HTML), "ok", "answers"),
        (Reply(b"{}", 401), "FAIL", "the credentials are missing or wrong"),
        (Reply(b"{}", 403), "FAIL", "the credentials do not suffice"),
        (Reply(b"{}", 503), "warn", "HTTP 503"),
    ],
)
def test_endpoints(reply: Reply, level: str, says: str, check: RunCheck, registry: dict[str, Any]) -> None:
    """Each URL of an endpoint is asked once, with what the settings say."""
    with ModelServer() as first, ModelServer() as second:
        first.respond = lambda _: reply
        second.respond = lambda _: Reply(b"{}", 405)
        urls = [first.url, second.url]
        found = check(*FEW, registry=registry, endpoints={"e": {"urls": urls, "headers": {"X-Key": PASSWORD}}})
        assert [[one.headers["x-key"] for one in server.requests] for server in (first, second)] == [[PASSWORD]] * 2
    lines = [line for line in found.findings if line[1] == "endpoint"]
    assert [(one[0], one[2]) for one in lines] == [(level, f"e {first.url}"), ("ok", f"e {second.url}")]
    assert says in lines[0][3]
    assert PASSWORD not in found.printed


def test_an_endpoint_that_is_not_trusted(check: RunCheck, registry: dict[str, Any], authority: Authority) -> None:
    """A certificate of an authority that the settings do not name fails."""
    with ModelServer(authority.server_context()) as server:
        endpoint = {"urls": [server.url]}
        [failure] = check(*FEW, registry=registry, endpoints={"e": endpoint}).failures
        assert "the server's certificate is not trusted" in failure[1]
        assert not check(
            *FEW, registry=registry, endpoints={"e": {**endpoint, "ca_file": str(authority.file)}}
        ).failures


def test_a_registry_that_hangs(check: RunCheck) -> None:
    """What does not answer within --timeout fails."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = check(*FEW, "--timeout", "1", registry={"url": url})
    assert found.failures == [("registry", "not done in time; --timeout gives it more")]


def test_lines(registry: dict[str, Any]) -> None:
    """Without --json there is one line each; the exit code of the command is that of the worst."""
    flags = ["check", *FEW, "--registry", registry["url"], "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", *flags], capture_output=True, text=True, check=False, timeout=110
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "ok    settings     defaults, environment, flags: are valid"
    broken = [*flags, "--tls-certificate", "/no.crt", "--tls-key", "/no.key"]
    done = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", *broken], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 1
    assert "FAIL  certificate  /no.crt: /no.crt can't be read: No such file or directory\n" in done.stdout
    assert f"ok    registry     default {registry['url']}: answers: 1 model, 1 version\n" in done.stdout
