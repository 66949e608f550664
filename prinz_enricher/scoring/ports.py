"""The ports of scoring: `WorkerPool` scores batches, `Worker` runs one model, `Provide` gets what a worker needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.signature.types import Signature
from prinz_enricher.telemetry.series import Usage
from prinz_enricher.telemetry.tracing import AnyTrace, BatchTrace


@dataclass(frozen=True, slots=True)
class Target:
    """A model version to score with, and all that a pool needs to know of it; `key` identifies it.

    Attributes:
        registry: URL of its registry, without user and password; `registry_name` is its name in the settings.
        registered_as: The model's name in that registry; empty if it is `name`.
        batching: `on` or `off` if the owner says whether calls share model calls; else empty.
        replicas: Number of workers that the owner wants; 0 for the setting's.
        fingerprint: Distinguishes its files from those of a former version of the same name and number.
        route: Name of the endpoint that scores it; empty for local workers.
        observe: Whether outputs that the model is observed to return may replace the declared ones.
        environment: `current`, `isolated` or `auto` if the owner says, and may say, what it runs in; else empty.
        loader: Module that loads it; empty if unknown.
        accelerate: Whether onnxruntime may compute for it where that gives the same answers.
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
    accelerate: bool = False

    @property
    def registered_name(self) -> str:
        """Name of its model in its registry."""
        return self.registered_as or self.name

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identity of the version; a changed signature makes another key."""
        version = f"{self.version} {self.fingerprint} {self.environment} {'onnx' if self.accelerate else ''}"
        return self.registry, self.name, version, self.signature.digest


class WorkerState(StrEnum):
    """Where a target is in its life in a pool."""

    DISCOVERED = "discovered"
    LOADING = "loading"
    AVAILABLE = "available"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """A target's state, why it has it, whether jobs share model calls, and whether a model server scores it.

    A target that is DISCOVERED `was_loaded` if it was unloaded while it was AVAILABLE.
    """

    state: WorkerState
    message: str = ""
    batching: bool = False
    remote: bool = False
    was_loaded: bool = False


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The result of a job: outputs by the target's output schema, one row for each row of the job.

    `queue` is the seconds it waited for a worker; `compute` and `batch_rows` are the seconds and rows of the model call
    that it was part of.
    """

    batch: pa.RecordBatch
    queue: float
    compute: float
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to score.

    Attributes:
        batch: Checked rows: columns as in the signature's input schema, in its order, without absent optional ones.
        params: Every parameter of the signature with its value.
        deadline: When the answer becomes useless, by `time.monotonic()`; None for no limit.
        done: Called exactly once, from any thread, with the scores or the error; must not block or raise.
        cancelled: Whether the caller has gone; called before work is spent on the job.
        nulls: Whether a column may hold nulls; False if none does and no column is left out.
        calls: Number of calls it stands for, of as many rows each.
        split_calls: Makes a job of each of those calls, in the order of the rows. Called at most once, when they can't
            be scored together. After it, `done` may still report an outcome for calls not yet answered.
        traces: Those of its calls that are in any.
        lone: Whether nothing else came with it, so that no other job is about to share a call with it.
    """

    target: Target
    batch: pa.RecordBatch
    params: Mapping[str, object]
    deadline: float | None
    done: Callable[[ScoreResult | EnricherError], None]
    cancelled: Callable[[], bool] = lambda: False
    nulls: bool = True
    calls: int = 1
    split_calls: Callable[[], Sequence[Job]] = tuple
    traces: Sequence[AnyTrace] = ()
    lone: bool = False


class WorkerPool(Protocol):
    """Scores batches. All methods can be called from any thread."""

    def submit(self, job: Job) -> None:
        """Accept a job; never blocks, and reports all faults of the job to `job.done`."""

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Return why a job of some rows would be refused now; None if it may be accepted, which `submit` decides.

        Called before rows are read, so that a call refused under overload costs nothing.
        """

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Begin to load a target if it is not loaded; never blocks.

        With `instead` it replaces another one that serves until then: meanwhile there may be one worker more than the
        limit. With `if_room` it is loaded only if no other version must be unloaded.
        """

    def used(self) -> list[Target]:
        """Return the targets that are loaded or being loaded, without those that are leaving."""

    def retain(self, targets: Collection[Target]) -> None:
        """Unload all other targets after their last job, and apply what owners wish for these ones now."""

    def change(self, settings: PoolSettings) -> None:
        """Go on with other limits and times, by `retain` also with other numbers of workers."""

    def status(self, target: Target) -> Status:
        """Return where a target is in its life."""

    def usage(self) -> Usage:
        """Return what each version has that is in use, or could not be loaded."""

    def close(self, grace: float) -> None:
        """Accept no more jobs, finish those accepted within `grace` seconds, and stop every worker."""


class LoadFailed(Exception):
    """The model can't be loaded; the message says why in one sentence."""


class RegistryAway(LoadFailed):
    """The registry did not answer while the model was downloaded; a retry may succeed."""


class ServerAway(LoadFailed):
    """The model server does not answer as it should; a retry may succeed."""


class LoaderRefused(LoadFailed):
    """The operator has not allowed the code that loads the model; the message is the loader's name."""


class OutputsObserved(LoadFailed):
    """The model returns other outputs than declared, which may replace them; `outputs` is MLflow's JSON of a schema."""

    def __init__(self, why: str, outputs: str) -> None:
        super().__init__(why)
        self.outputs = outputs


class WorkerDied(Exception):
    """The worker ended without being asked to; the message says how."""


@dataclass(frozen=True, slots=True)
class Provisions:
    """What a worker process is started with; held until it has ended, then released by `close`.

    `model` is the folder with the MLmodel file; `python` the interpreter of the model's own environment, None for this
    one; `code` the folder of the worker's code for it; `seconds` the duration of each step (`fetch`, `environment`).
    """

    model: Path
    python: Path | None = None
    code: Path | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


Provide = Callable[[Target, Callable[[], bool]], Provisions]
"""Gets the provisions of a target; blocks, and polls whether that was cancelled.

Raises `LoadFailed` (`RegistryAway`, `LoaderRefused`).
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker found when it loaded its model.

    `path` says how the model is called, `accelerated` by onnxruntime; `batching` whether callers may share a call,
    since each row was shown to get the same answer as alone; `seconds` how long each step took (`fetch`, `environment`,
    `import`, `load`, `warm` and the like); `note` what people should know of how it is served.
    """

    path: str
    batching: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


class ModelCall(NamedTuple):
    """A call of a model: one or more checked rows, with every parameter.

    The `deadline` is the first of its jobs', by `time.monotonic()`; the `trace` is for requests to other servers.
    """

    batch: pa.RecordBatch
    params: Mapping[str, object]
    correlation: str
    deadline: float | None
    trace: BatchTrace | None = None


class WorkerAnswer(NamedTuple):
    """A worker's answer to a batch: outputs by the target's output schema, or an error, and seconds of the call."""

    id: int
    outcome: pa.RecordBatch | EnricherError
    compute: float


class Worker(Protocol):
    """Runs one model version. One thread uses it; `wake`, `kill` and `memory` can be called from any thread.

    What `sends_at_once` is true of may be sent by another thread while the first one receives, and never blocks.
    """

    def start(self) -> Loaded:
        """Load the model; blocks. Raises LoadFailed if it can't be loaded, WorkerDied if the worker ends meanwhile."""

    def send(self, id: int, call: ModelCall) -> bool:
        """Send a call, which is answered with its `id`; False if a busy worker declines it.

        Calls are made in the order sent. Raises EnricherError if no worker can make it, and WorkerDied.
        """

    def sends_at_once(self, batch: pa.RecordBatch) -> bool:
        """Return whether a worker that has nothing to do is sent a batch without blocking, and `receive` notices."""

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Block until there is an answer, `wake` was called since the last time, or some seconds have passed.

        Returns the answer to the earliest batch without one, None if there is none yet; raises WorkerDied.
        """

    def wake(self) -> None:
        """End a `receive`."""

    def memory(self) -> int:
        """Return the bytes of memory that the worker holds now; 0 if unknown."""

    def kill(self) -> None:
        """End the worker at once: what blocks in it raises `WorkerDied`."""

    def end(self) -> str:
        """End the worker orderly, release all it had, and return how it ended, such as `exit code 3`."""
