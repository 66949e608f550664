"""Jobs, scores and errors as the parts of frames: plain data, nothing of which is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from prinz_enricher.errors import Code, EnricherError, Violation
from prinz_enricher.scoring import Job, Scores
from prinz_enricher.service.processes.frames import Frame
from prinz_enricher.worker import frames as worker_frames
from prinz_enricher.worker.batches import BatchReader
from prinz_enricher.worker.frames import FrameError, decode_value, encode_value

Key = tuple[str, str, str, str]
"""What tells a target from others (`Target.key`)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job as the main process gets it.

    Attributes:
        key: Of its target.
        params: Every parameter with its value.
        deadline: By `time.monotonic()`, which is the same for all processes of a machine; None for none.
        calls: How many calls it stands for.
    """

    key: Key
    params: Mapping[str, object]
    deadline: float | None
    calls: int


def write_job(job: Job) -> dict[str, object]:
    """Give the meta of a job; its batch goes beside it."""
    return {
        "target": job.target.key,
        "params": [[name, encode_value(value)] for name, value in job.params.items()],
        "deadline": job.deadline,
        "calls": job.calls,
    }


def read_job(meta: Mapping[str, Any]) -> Asked:
    """Read what `write_job` wrote.

    Raises:
        FrameError: It did not write this.
    """
    try:
        params = {str(name): decode_value(value) for name, value in meta["params"]}
        deadline, calls = meta["deadline"], meta["calls"]
        asked = Asked(read_key(meta["target"]), params, None if deadline is None else float(deadline), int(calls))
    except (KeyError, TypeError, ValueError):
        raise FrameError("a frame holds no job") from None
    if asked.calls < 1:
        raise FrameError("a job stands for no call")
    return asked


def read_key(value: object) -> Key:
    """Read the key of a target.

    Raises:
        FrameError: It is none.
    """
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(part, str) for part in value):
        raise FrameError("a frame names no target")
    registry, name, version, digest = value
    return (registry, name, version, digest)


def write_scores(scores: Scores, row: int | None) -> dict[str, object]:
    """Give the meta of scores; their batch goes beside it.

    Args:
        scores: What a job came to.
        row: Which of its calls, where they were scored apart; None for all of it.
    """
    return {"row": row, "queue": scores.queue, "compute": scores.compute, "batch_rows": scores.batch_rows}


def read_scores(meta: Mapping[str, Any], batch: pa.RecordBatch) -> Scores:
    """Read what `write_scores` wrote.

    Raises:
        FrameError: It did not write this.
    """
    try:
        return Scores(batch, float(meta["queue"]), float(meta["compute"]), int(meta["batch_rows"]))
    except (KeyError, TypeError, ValueError):
        raise FrameError("a frame holds no scores") from None


def read_row(meta: Mapping[str, Any]) -> int | None:
    """Read which call of a job is meant; None for all of it.

    Raises:
        FrameError: It is no such number.
    """
    row = meta.get("row")
    if row is not None and (not isinstance(row, int) or row < 0):
        raise FrameError("a frame is about no call")
    return row


def write_error(error: EnricherError, row: int | None) -> dict[str, object]:
    """Give the meta of an error, with all that callers are told of it."""
    return {
        "row": row,
        "code": int(error.code),
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [[one.field, one.description] for one in error.violations],
        "omitted": error.omitted,
        "resource": error.resource,
        "retry_after": error.retry_after,
    }


def read_error(meta: Mapping[str, Any]) -> EnricherError:
    """Read what `write_error` wrote; callers are told the same of it, byte for byte.

    Raises:
        FrameError: It did not write this.
    """
    try:
        kind = _kind(Code(meta["code"]), str(meta["reason"]))
        error = kind.__new__(kind)
        resource, retry_after = meta["resource"], meta["retry_after"]
        # The subclasses make the sentence, which is there already.
        EnricherError.__init__(
            error,
            str(meta["message"]),
            metadata={str(key): str(value) for key, value in meta["metadata"].items()},
            violations=[Violation(str(field), str(description)) for field, description in meta["violations"]],
            omitted=int(meta["omitted"]),
            resource=None if resource is None else (str(resource[0]), str(resource[1])),
            retry_after=None if retry_after is None else float(retry_after),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise FrameError("a frame holds no error") from None
    return error


_KINDS: dict[tuple[Code, str], type[EnricherError]] = {}


def _kind(code: Code, reason: str) -> type[EnricherError]:
    """Return the class of errors with a code and a reason."""
    if not _KINDS:
        left: list[type[EnricherError]] = [EnricherError]
        while left:
            kind = left.pop()
            _KINDS.setdefault((kind.code, kind.reason), kind)
            left += kind.__subclasses__()
    known = _KINDS.get((code, reason))
    if known is None:
        # One that was declared elsewhere; what it is called here is no part of what callers are told.
        known = _KINDS[code, reason] = type("ToldError", (EnricherError,), {"code": code, "reason": reason})
    return known


class Batches:
    """Reads the batches of one side's frames. For one thread."""

    def __init__(self) -> None:
        self._reader = BatchReader()

    def read(self, frame: Frame) -> pa.RecordBatch:
        """Read the batch of a frame.

        Raises:
            FrameError: It holds none.
        """
        body = worker_frames.Frame(worker_frames.Kind.SCORE, frame.id, {}, frame.body, frame.schema_size)
        return self._reader.read(body)
