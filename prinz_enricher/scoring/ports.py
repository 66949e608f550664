"""The `WorkerPool` port: where a checked batch of one model version is scored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.signature.types import Signature


@dataclass(frozen=True, slots=True)
class Target:
    """A model version to score with, and all that a pool needs to know of it.

    Two targets with the same `key` are the same version; a signature that changed makes another key.

    Attributes:
        name: The name by which the model is served.
        version: The version's number.
        registry: Where it is registered, without user and password.
        signature: Its signature.
        registry_name: What the settings call that registry; empty for the one without a name.
        registered_as: The model's name in that registry, where it is another; else empty.
        batching: `on` or `off` where its owner says whether rows of several callers share model calls; else empty.
        replicas: How many workers its owner wants for it; 0 where that is not said.
        keep: Whether it is to be loaded all the time.
        fingerprint: Tells its files from those of another version that once had the same name and number.
        aliases: Those that point to it.
        route: The model server that scores it, by the name of its endpoint; empty for workers here.
        observe: Whether outputs that its model is observed to give may take the place of those declared.
        environment: `current`, `isolated` or `auto` where its owner says, and may say, what it runs in; else empty.
        loader: The module that loads it, as the registry says; empty where that is not known.
    """

    name: str
    version: str
    registry: str
    signature: Signature = field(repr=False, hash=False, compare=False)
    registry_name: str = ""
    registered_as: str = ""
    batching: str = ""
    replicas: int = field(default=0, compare=False)
    keep: bool = field(default=False, compare=False)
    fingerprint: str = ""
    aliases: tuple[str, ...] = field(default=(), compare=False)
    route: str = ""
    observe: bool = field(default=False, compare=False)
    environment: str = ""
    loader: str = field(default="", compare=False)

    @property
    def registered_name(self) -> str:
        """Its model's name in its registry."""
        return self.registered_as or self.name

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells this target from others."""
        return (
            self.registry,
            self.name,
            f"{self.version} {self.fingerprint} {self.environment}",
            self.signature.digest,
        )


class WorkerState(StrEnum):
    """Where a target is in its life in a pool."""

    DISCOVERED = "discovered"
    LOADING = "loading"
    AVAILABLE = "available"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """A target's state.

    Attributes:
        state: Where it is in its life.
        message: Why it is so where that is not plain.
        batching: Whether the rows of several jobs are scored in one model call; False where that is not known yet.
        remote: Whether it is scored by a model server elsewhere.
    """

    state: WorkerState
    message: str = ""
    batching: bool = False
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """What a job came to.

    Attributes:
        batch: The outputs by the target's output schema, one row for each row of the job.
        queue: Seconds the job waited for a worker.
        compute: Seconds in the model call.
        batch_rows: Rows of the model call the job was part of.
    """

    batch: pa.RecordBatch
    queue: float
    compute: float
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to score.

    Attributes:
        target: The version to score with.
        batch: Checked rows: columns as in the signature's input schema, in its order; absent optional columns left out.
        params: Every parameter of the signature with its value.
        deadline: When the answer is of no more use, by `time.monotonic()`; None for no limit.
        done: Called exactly once, from any thread, with the scores or the error; must not block or raise.
        cancelled: Tells whether the caller has gone; asked before work is spent on the job.
        nulls: Whether a column may hold nulls; False where it is known that none does, and that no column is left out.
        calls: How many calls it stands for, of one row each where it is more than one.
        apart: Gives each of those calls as a job of its own, in the order of the rows: asked at most once, where they
            can't be scored together. `done` may still be called then, with what becomes of those that have no answer.
    """

    target: Target
    batch: pa.RecordBatch
    params: Mapping[str, object]
    deadline: float | None
    done: Callable[[Scores | EnricherError], None]
    cancelled: Callable[[], bool] = lambda: False
    nulls: bool = True
    calls: int = 1
    apart: Callable[[], Sequence[Job]] = tuple


class WorkerPool(Protocol):
    """Scores batches. All methods can be called from any thread."""

    def submit(self, job: Job) -> None:
        """Take a job; never blocks, and never raises for a fault of the job: `job.done` is told."""

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Tell why a job would be refused if it came now; None where it may be taken, which `submit` alone decides.

        Asked before rows are read: where there is too much to do, nothing is to be done for what is refused.

        Args:
            target: The version.
            rows: Of the job.
            deadline: As the job's.
        """

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Begin to load a target if it is not loaded; never blocks.

        Args:
            target: The version.
            instead: Whether it takes the place of another one that serves until then: for that time there may be one
                worker more than the limit.
            if_room: Whether only where there is room for it: no other version is unloaded.
        """

    def used(self) -> list[Target]:
        """Return the targets that are loaded, or being loaded, and have not been told to leave."""

    def retain(self, targets: Collection[Target]) -> None:
        """Unload, after their last job, all but some targets, and take over what is wished of these."""

    def status(self, target: Target) -> Status:
        """Tell where a target is in its life."""

    def close(self, grace: float) -> None:
        """Take no more jobs, finish those taken within `grace` seconds, and end every worker."""
