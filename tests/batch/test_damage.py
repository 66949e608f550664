"""Damaged messages: whatever bytes are changed, a valid batch comes of them, or InvalidInput."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_to_rows, decode_columns, decode_dense, decode_params, encode_columns
from prinz_enricher.contract import signature_pb2, value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Param, Signature, SignatureError, from_wire

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "vectors.json").read_text(encoding="utf-8"))
NAMED = {vector["name"]: vector for vector in VECTORS}
CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6)


def damaged(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """Change some bytes."""
    written = bytearray(data)
    for place, byte in changes:
        if written:
            written[place % len(written)] = byte
    return bytes(written)


@given(st.sampled_from(VECTORS), st.sampled_from(VECTORS), CHANGES)
@example(NAMED["long of doubles out of range"], NAMED["tensor uint64"], [])
def test_damaged_columns_are_decoded_or_refused(vector: Any, other: Any, changes: list[tuple[int, int]]) -> None:
    """Columns of one type sent for another, with some bytes changed, never end in another error."""
    signature = from_wire(signature_pb2.Signature.FromString(bytes.fromhex(other["signature"])))
    try:
        message = value_pb2.ColumnBatch.FromString(damaged(bytes.fromhex(vector["column_batch"]), changes))
        batch = decode_columns(message, signature)
    except (DecodeError, InvalidInput):
        return
    batch.validate(full=True)
    try:
        encode_columns(batch)
    except InvalidInput:
        # The wire has no unsigned integers; those of a uint64 tensor that no long can hold are told, never wrapped.
        assert any(is_beyond_long(column) for column in batch.columns)


def is_beyond_long(column: pa.Array) -> bool:
    """Tell whether a column has an unsigned integer of 64 bits that a signed one can't hold."""
    return pa.types.is_uint64(column.type) and any(value > 2**63 - 1 for value in column.to_pylist())


@given(st.sampled_from(VECTORS), CHANGES)
def test_damaged_signatures_are_read_or_refused(vector: Any, changes: list[tuple[int, int]]) -> None:
    """A client reads the signature that a server sent, or a SignatureError."""
    try:
        signature = from_wire(signature_pb2.Signature.FromString(damaged(bytes.fromhex(vector["signature"]), changes)))
    except (DecodeError, SignatureError):
        return
    assert len(signature.digest) == 32


@given(st.integers(-2, 5), st.binary(max_size=80))
def test_random_dense_batches_are_decoded_or_refused(rows: int, values: bytes) -> None:
    """Any number of rows with any bytes."""
    signature = from_wire(signature_pb2.Signature.FromString(bytes.fromhex(VECTORS[3]["signature"])))
    try:
        batch_to_rows(decode_dense(value_pb2.DenseBatch(num_rows=rows, values=values), signature))
    except InvalidInput:
        return


@given(st.sampled_from(VECTORS), st.sampled_from(VECTORS))
def test_parameters_of_any_kind_are_decoded_or_refused(vector: Any, other: Any) -> None:
    """Any value for a parameter of any type."""
    field = from_wire(signature_pb2.Signature.FromString(bytes.fromhex(other["signature"]))).inputs[0]
    signature = Signature((), (), (Param("p", field.type, None),))
    for value in value_pb2.ColumnBatch.FromString(bytes.fromhex(vector["column_batch"])).columns[0].nested.values:
        try:
            decode_params({"p": value}, signature)
        except InvalidInput:
            continue
