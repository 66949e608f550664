"""The sections of the settings that stand alone: where the service listens, what it logs, how it scores."""

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


class ServerSettings(Section):
    """Where and how the service listens."""

    host: str = Field("127.0.0.1", min_length=1)
    """address to listen on; 0.0.0.0 for all"""
    port: int = Field(50051, ge=0, le=65535)
    """port to listen on; 0 picks a free one"""
    max_message_bytes: int = Field(128 * MIB, ge=1024, le=2**31 - 1)
    """bytes of a request at most, and of its Arrow stream decompressed"""
    max_calls: int = Field(10_000, ge=1)
    """calls in flight at most; more are refused as OVERLOADED"""
    max_inflight_bytes: int | None = Field(None, ge=1 << 20)
    """bytes of the requests in flight at most; more are refused as OVERLOADED; by default a quarter of the memory of
    the machine or the container"""
    front: Literal["auto", "native", "grpcio"] = "auto"
    """what speaks gRPC: native is faster, auto uses it where pygrpc-native is installed"""
    grace_period: float = Field(30.0, ge=0, le=3600)
    """seconds that calls get to end at SIGTERM"""


class HttpSettings(Section):
    """The admin HTTP server: metrics, probes, and MLflow's webhooks; see docs/operations.md."""

    host: str = Field("127.0.0.1", min_length=1)
    """address to listen on; 0.0.0.0 for all"""
    port: int | None = Field(None, ge=0, le=65535)
    """port to listen on; 0 picks a free one; unset disables the HTTP server"""
    webhook_secret: SecretStr = SecretStr("")
    """secret that MLflow signs its webhooks with"""
    webhook_secret_file: str = ""
    """file with such secrets, one a line, read again when it changes; any of them will do"""

    @property
    def has_webhook(self) -> bool:
        """Whether webhooks are accepted."""
        return bool(self.webhook_secret.get_secret_value() or self.webhook_secret_file)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.has_webhook and self.port is None:
            raise ValueError("webhooks are received by the HTTP server, which needs a port")
        return self


class LoggingSettings(Section):
    """What the service logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """the least level that is logged"""
    format: Literal["auto", "console", "json"] = "auto"
    """console for people, json for machines; auto is console on a terminal"""


class ScoringSettings(Section):
    """How models are loaded and scored."""

    default_version: tuple[_Choice, ...] = Field(("alias:champion", "latest"), min_length=1)
    """which version is meant where a call names none, tried in turn: `alias:NAME`, `stage:NAME` (the newest READY one
    in that stage), or `latest` (the newest READY one that is not Archived)"""
    preload: Literal["used"] | tuple[str, ...] = "used"
    """what is loaded at the start without a call: `used`, the versions that were in use when the service ended; or a
    list of models that are also kept loaded, by name; * stands for any text"""
    spare_workers: int = Field(1, ge=0, le=1)
    """processes that import MLflow, and the libraries of the catalog's models, before one is called: workers are forked
    from it, so that a first call takes a second; 0 for none, as everywhere but on Linux"""
    max_workers: int = Field(16, ge=1, le=1024)
    """worker processes at most; the least recently used idle version makes room"""
    replicas: int = Field(1, ge=1, le=64)
    """worker processes of each version; its tag `prinz.replicas` says otherwise"""
    max_batch_rows: int = Field(1_000_000, ge=1)
    """rows of a request at most"""
    max_queue_rows: int = Field(2_000_000, ge=1)
    """rows waiting for one version at most"""
    allow_observed_outputs: bool = False
    """whether the tag prinz.outputs = observed has the outputs served that a model was observed to return"""
    batching: Literal["auto", "exact", "off"] = "auto"
    """whether rows of several callers share model calls: `auto`, where each was shown to get its own answer up to
    rounding; `exact`, where no bit of it changes; or `off`"""
    max_shared_rows: int = Field(1024, ge=1)
    """rows of several callers in one model call at most"""
    max_delay: float = Field(0.0, ge=0, le=1)
    """seconds that a call may wait for others while its worker is idle"""
    max_wait: float = Field(5.0, gt=0, le=3600)
    """seconds that a call may be expected to wait for its turn; longer is refused as OVERLOADED, as is what can't be
    answered within its deadline"""
    idle_unload: float = Field(900.0, ge=0)
    """seconds without a call after which a version is unloaded; 0 for never"""
    load_timeout: float = Field(900.0, gt=0)
    """seconds that loading a version may take, with the download and the environment"""

    @field_validator("preload", mode="before")
    @classmethod
    def _used_or_names(cls, value: object) -> object:
        if isinstance(value, str) and value != "used":
            raise ValueError(f'"{value}" is invalid; expected "used", or a list of names such as ["{value}"]')
        return value


class WorkerSettings(Section):
    """What worker processes run in, and what they may do; see docs/workers.md."""

    environment: Literal["auto", "isolated", "current"] = "auto"
    """the Python environment of a model: `isolated`, one of its own, built from its requirements; `current`, that of
    the service; or `auto`, that of the service where it meets the requirements"""
    allow_environment_tag: bool = False
    """whether the tag `prinz.environment` of a version, or of its model, goes before `environment`: with `current` a
    model may run on other packages than it asks for, and whoever sets tags decides that"""
    allowed_loaders: tuple[_Loaders, ...] = DEFAULT_LOADERS
    """what may load a model, by its `loader_module`; * stands for any text, and a pattern with ! before it refuses what
    the others allow. By default MLflow's flavours of models that take rows"""
    memory_limit: int | None = Field(None, ge=64 << 20)
    """bytes of memory that a worker may hold; by default as many as all of them"""
    memory_budget: int | None = Field(None, ge=64 << 20)
    """bytes of memory that all workers may hold together; by default 80 % of what the machine, or the container, has"""
    file_limit: int | None = Field(1 << 30, ge=0)
    """bytes that a file written by a worker may have"""
    open_files: int | None = Field(1024, ge=64)
    """files and sockets that a worker may have open"""
    network: tuple[str, ...] = ()
    """models whose workers may use the network, by name; * stands for any text"""
    pass_variables: tuple[str, ...] = ()
    """environment variables that workers get besides the usual ones, such as `ACME_*`"""
    overrides: tuple[str, ...] = ()
    """requirements in place of a model's own of that name, such as `mlflow==3.17.2`"""
    index_url: SecretStr = SecretStr("")  # It may hold a password.
    """package index that environments are built from"""
    offline: bool = False
    """whether environments are built from uv's cache alone"""
    python_downloads: bool = False
    """whether uv may download a Python that is not on the machine"""
    source_builds: bool = False
    """whether packages without a wheel may be built, which runs their code in the service's name"""
    build_timeout: float = Field(600.0, gt=0)
    """seconds that building an environment may take"""


class CacheSettings(Section):
    """Where models and their environments are kept on disk, and how much of them."""

    folder: str | None = None
    """by default `${XDG_CACHE_HOME:-~/.cache}/prinz-enricher`"""
    max_model_bytes: int = Field(10 << 30, ge=1)
    """bytes that one model may have"""
    max_models_bytes: int = Field(20 << 30, ge=1)
    """bytes of all models that no worker uses"""
    max_environments_bytes: int = Field(20 << 30, ge=1)
    """bytes of all environments that no worker uses"""
    fetch_timeout: float = Field(600.0, gt=0)
    """seconds that downloading a model may take"""
