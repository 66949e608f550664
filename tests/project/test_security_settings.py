"""Settings of who may call: tables in tables, rules as a list, and what is refused at the start."""

from pathlib import Path
from typing import Any

import pytest

from prinz_enricher.config import AccessRule, ConfigError, Settings, is_loopback

TLS = {"certificate": "tls.crt", "key": "tls.key"}
JWT = {"issuer": "https://id", "audience": "prinz", "jwks_url": "https://id/jwks"}
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens here
RULE = {"principals": ["a"], "models": ["*"], "methods": ["list"]}

FILE = """
[server]
host = "0.0.0.0"
[server.tls]
certificate = "tls.crt"
key = "old.key"
[auth]
tokens_file = "tokens.toml"
[auth.jwt]
issuer = "https://id.example.com/"
audience = "prinz-enricher"
jwks_url = "https://id.example.com/jwks.json"
[[access]]
principals = ["scenarios", "group:risk", "spiffe://corp/nk/*"]
models = ["fraud-*"]
methods = ["list", "describe", "score", "watch"]
[quota]
rows_per_second = 100000
"""


def test_tables_in_tables_come_from_every_source(tmp_path: Path) -> None:
    """A key of a table in a section is set by the file, a variable or a flag, and leaves its neighbours alone."""
    file = tmp_path / "prinz.toml"
    file.write_text(FILE)
    variables = {"PRINZ_SERVER__TLS__KEY": "new.key", "PRINZ_AUTH__JWT__GROUPS_CLAIM": "roles"}

    settings = Settings.load({"server": {"tls": {"client_ca": "ca.crt"}}}, file, variables)

    tls, jwt = settings.server.tls, settings.auth.jwt
    assert (tls.certificate, tls.key, tls.client_ca) == ("tls.crt", "new.key", "ca.crt")
    assert (jwt.issuer, jwt.groups_claim, jwt.principal_claim) == ("https://id.example.com/", "roles", "sub")
    assert settings.access == (
        AccessRule(
            principals=("scenarios", "group:risk", "spiffe://corp/nk/*"),
            models=("fraud-*",),
            methods=("list", "describe", "score", "watch"),
        ),
    )
    assert settings.quota.rows_per_second == 100_000
    assert settings.authenticates


def test_rules_of_the_environment_replace_those_of_the_file(tmp_path: Path) -> None:
    """PRINZ_ACCESS is a list of JSON, in place of all rules of the file."""
    file = tmp_path / "prinz.toml"
    file.write_text(FILE)
    rule = '[{"principals": ["a"], "models": ["wine"], "methods": ["score"]}]'

    settings = Settings.load(file=file, environment={"PRINZ_ACCESS": rule})

    assert settings.access == (AccessRule(principals=("a",), models=("wine",), methods=("score",)),)


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (
            {"server": {"tls": {"certifcate": "x"}}},
            {},
            'unknown key "certifcate" in section "server.tls"; did you mean "certi',
        ),
        ({}, {"PRINZ_SERVER__TLS__KYE": "x"}, 'unknown key "kye" in section "server.tls"; did you mean "key"?'),
        ({}, {"PRINZ_AUTH__JTW__ISSUER": "x"}, 'unknown key "jtw__issuer" in section "auth"; did you mean "jwt"?'),
        ({}, {"PRINZ_SERVER__TLS": "x"}, "PRINZ_SERVER__TLS is a section; set PRINZ_SERVER__TLS__<KEY>"),
        ({"server": {"tls": "x"}}, {}, '"server.tls" is a section; write it as [server.tls]'),
        ({"acces": []}, {}, 'unknown section "acces"; did you mean "access"?'),
        ({"access": RULE}, {}, '"access" is a list of sections; write each as [[access]]'),
        ({"access": [{**RULE, "model": "x"}]}, {}, 'unknown key "model" in section "access"; did you mean "models"?'),
        ({"access": [{"principals": ["a"]}]}, {}, "access.0.models: "),
        ({"access": [{**RULE, "methods": ["read"]}]}, {}, "access.0.methods.0: "),
        ({"access": [{**RULE, "principals": []}]}, {}, "access.0.principals: "),
        ({"access": [{**RULE, "principals": ["group:"]}]}, {}, 'invalid principal "group:"'),
        ({}, {"PRINZ_ACCESS": ""}, "PRINZ_ACCESS is an invalid list; expected JSON such as"),
        ({}, {"PRINZ_ACCESS": "{}"}, '"access" is a list of sections'),
        ({}, {"PRINZ_ACCESS": "[1]"}, '"access" is a section'),
        # What others can reach has TLS, or says that it needs none.
        ({"server": {"host": EVERYWHERE}}, {}, "server.host: 0.0.0.0 is reachable by other machines"),
        ({"server": {"host": "::"}}, {}, "(--insecure)"),
        ({"http": {"host": "10.0.0.1", "port": 0}}, {}, "http.host: 10.0.0.1 is reachable by other machines"),
        ({"server": {"tls": {"certificate": "x"}}}, {}, "server.tls: key: required with certificate"),
        ({"server": {"tls": {"key": "x"}}}, {}, "server.tls: certificate: required with key"),
        ({"server": {"tls": {"client_ca": "x"}}}, {}, "server.tls: client_ca: needs TLS"),
        ({"server": {"front": "native"}}, {}, "server.front: Input should be 'auto', 'rust' or 'grpcio'"),
        ({"access": [RULE]}, {}, "access: needs authentication"),
        ({"auth": {"jwt": {**JWT, "jwks_file": "x"}}}, {}, "auth.jwt: jwks_url and jwks_file: only one of them"),
        ({"auth": {"jwt": {**JWT, "jwks_url": ""}}}, {}, "auth.jwt: jwks_url or jwks_file: required"),
        ({"auth": {"jwt": {"jwks_file": "x"}}}, {}, "auth.jwt: issuer and audience: required"),
        ({"auth": {"jwt": {**JWT, "jwks_url": "http://id/jwks"}}}, {}, "auth.jwt.jwks_url: must begin with https://"),
        ({"auth": {"jwt": {**JWT, "jwks_url": "https://[id/"}}}, {}, "auth.jwt.jwks_url: is not a URL"),
        ({"auth": {"jwt": {**JWT, "jwks_url": "https://a:b@id/"}}}, {}, "must not contain a user or password"),
        ({"audit": {"required": True}}, {}, "audit: required: needs output"),
    ],
)
def test_what_can_not_be_meant_is_refused(flags: dict[str, Any], environment: dict[str, str], said: str) -> None:
    """One sentence says which key it is, and what to do."""
    with pytest.raises(ConfigError) as raised:
        Settings.load(flags, environment=environment)

    assert said in str(raised.value)


@pytest.mark.parametrize(
    "flags",
    [
        {"server": {"host": EVERYWHERE, "insecure": True}, "http": {"host": "::", "port": 0}},
        {"server": {"host": EVERYWHERE, "tls": TLS}, "http": {"host": "::", "port": 0}},
        {"server": {"host": "::1"}, "http": {"host": "10.0.0.1"}},
        {"server": {"front": "auto", "tls": TLS | {"client_ca": "ca"}}, "access": [RULE]},
        {"auth": {"tokens_file": "tokens.toml", "jwt": {**JWT, "jwks_url": "http://127.0.0.1:1/"}}, "access": [RULE]},
    ],
)
def test_what_is_safe_or_said_to_be_is_accepted(flags: dict[str, Any]) -> None:
    """TLS or server.insecure opens any address; loopback needs neither."""
    settings = Settings.load(flags, environment={})

    assert settings.authenticates == bool(settings.access)


def test_loopback() -> None:
    """Only this machine reaches a loopback address; a name is taken for one where it is localhost."""
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost")))
    assert not any(map(is_loopback, (EVERYWHERE, "::", "10.0.0.1", "example.com", "localhost.example.com", "")))
