"""The settings of the access to a registry: what they make, and what is said of those that do not go together."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from prinz_enricher.config import ConfigError, RegistrySettings, Settings
from prinz_enricher.registry import Access, AccessError, open_access
from prinz_enricher.registry.auth import BasicAuth, BearerAuth
from prinz_enricher.registry.registry_errors import CredentialsUnavailable
from prinz_enricher.registry.secret_sources import OAuth2Tokens, SecretFile
from prinz_enricher.registry.transport import Credentials
from tests.support.certificates import Authority

SECRET = "hunter2-and-more"  # noqa: S105 - made up
URL = "https://mlflow.example.com/base"
OAUTH2 = {"oauth2_client_id": "prinz", "oauth2_client_secret": SECRET}
TOKEN_URL = {"oauth2_token_url": "https://idp.example.com/token"}


def settings_of(**keys: object) -> RegistrySettings:
    """Return checked settings of a registry."""
    return Settings.load({"registry": {"url": URL, **keys}}, environment={}).registry


def access_of(**keys: object) -> Access:
    """Return the access of such settings."""
    return open_access(settings_of(**keys))


def test_nothing_set_is_nobody() -> None:
    """Without any key nobody is said to be there, and workers get what the process has; `none` takes that away."""
    access = access_of()
    assert (access.url, type(access.credentials), access.own) == (URL, Credentials, False)
    assert access.credentials.authorization() == ""
    assert access.fetch_variables(Path()) is None
    assert access_of(auth="none").fetch_variables(Path()) == {}


@pytest.mark.parametrize(
    "keys",
    [
        {"username": "żaneta", "password": SECRET},
        {"url": f"https://%C5%BCaneta:{SECRET}@mlflow.example.com/base"},
        {"auth": "basic", "username": "żaneta", "password": SECRET},
    ],
)
def test_basic(keys: dict[str, object]) -> None:
    """User and password are a header, and two variables for workers; they are not in what is shown."""
    access = access_of(**keys)
    assert isinstance(access.credentials, BasicAuth)
    assert access.credentials.authorization() == "Basic xbxhbmV0YTpodW50ZXIyLWFuZC1tb3Jl"
    assert access.fetch_variables(Path()) == {
        "MLFLOW_TRACKING_USERNAME": "żaneta",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }
    assert (access.url, access.tracking_uri) == (URL, URL)
    assert SECRET not in f"{access!r} {access.credentials!r} {settings_of(**keys)!r} {settings_of(**keys)}"


def test_token() -> None:
    """A token is a header, and a variable for workers."""
    access = access_of(token=SECRET)
    assert isinstance(access.credentials, BearerAuth)
    assert access.credentials.authorization() == f"Bearer {SECRET}"
    assert access.fetch_variables(Path()) == {"MLFLOW_TRACKING_TOKEN": SECRET}
    assert SECRET not in f"{access!r} {settings_of(token=SECRET)!r}"


@pytest.mark.parametrize(
    ("keys", "token_url", "scope"),
    [
        ({**OAUTH2, **TOKEN_URL}, "https://idp.example.com/token", ""),
        ({**OAUTH2, **TOKEN_URL, "oauth2_scope": "a b"}, "https://idp.example.com/token", "a b"),
        ({**OAUTH2, "auth": "databricks"}, "https://mlflow.example.com/oidc/v1/token", "all-apis"),
        ({**OAUTH2, "kind": "unity"}, "https://mlflow.example.com/oidc/v1/token", "all-apis"),
        ({**OAUTH2, **TOKEN_URL, "kind": "unity"}, "https://idp.example.com/token", ""),
    ],
)
def test_oauth2(keys: dict[str, object], token_url: str, scope: str) -> None:
    """The token endpoint is as it is set, or the Databricks workspace's own."""
    credentials = access_of(**keys).credentials
    assert isinstance(credentials, BearerAuth)
    assert isinstance(credentials.tokens, OAuth2Tokens)
    tokens = credentials.tokens
    assert (tokens._token_url, tokens._client_id, tokens._form.get("scope", "")) == (token_url, "prinz", scope)
    assert SECRET not in f"{credentials!r} {tokens!r}"


def test_unity_catalog_s_workers_reach_the_workspace() -> None:
    """MLflow's client finds a Unity Catalog by the variables of Databricks."""
    access = access_of(kind="unity", token=SECRET)
    assert access.tracking_uri == "databricks-uc"
    assert access.fetch_variables(Path()) == {
        "DATABRICKS_HOST": URL,
        "DATABRICKS_TOKEN": SECRET,
        "DATABRICKS_AUTH_TYPE": "pat",
    }


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"token": SECRET, "username": "u", "password": SECRET}, ["username, password do not go with auth by token"]),
        ({"token": SECRET, "token_file": "/t"}, ["both token and token_file are set"]),
        ({"username": "u"}, ["auth by user and password needs password or password_file"]),
        ({"password": SECRET}, ["needs username"]),
        ({"username": "u:v", "password": SECRET}, ["username has a colon"]),
        ({"username": "u", "password": SECRET, "password_file": "/p"}, ["both password and password_file are set"]),
        ({"auth": "none", "token": SECRET}, ['token does not go with auth by "none"']),
        ({"auth": "token"}, ["auth by token needs token or token_file"]),
        (
            {"auth": "oauth2", "client_key": "/k"},
            [
                "needs oauth2_token_url",
                "needs oauth2_client_id",
                "needs oauth2_client_secret or",
                "client_key is set without client_certificate",
            ],
        ),
        ({**OAUTH2}, ["needs oauth2_token_url"]),
        ({**OAUTH2, **TOKEN_URL, "auth": "databricks"}, ["takes oauth2_token_url from the url"]),
        ({**OAUTH2, "oauth2_token_url": f"https://u:{SECRET}@idp/t"}, ["oauth2_token_url must be"]),
        ({**OAUTH2, "oauth2_token_url": "idp.example.com"}, ["oauth2_token_url must be"]),
        ({"url": f"https://u:{SECRET}@h", "token": "t"}, ["user and password of the url do not go with auth by token"]),
        ({"url": f"https://u:{SECRET}@h", "username": "u"}, ["the url has a login already"]),
        ({"url": f"https://u:#{SECRET}@h"}, ["percent-encode its user and password"]),
        ({"url": f"https://u:{SECRET}/@h"}, ["percent-encode its user and password"]),
        ({"url": f"https://u:1?{SECRET}@h"}, ["percent-encode its user and password"]),
        ({"url": "https://u@h"}, ["the url has a user without a password"]),
        ({"url": "http://h", "ca_file": "/c", "client_certificate": "/d"}, ["ca_file, client_certificate do not go"]),
        ({"url": "sqlite:///x.db", "token": SECRET}, ["a local store takes neither"]),
        ({"url": "sqlite:///x.db", "kind": "unity"}, ["a local store takes neither"]),
        ({"kind": "unity"}, ['kind = "unity" needs a token']),
        ({"kind": "unity", "token": "t", "client_certificate": "/d"}, ["takes no client_certificate"]),
        ({"auth": "digest"}, ["registry.auth: "]),
        ({"kind": SECRET, "password": [SECRET]}, ["registry.kind: ", "registry.password: "]),
    ],
)
def test_contradictions_are_told_at_once(keys: dict[str, Any], said: list[str]) -> None:
    """Each fault is named, all of them at once, and no value of a secret."""
    with pytest.raises(ConfigError) as raised:
        settings_of(**keys)
    for words in said:
        assert words in str(raised.value)
    assert SECRET not in str(raised.value)


def test_pydantic_shows_no_input() -> None:
    """Settings that are made by hand, too, fail without a word of what was given."""
    with pytest.raises(ValueError, match="token_file") as raised:
        RegistrySettings(url=URL, token=SECRET, token_file=SECRET, username=SECRET)
    assert SECRET not in str(raised.value)


def test_secrets_come_from_the_environment() -> None:
    """Each key has its variable."""
    environment = {"PRINZ_REGISTRY__URL": URL, "PRINZ_REGISTRY__TOKEN": SECRET}
    assert open_access(Settings.load(environment=environment).registry).credentials.authorization().endswith(SECRET)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A new file behind the same path is seen at once, one rewritten within a tick of the clock after a refusal."""
    path = tmp_path / "token"
    path.write_text("first\n")
    source = SecretFile(path, "token")
    assert source.current() == "first"
    renewed = tmp_path / "renewed"
    renewed.write_text("second\r\n")
    renewed.replace(path)
    assert source.current() == "second"
    before = path.stat()
    path.write_text("rewrit\r\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    bearer = BearerAuth(source)
    assert bearer.authorization() == "Bearer second"
    assert bearer.refused("Bearer second") == "Bearer rewrit"
    assert bearer.refused("Bearer rewrit") == ""


def test_kubernetes_way_of_rotation(tmp_path: Path) -> None:
    """A link that is turned to another folder is another file."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "data").symlink_to("one")
    source = SecretFile(tmp_path / "data" / "token", "token")
    assert source.current() == "one"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "data")
    assert source.current() == "two"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 70_000, None], ids=str)
def test_a_file_without_a_secret(tmp_path: Path, content: bytes | None) -> None:
    """A file that is empty, no text, too long or missing is told by its path, and used again once it is mended."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    source = SecretFile(path, "token")
    for _ in range(2):
        with pytest.raises(CredentialsUnavailable, match=str(path)):
            source.current()
    path.write_text("mended")
    assert source.current() == "mended"


def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    """A pipe that nobody writes into does not hold us."""
    os.mkfifo(tmp_path / "token")
    with pytest.raises(CredentialsUnavailable, match="holds no token"):
        SecretFile(tmp_path / "token", "token").current()


def test_a_token_that_would_break_the_header(tmp_path: Path) -> None:
    """A token with a line break or a space in it is never sent."""
    (tmp_path / "token").write_text("a\nX-Evil: 1")
    with pytest.raises(CredentialsUnavailable, match="characters"):
        access_of(token_file=str(tmp_path / "token")).credentials.authorization()


def test_certificates_that_can_not_be_used(tmp_path: Path) -> None:
    """A file that is missing, is no certificate, or a key with a password, is told at the start by its path."""
    authority = Authority(tmp_path)
    pair, other = authority.sign("client"), authority.sign("other")
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    for keys, said in [
        ({"ca_file": tmp_path / "missing"}, "ca_file: .*missing can't be read: No such file"),
        ({"ca_file": tmp_path / "text"}, "ca_file: .*text holds no certificate"),
        ({"ca_file": tmp_path / "binary"}, "ca_file: .*binary holds no certificate"),
        ({"client_certificate": tmp_path / "missing"}, "client_certificate: .*missing can't be read"),
        ({"client_certificate": pair.certificate}, "are not a certificate and its key"),
        ({"client_certificate": pair.certificate, "client_key": tmp_path / "missing"}, "client_key: .*missing"),
        ({"client_certificate": pair.certificate, "client_key": other.key}, "are not a certificate and its key"),
        ({"client_certificate": pair.certificate, "client_key": pair.locked_key}, "has a password; give it without"),
    ]:
        with pytest.raises(AccessError, match=said):
            access_of(**{key: str(value) for key, value in keys.items()})


def test_workers_get_certificate_and_key_in_one_file(tmp_path: Path) -> None:
    """MLflow's client wants them so; the file lies in the worker's folder, and is for this user alone."""
    authority = Authority(tmp_path)
    pair = authority.sign("client")
    folder = tmp_path / "worker"
    folder.mkdir()
    access = access_of(ca_file=str(authority.file), client_certificate=str(pair.certificate), client_key=str(pair.key))
    variables = access.fetch_variables(folder)
    assert variables is not None
    combined = Path(variables["MLFLOW_TRACKING_CLIENT_CERT_PATH"])
    assert combined.parent == folder
    assert pair.certificate.read_text() in combined.read_text()
    assert pair.key.read_text() in combined.read_text()
    assert stat.S_IMODE(combined.stat().st_mode) == 0o600
    assert variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] == str(authority.file)
    alone = access_of(client_certificate=str(pair.both)).fetch_variables(folder)
    assert alone == {"MLFLOW_TRACKING_CLIENT_CERT_PATH": str(pair.both)}
