"""Where versions are scored, by the settings: worker processes, and the endpoints of model servers elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from prinz_enricher.config import EndpointSettings, Settings
from prinz_enricher.registry import open_access
from prinz_enricher.scoring import PoolSettings, ProcessPool, ProcessSettings, Target, WorkerPool
from prinz_enricher.scoring.routing import LOCAL, RoutingPool
from prinz_enricher.service.provisioner import Places, Provisioner


def open_pool(settings: Settings, places: Places, on_change: Callable[[], object]) -> WorkerPool:
    """Make the pool of a service.

    Args:
        settings: All of them.
        places: Knows the registries.
        on_change: Called after each change of a status, from any thread, with locks held: it may only take note.

    Raises:
        AccessError: An endpoint's certificates can't be used.
        ProvisionError: The settings of environments can't be used.
    """
    limits = _limits(settings)
    workers = settings.workers
    local = ProcessPool(
        Provisioner(places, settings.cache, workers),
        limits,
        workers=ProcessSettings(
            memory_limit=workers.memory_limit,
            file_limit=workers.file_limit,
            open_files=workers.open_files,
            network=workers.network,
            pass_variables=workers.pass_variables,
            spares=settings.scoring.spare_workers,
            isolated=workers.environment == "isolated",
        ),
        on_change=on_change,
        on_observed=places.observed,
    )
    if not settings.endpoints:
        return local
    remote = {
        name: _remote(name, endpoint, limits, on_change, places.observed)
        for name, endpoint in settings.endpoints.items()
    }
    return RoutingPool({LOCAL: local, **remote})


def _limits(settings: Settings) -> PoolSettings:
    scoring = settings.scoring
    return PoolSettings(
        max_workers=scoring.max_workers,
        max_queue_rows=scoring.max_queue_rows,
        batching=scoring.batching,
        max_shared_rows=scoring.max_shared_rows,
        max_delay=scoring.max_delay,
        replicas=scoring.replicas,
        max_wait=scoring.max_wait,
        idle_unload=scoring.idle_unload,
        memory_budget=settings.workers.memory_budget,
        load_timeout=scoring.load_timeout,
    )


def _remote(
    name: str,
    settings: EndpointSettings,
    limits: PoolSettings,
    on_change: Callable[[], object],
    on_observed: Callable[[Target, str], object],
) -> WorkerPool:
    # A service without endpoints does not bring in what they need.
    from prinz_enricher.scoring.remote.endpoint import Endpoint
    from prinz_enricher.scoring.remote.remote_pool import RemotePool

    keys: dict[str, Any] = {key.name: getattr(settings, key.name) for key in fields(Endpoint)}
    keys["headers"] = {header: secret.get_secret_value() for header, secret in settings.headers.items()}
    return RemotePool(
        name, Endpoint(**keys), open_access(settings), limits, on_change=on_change, on_observed=on_observed
    )
