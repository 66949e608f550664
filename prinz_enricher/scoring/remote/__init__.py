"""Scoring by model servers elsewhere, over HTTP: where they are, how they are asked, and what they answer."""

from __future__ import annotations

from prinz_enricher.scoring.remote.answers import Answer
from prinz_enricher.scoring.remote.breaker import State
from prinz_enricher.scoring.remote.conventions import CONVENTIONS, ModelAddress, NoPath, paths
from prinz_enricher.scoring.remote.endpoint import Endpoint
from prinz_enricher.scoring.remote.errors import (
    CallCancelled,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from prinz_enricher.scoring.remote.exchange import Exchange, Found

__all__ = [
    "CONVENTIONS",
    "Answer",
    "CallCancelled",
    "Endpoint",
    "Exchange",
    "Found",
    "ModelAddress",
    "NoPath",
    "State",
    "UpstreamError",
    "UpstreamFailed",
    "UpstreamRefused",
    "UpstreamTimeout",
    "paths",
]
