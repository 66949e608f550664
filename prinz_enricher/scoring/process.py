"""The pool that spawns a process of the current interpreter for each version in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from prinz_enricher.scoring.folder import sweep_folders
from prinz_enricher.scoring.pool import Target
from prinz_enricher.scoring.replica_pool import ReplicaPool
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.worker_process import WorkerProcess


def locate_in_registry(target: Target) -> dict[str, str]:
    """Tell a worker to download the target from its registry."""
    return {"registry": target.registry, "name": target.name, "version": target.version}


class ProcessPool(ReplicaPool):
    """Scores in worker processes that download, load and run one model version each."""

    def __init__(
        self,
        settings: PoolSettings | None = None,
        *,
        locate: Callable[[Target], Mapping[str, str]] = locate_in_registry,
        access: Callable[[Target, Path], Mapping[str, str] | None] = lambda _target, _folder: None,
        extra_environment: tuple[str, ...] = (),
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """Make a pool without workers.

        Args:
            settings: Limits and times.
            locate: Tells where a target's model is: `{"registry", "name", "version"}`, or `{"path"}` of a local folder.
            access: Gives the environment variables by which a worker reaches its registry, asked for each worker just
                before it starts; None for those of this process. It gets the worker's private folder, may block, and
                may raise `LoadFailed`.
            extra_environment: More environment variables that workers get, by name or pattern such as `ACME_*`.
            on_change: Called after each change of a status, from any thread, with locks held: it may only take note.
        """
        chosen = settings or PoolSettings()
        sweep_folders()

        def make_worker(target: Target) -> WorkerProcess:
            return WorkerProcess(
                target,
                locate(target),
                end_grace=chosen.end_grace,
                access=lambda folder: access(target, folder),
                extra_environment=extra_environment,
                exact_batching=chosen.batching == "exact",
            )

        super().__init__(make_worker, chosen, on_change)
