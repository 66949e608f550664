"""The dense form: numbers and booleans as one matrix."""

from __future__ import annotations

import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_from_rows, batch_to_rows, decode_dense, dense_inputs, encode_dense
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field, Scalar, ScalarKind, Signature, Tensor
from tests.batch.batch_reference import canonical

KINDS = (ScalarKind.DOUBLE, ScalarKind.FLOAT, ScalarKind.LONG, ScalarKind.INTEGER, ScalarKind.BOOLEAN)
EVERY = Signature(
    tuple(Field(kind.value, Scalar(kind)) for kind in KINDS)
    + tuple(Field(f"{kind.value}?", Scalar(kind), required=False) for kind in KINDS[2:])
    + (Field("u8", Tensor("uint8", (-1,))),),
    (),
)


def dense(*rows: list[float]) -> value_pb2.DenseBatch:
    """Write rows in the dense form."""
    return value_pb2.DenseBatch(num_rows=len(rows), values=b"".join(struct.pack(f"<{len(row)}d", *row) for row in rows))


def test_rows_come_out_in_the_declared_types() -> None:
    """NaN is a null, 0 and 1 are booleans, and whole numbers are exact."""
    batch = decode_dense(dense([0.1, 0.1, 2**53, -5, 1, math.nan, 7, 0, 255], [math.nan] * 2 + [0] * 7), EVERY)
    batch.validate(full=True)
    rows = batch_to_rows(batch)
    assert rows[0] == {
        "double": 0.1,
        "float": struct.unpack("<f", struct.pack("<f", 0.1))[0],
        "long": 2**53,
        "integer": -5,
        "boolean": True,
        "long?": None,
        "integer?": 7,
        "boolean?": False,
        "u8": 255,
    }
    assert all(math.isnan(float(str(rows[1][name]))) for name in ("double", "float"))


def test_every_fault_is_told() -> None:
    """Each value that does not survive exactly is refused at its place."""
    with pytest.raises(InvalidInput) as caught:
        decode_dense(
            dense(
                [0, 1e39, 2.0**54, 2.0**31, 2, 0.5, math.inf, math.nan, 256],
                [0, 0, math.nan, 0, math.nan, 0, 0, 0.5, 0],
            ),
            EVERY,
        )
    assert [violation.field for violation in caught.value.violations] == [
        'columns["float"][0]',
        'columns["long"][0]',
        'columns["long"][1]',
        'columns["integer"][0]',
        'columns["boolean"][1]',
        'columns["boolean"][0]',
        'columns["long?"][0]',
        'columns["integer?"][0]',
        'columns["boolean?"][1]',
        'columns["u8"][0]',
    ]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (value_pb2.DenseBatch(num_rows=1, values=b"1234567"), "dense.values"),
        (value_pb2.DenseBatch(num_rows=2**62, values=b""), "dense.values"),
        (value_pb2.DenseBatch(num_rows=-1), "dense.num_rows"),
    ],
)
def test_the_size_must_fit(message: value_pb2.DenseBatch, field: str) -> None:
    """The bytes are 8 for each input of each row."""
    with pytest.raises(InvalidInput) as caught:
        decode_dense(message, EVERY)
    assert caught.value.violations[0].field == field


def test_only_numbers_and_booleans_are_dense() -> None:
    """Text, nested values, and no columns at all have no dense form."""
    text = Field("s", Scalar(ScalarKind.STRING))
    assert dense_inputs(EVERY)
    assert not any(dense_inputs(Signature(fields, ())) for fields in ((), (text,), (*EVERY.inputs, text)))
    assert not dense_inputs(Signature((Field("a", AnyValue()),), ()))
    assert not dense_inputs(Signature((Field("a", Tensor("float32", (-1, 2))),), ()))
    assert dense_inputs(Signature((Field("a", Tensor("float32", (-1,))),), ()))
    with pytest.raises(InvalidInput):
        decode_dense(value_pb2.DenseBatch(), Signature((text,), ()))


@pytest.mark.parametrize(
    ("array", "possible"),
    [
        (pa.array([2**53, -(2**53), None]), True),
        (pa.array([2**53 + 1]), False),
        (pa.array([2**63], pa.uint64()), False),
        (pa.array(["a"]), False),
        (pa.array([True, None]), True),
        (pa.array([], pa.int64()), True),
    ],
)
def test_what_is_not_exact_is_not_encoded(array: pa.Array, possible: bool) -> None:
    """Where a value would change the caller sends columns."""
    assert (encode_dense(pa.record_batch({"x": array})) is not None) is possible


ROW = st.fixed_dictionaries(
    {
        "double": st.floats(),
        "float": st.floats(width=32),
        "long": st.integers(-(2**53), 2**53),
        "integer": st.integers(-(2**31), 2**31 - 1),
        "boolean": st.booleans(),
        "long?": st.none() | st.integers(-(2**53), 2**53),
        "integer?": st.none() | st.integers(-(2**31), 2**31 - 1),
        "boolean?": st.none() | st.booleans(),
        "u8": st.integers(0, 255),
    }
)


@given(st.lists(ROW, max_size=5))
def test_encoding_and_decoding_is_the_identity(rows: list[dict[str, Any]]) -> None:
    """What can be told densely comes back as it was."""
    batch = batch_from_rows(rows, EVERY.inputs) if rows else decode_dense(dense(), EVERY)
    message = encode_dense(batch)
    assert message is not None
    assert canonical(batch_to_rows(decode_dense(message, EVERY))) == canonical(batch_to_rows(batch))
    assert encode_dense(decode_dense(message, EVERY)) == message
