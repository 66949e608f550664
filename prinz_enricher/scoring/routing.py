"""Several pools as one: each target is scored by the pool of its route."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Job, Status, Target, WorkerPool
from prinz_enricher.telemetry.series import Usage

LOCAL = ""
"""The route to worker processes."""


class RoutingPool:
    """A `WorkerPool` of pools, given by the routes that targets have; each target's route must be among them."""

    def __init__(self, pools: Mapping[str, WorkerPool]) -> None:
        self._pools = dict(pools)

    def submit(self, job: Job) -> None:
        """Accept a job; see `WorkerPool`."""
        self._pools[job.target.route].submit(job)

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Return why a job would be refused now; None if it may be accepted."""
        return self._pools[target.route].refusal(target, rows, deadline)

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Begin to load a target if it is not loaded; see `WorkerPool`."""
        self._pools[target.route].load(target, instead=instead, if_room=if_room)

    def used(self) -> list[Target]:
        """Return the targets that are loaded or being loaded by any pool."""
        return [target for pool in self._pools.values() for target in pool.used()]

    def retain(self, targets: Collection[Target]) -> None:
        """Unload all other targets, and each of these from the pools that are not its route's any more."""
        for route, pool in self._pools.items():
            pool.retain([target for target in targets if target.route == route])

    def change(self, settings: PoolSettings) -> None:
        """Go on with other limits and times in all pools."""
        for pool in self._pools.values():
            pool.change(settings)

    def status(self, target: Target) -> Status:
        """Return where a target is in its life."""
        return self._pools[target.route].status(target)

    def usage(self) -> Usage:
        """Return what each version has that is in use by any pool; see `WorkerPool`."""
        return [item for pool in self._pools.values() for item in pool.usage()]

    def close(self, grace: float) -> None:
        """Close all pools at the same time."""
        with ThreadPoolExecutor(len(self._pools)) as threads:
            list(threads.map(lambda pool: pool.close(grace), self._pools.values()))
