"""Front processes: several processes that share one port, one catalog and one pool of workers.

The main process is what a service of one process is, with a front of its own. Each further process has a front and an
`EnricherService`, and asks the main one, over a Unix socket, for all that exists once:

    frames, sender      what the two send each other, and how
    codec               jobs, scores and errors as frames
    begin               what the main process tells: pickled, in this direction alone
    pool_adapter        front process: the `WorkerPool` that hands jobs to the main process
    replica             front process: the catalog, and which version serves an alias, as the main process knows them
    front_process       front process: its start, what it is told, its end
    pool_server         main process: the jobs of one front process
    hub                 main process: what all front processes are told
    supervisor          main process: starts them, starts them again, drains them
"""

from prinz_enricher.catalog import PROCESS_KEY, Union
from prinz_enricher.config import Settings
from prinz_enricher.scoring import WorkerPool
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.processes.begin import Plan
from prinz_enricher.service.processes.hub import Hub
from prinz_enricher.service.processes.supervisor import FrontProcesses
from prinz_enricher.service.score.forms import Limits

__all__ = ["FrontProcesses", "open_processes"]


def open_processes(
    settings: Settings, port: int, limits: Limits, catalog: Union, service: EnricherService, pool: WorkerPool
) -> FrontProcesses:
    """Make the processes that a service has beside its main one; they are not started yet.

    Args:
        settings: All of them.
        port: That the main process listens on.
        limits: What a request may have at most.
        catalog: The registries' models.
        service: The main process's own.
        pool: Where all jobs are scored.
    """
    plan = Plan(
        settings.server.model_copy(update={"port": port}),
        settings.logging,
        settings.scoring.default_version,
        limits,
        settings.workers.allowed_loaders,
        settings.workers.allow_environment_tag,
        {name: one.models for name, one in settings.endpoints.items()},
        PROCESS_KEY,
    )
    return FrontProcesses(settings.server.processes - 1, Hub(plan, catalog, service, pool), pool)
