"""Answers to many calls of one row, written together."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa

from prinz_enricher.batch.wire import prefix
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.service.score.forms import write_rows
from prinz_enricher.signature import Field, fields_schema

_ID: Final = pb.ScoreResponse.DESCRIPTOR.fields_by_name["request_id"].number
_OUTPUT: Final = {form: pb.ScoreResponse.DESCRIPTOR.fields_by_name[form].number for form in ("columns", "dense")}

_DOUBLE: Final = 8

_FEW_VALUES: Final = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string)
"""Types of outputs such as classes, of which many rows have the same; equal values of them are written alike."""

_Write = Callable[[pa.RecordBatch], tuple[str, bytes]]


def write_answers(
    scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes, ids: Sequence[bytes]
) -> list[bytes]:
    """Write each row of scores as the answer to a call of its own.

    Args:
        scores: The wanted outputs, a row for each call.
        outputs: What its columns are.
        form: The field of the requests' input, `columns` or `dense`.
        common: What all answers have in common, a serialised `ScoreResponse`.
        ids: The `request_id` of each call, in UTF-8; empty for none.

    Returns:
        The serialised answers.

    Raises:
        InvalidInput: A value has no form on the wire.
    """
    answers = _of_doubles(scores, outputs, form, common)
    if answers is None:
        write = _remembering(outputs, form) if _has_few_values(scores) else _plainly(outputs, form)
        answers = []
        for row in range(scores.num_rows):
            told, written = write(scores.slice(row, 1))
            answers.append(b"".join((common, prefix(_OUTPUT[told], len(written)), written)))
    # Fields come in any order.
    return [answer + prefix(_ID, len(id)) + id if id else answer for answer, id in zip(answers, ids, strict=True)]


def _of_doubles(scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes) -> list[bytes] | None:
    """Write rows of doubles, which differ in nothing but their bytes; None for others."""
    columns = scores.columns
    if not columns or not all(column.type == pa.float64() and not column.null_count for column in columns):
        return None
    told, pieces = _pattern(tuple(outputs), form)
    pieces = [common + prefix(_OUTPUT[told], sum(map(len, pieces)) + _DOUBLE * len(columns)) + pieces[0], *pieces[1:]]
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
def _pattern(outputs: tuple[Field, ...], form: str) -> tuple[str, list[bytes]]:
    """Write a row of doubles, and give what is before, between and behind the bytes of its values, in their order."""
    # Two rows whose values differ in every byte show where these are.
    rows = []
    for byte in (b"\x11", b"\x22"):
        [value] = struct.unpack("<d", byte * _DOUBLE)
        arrays = [pa.array([value], pa.float64())] * len(outputs)
        rows.append(_written(pa.RecordBatch.from_arrays(arrays, schema=fields_schema(outputs)), outputs, form))
    (told, first), (_, second) = rows
    places = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    pieces, start = [], 0
    for place in places[::_DOUBLE]:
        pieces.append(first[start:place])
        start = place + _DOUBLE
    return told, [*pieces, first[start:]]


def _written(row: pa.RecordBatch, outputs: Sequence[Field], form: str) -> tuple[str, bytes]:
    told, parts = write_rows(row, outputs, form)
    return told, b"".join(bytes(memoryview(part)) for part in parts)


def _has_few_values(scores: pa.RecordBatch) -> bool:
    return all(any(is_kind(type) for is_kind in _FEW_VALUES) for type in scores.schema.types)


def _plainly(outputs: Sequence[Field], form: str) -> _Write:
    return lambda row: _written(row, outputs, form)


def _remembering(outputs: Sequence[Field], form: str) -> _Write:
    """Write each row once of those that are the same."""
    known: dict[Any, tuple[str, bytes]] = {}

    def write(row: pa.RecordBatch) -> tuple[str, bytes]:
        values = tuple(column[0].as_py() for column in row.columns)
        told = known.get(values)
        if told is None:
            told = known[values] = _written(row, outputs, form)
        return told

    return write
