"""What a pool needs of the thing that runs a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import pyarrow as pa

from prinz_enricher.errors import EnricherError


class LoadFailed(Exception):
    """The model can't be loaded; the message says why in one sentence."""


class FetchFailed(LoadFailed):
    """The registry gave no answer when the model was to be downloaded; it may later."""


class ServerAway(LoadFailed):
    """The model server gives no answer as it should; it may later.

    Attributes:
        retry_after: Seconds after which another try makes sense.
    """

    def __init__(self, why: str, retry_after: float = 1.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class LoaderRefused(LoadFailed):
    """The model would be loaded by code that the operator has not allowed; the message is the loader's name."""


class OutputsObserved(LoadFailed):
    """The model gives other outputs than it declares, and they may be served in their place.

    Attributes:
        outputs: What it gives, as MLflow's JSON of a schema.
    """

    def __init__(self, why: str, outputs: str) -> None:
        super().__init__(why)
        self.outputs = outputs


class WorkerDied(Exception):
    """The worker has ended without being asked to; the message says how."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker found when it loaded its model.

    Attributes:
        path: How the model is called, for the log.
        batching: Whether rows of several callers may share a model call: the model was shown to give each row the
            same answer alone and among others.
        seconds: Where the time went: `fetch`, `environment`, `import`, `load`, `warm` and the like.
        note: What people should know of how it is served; may be empty.
    """

    path: str
    batching: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


class Answer(NamedTuple):
    """What a worker says of a call.

    Attributes:
        id: The call's.
        outcome: The outputs by the target's output schema, as many rows as were given, or what the model failed with.
        compute: Seconds of the model call.
    """

    id: int
    outcome: pa.RecordBatch | EnricherError
    compute: float


class Worker(Protocol):
    """Runs one model version. One thread uses it; `wake`, `kill` and `memory` can be called from any thread."""

    def start(self) -> Loaded:
        """Load the model; blocks.

        Raises:
            LoadFailed: It can't be loaded.
            WorkerDied: The worker ended meanwhile.
        """

    def give(
        self, id: int, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str, deadline: float | None
    ) -> bool:
        """Hand over a batch of one or more rows; the worker scores what it was given in that order.

        Args:
            id: Is told with the answer.
            batch: Checked rows.
            params: Every parameter of the signature.
            correlation: For the log.
            deadline: When the answer is of no more use to the first who waits for it, by `time.monotonic()`.

        Returns:
            Whether the worker has it. One that scores another batch need not take it; one that is idle takes any.

        Raises:
            EnricherError: It can't be given to any worker.
            WorkerDied: The worker has ended.
        """

    def take(self, seconds: float | None = None) -> Answer | None:
        """Block until there is an answer, or `wake` was called since the last time, or some seconds have passed.

        Returns:
            The answer to the earliest call that has none; None where there is none yet.

        Raises:
            WorkerDied: The worker has ended.
        """

    def wake(self) -> None:
        """End a `take`."""

    def memory(self) -> int:
        """Tell the bytes of memory that the worker holds now; 0 where that is not known."""

    def kill(self) -> None:
        """End the worker at once: what blocks in it raises `WorkerDied`."""

    def end(self) -> str:
        """End the worker orderly where it lives, and let go of all it had.

        Returns:
            How it ended, for people: such as `exit code 3`.
        """
