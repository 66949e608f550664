"""`ScoreResponse` messages: which version scored, where the time went, and the scores of many one-row calls at once."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import structlog

from prinz_enricher.batch.wire import prefix
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import Code, EnricherError, InvalidInput, OutputMismatch
from prinz_enricher.scoring import Scores, Target
from prinz_enricher.service.score.payload import write_rows
from prinz_enricher.signature import Field, fields_schema

log = structlog.stdlib.get_logger(__name__)

_OURS = (Code.INTERNAL, Code.FAILED_PRECONDITION)
"""Codes of errors that the operator, or the owner of a model, should see."""

_ID: Final = pb.ScoreResponse.DESCRIPTOR.fields_by_name["request_id"].number
_OUTPUT: Final = {form: pb.ScoreResponse.DESCRIPTOR.fields_by_name[form].number for form in ("columns", "dense")}
_DOUBLE: Final = 8

_FEW_VALUES: Final = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string)
"""Types of outputs such as classes, of which many rows have the same value: equal rows are written once."""

_Write = Callable[[pa.RecordBatch], tuple[str, bytes]]


class _Timing(threading.local):
    """A message of each thread, written again and again: making one anew costs several times as much."""

    def __init__(self) -> None:
        self.response = pb.ScoreResponse()
        self.timing = self.response.timing
        self.queue, self.compute, self.total = self.timing.queue, self.timing.compute, self.timing.total
        for part in (self.queue, self.compute, self.total):
            # Present even where it took no time at all.
            part.SetInParent()


_timing = _Timing()


def response_metadata(target: Target, scores: Scores, total: float) -> bytes:
    """Return a serialised `ScoreResponse` with the version and the timing, to which an output can be appended.

    Args:
        target: The version that scored.
        scores: Its scores.
        total: Seconds since the call arrived.
    """
    timing = _timing
    for part, seconds in ((timing.queue, scores.queue), (timing.compute, scores.compute), (timing.total, total)):
        part.seconds, part.nanos = divmod(int(seconds * 1e9), 1_000_000_000)
    timing.timing.batch_rows = scores.batch_rows
    return _version(target.name, target.version) + timing.response.SerializeToString()


@lru_cache(maxsize=1024)
def _version(name: str, version: str) -> bytes:
    return pb.ScoreResponse(model=model_pb2.ModelRef(name=name, version=version)).SerializeToString()


def output_mismatch(target: Target, error: InvalidInput) -> OutputMismatch:
    """Return the error for an answer of a model that has no form on the wire; `error` is what the writer raised."""
    first = error.violations[0]
    return OutputMismatch(target.name, target.version, f"{first.field} {first.description}")


def log_rejection(target: Target, error: EnricherError, request_id: str) -> None:
    """Log a call that failed; at `debug` where the caller, or too many of them, are the cause.

    A line for each of those would cost more than the rejection, and most where there is least time.
    """
    write = log.info if error.code in _OURS else log.debug
    write(
        "score refused",
        model=target.name,
        version=target.version,
        reason=error.reason,
        request_id=request_id,
        **{key: value for key, value in error.metadata.items() if key == "correlation_id"},
    )


def write_responses(
    scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes, ids: Sequence[bytes]
) -> list[bytes]:
    """Return the serialised response to each of many one-row calls.

    Args:
        scores: The wanted outputs, a row for each call.
        outputs: The fields of its columns.
        form: The field of the requests' input, `columns` or `dense`.
        common: The fields that all responses share, a serialised `ScoreResponse`.
        ids: The `request_id` of each call, in UTF-8; empty for none.

    Raises:
        InvalidInput: A value has no form on the wire.
    """
    responses = _write_doubles(scores, outputs, form, common)
    if responses is None:
        write = _write_once(outputs, form) if _has_few_values(scores) else lambda row: _write_row(row, outputs, form)
        responses = []
        for row in range(scores.num_rows):
            field, written = write(scores.slice(row, 1))
            responses.append(b"".join((common, prefix(_OUTPUT[field], len(written)), written)))
    # Fields come in any order.
    return [one + prefix(_ID, len(id)) + id if id else one for one, id in zip(responses, ids, strict=True)]


def _write_doubles(scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes) -> list[bytes] | None:
    """Write rows of doubles, which differ in the bytes of their values alone; None for others."""
    columns = scores.columns
    if not columns or not all(column.type == pa.float64() and not column.null_count for column in columns):
        return None
    field, pieces = _doubles_pattern(tuple(outputs), form)
    pieces = [common + prefix(_OUTPUT[field], sum(map(len, pieces)) + _DOUBLE * len(columns)) + pieces[0], *pieces[1:]]
    values = [column.to_numpy().astype("<f8", copy=False).tobytes() for column in columns]
    if len(values) == 1:
        [head, end], [data] = pieces, values
        return [head + data[at : at + _DOUBLE] + end for at in range(0, len(data), _DOUBLE)]
    return [
        b"".join(
            part for pair in zip(pieces, (data[at : at + _DOUBLE] for data in values), strict=False) for part in pair
        )
        + pieces[-1]
        for at in range(0, len(values[0]), _DOUBLE)
    ]


@lru_cache(maxsize=256)
def _doubles_pattern(outputs: tuple[Field, ...], form: str) -> tuple[str, list[bytes]]:
    """Return the output's field, and the bytes before, between and after the values of a row of doubles."""
    # Two rows whose values differ in every byte show where these are.
    rows = []
    for byte in (b"\x11", b"\x22"):
        [value] = struct.unpack("<d", byte * _DOUBLE)
        arrays = [pa.array([value], pa.float64())] * len(outputs)
        rows.append(_write_row(pa.RecordBatch.from_arrays(arrays, schema=fields_schema(outputs)), outputs, form))
    (field, first), (_, second) = rows
    places = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    pieces, start = [], 0
    for place in places[::_DOUBLE]:
        pieces.append(first[start:place])
        start = place + _DOUBLE
    return field, [*pieces, first[start:]]


def _write_row(row: pa.RecordBatch, outputs: Sequence[Field], form: str) -> tuple[str, bytes]:
    field, parts = write_rows(row, outputs, form)
    return field, b"".join(bytes(memoryview(part)) for part in parts)


def _has_few_values(scores: pa.RecordBatch) -> bool:
    return all(any(is_kind(type) for is_kind in _FEW_VALUES) for type in scores.schema.types)


def _write_once(outputs: Sequence[Field], form: str) -> _Write:
    """Return a writer that writes equal rows once."""
    known: dict[Any, tuple[str, bytes]] = {}

    def write(row: pa.RecordBatch) -> tuple[str, bytes]:
        values = tuple(column[0].as_py() for column in row.columns)
        if values not in known:
            known[values] = _write_row(row, outputs, form)
        return known[values]

    return write
