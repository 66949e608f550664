"""Which version a call means, whether and where it can be scored, and what a pool needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import structlog

from prinz_enricher.catalog import (
    DEFAULT_POLICY,
    ENVIRONMENT_TAG,
    CatalogModel,
    CatalogVersion,
    Snapshot,
    Union,
    default_version,
    resolve,
    scorable,
)
from prinz_enricher.config import Settings
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import EnricherError, InvalidRequest, LoaderNotAllowed, ModelLoadFailed, ModelNotFound
from prinz_enricher.provision.loaders import allows
from prinz_enricher.scoring.ports import Status, Target, WorkerPool, WorkerState
from prinz_enricher.scoring.routing import LOCAL
from prinz_enricher.security.access import AccessRules, Method
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.catalog_view import CatalogView
from prinz_enricher.signature import Origin, Signature

log = structlog.stdlib.get_logger(__name__)

_MAX_KNOWN = 4096
"""Targets that are remembered; those of an older snapshot are among them, until all are forgotten."""

_REMOTE = "remote:"


class Targets:
    """Finds the version of a reference, and makes targets of versions; remembers them, since every call needs one."""

    def __init__(self, catalog: Union, pool: WorkerPool, settings: Settings, rules: AccessRules | None = None) -> None:
        self.rules = rules or AccessRules(settings.access)
        """Who may do what with which model; others take their place when the settings are read again."""
        self._catalog = catalog
        self._pool = pool
        self._policy = tuple(settings.scoring.default_version)
        self._allowed_loaders = tuple(settings.workers.allowed_loaders)
        # By endpoint, the patterns of the names of models that it scores.
        self._routes = {name: tuple(endpoint.models) for name, endpoint in settings.endpoints.items()}
        self._allow_observed = settings.scoring.allow_observed_outputs
        self._accelerated = tuple(settings.scoring.accelerate)
        self._environment_tag = settings.workers.allow_environment_tag
        self._aliases = AliasRouter(pool, self.find, self._policy)
        # By identity: a version that the registry changes is another object. It is kept, so that its id stays its own.
        self._known: dict[int, tuple[CatalogVersion, Target]] = {}

    def resolve(
        self, model: model_pb2.ModelRef, principal: Principal | None, method: Method, rules: AccessRules | None = None
    ) -> CatalogVersion:
        """Return the version that a reference means now; raises EnricherError, also by these rules."""
        name, rules = model.name, rules or self.rules
        if not name:
            raise InvalidRequest("model.name", "is required")
        if not (rules.may(principal, method, name) or rules.may(principal, "list", name)):
            # Before anything shows whether there is one, such as a registry that is not read yet.
            raise ModelNotFound(name)
        selector = model.WhichOneof("selector")
        if selector and not getattr(model, selector):
            raise InvalidRequest(f"model.{selector}", "is empty; leave it out for the default version")
        version = model.version if selector == "version" else None
        alias = model.alias if selector == "alias" else None
        snapshot = self._catalog.snapshot()
        if name not in snapshot.models and (why := self._catalog.unknown(name)) is not None:
            raise why
        if name in snapshot.models:
            rules.check(principal, method, name)
        meant = resolve(snapshot, name, version, alias, self._policy)
        return meant if version is not None else self._aliases.choose(snapshot.models[name], alias, meant)

    def view(self, principal: Principal | None, method: Method) -> Snapshot:
        """Return what a caller may list, or watch, now; raises RegistryUnavailable before the registry was read."""
        return CatalogView(self._catalog, self.rules, principal, method).snapshot()

    def default_version(self, model: CatalogModel) -> CatalogVersion | None:
        """Return the version that a reference without a selector means; None for none."""
        return default_version(model, self._policy)

    def follow(self, snapshot: Snapshot) -> None:
        """Load the versions that aliases in use mean in a snapshot."""
        self._aliases.follow(snapshot)

    def of(self, version: CatalogVersion) -> Target:
        """Return the target of a version; raises EnricherError for one that can't be scored.

        Also for one whose signature was not read yet: that is read next.
        """
        known = self._known.get(id(version))
        if known is not None:
            return known[1]
        signature = self.signature(version)
        endpoint, fault = self._route(version)
        if fault:
            raise ModelLoadFailed(version.name, version.version, f"it {fault}.")
        target = self._make(version, signature, endpoint)
        if len(self._known) >= _MAX_KNOWN:
            self._known = {}
        self._known[id(version)] = (version, target)
        return target

    def find(self, version: CatalogVersion) -> Target | None:
        """Return the target of a version; None where it can't be scored."""
        if version.signature is None or not version.ready or self._is_refused(version):
            return None
        endpoint, fault = self._route(version)
        return None if fault else self._make(version, version.signature, endpoint)

    def signature(self, version: CatalogVersion) -> Signature:
        """Return a version's signature; raises EnricherError as `of` does."""
        if (known := self._known.get(id(version))) is not None:
            return known[1].signature
        self._catalog.prioritize(version)
        if self._is_refused(version):
            raise LoaderNotAllowed(version.name, version.version, version.loader)
        signature = scorable(version).signature
        if signature is None:
            raise ModelLoadFailed(version.name, version.version, version.fault)
        return signature

    def status_of(self, version: CatalogVersion) -> Status:
        """Return the status of a version, by the registry and the pool."""
        target = self.find(version)
        return self.state(version, None if target is None else self._pool.status(target))

    def state(self, version: CatalogVersion, status: Status | None) -> Status:
        """Return the status of a version: by the registry, then by the pool, whose status is None without a target."""
        if self._is_refused(version) and version.ready:
            refusal = LoaderNotAllowed(version.name, version.version, version.loader)
            return Status(WorkerState.FAILED, refusal.message)
        endpoint, fault = self._route(version)
        if fault and version.ready:
            return Status(WorkerState.FAILED, fault)
        found = state_of(version, status)
        if endpoint != LOCAL:
            return replace(found, remote=True)
        wish = version.options.environment
        if not wish or self._environment_tag:
            return found
        ignored = f"its tag {ENVIRONMENT_TAG} = {wish} counts only with workers.allow_environment_tag"
        return replace(found, message="; ".join(filter(None, (found.message, ignored))))

    def _route(self, version: CatalogVersion) -> tuple[str, str]:
        """Return the endpoint of the settings that scores a version, or LOCAL, and why none does."""
        # The operator's rules come first: a registry can lie, and a tag names an endpoint of the settings, never a URL.
        for endpoint, patterns in self._routes.items():
            if any(fnmatchcase(version.name, pattern) for pattern in patterns):
                return endpoint, ""
        wish = version.options.route
        if not wish or wish == "local":
            return LOCAL, ""
        endpoint = wish.removeprefix(_REMOTE).strip()
        if wish.startswith(_REMOTE) and endpoint in self._routes:
            return endpoint, ""
        return LOCAL, f'has a tag prinz.route "{wish[:100]}", which is not an endpoint of this service'

    def _is_refused(self, version: CatalogVersion) -> bool:
        """Return whether a version's loader is known and not allowed; the downloaded files are checked again."""
        if not version.loader or allows(self._allowed_loaders, version.loader):
            return False
        # What a model server elsewhere loads is not ours to allow.
        return self._route(version)[0] == LOCAL

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
            accelerate=endpoint == LOCAL and self._is_accelerated(version),
        )

    def _is_accelerated(self, version: CatalogVersion) -> bool:
        wish = version.options.accelerate
        return wish == "onnx" or (not wish and any(fnmatchcase(version.name, one) for one in self._accelerated))


def state_of(version: CatalogVersion, status: Status | None) -> Status:
    """Return the status of a version: by the registry, then by the pool, whose `status` is None without a target."""
    if version.pending:
        return Status(WorkerState.DISCOVERED, version.fault)
    if status is None:
        return Status(WorkerState.FAILED, version.fault)
    return status if status.message or not version.fault else replace(status, message=version.fault)


@dataclass(slots=True, eq=False)
class AliasRouter:
    """Remembers which version serves each alias, and each default, that was called.

    The policy is TensorFlow Serving's "availability preserving": the new version is loaded first, and takes over once
    it is available. Where it can't be loaded, the former one stays; the state of the new one says why. A former version
    that was never loaded, or that the registry does not offer any more, is replaced at once.
    """

    pool: WorkerPool
    target_of: Callable[[CatalogVersion], Target | None]
    policy: Sequence[str] = DEFAULT_POLICY
    _serving: dict[tuple[str, str | None], CatalogVersion] = field(default_factory=dict)

    def choose(self, model: CatalogModel, alias: str | None, wanted: CatalogVersion) -> CatalogVersion:
        """Return the version that serves an alias, or the default, now; `wanted` is what the registry means by it."""
        key = (model.name, alias)
        serving = self._serving.get(key)
        if serving is wanted:
            return wanted
        if serving is not None and serving.version != wanted.version:
            former = model.by_number.get(serving.version)
            status = self._status(former) if former is not None else None
            if former is not None and status is not None:
                new = self._state_or_load(wanted)
                unloaded = status.state is WorkerState.DISCOVERED
                if new is not WorkerState.AVAILABLE and not (unloaded and not status.was_loaded):
                    stays = new is WorkerState.FAILED if unloaded else status.state is not WorkerState.FAILED
                    # It is remembered in either case: a new one that turns out not to load gives way to it again.
                    return former if stays else wanted
            log.info("an alias is served by another version", model=model.name, alias=alias, version=wanted.version)
        self._serving[key] = wanted
        return wanted

    def follow(self, snapshot: Snapshot) -> None:
        """Load what aliases mean in a snapshot before anybody calls."""
        for name, alias in list(self._serving):
            try:
                wanted = resolve(snapshot, name, None, alias, self.policy)
            except EnricherError:
                self._serving.pop((name, alias), None)
            else:
                self.choose(snapshot.models[name], alias, wanted)

    def _status(self, version: CatalogVersion) -> Status | None:
        target = self.target_of(version)
        return None if target is None else self.pool.status(target)

    def _state_or_load(self, version: CatalogVersion) -> WorkerState:
        """Return the state of a version; one that is not loaded begins to load beside the one that serves."""
        target = self.target_of(version)
        if target is None:
            # Its signature is not read yet, or can't be.
            return WorkerState.FAILED
        state = self.pool.status(target).state
        if state is not WorkerState.AVAILABLE:
            self.pool.load(target, instead=True)
        return state
