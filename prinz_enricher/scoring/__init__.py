"""Scoring: the `WorkerPool` port, its queue policy, and its adapters."""

from __future__ import annotations

from prinz_enricher.scoring.inline import InlinePool, ScoreFunction
from prinz_enricher.scoring.pool import Job, Scores, Status, Target, WorkerPool, WorkerState
from prinz_enricher.scoring.process import ProcessPool
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.worker import FetchFailed, LoadFailed

__all__ = [
    "FetchFailed",
    "InlinePool",
    "Job",
    "LoadFailed",
    "PoolSettings",
    "ProcessPool",
    "ScoreFunction",
    "Scores",
    "Status",
    "Target",
    "WorkerPool",
    "WorkerState",
]
