"""Scoring: the `WorkerPool` port, its queue policy, the life of versions, and the adapters."""

from __future__ import annotations

from prinz_enricher.scoring.launch.inline import InlinePool, ScoreFunction
from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.launch.provisions import Provide, Provisions
from prinz_enricher.scoring.ports import Job, Scores, Status, Target, WorkerPool, WorkerState
from prinz_enricher.scoring.settings import PoolSettings, WorkerSettings
from prinz_enricher.scoring.worker import FetchFailed, LoaderRefused, LoadFailed

__all__ = [
    "FetchFailed",
    "InlinePool",
    "Job",
    "LoadFailed",
    "LoaderRefused",
    "PoolSettings",
    "ProcessPool",
    "Provide",
    "Provisions",
    "ScoreFunction",
    "Scores",
    "Status",
    "Target",
    "WorkerPool",
    "WorkerSettings",
    "WorkerState",
]
