"""Which settings of the access to a registry go together; every fault is told, and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

BASIC = ("username", "password", "password_file")
TOKEN = ("token", "token_file")
OAUTH2 = (
    *("oauth2_token_url", "oauth2_client_id", "oauth2_client_secret"),
    *("oauth2_client_secret_file", "oauth2_scope", "oauth2_audience"),
)
TLS = ("ca_file", "client_certificate", "client_key")
_KEYS = {"none": (), "basic": BASIC, "token": TOKEN, "oauth2": OAUTH2, "databricks": OAUTH2}


class Hidden(Protocol):
    """A secret that must be asked for by name; pydantic's `SecretStr` is one."""

    def get_secret_value(self) -> str:
        """Return it."""


class AccessSettings(Protocol):
    """The settings of the access to one registry; what is empty is not set."""

    @property
    def url(self) -> str: ...  # noqa: D102 - the settings page tells what each is
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def timeout(self) -> float: ...  # noqa: D102
    @property
    def auth(self) -> str: ...  # noqa: D102
    @property
    def username(self) -> str: ...  # noqa: D102
    @property
    def password(self) -> Hidden: ...  # noqa: D102
    @property
    def password_file(self) -> str: ...  # noqa: D102
    @property
    def token(self) -> Hidden: ...  # noqa: D102
    @property
    def token_file(self) -> str: ...  # noqa: D102
    @property
    def oauth2_token_url(self) -> str: ...  # noqa: D102
    @property
    def oauth2_client_id(self) -> str: ...  # noqa: D102
    @property
    def oauth2_client_secret(self) -> Hidden: ...  # noqa: D102
    @property
    def oauth2_client_secret_file(self) -> str: ...  # noqa: D102
    @property
    def oauth2_scope(self) -> str: ...  # noqa: D102
    @property
    def oauth2_audience(self) -> str: ...  # noqa: D102
    @property
    def ca_file(self) -> str: ...  # noqa: D102
    @property
    def client_certificate(self) -> str: ...  # noqa: D102
    @property
    def client_key(self) -> str: ...  # noqa: D102


def set_keys(settings: AccessSettings) -> frozenset[str]:
    """Return which keys of authentication and certificates are set."""

    def is_set(key: str) -> bool:
        value = getattr(settings, key)
        return bool(value.get_secret_value() if hasattr(value, "get_secret_value") else value)

    return frozenset(key for key in (*BASIC, *TOKEN, *OAUTH2, *TLS) if is_set(key))


def url_login(url: str) -> tuple[str, str] | None:
    """Return user and password of a server's URL; None where it has none."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def auth_method(settings: AccessSettings) -> str:
    """Return the kind of authentication: none, basic, token, oauth2 or databricks; with `auto`, what the keys say."""
    if settings.auth != "auto":
        return settings.auth
    keys = set_keys(settings)
    if keys & set(TOKEN):
        return "token"
    if keys & set(OAUTH2):
        return "databricks" if settings.kind == "unity" and "oauth2_token_url" not in keys else "oauth2"
    return "basic" if keys & set(BASIC) or url_login(settings.url) else "none"


def access_faults(settings: AccessSettings) -> list[str]:
    """Return what is wrong with the settings of the access to a registry, in sentences without their values."""
    keys = set_keys(settings)
    method = auth_method(settings)
    return [*_method_faults(settings, keys, method), *_place_faults(settings, keys, method)]


def _method_faults(settings: AccessSettings, keys: frozenset[str], method: str) -> Iterator[str]:
    login = url_login(settings.url)
    foreign = [key for key in (*BASIC, *TOKEN, *OAUTH2) if key in keys and key not in _KEYS[method]]
    if foreign:
        yield f"{', '.join(foreign)} {_do(foreign)} not go with auth by {_NAMES[method]}"
    if login is not None:
        if method != "basic":
            yield f"user and password of the url do not go with auth by {_NAMES[method]}"
        elif keys & set(BASIC):
            yield f"the url has user and password already; {', '.join(sorted(keys & set(BASIC)))} is too much"
        elif not all(login):
            yield "the url has a user without a password, or a password without a user"
    elif method == "basic":
        yield from _needed(keys, "username", method)
        yield from _one_of(keys, "password", "password_file", method)
        if ":" in settings.username:
            yield "username has a colon, which no user of basic auth has"
    if method == "token":
        yield from _one_of(keys, "token", "token_file", method)
    if method in ("oauth2", "databricks"):
        yield from _needed(keys, "oauth2_client_id", method)
        yield from _one_of(keys, "oauth2_client_secret", "oauth2_client_secret_file", method)
    if method == "oauth2":
        yield from _needed(keys, "oauth2_token_url", method)
    if method == "databricks" and "oauth2_token_url" in keys:
        yield 'auth = "databricks" takes oauth2_token_url from the url; leave it out'


def _place_faults(settings: AccessSettings, keys: frozenset[str], method: str) -> Iterator[str]:
    if "oauth2_token_url" in keys:
        parts = _split(settings.oauth2_token_url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            yield "oauth2_token_url must be http://host… or https://host…, without user and password"
    if "client_key" in keys and "client_certificate" not in keys:
        yield "client_key is set without client_certificate"
    if settings.kind == "unity" and "client_certificate" in keys:
        yield 'kind = "unity" takes no client_certificate'
    if not settings.url:
        return
    registry = _split(settings.url)
    remote = settings.url.lower().startswith(("http://", "https://"))
    if remote and (registry is None or "@" in f"{registry.path}{registry.query}{registry.fragment}"):
        # Else a part of the password would be taken for the host or the path, and be shown.
        yield "the url can't be read; percent-encode its user and password"
    if not remote and (keys or method != "none" or settings.kind != "mlflow"):
        yield "a local store takes neither authentication nor certificates, and is of kind mlflow"
    elif settings.kind == "unity" and method not in ("token", "oauth2", "databricks"):
        yield 'kind = "unity" needs a token, or auth by oauth2 or databricks'
    certificates = [key for key in TLS if key in keys]
    # The token endpoint may be the one that they are for.
    secure = any(url.lower().startswith("https://") for url in (settings.url, settings.oauth2_token_url))
    if remote and certificates and not secure:
        yield f"{', '.join(certificates)} {_do(certificates)} not go with a url of http://"


_NAMES = {
    "none": '"none"',
    "basic": "user and password",
    "token": "token",
    "oauth2": "oauth2",
    "databricks": "databricks",
}


def _needed(keys: frozenset[str], key: str, method: str) -> Iterator[str]:
    if key not in keys:
        yield f"auth by {_NAMES[method]} needs {key}"


def _one_of(keys: frozenset[str], key: str, other: str, method: str) -> Iterator[str]:
    if key in keys and other in keys:
        yield f"both {key} and {other} are set; set one of them"
    elif not keys & {key, other}:
        yield f"auth by {_NAMES[method]} needs {key} or {other}"


def _do(keys: list[str]) -> str:
    return "does" if len(keys) == 1 else "do"


def _split(url: str) -> SplitResult | None:
    """Take a URL apart; None where it is none, or its port is no number."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
