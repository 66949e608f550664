"""What the main process tells front processes: values that are pickled, in this direction alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prinz_enricher.catalog import CatalogModel, Publisher, Snapshot
from prinz_enricher.config import LoggingSettings, ServerSettings
from prinz_enricher.scoring import Status
from prinz_enricher.service.processes.codec import Key
from prinz_enricher.service.score.forms import Limits

Alias = tuple[str, str | None]
"""A model's name, and an alias of it; None for its default."""


@dataclass(frozen=True, slots=True)
class Registry:
    """What a front process knows of a registry.

    Attributes:
        name: What the settings call it; empty for the one without a name.
        prefix: Put before the name of each of its models.
        url: Where it is, without user and password.
        read: When it was last read, by `time.monotonic()`; None where it never was.
        fault: Why nothing is known of it; empty where that is not asked for.
    """

    name: str
    prefix: str
    url: str
    read: float | None
    fault: str


@dataclass(frozen=True, slots=True)
class News:
    """What has changed besides the catalog's content; None where something has not.

    Attributes:
        health: What is SERVING, by the names of grpc.health.v1.
        registries: All of them.
        statuses: Of the targets whose status is another than before.
        gone: Targets that are as if never loaded.
        serving: The numbers of the versions that serve aliases in use.
    """

    health: dict[str, bool] | None = None
    registries: tuple[Registry, ...] | None = None
    statuses: Mapping[Key, Status] | None = None
    gone: tuple[Key, ...] = ()
    serving: dict[Alias, str] | None = None


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """How a snapshot comes out of the one before it.

    A model that did not change stays the same object in a front process too: what is known of it is kept by identity.

    Attributes:
        registry: As the new snapshot's.
        revision: Likewise.
        faults: Likewise.
        names: The names of its models, in its order.
        changed: Those of its models that are others than before.
    """

    registry: str
    revision: str
    faults: tuple[str, ...]
    names: tuple[str, ...]
    changed: dict[str, CatalogModel]

    @classmethod
    def between(cls, old: Snapshot | None, new: Snapshot) -> CatalogChange:
        """Compare two snapshots."""
        before: Mapping[str, CatalogModel] = {} if old is None else old.models
        changed = {name: model for name, model in new.models.items() if before.get(name) is not model}
        return cls(new.registry, new.revision, new.faults, new.names, changed)

    def after(self, old: Snapshot | None) -> Snapshot:
        """Give the new snapshot."""
        before: Mapping[str, CatalogModel] = {} if old is None else old.models
        changed = self.changed
        models = {name: changed[name] if name in changed else before[name] for name in self.names}
        return Snapshot(self.registry, self.revision, models, self.faults)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for all front processes, for as long as they run.

    `scoring.allow_observed_outputs` is not among it: it counts where a version is loaded, which the main process does
    by a target of its own; a front process names it by its key.

    Attributes:
        server: Where and how to listen, the port that the main process listens on included.
        logging: What to log.
        policy: Which version is meant where a call names none.
        limits: What a request may have at most.
        allowed_loaders: Which modules may load a model.
        environment_tag: Whether tags say what versions run in.
        endpoints: The patterns of the models of each endpoint, by its name.
        page_key: Signs page tokens.
    """

    server: ServerSettings
    logging: LoggingSettings
    policy: tuple[str, ...]
    limits: Limits
    allowed_loaders: tuple[str, ...]
    environment_tag: bool
    endpoints: dict[str, tuple[str, ...]]
    page_key: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    """All that a front process needs to begin.

    Attributes:
        plan: What stays.
        catalog: What there is, and was of late.
        news: All of it.
    """

    plan: Plan
    catalog: Publisher
    news: News
