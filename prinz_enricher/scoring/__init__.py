"""Scoring: the `WorkerPool` port, its queue policy, the life of versions, and what runs models."""

from __future__ import annotations

from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.ports import (
    Job,
    LoaderRefused,
    LoadFailed,
    Provisions,
    RegistryAway,
    Scores,
    Status,
    Target,
    WorkerPool,
    WorkerState,
)
from prinz_enricher.scoring.settings import PoolSettings, ProcessSettings

__all__ = [
    "Job",
    "LoadFailed",
    "LoaderRefused",
    "PoolSettings",
    "ProcessPool",
    "ProcessSettings",
    "Provisions",
    "RegistryAway",
    "Scores",
    "Status",
    "Target",
    "WorkerPool",
    "WorkerState",
]
