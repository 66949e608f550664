"""What a pool needs of the thing that runs a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


class LoadFailed(Exception):
    """The model can't be loaded; the message says why in one sentence."""


class FetchFailed(LoadFailed):
    """The registry gave no answer when the model was to be downloaded; it may later."""


class WorkerDied(Exception):
    """The worker has ended without being asked to; the message says how."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker found when it loaded its model.

    Attributes:
        path: How the model is called, for the log.
        batching: Whether rows of several callers may share a model call: the model was shown to give each row the
            same answer alone and among others.
    """

    path: str
    batching: bool


class Worker(Protocol):
    """Runs one model version. One thread uses it; `wake` and `kill` can be called from any thread at any time."""

    def start(self) -> Loaded:
        """Load the model; blocks.

        Raises:
            LoadFailed: It can't be loaded.
            WorkerDied: The worker ended meanwhile.
        """

    def score(
        self, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str
    ) -> tuple[pa.RecordBatch, float]:
        """Score a batch of one or more rows; blocks.

        Returns:
            The outputs by the target's output schema, as many rows as came in, and the seconds of the model call.

        Raises:
            EnricherError: The model failed on this batch; the worker goes on.
            WorkerDied: The worker ended meanwhile.
        """

    def wait(self, seconds: float | None = None) -> bool:
        """Block until `wake` is called, or has been since the last time, or some seconds have passed.

        Returns:
            False where the worker has died.
        """

    def wake(self) -> None:
        """End a `wait`."""

    def kill(self) -> None:
        """End the worker at once: what blocks in it raises `WorkerDied`."""

    def end(self) -> str:
        """End the worker orderly where it lives, and let go of all it had.

        Returns:
            How it ended, for people: such as `exit code 3`.
        """
