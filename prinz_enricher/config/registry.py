"""The settings of a registry: which it is, and how it is reached."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from prinz_enricher.config.access import AccessKeys
from prinz_enricher.config.section import Section
from prinz_enricher.registry.auth.rules import access_faults


class RegistryKeys(Section):
    """Which MLflow registry is served, without the keys of its access."""

    # It may hold a password.
    url: str = Field(
        "", repr=False, description="an MLflow server (http://mlflow:5000), or a local store (sqlite:///mlflow.db)"
    )
    prefix: str | None = Field(
        None,
        max_length=200,
        description="put before the name of each of its models; none by default, and `NAME.` in `[registries.NAME]`",
    )
    kind: Literal["mlflow", "unity"] = Field(
        "mlflow", description="unity for the Unity Catalog of the Databricks workspace at the url"
    )
    refresh_interval: float = Field(10.0, gt=0, le=3600, description="seconds between two looks at the registry")
    timeout: float = Field(10.0, gt=0, le=600, description="seconds that one request to the registry may take")
    signature_ttl: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="seconds within which each signature is looked at again; with up to 64 versions, at each look",
    )
    snapshot_folder: str | None = Field(
        None,
        description="folder for the last good list of models, served when the registry is down at the start, and for "
        "what is in use (`scoring.preload`); by default `${XDG_CACHE_HOME:-~/.cache}/prinz-enricher/catalog`, and "
        '`""` is none',
    )
    include: tuple[str, ...] = Field(
        ("*",), min_length=1, description="models to serve: name patterns such as `fraud-*`, or `tag:<key>=<pattern>`"
    )
    exclude: tuple[str, ...] = Field(
        (), description="models not to serve, likewise; they are as if they were not there"
    )

    @field_validator("include", "exclude")
    @classmethod
    def _known_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for rule in value:
            key, separator, _ = rule.removeprefix("tag:").partition("=")
            if not rule or (rule.startswith("tag:") and not (key and separator)):
                raise ValueError(f'"{rule}" is no rule: a name pattern or "tag:<key>=<pattern>" is')
        return value

    def prefix_of(self, name: str) -> str:
        """Return what is put before the names of its models.

        Args:
            name: The registry's; empty for the one without a name.
        """
        default = f"{name}." if name else ""
        return default if self.prefix is None else self.prefix


# The bases stand in this order so that the keys of access come last.
class RegistrySettings(AccessKeys, RegistryKeys):
    """Which MLflow registry is served, and how it is reached."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if faults := access_faults(self):
            raise ValueError("; ".join(faults))
        return self
