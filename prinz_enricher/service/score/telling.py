"""What is told of a score besides its values: where the time went, and why there is none."""

from __future__ import annotations

import structlog
from google.protobuf.duration_pb2 import Duration

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import Code, EnricherError, InvalidInput, OutputMismatch
from prinz_enricher.scoring import Scores, Target

log = structlog.stdlib.get_logger(__name__)

_OURS = (Code.INTERNAL, Code.FAILED_PRECONDITION)
"""Codes of errors that the operator, or the owner of a model, should know of."""


def timing(scores: Scores, total: float) -> pb.ScoreTiming:
    """Tell where the time of a call went.

    Args:
        scores: What it came to.
        total: Seconds since it arrived.
    """
    return pb.ScoreTiming(
        queue=_duration(scores.queue),
        compute=_duration(scores.compute),
        total=_duration(total),
        batch_rows=scores.batch_rows,
    )


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


def _duration(seconds: float) -> Duration:
    whole = int(seconds * 1e9)
    return Duration(seconds=whole // 1_000_000_000, nanos=whole % 1_000_000_000)
