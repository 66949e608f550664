"""What went wrong with a version's workers, and when the next one may be started. Pure: no clock, threads or I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
import pyarrow as pa

from prinz_enricher import errors
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import LoaderRefused, LoadFailed, OutputsObserved, RegistryAway, ServerAway, Target
from prinz_enricher.scoring.queue import Pending

_MAX_POISON = 64
"""Batches that killed workers which are remembered for a version."""


class CrashLoop(LoadFailed):
    """The version's workers died too many times in a row."""


class CrashLoopBackoff:
    """Counts deaths and failed loads in a row, and when the next worker may start, by the caller's clock."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._failures = 0
        self._failure: type[LoadFailed] = LoadFailed
        self._why = ""
        self._died_loading = False
        self.deaths = 0
        self.not_before = 0.0
        # Digests of the batches that killed two workers.
        self.poison: OrderedDict[bytes, None] = OrderedDict()

    def died_loading(self) -> bool:
        """Count a worker that ended while it loaded; returns whether that may be chance and is worth another try."""
        first, self._died_loading = not self._died_loading, True
        return first

    def failed(self, failure: LoadFailed, now: float) -> None:
        """Count a load that failed, or the end of a crash loop."""
        # Not the exception itself, whose traceback would keep a worker and its model's files alive.
        self._failure, self._why = type(failure), str(failure)
        self._failures += 1
        self.not_before = now + self._pause(self._failures + self.deaths)

    def loaded(self) -> None:
        """Forget the loads that failed."""
        self._failures = 0
        self._died_loading = False

    def worked(self) -> None:
        """Forget the deaths: the worker has scored a batch."""
        self.deaths = 0

    def died(self, now: float) -> bool:
        """Count a death; returns whether it is one too many. The first may be chance: no pause follows it."""
        self.deaths += 1
        self.not_before = now + (self._pause(self.deaths - 1) if self.deaths > 1 else 0.0)
        return self.deaths >= self._settings.crash_limit

    def _pause(self, failures: int) -> float:
        return min(self._settings.backoff_max, self._settings.backoff_initial * 2.0 ** min(failures - 1, 30))

    def add_poison(self, digest: bytes) -> None:
        """Keep the digest of a batch that killed two workers, so that its retries kill no more of them."""
        self.poison[digest] = None
        while len(self.poison) > _MAX_POISON:
            self.poison.popitem(last=False)

    def refusal(self, target: Target, now: float) -> errors.EnricherError:
        """Make the answer to a job of a target whose last load failed."""
        failure, why = self._failure, self._why
        retry_after = max(0.5, self.not_before - now)
        if issubclass(failure, RegistryAway):
            return errors.RegistryUnavailable(target.registry, why, retry_after)
        if issubclass(failure, ServerAway):
            return errors.UpstreamUnavailable(target.route, why, retry_after)
        if issubclass(failure, CrashLoop | OutputsObserved):
            # It is loaded again after the pause, or with the outputs that were observed.
            return errors.ModelLoading(target.name, target.version, retry_after, why)
        if issubclass(failure, LoaderRefused):
            return errors.LoaderNotAllowed(target.name, target.version, why)
        return errors.ModelLoadFailed(target.name, target.version, why)


def digest_of(pending: Pending) -> bytes:
    """Hash a job's rows and parameters."""
    batch = pending.job.batch
    digest = hashlib.sha256(repr(sorted(pending.job.params.items())).encode())
    # A batch is written without the names of its columns.
    digest.update(batch.schema.serialize())
    # A slice is written with some of what is beside it in memory; a copy of its rows is not.
    digest.update(batch.take(pa.array(np.arange(batch.num_rows))).serialize())
    return digest.digest()
