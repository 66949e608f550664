"""What went wrong with a version's workers, and when the next one may be started.

Pure: no clock, threads or I/O.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from enum import Enum

import numpy as np
import pyarrow as pa

from prinz_enricher.errors import (
    EnricherError,
    LoaderNotAllowed,
    ModelLoadFailed,
    ModelLoading,
    RegistryUnavailable,
    UpstreamUnavailable,
)
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.queue import Pending
from prinz_enricher.scoring.settings import PoolSettings

_MOST_POISON = 64
"""Batches that killed workers which are remembered for a version."""


class Cause(Enum):
    """Why a version has no worker."""

    LOAD = 1
    FETCH = 2
    """It may pass by itself: the registry is away."""
    SERVER = 5
    """It may pass by itself: the model server is away."""
    LOADER = 3
    CRASHES = 4
    OBSERVED = 6
    """It will be loaded anew, with the outputs that were observed."""


class Setbacks:
    """Counts deaths and failed loads in a row.

    Attributes:
        deaths: Workers that died since one scored a batch.
        not_before: When the next worker may be started, by the clock of the caller.
        cause: Of the last failure.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._failures = 0
        self._died_loading = False
        self._poison: OrderedDict[bytes, None] = OrderedDict()
        self.deaths = 0
        self.not_before = 0.0
        self.cause = Cause.LOAD

    def died_loading(self) -> bool:
        """Count a worker that ended while it loaded; tells whether that may be chance, so that to try once more."""
        first, self._died_loading = not self._died_loading, True
        return first

    def failed(self, cause: Cause, now: float) -> None:
        """Count a load that failed."""
        self.cause = cause
        self._failures += 1
        self.not_before = now + self._settings.backoff(self._failures + self.deaths)

    def loaded(self) -> None:
        """Begin anew with the loads that failed."""
        self._failures = 0
        self._died_loading = False

    def worked(self) -> None:
        """Begin anew with the deaths: the worker has scored a batch."""
        self.deaths = 0

    def died(self, now: float) -> bool:
        """Count a death; tells whether it is one too many. The first may be chance: the next worker starts at once."""
        self.deaths += 1
        self.not_before = now + (self._settings.backoff(self.deaths - 1) if self.deaths > 1 else 0.0)
        return self.deaths >= self._settings.crash_limit

    def remember(self, poison: bytes) -> None:
        """Keep the digest of a batch that killed two workers, so that its retries kill no more of them."""
        self._poison[poison] = None
        while len(self._poison) > _MOST_POISON:
            self._poison.popitem(last=False)

    @property
    def has_poison(self) -> bool:
        """Whether a batch has killed two workers."""
        return bool(self._poison)

    def is_poison(self, digest: bytes) -> bool:
        """Tell whether a batch has killed two workers."""
        return digest in self._poison

    def refusal(self, target: Target, why: str, now: float) -> EnricherError:
        """Make the answer to a job of a version that has no worker.

        Args:
            target: The version.
            why: The reason, as its state tells it.
            now: By the clock of the caller.
        """
        retry_after = max(0.5, self.not_before - now)
        match self.cause:
            case Cause.FETCH:
                return RegistryUnavailable(target.registry, why, retry_after)
            case Cause.SERVER:
                return UpstreamUnavailable(target.route, why, retry_after)
            case Cause.CRASHES | Cause.OBSERVED:
                return ModelLoading(target.name, target.version, retry_after, why)
            case Cause.LOADER:
                return LoaderNotAllowed(target.name, target.version, why)
        return ModelLoadFailed(target.name, target.version, why)


def digest_of(pending: Pending) -> bytes:
    """Hash a job's rows and parameters."""
    batch = pending.job.batch
    digest = hashlib.sha256(repr(sorted(pending.job.params.items())).encode())
    # A batch is written without the names of its columns.
    digest.update(batch.schema.serialize())
    # A slice is written with some of what is beside it in memory; a copy of its rows is not.
    digest.update(batch.take(pa.array(np.arange(batch.num_rows))).serialize())
    return digest.digest()
