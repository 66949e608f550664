"""The sections of the settings that stand alone: where the service listens, what it logs, how it scores."""

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from prinz_enricher.catalog.serving_rules import VERSION_PREFIX, is_choice
from prinz_enricher.provision.loaders import DEFAULT_LOADERS

MIB = 1024 * 1024
_LOADERS = re.compile(r"\s*(!?)\s*([^\s!]\S*)\s*")


def _check_choice(choice: str) -> str:
    # A number is of one model, and so for its tag alone.
    if not is_choice(choice) or choice.startswith(VERSION_PREFIX):
        raise ValueError(f'invalid version policy "{choice}"; expected "latest", "alias:<name>" or "stage:<name>"')
    return choice


def _read_loaders(pattern: str) -> str:
    # With a blank in it, or nothing behind its "!", a pattern would let in what it is to refuse.
    found = _LOADERS.fullmatch(pattern)
    if found is None:
        raise ValueError(
            f'"{pattern}" is invalid as a pattern of loaders; expected the name of a module, such as "mlflow.*", '
            "with ! before it to refuse it"
        )
    return found[1] + found[2]


_Choice = Annotated[str, AfterValidator(_check_choice)]
_Loaders = Annotated[str, AfterValidator(_read_loaders)]


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class TlsSettings(Section):
    """Certificates of the gRPC and HTTP servers, read again when they change; without them, no TLS."""

    certificate: str = ""
    """PEM file of the certificate, followed by its intermediate certificates"""
    key: str = ""
    """PEM file of its key, without a password"""
    client_ca: str = ""
    """PEM file of the authorities of client certificates; if set, these are required (mTLS)"""

    @property
    def enabled(self) -> bool:
        """Whether the servers use TLS."""
        return bool(self.certificate)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            there, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise ValueError(f"{missing}: required with {there}")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca: needs TLS; set certificate and key")
        return self


class ConnectionSettings(Section):
    """What a gRPC connection may take; which front has which limit says docs/fronts.md."""

    max_connections: int | None = Field(None, ge=1)
    """maximum connections; more are closed at once; by default as many as files may be open, less 256"""
    per_peer: int | None = Field(None, ge=1)
    """maximum connections of one address; by default half of all"""
    streams: int = Field(500, ge=1, le=2**31 - 1)
    """maximum open calls of a connection; more wait at the caller"""
    header_bytes: int = Field(16 * 1024, ge=1024, le=MIB)
    """maximum bytes of the metadata of a call"""
    handshake_seconds: float = Field(20.0, gt=0)
    """maximum seconds until a connection has begun, and until the headers of a call are whole"""
    idle_seconds: float = Field(300.0, ge=0)
    """seconds without calls after which a connection is closed; 0 for no limit"""
    resets_per_second: int = Field(1000, ge=1, le=2**31 - 1)
    """maximum calls that a connection may reset within a second; it is closed beyond"""
    frames_per_second: int = Field(10_000, ge=1, le=2**31 - 1)
    """maximum frames without content (such as PING, SETTINGS) within a second of a connection; it is closed beyond"""
    unread_bytes: int = Field(64 * MIB, ge=1)
    """maximum bytes of a connection's answers that wait to be read; calls beyond are reset, but a lone one"""
    age_grace: float = Field(0.0, ge=0)
    """seconds that calls of a connection may take beyond `server.max_connection_age`; 0 for no limit"""


class ServerSettings(Section):
    """The gRPC server; see docs/fronts.md."""

    host: str = Field("127.0.0.1", min_length=1)
    """address to listen on; 0.0.0.0 for all"""
    port: int = Field(50051, ge=0, le=65535)
    """port; 0 picks a free one"""
    insecure: bool = False
    """allow addresses other than loopback without TLS, also for HTTP; tokens can be read on their way"""
    tls: TlsSettings = TlsSettings()
    connection: ConnectionSettings = ConnectionSettings()
    max_connection_age: float = Field(3600.0, ge=0)
    """maximum seconds of a connection; its calls still end; 0 for no limit"""
    max_message_bytes: int = Field(128 * MIB, ge=1024, le=2**31 - 1)
    """maximum bytes of a request, also of its Arrow stream decompressed"""
    max_decoded_bytes: int | None = Field(None, ge=1 << 20)
    """maximum bytes of a request's columns in memory, computed before they are read; by default eight times
    `max_message_bytes`"""
    max_calls: int = Field(10_000, ge=1)
    """maximum calls in flight; more are OVERLOADED, but of callers that have few of them"""
    max_inflight_bytes: int | None = Field(None, ge=1 << 20)
    """maximum bytes of the requests in flight and of unread answers; more are OVERLOADED; by default a
    quarter of the memory of machine or container"""
    front: Literal["auto", "rust", "grpcio"] = "auto"
    """`rust`, `grpcio`, or auto: `rust` if installed, else `grpcio`"""
    grace_period: float = Field(30.0, ge=0, le=3600)
    """seconds for calls to end at SIGTERM"""


class HttpSettings(Section):
    """The admin HTTP server: metrics, probes, MLflow's webhooks; see docs/operations.md."""

    host: str = Field("127.0.0.1", min_length=1)
    """address to listen on; 0.0.0.0 for all"""
    port: int | None = Field(None, ge=0, le=65535)
    """port; 0 picks a free one; unset disables the server"""
    webhook_secret: SecretStr = SecretStr("")
    """secret of MLflow's webhooks"""
    webhook_secret_file: str = ""
    """file of accepted secrets, one per line, read again when it changes"""

    @property
    def has_webhook(self) -> bool:
        """Whether webhooks are accepted."""
        return bool(self.webhook_secret.get_secret_value() or self.webhook_secret_file)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.has_webhook and self.port is None:
            raise ValueError("webhooks are received by the HTTP server, which needs a port")
        return self


class ApiSettings(Section):
    """The HTTP API, with the TLS, tokens and rules of gRPC; see docs/http-api.md."""

    host: str = Field("127.0.0.1", min_length=1)
    """address to listen on; 0.0.0.0 for all"""
    port: int | None = Field(None, ge=0, le=65535)
    """port; 0 picks a free one; unset disables the API"""
    timeout: float = Field(60.0, gt=0, le=3600)
    """maximum seconds of a request; callers may set less by the header X-Request-Timeout"""
    document_principal: str = ""
    """caller as whom Nussknacker's document is served without a token; it fetches it without one"""


class FlightSettings(Section):
    """Arrow Flight, with the address, TLS, tokens, rules and limits of gRPC; see docs/flight.md."""

    port: int | None = Field(None, ge=0, le=65535)
    """port, which may be that of gRPC; 0 picks a free one; unset disables Flight"""


class LoggingSettings(Section):
    """Logs, written to standard error; see docs/logging.md."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """lowest level logged: `debug`, `info`, `warning` or `error`"""
    format: Literal["auto", "console", "json"] = "auto"
    """`console`, `json`, or auto: console on a terminal, else json"""
    requests: str = "off"
    """calls that are logged: `off`, `errors`, `all`, or errors and a share of the others, such as `0.01`"""
    slow_call_seconds: float | None = Field(None, gt=0)
    """seconds from which a call is logged with its phases; disabled by default"""

    @field_validator("requests", mode="before")
    @classmethod
    def _is_choice_or_share(cls, wanted: object) -> str:
        text = str(wanted)
        try:
            known = text in ("off", "errors", "all") or 0 <= float(text) <= 1
        except ValueError:
            known = False
        if not known:
            raise ValueError('expected "off", "errors", "all", or a share from 0 to 1')
        return text


class ScoringSettings(Section):
    """Loading and scoring; see docs/batching.md."""

    default_version: tuple[_Choice, ...] = Field(("alias:champion", "latest"), min_length=1)
    """version of calls that name none, the first that exists: `alias:NAME`, `stage:NAME` (newest READY in that
    stage), `latest` (newest READY that is not Archived)"""
    preload: Literal["used"] | tuple[str, ...] = "used"
    """loaded at the start: `used`, the versions in use when the service ended; or a list of models by name (`*`
    wildcard), which stay loaded"""
    spare_workers: int = Field(1, ge=0, le=1)
    """processes with MLflow and the models' libraries imported, from which workers are forked: 0 or 1; Linux
    only"""
    max_workers: int = Field(16, ge=1, le=1024)
    """maximum worker processes; beyond it the least recently used idle version is unloaded"""
    replicas: int = Field(1, ge=1, le=64)
    """worker processes per version; its tag `prinz.replicas` overrides it"""
    max_batch_rows: int = Field(1_000_000, ge=1)
    """maximum rows per request"""
    max_queue_rows: int = Field(2_000_000, ge=1)
    """maximum waiting rows per version"""
    allow_observed_outputs: bool = False
    """let the tag `prinz.outputs = observed` replace declared outputs by observed ones"""
    accelerate: tuple[str, ...] = ()
    """models, by name (`*` wildcard), that onnxruntime may compute where that is proven to give the same answers; the
    tag `prinz.accelerate`, `onnx` or `off`, overrides it"""
    batching: Literal["auto", "exact", "off"] = "auto"
    """whether calls share model calls: `auto`, if answers stay the same up to rounding; `exact`, if to the
    bit; `off`"""
    max_shared_rows: int = Field(1024, ge=1)
    """maximum rows of a shared model call"""
    max_delay: float = Field(0.0, ge=0, le=1)
    """seconds that a call may wait for others while its worker is idle"""
    max_wait: float = Field(5.0, gt=0, le=3600)
    """maximum expected wait in seconds; a call that would wait longer, or beyond its deadline, is OVERLOADED"""
    idle_unload: float = Field(900.0, ge=0)
    """seconds without a call until a version is unloaded; 0: never"""
    load_timeout: float = Field(900.0, gt=0)
    """seconds to load a version, with download and environment"""

    @field_validator("preload", mode="before")
    @classmethod
    def _used_or_names(cls, value: object) -> object:
        if isinstance(value, str) and value != "used":
            raise ValueError(f'"{value}" is invalid; expected "used", or a list of names such as ["{value}"]')
        return value


class WorkerSettings(Section):
    """Environments and limits of worker processes; see docs/workers.md."""

    environment: Literal["auto", "isolated", "current"] = "auto"
    """Python environment of a model: `isolated`, built from its requirements; `current`, the service's; `auto`, the
    service's if it meets the requirements, else isolated"""
    allow_environment_tag: bool = False
    """let the tag `prinz.environment` of a version or its model override `environment`"""
    allowed_loaders: tuple[_Loaders, ...] = DEFAULT_LOADERS
    """allowed `loader_module`s (`*` wildcard, `!` excludes); by default MLflow's flavours of models that take rows"""
    memory_limit: int | None = Field(None, ge=64 << 20)
    """maximum memory in bytes per worker; by default `memory_budget`"""
    memory_budget: int | None = Field(None, ge=64 << 20)
    """maximum memory in bytes of all workers; by default 80 % of machine or container"""
    file_limit: int | None = Field(1 << 30, ge=0)
    """maximum bytes per file that a worker writes"""
    open_files: int | None = Field(1024, ge=64)
    """maximum open files and sockets per worker"""
    network: tuple[str, ...] = ()
    """models whose workers may use the network, by name (`*` wildcard)"""
    pass_variables: tuple[str, ...] = ()
    """additional environment variables of workers, such as `ACME_*`"""
    overrides: tuple[str, ...] = ()
    """requirements that replace a model's own, such as `mlflow==3.17.2`"""
    index_url: SecretStr = SecretStr("")  # It may hold a password.
    """package index for environments"""
    offline: bool = False
    """build environments from uv's cache only"""
    python_downloads: bool = False
    """let uv download missing Pythons"""
    source_builds: bool = False
    """build packages without a wheel, which runs their code as the service's user"""
    build_timeout: float = Field(600.0, gt=0)
    """seconds to build an environment"""


class CacheSettings(Section):
    """Models and environments on disk."""

    folder: str | None = None
    """by default `${XDG_CACHE_HOME:-~/.cache}/prinz-enricher`"""
    max_model_bytes: int = Field(10 << 30, ge=1)
    """maximum bytes per model"""
    max_models_bytes: int = Field(20 << 30, ge=1)
    """maximum bytes of all unused models"""
    max_environments_bytes: int = Field(20 << 30, ge=1)
    """maximum bytes of all unused environments"""
    fetch_timeout: float = Field(600.0, gt=0)
    """seconds to download a model"""
