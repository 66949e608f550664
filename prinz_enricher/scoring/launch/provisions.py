"""What a worker process is started with: its model's files, and an interpreter that has what the model needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prinz_enricher.scoring.ports import Target


@dataclass(frozen=True, slots=True)
class Provisions:
    """What a worker process is started with; held until it has ended.

    Attributes:
        model: The folder with the model's MLmodel file.
        python: The interpreter of the model's own environment; None for that of this process.
        code: Where that interpreter finds the worker's code.
        seconds: What it took to get each: `fetch`, `environment`.
        close: Lets go of them.
    """

    model: Path
    python: Path | None = None
    code: Path | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


Provide = Callable[[Target, Callable[[], bool]], Provisions]
"""Gets the provisions of a target; blocks, and asks all the while whether that was cancelled.

Raises `LoadFailed` (`FetchFailed`, `LoaderRefused`) where they can't be had.
"""
