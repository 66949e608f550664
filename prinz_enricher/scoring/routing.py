"""Several pools as one: each target is scored where its route leads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.ports import Job, Status, Target, WorkerPool

LOCAL = ""
"""The route to worker processes."""


class RoutingPool:
    """Hands each target to the pool of its route."""

    def __init__(self, pools: Mapping[str, WorkerPool]) -> None:
        """Take over pools.

        Args:
            pools: By the routes that targets have; each target's route must be among them.
        """
        self._pools = dict(pools)

    def submit(self, job: Job) -> None:
        """Take a job; never blocks, and never raises for a fault of the job: `job.done` is told."""
        self._pools[job.target.route].submit(job)

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Tell why a job would be refused if it came now; None where it may be taken."""
        return self._pools[target.route].refusal(target, rows, deadline)

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Begin to load a target if it is not loaded; never blocks."""
        self._pools[target.route].load(target, instead=instead, if_room=if_room)

    def used(self) -> list[Target]:
        """Return the targets that are loaded, or being loaded, wherever that is."""
        return [target for pool in self._pools.values() for target in pool.used()]

    def retain(self, targets: Collection[Target]) -> None:
        """Unload all but some targets, each from the pools where its route does not lead any more."""
        for route, pool in self._pools.items():
            pool.retain([target for target in targets if target.route == route])

    def status(self, target: Target) -> Status:
        """Tell where a target is in its life."""
        return self._pools[target.route].status(target)

    def close(self, grace: float) -> None:
        """Take no more jobs, finish those taken within `grace` seconds, and end every worker."""
        with ThreadPoolExecutor(len(self._pools)) as threads:
            list(threads.map(lambda pool: pool.close(grace), self._pools.values()))
