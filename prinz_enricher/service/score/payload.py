"""The payload of a `Score` call: rows as columns, an Arrow stream or dense, and scores in the same form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from google.protobuf.message import DecodeError

from prinz_enricher import batch as codec
from prinz_enricher.batch.arrow_stream import caller_batch
from prinz_enricher.batch.wire import (
    BYTES,
    MAX_FIELDS,
    NotPlain,
    Part,
    Views,
    fields_of,
    prefix,
    view_columns,
    view_dense,
)
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import BatchTooLarge, InvalidRequest
from prinz_enricher.signature import Field, Signature

MAX_INDEPENDENT_ROWS = 4096
"""Rows of a request with `independent_rows`: where a version's calls are not scored together, each row is a job."""

_OUTPUTS: Final = {name: field.number for name, field in pb.ScoreResponse.DESCRIPTOR.fields_by_name.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a request.

    Attributes:
        rows: Rows.
        bytes: Bytes of an Arrow stream once it is decompressed: a small one can become a very large one.
        shared: Rows of several callers in one model call.
    """

    rows: int
    bytes: int
    shared: int = 1024


def parse_score_request(data: bytes) -> tuple[pb.ScoreRequest, Views]:
    """Parse a large request without copying its values.

    The top level of the message is walked as the wire format has it; the Arrow stream, or the values of columns and
    dense rows, stay where they are, and protobuf parses the rest.

    Returns:
        The message, and the values that it lacks, as views of `data`. What can't be separated with certainty stays in
        the message.

    Raises:
        InvalidRequest: `data` is not a ScoreRequest.
    """
    try:
        try:
            rest, views = _split(memoryview(data))
        except NotPlain:
            return pb.ScoreRequest.FromString(data), Views()
        return pb.ScoreRequest.FromString(rest), views
    except DecodeError:
        raise InvalidRequest("request", "is not a ScoreRequest message") from None


def declared_rows(request: pb.ScoreRequest, form: str | None) -> int:
    """Return the number of rows that a request declares; 1 for an Arrow stream, which must be read first."""
    if form == "columns":
        return request.columns.num_rows
    return request.dense.num_rows if form == "dense" else 1


def read_rows(request: pb.ScoreRequest, signature: Signature, limits: Limits, views: Views) -> pa.RecordBatch:
    """Return the rows of a request, checked against the signature.

    Args:
        request: The message.
        signature: The model's.
        limits: Bounds of the request.
        views: The values that the message lacks.

    Raises:
        InvalidInput: The rows do not fit the signature.
        InvalidRequest: There are no rows, or their form is not allowed in this request.
        BatchTooLarge: There are too many rows.
    """
    form = request.WhichOneof("input")
    if form == "columns":
        _check_rows(request.columns.num_rows, limits.rows)
        return codec.decode_columns(request.columns, signature, views.columns)
    if form == "arrow_stream":
        stream = request.arrow_stream if views.data is None else views.data
        return codec.decode_stream(stream, signature, limits.rows, limits.bytes)
    if form == "dense":
        if not request.signature_digest:
            raise InvalidRequest(
                "signature_digest", "is required with dense rows, since their order is the signature's"
            )
        _check_rows(request.dense.num_rows, limits.rows)
        return codec.decode_dense(request.dense, signature, views.data)
    raise InvalidRequest("input", "is required: columns, arrow_stream or dense")


def write_rows(scores: pa.RecordBatch, outputs: Sequence[Field], form: str | None) -> tuple[str, Sequence[Part]]:
    """Return the scores in the form of the request.

    Args:
        scores: The wanted outputs.
        outputs: The fields of its columns.
        form: The field of the request's input.

    Returns:
        The field of the response's output, and its serialised parts in order.

    Raises:
        InvalidInput: A value has no form on the wire.
    """
    if form == "arrow_stream":
        return form, codec.stream_parts(caller_batch(scores))
    dense = codec.dense_parts(scores) if form == "dense" else None
    return ("columns", codec.column_parts(scores, outputs)) if dense is None else ("dense", dense)


def append_output(response: bytes, form: str, parts: Sequence[Part]) -> bytes:
    """Append an output to a serialised `ScoreResponse` that has none, with one copy of its parts.

    protobuf merges a message that follows another on the wire, so the field can be appended to the rest.

    Args:
        response: The other fields, serialised.
        form: The field of the output.
        parts: The serialised output.
    """
    tag = prefix(_OUTPUTS[form], sum(map(len, parts)))
    return b"".join([response, tag, *(memoryview(part) for part in parts)])


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise BatchTooLarge(rows, limit)


def _view_stream(stream: memoryview) -> tuple[bytes, Views]:
    return b"", Views(stream)


_SPLIT: Final[dict[int, Callable[[memoryview], tuple[bytes, Views]]]] = {
    pb.ScoreRequest.DESCRIPTOR.fields_by_name[name].number: split
    for name, split in (("columns", view_columns), ("arrow_stream", _view_stream), ("dense", view_dense))
}


def _split(request: memoryview) -> tuple[bytes, Views]:
    rest: list[bytes | memoryview] = []
    views: Views | None = None
    for one in fields_of(request, MAX_FIELDS):
        split = _SPLIT.get(one.number) if one.wire_type == BYTES else None
        if split is None:
            rest.append(request[one.start : one.end])
            continue
        if views is not None:
            # Members of a oneof replace each other, and only then are parts of the same member merged.
            raise NotPlain
        written, views = split(request[one.value : one.end])
        rest += (prefix(one.number, len(written)), written)
    return b"".join(rest), views or Views()
