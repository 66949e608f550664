"""Wire columns: the shape of a batch, and every fault of it at once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from prinz_enricher.batch import batch_to_rows, decode_columns, encode_columns
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    read_signature,
)

DOUBLE, LONG, STRING = Scalar(ScalarKind.DOUBLE), Scalar(ScalarKind.LONG), Scalar(ScalarKind.STRING)
SIGNATURE = Signature(
    (Field("x", DOUBLE), Field("n", LONG), Field("s", STRING), Field("o", LONG, required=False)), (Field("y", DOUBLE),)
)


def column(name: str, validity: bytes = b"", **values: list[Any]) -> value_pb2.Column:
    """Make a column of one kind."""
    made = value_pb2.Column(name=name, validity=validity)
    for kind, held in values.items():
        getattr(made, kind).SetInParent()
        getattr(made, kind).values.extend(held)
    return made


def decode(rows: int, *columns: value_pb2.Column, signature: Signature = SIGNATURE) -> pa.RecordBatch:
    """Decode some columns."""
    return decode_columns(value_pb2.ColumnBatch(num_rows=rows, columns=columns), signature)


def faults(rows: int, *columns: value_pb2.Column, signature: Signature = SIGNATURE) -> list[tuple[str, str]]:
    """Decode what is refused, and give the violations."""
    with pytest.raises(InvalidInput) as caught:
        decode(rows, *columns, signature=signature)
    return [(violation.field, violation.description) for violation in caught.value.violations]


def test_every_fault_of_a_batch_is_told_at_once() -> None:
    """Missing, unknown, ragged, repeated and wrong columns are all in one error."""
    told = faults(
        2,
        column("x", doubles=[1.0]),
        column("n", doubles=[1.5, 2.0]),
        column("o", strings=["1", "2"]),
        column("zz", doubles=[1.0, 2.0]),
        column("zz", doubles=[1.0, 2.0]),
    )
    assert told == [
        ('columns["zz"]', "is there twice"),
        ('columns["x"]', "has 1 values, but num_rows is 2"),
        ('columns["n"][0]', "is not a whole number"),
        ('columns["s"]', "is missing, but the column is required"),
        ('columns["o"]', "is text; wanted long"),
        ('columns["zz"]', "is not a column of this model"),
    ]


def test_a_hundred_faults_are_told_and_the_rest_counted() -> None:
    """An error stays small however wrong the batch is."""
    with pytest.raises(InvalidInput) as caught:
        decode(
            1000, column("x", doubles=[0.5] * 1000), column("n", doubles=[0.5] * 1000), column("s", strings=[""] * 1000)
        )
    assert len(caught.value.violations) == 100
    assert caught.value.omitted == 900
    assert caught.value.metadata["faults"] == "1000"


def test_nulls_are_what_the_policy_says() -> None:
    """A null is NaN in a double, null in text and where the column is optional, and refused elsewhere."""
    batch = decode(
        3,
        column("o", b"\x05", int64s=[7, 99, 9]),
        column("s", b"\xfe", strings=["", "b", "c"]),
        column("x", b"\x03", doubles=[1.0, 2.0, 3.0]),
        column("n", int64s=[1, 2, 3]),
    )
    assert batch.schema.names == ["x", "n", "s", "o"]
    assert str(batch_to_rows(batch)) == (
        "[{'x': 1.0, 'n': 1, 's': None, 'o': 7}, {'x': 2.0, 'n': 2, 's': 'b', 'o': None},"
        " {'x': nan, 'n': 3, 's': 'c', 'o': 9}]"
    )
    told = faults(
        3, column("x", doubles=[1] * 3), column("n", b"\x06", int64s=[1, 2, 3]), column("s", strings=["a"] * 3)
    )
    assert told == [('columns["n"][0]', "is null, but a value is required")]


def test_an_optional_column_that_is_left_out_is_left_out() -> None:
    """The batch has the columns that were sent, in the order of the signature."""
    batch = decode(1, column("s", strings=["a"]), column("n", int32s=[3]), column("x", int64s=[5]))
    assert batch.schema.names == ["x", "n", "s"]
    assert batch.schema.types == [pa.float64(), pa.int64(), pa.utf8()]


@pytest.mark.parametrize(
    ("rows", "bad", "field"),
    [
        (-1, column("x", doubles=[1]), "num_rows"),
        (1, column("x", b"\x01\x01", doubles=[1]), 'columns["x"]'),
        (9, column("x", b"\x01", doubles=[1] * 9), 'columns["x"]'),
        (1, column("x"), 'columns["x"]'),
        (2**62, column("x", doubles=[1]), 'columns["x"]'),
        (1, value_pb2.Column(name="x", nested=value_pb2.NestedValues(values=[value_pb2.Value()])), 'columns["x"][0]'),
        (1, column('q"\n', doubles=[1]), 'columns["q\\"\\n"]'),
    ],
)
def test_a_malformed_column_is_refused(rows: int, bad: value_pb2.Column, field: str) -> None:
    """Lengths, bitmaps and kinds are checked before any value is looked at."""
    assert field in dict(faults(rows, bad))


def test_a_batch_of_zero_rows_has_the_declared_types() -> None:
    """Zero rows are a batch, also where its columns say no kind."""
    batch = decode(0, column("x"), column("n", int64s=[]), column("s", strings=[]))
    assert batch.num_rows == 0
    assert batch.schema.types == [pa.float64(), pa.int64(), pa.utf8()]


def test_rows_are_counted_without_columns() -> None:
    """A model of which all inputs are optional may be asked for rows without one."""
    signature = Signature((Field("o", LONG, required=False),), ())
    assert decode(5, signature=signature).num_rows == 5
    assert encode_columns(decode(5, signature=signature)) == value_pb2.ColumnBatch(num_rows=5)


def test_a_missing_signature_takes_columns_of_any_name_and_kind() -> None:
    """Each value becomes JSON, which tells 1 from 1.0; binary has no JSON."""
    signature = read_signature({})
    message = [
        column("a", doubles=[1.0, float("inf")]),
        column("b", b"\x01", int64s=[1, 2]),
        column("c", strings=['"', "1"]),
    ]
    batch = decode(2, *message, column("d", bools=[True, False]), signature=signature)
    assert batch.to_pydict() == {
        "a": ["1.0", "Infinity"],
        "b": ["1", None],
        "c": ['"\\""', '"1"'],
        "d": ["true", "false"],
    }
    assert batch.schema.field("a").metadata == {b"prinz.type": b"any"}
    assert faults(1, column("a", binaries=[b""]), column("b", timestamps=[0]), signature=signature) == [
        ('columns["a"]', "is binary, which a value of any type can't hold"),
        ('columns["b"]', "is a timestamp, which a value of any type can't hold"),
    ]


def nested(value: Any, kind: Any, *, required: bool = True) -> list[tuple[str, str]]:
    """Decode one nested value that is refused."""
    made = value_pb2.ColumnBatch(num_rows=1)
    from prinz_enricher.signature.value import fill_value

    fill_value(made.columns.add(name="x").nested.values.add(), value)
    with pytest.raises(InvalidInput) as caught:
        decode_columns(made, Signature((Field("x", kind, required),), ()))
    return [(violation.field, violation.description) for violation in caught.value.violations]


def test_nested_faults_are_told_by_their_path() -> None:
    """Indexes, keys and properties lead to each value that is refused."""
    record = Record((Field("a", LONG), Field("b c", DOUBLE, required=False)))
    told = nested([{"a": 1.5}, {"b c": "x"}, {"a": None, "d": 1}, 3], ListOf(record))
    assert told == [
        ('columns["x"][0][0].a', "is not a whole number"),
        ('columns["x"][0][1].a', "is missing, but is required"),
        ('columns["x"][0][1]["b c"]', "is text; wanted double"),
        ('columns["x"][0][2].a', "is null, but a value is required"),
        ('columns["x"][0][2].d', "is not a property of this record"),
        ('columns["x"][0][3]', "is a number; wanted object"),
    ]
    assert nested({"k": "v"}, MapOf(LONG)) == [('columns["x"][0]["k"]', "is text; wanted long")]
    assert nested([[1.0, 2.0], [1.0]], Tensor("float32", (-1, -1, 2))) == [
        ('columns["x"][0][1]', "does not have the declared length of 2")
    ]
    assert nested({"a": [b""]}, AnyValue()) == [
        ('columns["x"][0]["a"][0]', "is binary, which a value of any type can't hold")
    ]


def test_a_value_nested_too_deep_is_refused() -> None:
    """Depth ends in a violation, never in the end of Python's stack."""
    value = value_pb2.Value(int64_value=1)
    for _ in range(40):
        value = value_pb2.Value(list_value=value_pb2.ListValue(values=[value]))
    made = value_pb2.Column(name="x", nested=value_pb2.NestedValues(values=[value]))
    for kind in (AnyValue(), ListOf(LONG)):
        told = faults(1, made, signature=Signature((Field("x", kind),), ()))
        assert told == [('columns["x"][0]', "is nested deeper than 32 levels")]


@pytest.mark.parametrize(
    ("array", "field"),
    [
        (pa.array([2**63], pa.uint64()), 'columns["y"][0]'),
        (pa.array([0, 1], pa.timestamp("ns")), 'columns["y"][1]'),
        (pa.array([1], pa.duration("s")), 'columns["y"]'),
    ],
)
def test_what_the_wire_can_not_tell_is_not_encoded(array: pa.Array, field: str) -> None:
    """A value without a form on the wire is an error, never another value."""
    with pytest.raises(InvalidInput) as caught:
        encode_columns(pa.record_batch([array], names=["y"]))
    assert caught.value.violations[0].field == field


def test_tensors_of_any_dtype_are_answered() -> None:
    """Narrow whole numbers go as int32, wide ones as int64, float16 as float."""
    batch = pa.record_batch(
        {
            "u8": pa.array([255], pa.uint8()),
            "u32": pa.array([2**32 - 1], pa.uint32()),
            "u64": pa.array([2**63 - 1], pa.uint64()),
            "f16": pa.array(
                [
                    0.5,
                ][:1],
                pa.float16(),
            ),
        }
    )
    message = encode_columns(batch)
    assert [one.WhichOneof("values") for one in message.columns] == ["int32s", "int64s", "int64s", "floats"]
    assert message.columns[2].int64s.values[0] == 2**63 - 1
