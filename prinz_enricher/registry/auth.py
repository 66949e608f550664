"""How a server, a registry or one that scores models, is reached: made from settings, which are checked first."""

import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from prinz_enricher.registry.registry_errors import AccessError, CredentialsUnavailable
from prinz_enricher.registry.secret_sources import GivenSecret, OAuth2Tokens, SecretFile, basic_header, is_token
from prinz_enricher.registry.transport import Credentials, trusts_environment

_BASIC = ("username", "password", "password_file")
_TOKEN = ("token", "token_file")
_CLIENT_SECRET = ("oauth2_client_secret", "oauth2_client_secret_file")
_OAUTH2 = ("oauth2_token_url", "oauth2_client_id", *_CLIENT_SECRET, "oauth2_scope", "oauth2_audience")
_TLS = ("ca_file", "client_certificate", "client_key")

# Each kind of authentication: its name for messages, its keys, and groups of them of which one key must be set.
_METHODS: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "none": ('"none"', (), ()),
    "basic": ("user and password", _BASIC, (("username",), ("password", "password_file"))),
    "token": ("token", _TOKEN, (_TOKEN,)),
    "oauth2": ("oauth2", _OAUTH2, (("oauth2_token_url",), ("oauth2_client_id",), _CLIENT_SECRET)),
    "databricks": ("databricks", _OAUTH2, (("oauth2_client_id",), _CLIENT_SECRET)),
}


class AccessSettings(Protocol):
    """The settings of the access to one server, which have the keys of authentication and certificates besides."""

    @property
    def url(self) -> str: ...  # noqa: D102 - the settings page describes each
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def timeout(self) -> float: ...  # noqa: D102
    @property
    def auth(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class BasicAuth(Credentials):
    """User and password (RFC 7617)."""

    username: str
    password: GivenSecret | SecretFile = field(repr=False)

    def authorization(self) -> str:
        """Return the header."""
        return basic_header(self.username, self.password.current())

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return user and password."""
        return {"MLFLOW_TRACKING_USERNAME": self.username, "MLFLOW_TRACKING_PASSWORD": self.password.current()}

    def _reject(self, secret: str) -> None:
        self.password.reject(secret)


@dataclass(frozen=True, slots=True)
class BearerAuth(Credentials):
    """A token (RFC 6750)."""

    tokens: GivenSecret | SecretFile | OAuth2Tokens = field(repr=False)

    def authorization(self) -> str:
        """Return the header."""
        return f"Bearer {self._token()}"

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return the token."""
        return {"MLFLOW_TRACKING_TOKEN": self._token()}

    def _reject(self, secret: str) -> None:
        self.tokens.reject(secret)

    def _token(self) -> str:
        token = self.tokens.current()
        if not is_token(token):
            raise CredentialsUnavailable("the token has characters that no token has")
        return token


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM form: the only trusted authorities (None: the system's), our certificate, and its key.

    The key, if not in the file of the certificate, has no password: nobody is there to type one.
    """

    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def context(self, *, trust_env: bool = True) -> ssl.SSLContext:
        """Read the files; raises AccessError if one is missing, unreadable, or invalid.

        Without a `ca_file`, `trust_env` makes `SSL_CERT_FILE` and `SSL_CERT_DIR` count.
        """
        if self.ca_file is None:
            context = httpx.create_ssl_context(verify=True, trust_env=trust_env)
        else:
            content = _read("ca_file", self.ca_file)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with suppress(ssl.SSLError, ValueError):
                context.load_verify_locations(cadata=content.decode("ascii"))
            if not context.cert_store_stats()["x509"]:
                raise AccessError(f"ca_file: {self.ca_file} holds no certificate in PEM form")
        if self.client_certificate is not None:
            self._load_client_certificate(context, self.client_certificate)
        return context

    def mlflow_variables(self, folder: Path) -> dict[str, str]:
        """Return the environment variables by which MLflow's own client uses the files; may raise AccessError.

        MLflow wants the certificate and its key in one file, which is written into the private `folder`.
        """
        variables = {}
        if self.ca_file is not None:
            variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(self.ca_file.absolute())
        if self.client_certificate is not None:
            path = self.client_certificate.absolute()
            if self.client_key is not None:
                content = _read("client_certificate", path) + b"\n" + _read("client_key", self.client_key)
                path = folder / "client.pem"
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            variables["MLFLOW_TRACKING_CLIENT_CERT_PATH"] = str(path)
        return variables

    def _load_client_certificate(self, context: ssl.SSLContext, certificate: Path) -> None:
        _read("client_certificate", certificate)
        if self.client_key is not None:
            _read("client_key", self.client_key)
        asked: list[bool] = []

        def no_password() -> str:
            # OpenSSL would ask the terminal.
            asked.append(True)
            return ""

        try:
            context.load_cert_chain(certificate, self.client_key, password=no_password)
        except (ssl.SSLError, ValueError):
            key = self.client_key or certificate
            if asked:
                raise AccessError(f"the key in {key} has a password; give it without one") from None
            pair = f"{certificate} and the key in {key}"
            raise AccessError(f"client_certificate: {pair} are not a certificate and its key in PEM form") from None


@dataclass(frozen=True, slots=True)
class Access:
    """How one server is reached, by the front and by MLflow's own client in a worker; its URL has no login.

    `own` is whether any of this was set; else workers get what this process has in its environment for MLflow.
    """

    url: str
    unity: bool = False
    credentials: Credentials = field(default_factory=Credentials)
    tls: TlsFiles | None = None
    own: bool = False

    @property
    def tracking_uri(self) -> str:
        """What MLflow's own client calls this registry."""
        return "databricks-uc" if self.unity else self.url

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the trusted certificates and our own; None if nothing was set. May raise AccessError."""
        return _tls_context(self.tls, self.url)

    def fetch_variables(self, folder: Path) -> dict[str, str] | None:
        """Return the environment variables of a process that fetches a model now; None if nothing was set.

        Files that they name are written into its private `folder`; a token endpoint may be asked. Raises RegistryError
        if there is no valid password or token, AccessError if a certificate can't be read.
        """
        if not self.own:
            return None
        files = self.tls.mlflow_variables(folder) if self.tls is not None else {}
        variables = {**self.credentials.mlflow_variables(), **files}
        if not self.unity:
            return variables
        token = variables["MLFLOW_TRACKING_TOKEN"]
        variables = {"DATABRICKS_HOST": self.url, "DATABRICKS_TOKEN": token, "DATABRICKS_AUTH_TYPE": "pat"}
        if self.tls is not None and self.tls.ca_file is not None:
            variables["REQUESTS_CA_BUNDLE"] = str(self.tls.ca_file.absolute())
        return variables


def open_access(settings: AccessSettings, url: str | None = None) -> Access:
    """Return the access of settings; certificates are read, nobody is asked yet.

    A URL is that of a local store's private server, which has no other access. Raises AccessError if the settings
    contradict each other, or a certificate can't be used.
    """
    if faults := access_faults(settings):
        raise AccessError("; ".join(faults))
    if url is not None:
        return Access(url)
    keys = _set_keys(settings)
    parts = urlsplit(settings.url)
    parts = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    tls = TlsFiles(**{key: Path(keys[key]) for key in _TLS if key in keys}) if keys.keys() & _TLS else None
    if tls is not None:
        # Here, so that a fault of theirs shows at the start.
        tls.context()
    return Access(
        url=parts.geturl().rstrip("/"),
        unity=settings.kind == "unity",
        credentials=_credentials(settings, keys, f"{parts.scheme}://{parts.netloc}", tls),
        tls=tls,
        own=auth_method(settings) != "none" or settings.auth == "none" or tls is not None,
    )


def auth_method(settings: AccessSettings) -> str:
    """Return the kind of authentication: none, basic, token, oauth2 or databricks; with `auto`, what the keys imply."""
    if settings.auth != "auto":
        return settings.auth
    keys = _set_keys(settings).keys()
    if keys & _TOKEN:
        return "token"
    if keys & _OAUTH2:
        return "databricks" if settings.kind == "unity" and "oauth2_token_url" not in keys else "oauth2"
    return "basic" if keys & _BASIC or url_login(settings.url) else "none"


def access_faults(settings: AccessSettings) -> list[str]:
    """Return all faults of the settings of an access, in sentences without their values."""
    keys, kind, method = _set_keys(settings), settings.kind, auth_method(settings)
    name, own, groups = _METHODS[method]
    login, basic = url_login(settings.url), sorted(keys.keys() & _BASIC)
    required = () if login and method == "basic" else groups
    foreign = [key for key in (*_BASIC, *_TOKEN, *_OAUTH2) if key in keys and key not in own]
    certificates = [key for key in _TLS if key in keys]
    url, token_url = settings.url, keys.get("oauth2_token_url", "")
    server, endpoint = _split(url), _split(token_url)
    remote = url.lower().startswith(("http://", "https://"))
    local = url and not remote
    # The token endpoint may be the one that the certificates are for.
    secure = any(one.lower().startswith("https://") for one in (url, token_url))
    valid = endpoint and endpoint.scheme in ("http", "https") and endpoint.hostname and "@" not in endpoint.netloc
    # Else a part of the password would be taken for the host or the path, and be shown.
    readable = server and "@" not in f"{server.path}{server.query}{server.fragment}"
    faults: list[tuple[object, str]] = [
        (foreign, f"{_do_not_go(foreign)} with auth by {name}"),
        (login and method != "basic", f"user and password of the url do not go with auth by {name}"),
        (login and method == "basic" and basic, f"the url has a login already; {', '.join(basic)} is too much"),
        (
            login and not (login.username and login.password.current()),
            "the url has a user without a password, or a password without a user",
        ),
        *((not keys.keys() & group, f"auth by {name} needs {' or '.join(group)}") for group in required),
        *((len(keys.keys() & group) > 1, f"both {' and '.join(group)} are set; set one of them") for group in required),
        (":" in keys.get("username", ""), "username has a colon, which no user of basic auth has"),
        (method == "databricks" and token_url, 'auth = "databricks" takes oauth2_token_url from the url; leave it out'),
        (token_url and not valid, "oauth2_token_url must be http(s)://host…, without user and password"),
        ("client_key" in keys and "client_certificate" not in keys, "client_key is set without client_certificate"),
        (kind == "unity" and "client_certificate" in keys, 'kind = "unity" takes no client_certificate'),
        (remote and not readable, "the url can't be read; percent-encode its user and password"),
        (
            local and (keys or method != "none" or kind != "mlflow"),
            "a local store takes neither authentication nor certificates, and is of kind mlflow",
        ),
        (
            remote and kind == "unity" and method not in ("token", "oauth2", "databricks"),
            'kind = "unity" needs a token, or auth by oauth2 or databricks',
        ),
        (remote and certificates and not secure, f"{_do_not_go(certificates)} with a url of http://"),
    ]
    return [message for fault, message in faults if fault]


def url_login(url: str) -> BasicAuth | None:
    """Return the authentication by user and password of a server's URL; None if it has none."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return None
    return BasicAuth(unquote(parts.username or ""), GivenSecret(unquote(parts.password or "")))


def _credentials(settings: AccessSettings, keys: Mapping[str, str], host: str, tls: TlsFiles | None) -> Credentials:
    def secret(key: str) -> SecretFile | GivenSecret:
        file = keys.get(f"{key}_file")
        what = key.removeprefix("oauth2_").replace("_", " ")
        return SecretFile(Path(file), what) if file else GivenSecret(keys[key])

    method = auth_method(settings)
    if method == "none":
        return Credentials()
    if method == "token":
        return BearerAuth(secret("token"))
    if method == "basic":
        return url_login(settings.url) or BasicAuth(keys["username"], secret("password"))
    token_url = f"{host}/oidc/v1/token" if method == "databricks" else keys["oauth2_token_url"]
    tokens = OAuth2Tokens(
        *(token_url, keys["oauth2_client_id"], secret("oauth2_client_secret")),
        scope=keys.get("oauth2_scope", "all-apis" if method == "databricks" else ""),
        audience=keys.get("oauth2_audience", ""),
        timeout=settings.timeout,
        tls=_tls_context(tls, token_url),
    )
    return BearerAuth(tokens)


def _tls_context(tls: TlsFiles | None, url: str) -> ssl.SSLContext | None:
    return None if tls is None else tls.context(trust_env=trusts_environment(urlsplit(url).hostname or ""))


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AccessError(f"{key}: {path} can't be read: {error.strerror}") from None


def _set_keys(settings: AccessSettings) -> Mapping[str, str]:
    """Return the keys of authentication and certificates that are set, with their values."""
    keys = {}
    for key in (*_BASIC, *_TOKEN, *_OAUTH2, *_TLS):
        value = getattr(settings, key)
        # Pydantic's secrets must be asked for by name.
        if value := value.get_secret_value() if hasattr(value, "get_secret_value") else value:
            keys[key] = str(value)
    return keys


def _split(url: str) -> SplitResult | None:
    """Split a URL; None if it is invalid, its port included."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _do_not_go(keys: list[str]) -> str:
    return f"{', '.join(keys)} {'does' if len(keys) == 1 else 'do'} not go"
