"""The pool that spawns a process for each worker of a version in use."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path

from prinz_enricher.provision.child_process import can_fork
from prinz_enricher.provision.file_lock import sweep_folders
from prinz_enricher.provision.variables import worker_variables
from prinz_enricher.scoring.launch.provisions import Provide
from prinz_enricher.scoring.launch.spares import Spares
from prinz_enricher.scoring.launch.worker_process import Confinement, WorkerProcess
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.runtime import VersionPool
from prinz_enricher.scoring.settings import PoolSettings, WorkerSettings


class ProcessPool(VersionPool):
    """Scores in worker processes that load and run one model version each."""

    def __init__(
        self,
        provide: Provide,
        settings: PoolSettings | None = None,
        *,
        workers: WorkerSettings | None = None,
        on_change: Callable[[], object] = lambda: None,
        on_observed: Callable[[Target, str], object] = lambda *_: None,
    ) -> None:
        """Make a pool without workers.

        Args:
            provide: Gets a model's files and its environment.
            settings: Limits and times.
            workers: What the processes may do.
            on_change: Called after each change of a status, from any thread, with locks held: it may only take note.
            on_observed: Called with the outputs that a model was seen to give, as MLflow's JSON of a schema.
        """
        chosen = settings or PoolSettings()
        allowed = workers or WorkerSettings()
        self._isolated = allowed.isolated
        sweep_folders()

        def variables(folder: Path, code: Path | None) -> dict[str, str]:
            return worker_variables(os.environ, folder, allowed.pass_variables, code=code)

        self._processes = Spares(variables) if allowed.spares and can_fork() else None

        def make_worker(target: Target) -> WorkerProcess:
            network = any(fnmatchcase(target.name, pattern) for pattern in allowed.network)
            return WorkerProcess(
                target,
                provide,
                variables=variables,
                end_grace=chosen.end_grace,
                confinement=Confinement(
                    memory=allowed.memory_limit or self._budget,
                    file=allowed.file_limit,
                    open_files=allowed.open_files,
                    network=network,
                ),
                spares=self._processes,
                on_observed=on_observed,
                exact_batching=chosen.batching == "exact",
            )

        super().__init__(make_worker, chosen, on_change, self._processes)

    def retain(self, targets: Collection[Target]) -> None:
        """Unload, after their last job, all but some targets, and have what these will need imported already."""
        super().retain(targets)
        if self._processes is not None and targets:
            if not self._isolated:
                self._processes.expect(target.loader for target in targets)
            self._keep_watch()
