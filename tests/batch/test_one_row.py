"""One row: read in a short way, and just as any number of rows is read."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_to_rows, decode_columns, decode_dense, encode_columns
from prinz_enricher.batch.layout import input_layout
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field, Scalar, ScalarKind, Signature
from tests.batch.batch_reference import canonical
from tests.batch.batch_strategies import fitting

KINDS = {
    ScalarKind.DOUBLE: "doubles",
    ScalarKind.FLOAT: "floats",
    ScalarKind.LONG: "int64s",
    ScalarKind.INTEGER: "int32s",
    ScalarKind.BOOLEAN: "bools",
    ScalarKind.STRING: "strings",
}
NAMES = st.sampled_from(["a", "b", "c", "é", ""])
SIGNATURES = st.lists(
    st.builds(Field, NAMES, st.sampled_from(list(KINDS)).map(Scalar), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda field: field.name,
).map(lambda fields: Signature(tuple(fields), ()))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.integers(0, 200).map(lambda size: "é" * size)


@st.composite
def fitting_rows(draw: st.DrawFn) -> tuple[Signature, value_pb2.ColumnBatch]:
    """Draw a signature, and one row with each of its columns."""
    signature = draw(SIGNATURES)
    message = value_pb2.ColumnBatch(num_rows=1)
    for field in signature.inputs:
        assert isinstance(field.type, Scalar)
        text = field.type.kind is ScalarKind.STRING
        value = draw(TEXTS if text else fitting(field.type, True))
        getattr(message.columns.add(name=field.name), KINDS[field.type.kind]).values.append(value)
    return signature, message


@st.composite
def other_rows(draw: st.DrawFn) -> tuple[Signature, value_pb2.ColumnBatch]:
    """Draw a signature, and one row that nearly fits it."""
    signature, message = draw(fitting_rows())
    columns = list(draw(st.permutations(list(message.columns))))
    other = draw(st.sampled_from(columns))
    match draw(st.integers(0, 7)):
        case 0:
            columns.append(other)
        case 1:
            columns.remove(other)
        case 2:
            other.validity = draw(st.binary(min_size=1, max_size=2))
        case 3:
            held = getattr(other, str(other.WhichOneof("values"))).values
            held.extend(held)
        case 4:
            other.name = draw(NAMES)
        case 5:
            other.nested.SetInParent()
        case 6:
            other.nested.SetInParent()
            other.ClearField("nested")
        case _:
            _, another = draw(fitting_rows())
            columns = list(another.columns)
    return signature, value_pb2.ColumnBatch(num_rows=1, columns=columns)


@st.composite
def rows_with_nulls(draw: st.DrawFn) -> tuple[Signature, value_pb2.ColumnBatch]:
    """Draw a signature, and one row whose columns say what is null, rightly or wrongly."""
    signature, message = draw(fitting_rows())
    for column in message.columns:
        column.validity = draw(st.sampled_from([b"", b"\0", b"\1", b"\xfe", b"\xff", b"\0\0"]))
    return signature, message


def outcome(message: value_pb2.ColumnBatch, signature: Signature) -> object:
    """Give all that a caller can tell of how a row was read."""
    try:
        batch = decode_columns(message, signature)
    except InvalidInput as error:
        return error.violations
    batch.validate(full=True)
    return batch.schema, encode_columns(batch).SerializeToString()


def outcome_of_many(message: value_pb2.ColumnBatch, signature: Signature) -> object:
    """Give the same of the way that any number of rows goes."""
    layout = input_layout(signature)
    short, layout.one_row = layout.one_row, None
    try:
        return outcome(message, signature)
    finally:
        layout.one_row = short


@given(fitting_rows() | other_rows() | rows_with_nulls())
def test_the_short_way_gives_what_the_long_one_gives(row: tuple[Signature, value_pb2.ColumnBatch]) -> None:
    """One row that fits, or nearly fits, is read or refused as if it were one of many."""
    signature, message = row

    assert input_layout(signature).one_row is not None
    assert outcome(message, signature) == outcome_of_many(message, signature)


@given(fitting_rows())
def test_a_row_that_fits_is_taken(row: tuple[Signature, value_pb2.ColumnBatch]) -> None:
    """Each value is the one that was sent."""
    signature, message = row
    sent = {one.name: getattr(one, str(one.WhichOneof("values"))).values[0] for one in message.columns}

    assert canonical(batch_to_rows(decode_columns(message, signature))) == canonical([sent])


@given(rows_with_nulls())
def test_what_is_null_is_null_in_its_column_alone(row: tuple[Signature, value_pb2.ColumnBatch]) -> None:
    """A null of a float is NaN, of another column null, or refused where it is required; all else is as it was sent."""
    signature, message = row
    null = {one.name for one in message.columns if one.validity and not one.validity[0] & 1}
    wrong = [len(one.validity) > 1 for one in message.columns]
    wrong += [
        field.name in null and field.required and KINDS[field.type.kind] in ("bools", "int32s", "int64s")
        for field in signature.inputs
        if isinstance(field.type, Scalar)
    ]
    sent: dict[str, object] = {}
    for one in message.columns:
        kind = str(one.WhichOneof("values"))
        missing = float("nan") if kind in ("doubles", "floats") else None
        sent[one.name] = missing if one.name in null else getattr(one, kind).values[0]
    if any(wrong):
        with pytest.raises(InvalidInput):
            decode_columns(message, signature)
    else:
        assert canonical(batch_to_rows(decode_columns(message, signature))) == canonical([sent])


@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0x7FF0000000000001, 0xFFF8DEADBEEF0000, 1 << 63, 1])
def test_doubles_keep_their_bits(bits: int) -> None:
    """Whatever NaN, negative zero or smallest number was sent, its very bits arrive."""
    raw = struct.pack("<QQ", bits, bits)
    value = struct.unpack("<dd", raw)[0]
    fields = tuple(Field(name, Scalar(ScalarKind.DOUBLE)) for name in "xy")
    message = value_pb2.ColumnBatch(num_rows=1)
    for name in "xy":
        message.columns.add(name=name).doubles.values.append(value)
    dense = value_pb2.DenseBatch(num_rows=1, values=raw)

    for batch in (decode_columns(message, Signature(fields, ())), decode_dense(dense, Signature(fields, ()))):
        assert b"".join(column.buffers()[1].to_pybytes()[:8] for column in batch.columns) == raw


def test_a_short_message_is_no_other() -> None:
    """Two rows, and fields that this version does not know, are not taken for one row."""
    signature = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), ())
    message = value_pb2.ColumnBatch(num_rows=1)
    message.columns.add(name="x").doubles.values.append(0.5)
    unknown = value_pb2.ColumnBatch.FromString(message.SerializeToString() + b"\x78\x01")
    message.num_rows = 2

    assert decode_columns(unknown, signature).to_pydict() == {"x": [0.5]}
    with pytest.raises(InvalidInput, match="num_rows is 2"):
        decode_columns(message, signature)


@pytest.mark.parametrize("fields", [(), (Field("x", AnyValue()),), (Field("x", Scalar(ScalarKind.DATETIME)),)])
def test_other_signatures_have_no_short_way(fields: tuple[Field, ...]) -> None:
    """Text that holds JSON, instants, and no columns at all are read in the long way alone."""
    assert input_layout(Signature(fields, ())).one_row is None


def test_long_texts_take_the_long_way() -> None:
    """A text of any length is read."""
    signature = Signature((Field("s", Scalar(ScalarKind.STRING)), Field("x", Scalar(ScalarKind.DOUBLE))), ())
    for size in (0, 15, 16, 17, 127, 128, 129, 100_000):
        message = value_pb2.ColumnBatch(num_rows=1)
        message.columns.add(name="s").strings.values.append("s" * size)
        message.columns.add(name="x").doubles.values.append(1)

        batch = decode_columns(message, signature)

        batch.validate(full=True)
        assert batch.column("s") == pa.array(["s" * size])
