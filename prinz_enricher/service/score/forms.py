"""The forms in which rows come and scores go: columns, an Arrow stream, dense rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from prinz_enricher import batch as codec
from prinz_enricher.batch.caller import caller_batch
from prinz_enricher.batch.wire_parts import Part
from prinz_enricher.batch.wire_views import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import BatchTooLarge, InvalidRequest
from prinz_enricher.signature import Field, Signature

MOST_INDEPENDENT = 4096
"""Rows of a request that are calls of their own: where a version's calls are not scored together, each is a job."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may have at most.

    Attributes:
        rows: Rows.
        bytes: Bytes of an Arrow stream once it is decompressed, since a small one can become a very large one.
        shared: Rows of several callers in one model call.
    """

    rows: int
    bytes: int
    shared: int = 1024


def rows_told(request: pb.ScoreRequest, form: str | None) -> int:
    """Return the rows of a request as it tells them; 1 where only its values do."""
    if form == "columns":
        return request.columns.num_rows
    return request.dense.num_rows if form == "dense" else 1


def read_rows(request: pb.ScoreRequest, signature: Signature, limits: Limits, views: Views) -> pa.RecordBatch:
    """Return the rows of a request, checked against the signature.

    Args:
        request: The message.
        signature: Of the model.
        limits: What there may be at most.
        views: The values that the message is without.

    Raises:
        InvalidInput: They do not fit it.
        InvalidRequest: There are none, or in a form that this request can't have.
        BatchTooLarge: There are too many.
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


def write_rows(wanted: pa.RecordBatch, outputs: Sequence[Field], form: str | None) -> tuple[str, Sequence[Part]]:
    """Write the wanted outputs in the form of a request.

    Args:
        wanted: Of the outputs' types.
        outputs: What its columns are.
        form: The field of the request's input.

    Returns:
        The field of the response's output, and parts that together are it, serialised.

    Raises:
        InvalidInput: A value has no form on the wire.
    """
    if form == "arrow_stream":
        return form, codec.stream_parts(caller_batch(wanted))
    dense = codec.dense_parts(wanted) if form == "dense" else None
    return ("columns", codec.column_parts(wanted, outputs)) if dense is None else ("dense", dense)


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise BatchTooLarge(rows, limit)
