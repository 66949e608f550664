"""The settings of the service itself: where it listens, and what it logs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from prinz_enricher.config.section import MIB, Section


class ServerSettings(Section):
    """Where and how the service listens."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all")
    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    max_message_bytes: int = Field(
        128 * MIB, ge=1024, le=2**31 - 1, description="bytes of a request at most, and of its Arrow stream decompressed"
    )
    max_calls: int = Field(10_000, ge=1, description="calls in flight at most; more are refused as OVERLOADED")
    max_inflight_bytes: int | None = Field(
        None,
        ge=1 << 20,
        description="bytes of the requests in flight at most; more are refused as OVERLOADED; by default a quarter of "
        "the memory that the machine, or the container, has",
    )
    front: Literal["auto", "native", "grpcio"] = Field(
        "auto", description="what speaks gRPC: native is quicker, auto takes it where pygrpc-native is installed"
    )
    grace_period: float = Field(30.0, ge=0, le=3600, description="seconds that calls get to end at SIGTERM")


class HttpSettings(Section):
    """The HTTP door: metrics, probes, and MLflow's webhooks; see docs/operations.md."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all")
    port: int | None = Field(None, ge=0, le=65535, description="port to listen on; 0 takes a free one, none is no door")
    webhook_secret: SecretStr = Field(SecretStr(""), description="secret that MLflow signs its webhooks with")
    webhook_secret_file: str = Field(
        "", description="file with such secrets, one a line, read again when it changes; any of them will do"
    )

    @property
    def has_webhook(self) -> bool:
        """Whether webhooks are taken."""
        return bool(self.webhook_secret.get_secret_value() or self.webhook_secret_file)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.has_webhook and self.port is None:
            raise ValueError("webhooks are taken by the HTTP door, which needs a port")
        return self


class LoggingSettings(Section):
    """What the service logs."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least level that is logged")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="console for people, json for machines; auto is console on a terminal"
    )
