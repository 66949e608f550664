"""What a pool needs of the thing that runs a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa


class LoadFailed(Exception):
    """The model can't be loaded; the message says why in one sentence."""


class FetchFailed(LoadFailed):
    """The registry gave no answer when the model was to be downloaded; it may later."""


class WorkerDied(Exception):
    """The worker has ended without being asked to; the message says how."""


class Worker(Protocol):
    """Runs one model version. One thread uses it; `wake` and `kill` can be called from any thread at any time."""

    def start(self) -> str:
        """Load the model; blocks.

        Returns:
            How it was loaded, for the log.

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

    def wait(self) -> bool:
        """Block until `wake` is called, or has been since the last time.

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
