"""`Score` messages: rows as columns, an Arrow stream or dense are read, and scores are written in the same form."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError

from prinz_enricher import batch as codec
from prinz_enricher.batch.arrow_stream import caller_batch
from prinz_enricher.batch.layout import MAX_COLUMNS
from prinz_enricher.batch.piecewise import PIECE, ManyValues, PieceParser
from prinz_enricher.batch.read_bounds import UNBOUNDED, ReadBounds
from prinz_enricher.batch.wire import (
    BYTES,
    MAX_FIELDS,
    ManyFields,
    NotPlain,
    Part,
    Views,
    fields_of,
    prefix,
    view_columns,
    view_dense,
)
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import BatchTooLarge, InvalidRequest
from prinz_enricher.scoring.ports import ScoreResult, Target
from prinz_enricher.signature import Field, Signature, fields_schema

MAX_INDEPENDENT_ROWS = 4096
"""Rows of a request with `independent_rows`: where a version's calls are not scored together, each row is a job."""

_SMALL_REQUEST: Final = 4 * 1024
"""Bytes of a request that is small, whatever is in it."""
_SMALL_COLUMNS: Final = 32 * 1024
"""Bytes of a small request of plain columns or dense rows."""
_FEW_COLUMNS: Final = 256
_MANY_FIELDS: Final = f"has more than {MAX_COLUMNS} columns, or {2 * MAX_COLUMNS} outputs and params"
_NOT_PLAIN: Final = f"has more than {PIECE} bytes that are damaged, or written as no library of protobuf writes them"

_FIELDS: Final = {name: field.number for name, field in pb.ScoreResponse.DESCRIPTOR.fields_by_name.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a request.

    Attributes:
        bytes: Bytes of an Arrow stream once it is decompressed: a small one can become a very large one.
        decoded: Bytes that rows may take beyond their own, such as dictionaries laid out; None for no limit.
        shared: Rows of several callers in one model call; at most `rows`.
    """

    rows: int
    bytes: int
    shared: int = 1024
    decoded: int | None = None


def parse_score_request(data: bytes, max_rows: int, bounds: ReadBounds = UNBOUNDED) -> tuple[pb.ScoreRequest, Views]:
    """Return the message of a large request, and the values that it lacks, as views of `data`: they are not copied.

    The top level of the message is walked as the wire format has it, and protobuf parses what is not the Arrow stream,
    or the values of columns and dense rows. What can't be separated with certainty stays in the message. Raises
    InvalidRequest where it is invalid, has more fields than any model takes or more than `max_rows` values in a
    column; BatchTooLarge; and as `bounds` do, which count what protobuf makes of the message.
    """
    message = pb.ScoreRequest()
    try:
        rest, views = _split(memoryview(data))
        PieceParser(bounds.take, max_rows).parse(message, rest)
    except DecodeError:
        raise InvalidRequest("request", "is not a ScoreRequest message") from None
    except ManyFields:
        raise InvalidRequest("request", _MANY_FIELDS) from None
    except NotPlain:
        raise InvalidRequest("request", _NOT_PLAIN) from None
    except ManyValues:
        _check_rows(message.columns.num_rows, max_rows)
        raise InvalidRequest("columns", f"has a column of more than {max_rows} values") from None
    return message, views


def is_small(request: pb.ScoreRequest, size: int) -> bool:
    """Return whether the thread that receives calls can read a request of `size` bytes: in a millisecond, about.

    Of an Arrow stream that is not known before what it announces is seen.
    """
    if size <= _SMALL_REQUEST:
        return True
    columns = request.columns.columns
    if size > _SMALL_COLUMNS or request.params or len(columns) > _FEW_COLUMNS:
        return False
    return not any(column.HasField("nested") for column in columns)


def declared_rows(request: pb.ScoreRequest, form: str | None) -> int:
    """Return the number of rows that a request declares; 1 for an Arrow stream, which must be read first."""
    if form == "columns":
        return request.columns.num_rows
    return request.dense.num_rows if form == "dense" else 1


def read_rows(
    request: pb.ScoreRequest, signature: Signature, limits: Limits, views: Views, bounds: ReadBounds | None = None
) -> pa.RecordBatch:
    """Return the rows of a request, checked against the signature; `views` are the values that the message lacks.

    Raises InvalidInput where they do not fit it, InvalidRequest where there are none or their form is not allowed in
    this request, BatchTooLarge, and as `bounds` do.
    """
    form = request.WhichOneof("input")
    if form == "columns":
        _check_rows(request.columns.num_rows, limits.rows)
        return codec.decode_columns(request.columns, signature, views.columns, bounds)
    if form == "arrow_stream":
        stream = request.arrow_stream if views.data is None else views.data
        return codec.decode_stream(stream, signature, limits.rows, limits.bytes, bounds)
    if form == "dense":
        if not request.signature_digest:
            raise InvalidRequest(
                "signature_digest", "is required with dense rows, since their order is the signature's"
            )
        _check_rows(request.dense.num_rows, limits.rows)
        return codec.decode_dense(request.dense, signature, views.data, bounds)
    raise InvalidRequest("input", "is required: columns, arrow_stream or dense")


def write_rows(scores: pa.RecordBatch, outputs: Sequence[Field], form: str | None) -> tuple[str, Sequence[Part]]:
    """Write the wanted outputs in the form of the request, the field of its input.

    Returns the field of the response's output, and its serialised parts in order; raises InvalidInput where a value has
    no form on the wire.
    """
    if form == "arrow_stream":
        return form, codec.stream_parts(caller_batch(scores))
    dense = codec.dense_parts(scores) if form == "dense" else None
    return ("columns", codec.column_parts(scores, outputs)) if dense is None else ("dense", dense)


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise BatchTooLarge(rows, limit)


_SPLIT: Final[dict[int, Callable[[memoryview], tuple[bytes, Views]]]] = {
    pb.ScoreRequest.DESCRIPTOR.fields_by_name[name].number: split
    for name, split in (
        ("columns", view_columns),
        ("arrow_stream", lambda stream: (b"", Views(stream))),
        ("dense", view_dense),
    )
}


def _split(request: memoryview) -> tuple[memoryview, Views]:
    rest: list[bytes | memoryview] = []
    views: Views | None = None
    try:
        for one in fields_of(request, 2 * MAX_FIELDS):
            split = _SPLIT.get(one.number) if one.wire_type == BYTES else None
            if split is None:
                rest.append(request[one.start : one.end])
                continue
            if views is not None:
                # Members of a oneof replace each other, and only then are parts of the same member merged.
                return request, Views()
            written, views = split(request[one.value : one.end])
            rest += (prefix(one.number, len(written)), written)
    except ManyFields:
        raise
    except NotPlain:
        return request, Views()
    return memoryview(b"".join(rest)), views or Views()


_DOUBLE: Final = 8

_FEW_VALUES: Final = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string)
"""Types of outputs such as classes, of which many rows have the same value: equal rows are written once."""


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


def response_metadata(target: Target, scores: ScoreResult, total: float) -> bytes:
    """Return a serialised `ScoreResponse` without an output; `total` is the seconds since the call arrived."""
    timing = _timing
    for part, seconds in ((timing.queue, scores.queue), (timing.compute, scores.compute), (timing.total, total)):
        part.seconds, part.nanos = divmod(int(seconds * 1e9), 1_000_000_000)
    timing.timing.batch_rows = scores.batch_rows
    return _version(target.name, target.version) + timing.response.SerializeToString()


@lru_cache(maxsize=1024)
def _version(name: str, version: str) -> bytes:
    return pb.ScoreResponse(model=model_pb2.ModelRef(name=name, version=version)).SerializeToString()


def write_response(scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes, id: bytes) -> bytes:
    """Return the serialised response to a call by itself; arguments as of `write_responses`, and any rows and form."""
    return append_output(common + _id_field(id), *write_rows(scores, outputs, form))


def append_output(response: bytes, form: str, parts: Sequence[Part]) -> bytes:
    """Append the parts of an output to a serialised `ScoreResponse` that has none, with one copy of them.

    protobuf merges a message that follows another on the wire, so fields can be appended to the rest, in any order.
    """
    tag = prefix(_FIELDS[form], sum(map(len, parts)))
    return b"".join([response, tag, *(memoryview(part) for part in parts)])


def _id_field(id: bytes) -> bytes:
    return prefix(_FIELDS["request_id"], len(id)) + id if id else b""


def write_responses(
    scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes, ids: Sequence[bytes]
) -> list[bytes]:
    """Return the serialised response to each of many calls of as many rows; raises InvalidInput as `write_rows` does.

    Args:
        scores: The wanted outputs, the rows of each call after those of the one before.
        outputs: The fields of its columns.
        form: The field of the requests' input, `columns` or `dense`.
        common: The fields that all responses share, a serialised `ScoreResponse`.
        ids: The `request_id` of each call, in UTF-8; empty for none.
    """
    rows = scores.num_rows // len(ids)
    responses = _write_doubles(scores, outputs, form, common, rows)
    if responses is None:
        few_values = rows == 1 and all(any(is_kind(type) for is_kind in _FEW_VALUES) for type in scores.schema.types)
        few_values = few_values and not codec.has_long_values(scores)
        known: dict[Any, bytes] = {}
        responses = []
        for start in range(0, scores.num_rows, rows):
            one = scores.slice(start, rows)
            values = tuple(column[0].as_py() for column in one.columns) if few_values else start
            if values not in known:
                field, written = _write_row(one, outputs, form)
                known[values] = b"".join((common, prefix(_FIELDS[field], len(written)), written))
            responses.append(known[values])
    return [one + _id_field(id) if id else one for one, id in zip(responses, ids, strict=True)]


def _write_doubles(
    scores: pa.RecordBatch, outputs: Sequence[Field], form: str, common: bytes, rows: int
) -> list[bytes] | None:
    """Write the rows of calls, which differ in the bytes of their doubles alone; None for other types."""
    columns = scores.columns
    if not columns or not all(column.type == pa.float64() and not column.null_count for column in columns):
        return None
    field, pieces = _doubles_pattern(tuple(outputs), form, rows)
    arrays = [column.to_numpy() for column in columns]
    if field == "dense":
        # Row by row.
        arrays = [arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)]
    values = [array.astype("<f8", copy=False).tobytes() for array in arrays]
    step = len(values[0]) * rows // scores.num_rows
    size = sum(map(len, pieces)) + step * len(values)
    pieces = [common + prefix(_FIELDS[field], size) + pieces[0], *pieces[1:]]
    if len(values) == 1:
        [head, end], [data] = pieces, values
        return [head + data[at : at + step] + end for at in range(0, len(data), step)]
    return [
        b"".join(part for pair in zip(pieces, (data[at : at + step] for data in values), strict=False) for part in pair)
        + pieces[-1]
        for at in range(0, len(values[0]), step)
    ]


@lru_cache(maxsize=256)
def _doubles_pattern(outputs: tuple[Field, ...], form: str, rows: int) -> tuple[str, list[bytes]]:
    """Return the output's field, and the bytes before, between and after the values of rows of doubles.

    Those of a column follow each other, and so do all that are dense.
    """
    # Two batches whose values differ in every byte show where these are.
    written = []
    for byte in (b"\x11", b"\x22"):
        array = pa.array(np.frombuffer(byte * _DOUBLE * rows, "<f8"))
        field, data = _write_row(
            pa.RecordBatch.from_arrays([array] * len(outputs), schema=fields_schema(outputs)), outputs, form
        )
        written.append(np.frombuffer(data, np.uint8))
    first, second = written
    step = _DOUBLE * rows * (len(outputs) if field == "dense" else 1)
    pieces, start = [], 0
    for place in np.flatnonzero(first != second)[::step].tolist():
        pieces.append(data[start:place])
        start = place + step
    return field, [*pieces, data[start:]]


def _write_row(row: pa.RecordBatch, outputs: Sequence[Field], form: str) -> tuple[str, bytes]:
    field, parts = write_rows(row, outputs, form)
    return field, b"".join(map(memoryview, parts))
