"""Which versions can be scored here, and what a pool needs to know of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prinz_enricher.catalog import ENVIRONMENT_TAG, CatalogVersion, CatalogView, scorable
from prinz_enricher.errors import LoaderNotAllowed, ModelLoadFailed
from prinz_enricher.provision.loaders import allows
from prinz_enricher.scoring import Status, Target, WorkerState
from prinz_enricher.scoring.routing import LOCAL
from prinz_enricher.service.routes import Routes
from prinz_enricher.service.views import state_of
from prinz_enricher.signature import Origin, Signature

_MOST_KNOWN = 4096
"""Versions whose targets are remembered; those of an older snapshot are among them, until all are forgotten."""


class Targets:
    """Makes targets of the catalog's versions, and remembers them: every call asks for one.

    Args:
        catalog: Which models there are.
        allowed_loaders: Which modules may load a model, by patterns of their names.
        environment_tag: Whether tags say what versions run in.
        routes: Where versions are scored.
        allow_observed: Whether outputs that were observed may be served where a tag says so.
    """

    def __init__(
        self,
        catalog: CatalogView,
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
        """Return what the pool needs to know of a version that is to be scored.

        Raises:
            EnricherError: It can't be, or its signature was not read yet: that is read next.
        """
        known = self._known.get(id(version))
        if known is not None:
            return known[1]
        signature = self.signature(version)
        route = self._routes.of(version)
        if route.fault:
            raise ModelLoadFailed(version.name, version.version, f"it {route.fault}.")
        target = self._make(version, signature, route.endpoint)
        if len(self._known) >= _MOST_KNOWN:
            self._known = {}
        self._known[id(version)] = (version, target)
        return target

    def find(self, version: CatalogVersion) -> Target | None:
        """Return what the pool needs to know of a version; None where it can't be scored."""
        if version.signature is None or not version.ready or self._is_refused(version):
            return None
        route = self._routes.of(version)
        return None if route.fault else self._make(version, version.signature, route.endpoint)

    def signature(self, version: CatalogVersion) -> Signature:
        """Return a version's signature; one that was not read yet is read next.

        Raises:
            EnricherError: The version can't be scored, or the caller is to come back.
        """
        self._catalog.want(version)
        if self._is_refused(version):
            raise LoaderNotAllowed(version.name, version.version, version.loader)
        signature = scorable(version).signature
        if signature is None:
            raise ModelLoadFailed(version.name, version.version, version.fault)
        return signature

    def state(self, version: CatalogVersion, status: Status | None) -> Status:
        """Tell where a version is in its life: what the registry says of it, then what the pool does.

        Args:
            version: The version.
            status: What the pool says; None where it knows no such target.
        """
        if self._is_refused(version) and version.ready:
            refusal = LoaderNotAllowed(version.name, version.version, version.loader)
            return Status(WorkerState.FAILED, refusal.message)
        route = self._routes.of(version)
        if route.fault and version.ready:
            return Status(WorkerState.FAILED, route.fault)
        told = state_of(version, status)
        if route.endpoint != LOCAL:
            return replace(told, remote=True)
        wish = version.wishes.environment
        if not wish or self._environment_tag:
            return told
        ignored = f"its tag {ENVIRONMENT_TAG} = {wish} counts only with workers.allow_environment_tag"
        return replace(told, message="; ".join(filter(None, (told.message, ignored))))

    def _is_refused(self, version: CatalogVersion) -> bool:
        """Tell whether a version's loader is known and not allowed here; what is downloaded is looked at again."""
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
            version.wishes.batching,
            version.wishes.replicas,
            fingerprint=f"{version.created_ms} {version.source}",
            aliases=version.aliases,
            route=endpoint,
            observe=self._allow_observed and version.wishes.observed and signature.origin is not Origin.OBSERVED,
            environment=version.wishes.environment if self._environment_tag and endpoint == LOCAL else "",
            loader=version.loader,
        )
