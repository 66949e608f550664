"""The limits and times of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The limits and times of a pool; times in seconds.

    Attributes:
        max_workers: Workers at most; where there are none left, the least recently used idle version makes room.
        max_queue_rows: Rows waiting for one version at most; more are refused as overload.
        batching: Whether jobs of several callers share model calls: `auto`, where it was shown that each row gets the
            same answer up to rounding; `exact`, where it is the same to the bit; or `off`.
        max_shared_rows: Rows of several jobs that share one model call at most; a job of more has a call of its own.
        replicas: Workers of each version, where its owner does not say otherwise.
        max_replicas: Workers of each version at most, whatever its owner says.
        max_wait: How long a job may be expected to wait for its turn; what would wait longer is refused as overload.
        idle_unload: After how long without a job a version is unloaded; 0 for never.
        memory_budget: Bytes of memory that all workers may hold together; None for a share of what there is.
        watch_interval: How often idle versions and memory are looked at.
        max_delay: How long a job may wait for others to share its call with, while its worker is idle.
        load_timeout: How long loading a version may take.
        max_compute: How long a model call may take for a job without a deadline.
        hang_grace: How long after its job's deadline a worker may go on before it is killed.
        end_grace: How long a worker gets to end when asked to, before it is killed.
        loading_margin: How long before its deadline a job is told that its model is still loading.
        backoff_initial: The pause before a failed load, or a worker that died twice in a row, is tried again.
        backoff_max: What that pause doubles up to.
        crash_limit: How many times in a row a worker may die before its version counts as failed.
    """

    max_workers: int = 16
    max_queue_rows: int = 2_000_000
    batching: Literal["auto", "exact", "off"] = "auto"
    max_shared_rows: int = 1024
    max_delay: float = 0.0
    replicas: int = 1
    max_replicas: int = 64
    max_wait: float = 5.0
    idle_unload: float = 900.0
    memory_budget: int | None = None
    watch_interval: float = 1.0
    load_timeout: float = 300.0
    max_compute: float = 600.0
    hang_grace: float = 5.0
    end_grace: float = 3.0
    loading_margin: float = 0.05
    backoff_initial: float = 1.0
    backoff_max: float = 60.0
    crash_limit: int = 5

    def backoff(self, failures: int) -> float:
        """Tell the pause after so many failures in a row, the first of them being 1."""
        return min(self.backoff_max, self.backoff_initial * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What worker processes may do; sizes in bytes.

    Attributes:
        memory_limit: Memory that one may hold; None for the budget of all of them.
        file_limit: What a file that it writes may have.
        open_files: Descriptors that it may have.
        network: Names, or patterns of names, of the models whose workers may use the network.
        pass_variables: More environment variables that workers get, by name or pattern such as `ACME_*`.
        spares: Processes that have imported what models need, for workers to be forked from; 0 or 1.
        isolated: Whether none of them runs in the environment of this process.
    """

    memory_limit: int | None = None
    file_limit: int | None = 1 << 30
    open_files: int | None = 1024
    network: tuple[str, ...] = ()
    pass_variables: tuple[str, ...] = ()
    spares: int = 1
    isolated: bool = False
