"""Which versions can be scored, where, and what a pool needs to know of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from prinz_enricher.catalog import ENVIRONMENT_TAG, CatalogVersion, Union, scorable
from prinz_enricher.errors import LoaderNotAllowed, ModelLoadFailed
from prinz_enricher.provision.loaders import allows
from prinz_enricher.scoring import Status, Target, WorkerState
from prinz_enricher.scoring.routing import LOCAL
from prinz_enricher.service.model_messages import state_of
from prinz_enricher.signature import Origin, Signature

_MAX_KNOWN = 4096
"""Targets that are remembered; those of an older snapshot are among them, until all are forgotten."""

_REMOTE = "remote:"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a version is scored.

    Attributes:
        endpoint: The endpoint of the settings; `LOCAL` for workers of this service.
        fault: Why it can be scored nowhere, as a sentence without its subject; empty for none.
    """

    endpoint: str = LOCAL
    fault: str = ""


_LOCAL_ROUTE = Route()


class Routes:
    """Chooses the endpoint of a version by the rules of the settings, else by the owner's tag.

    The operator's rules come first: a registry can lie, and a tag names an endpoint of the settings, never a URL.

    Args:
        rules: By endpoint, the patterns of the names of models that it scores.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        self._rules = {endpoint: tuple(patterns) for endpoint, patterns in rules.items()}

    def of(self, version: CatalogVersion) -> Route:
        """Return where a version is scored."""
        for endpoint, patterns in self._rules.items():
            if any(fnmatchcase(version.name, pattern) for pattern in patterns):
                return Route(endpoint)
        wish = version.options.route
        if not wish or wish == "local":
            return _LOCAL_ROUTE
        endpoint = wish.removeprefix(_REMOTE).strip()
        if wish.startswith(_REMOTE) and endpoint in self._rules:
            return Route(endpoint)
        return Route(fault=f'has a tag prinz.route "{wish[:100]}", which is not an endpoint of this service')


class Targets:
    """Makes targets of the catalog's versions, and remembers them, since every call needs one.

    Args:
        catalog: The models there are.
        allowed_loaders: Patterns of the names of modules that may load a model.
        environment_tag: Whether the tag `prinz.environment` counts.
        routes: Chooses endpoints.
        allow_observed: Whether observed outputs may be served where a tag wants it.
    """

    def __init__(
        self,
        catalog: Union,
        allowed_loaders: Sequence[str],
        routes: Routes,
        *,
        allow_observed: bool = False,
        environment_tag: bool = False,
    ) -> None:
        self._catalog = catalog
        self._allowed_loaders = tuple(allowed_loaders)
        self._routes = routes
        self._allow_observed = allow_observed
        self._environment_tag = environment_tag
        # By identity: a version that the registry changes is another object. It is kept, so that its id stays its own.
        self._known: dict[int, tuple[CatalogVersion, Target]] = {}

    def of(self, version: CatalogVersion) -> Target:
        """Return the target of a version.

        Raises:
            EnricherError: It can't be scored, or its signature was not read yet: that is read next.
        """
        known = self._known.get(id(version))
        if known is not None:
            return known[1]
        signature = self.signature(version)
        route = self._routes.of(version)
        if route.fault:
            raise ModelLoadFailed(version.name, version.version, f"it {route.fault}.")
        target = self._make(version, signature, route.endpoint)
        if len(self._known) >= _MAX_KNOWN:
            self._known = {}
        self._known[id(version)] = (version, target)
        return target

    def find(self, version: CatalogVersion) -> Target | None:
        """Return the target of a version; None where it can't be scored."""
        if version.signature is None or not version.ready or self._is_refused(version):
            return None
        route = self._routes.of(version)
        return None if route.fault else self._make(version, version.signature, route.endpoint)

    def signature(self, version: CatalogVersion) -> Signature:
        """Return a version's signature; one that was not read yet is read next.

        Raises:
            EnricherError: The version can't be scored, or the caller is to come back.
        """
        self._catalog.prioritize(version)
        if self._is_refused(version):
            raise LoaderNotAllowed(version.name, version.version, version.loader)
        signature = scorable(version).signature
        if signature is None:
            raise ModelLoadFailed(version.name, version.version, version.fault)
        return signature

    def state(self, version: CatalogVersion, status: Status | None) -> Status:
        """Return the status of a version: by the registry, then by the pool, whose status is None without a target."""
        if self._is_refused(version) and version.ready:
            refusal = LoaderNotAllowed(version.name, version.version, version.loader)
            return Status(WorkerState.FAILED, refusal.message)
        route = self._routes.of(version)
        if route.fault and version.ready:
            return Status(WorkerState.FAILED, route.fault)
        found = state_of(version, status)
        if route.endpoint != LOCAL:
            return replace(found, remote=True)
        wish = version.options.environment
        if not wish or self._environment_tag:
            return found
        ignored = f"its tag {ENVIRONMENT_TAG} = {wish} counts only with workers.allow_environment_tag"
        return replace(found, message="; ".join(filter(None, (found.message, ignored))))

    def _is_refused(self, version: CatalogVersion) -> bool:
        """Return whether a version's loader is known and not allowed; the downloaded files are checked again."""
        if not version.loader or allows(self._allowed_loaders, version.loader):
            return False
        # What a model server elsewhere loads is not ours to allow.
        return self._routes.of(version).endpoint == LOCAL

    def _make(self, version: CatalogVersion, signature: Signature, endpoint: str) -> Target:
        return Target(
            version.name,
            version.version,
            self._catalog.url_of(version),
            signature,
            version.registry,
            version.registered_as,
            version.options.batching,
            version.options.replicas,
            fingerprint=f"{version.created_ms} {version.source}",
            aliases=version.aliases,
            route=endpoint,
            observe=self._allow_observed and version.options.observed and signature.origin is not Origin.OBSERVED,
            environment=version.options.environment if self._environment_tag and endpoint == LOCAL else "",
            loader=version.loader,
        )
