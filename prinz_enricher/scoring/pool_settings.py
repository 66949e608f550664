"""The limits and times of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The limits and times of a pool, in seconds; those up to `load_timeout` are the settings of the same names.

    Attributes:
        max_replicas: Workers of each version at most, whatever its owner says.
        memory_budget: Bytes of memory that all workers may hold together; None for a share of what there is.
        watch_interval: How often idle versions and memory are checked.
        max_compute: How long a model call may take for a job without a deadline.
        hang_grace: How long after its job's deadline a worker may go on before it is killed.
        end_grace: How long a worker gets to end when asked to, before it is killed.
        loading_margin: How long before its deadline a job is answered that its model is still loading.
        backoff_initial: The pause before a failed load, or a worker that died twice in a row, is tried again.
        backoff_max: What that pause doubles up to.
        crash_limit: How many times in a row a worker may die before its version counts as failed.
    """

    spare_workers: int = 1
    max_workers: int = 16
    max_queue_rows: int = 2_000_000
    batching: Literal["auto", "exact", "off"] = "auto"
    max_shared_rows: int = 1024
    max_delay: float = 0.0
    replicas: int = 1
    max_wait: float = 5.0
    idle_unload: float = 900.0
    load_timeout: float = 300.0
    max_replicas: int = 64
    memory_budget: int | None = None
    watch_interval: float = 1.0
    max_compute: float = 600.0
    hang_grace: float = 5.0
    end_grace: float = 3.0
    loading_margin: float = 0.25
    backoff_initial: float = 1.0
    backoff_max: float = 60.0
    crash_limit: int = 5
