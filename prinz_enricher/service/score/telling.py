"""What is told of a score besides its values: where the time went, and why there is none."""

from __future__ import annotations

import threading
from functools import lru_cache

import structlog

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import Code, EnricherError, InvalidInput, OutputMismatch
from prinz_enricher.scoring import Scores, Target

log = structlog.stdlib.get_logger(__name__)

_OURS = (Code.INTERNAL, Code.FAILED_PRECONDITION)
"""Codes of errors that the operator, or the owner of a model, should know of."""


def tell(target: Target, scores: Scores, total: float) -> bytes:
    """Write what an answer tells besides its values: the version that gave them, and where the time went.

    Args:
        target: The version.
        scores: What it came to.
        total: Seconds since the call arrived.

    Returns:
        A serialised `ScoreResponse`; others that follow it are merged into it.
    """
    timing = _timing
    for told, seconds in ((timing.queue, scores.queue), (timing.compute, scores.compute), (timing.total, total)):
        told.seconds, told.nanos = divmod(int(seconds * 1e9), 1_000_000_000)
    timing.timing.batch_rows = scores.batch_rows
    return _version(target.name, target.version) + timing.response.SerializeToString()


class _Timing(threading.local):
    """Each thread's own message, written again and again: to make one anew costs several times as much."""

    def __init__(self) -> None:
        self.response = pb.ScoreResponse()
        self.timing = self.response.timing
        self.queue, self.compute, self.total = self.timing.queue, self.timing.compute, self.timing.total
        for part in (self.queue, self.compute, self.total):
            # There is one even where it took no time at all.
            part.SetInParent()


_timing = _Timing()


@lru_cache(maxsize=1024)
def _version(name: str, version: str) -> bytes:
    return pb.ScoreResponse(model=model_pb2.ModelRef(name=name, version=version)).SerializeToString()


def unwritable(target: Target, error: InvalidInput) -> OutputMismatch:
    """Tell that an answer of a model can't be sent.

    Args:
        target: The version.
        error: What the writer says, which serves callers too, whose input it is; here it is the model's answer.
    """
    first = error.violations[0]
    return OutputMismatch(target.name, target.version, f"{first.field} {first.description}")


def tell_refusal(target: Target, error: EnricherError, request_id: str) -> None:
    """Log that a call was refused."""
    # What a caller did wrong, or what was too much, is the caller's to know: a line for each would cost more than the
    # refusal, and most where there is least time.
    tell = log.info if error.code in _OURS else log.debug
    tell(
        "score refused",
        model=target.name,
        version=target.version,
        reason=error.reason,
        request_id=request_id,
        **{key: value for key, value in error.metadata.items() if key == "correlation_id"},
    )
