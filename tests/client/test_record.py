"""Single records: the same policy as for whole batches, and rows that a model can tell apart do not go together."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_from_rows, decode_columns, encode_columns
from prinz_enricher.client.score_plan import FULL, Records
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature
from tests.batch.batch_strategies import fields_of, value_for
from tests.batch.batch_strategies import types as any_types

K = ScalarKind
SCALARS = tuple(Field(kind.value, Scalar(kind), required=False) for kind in ScalarKind)


def outcome(fields: tuple[Field, ...], record: dict[str, Any]) -> Any:
    """Say what becomes of a record that is sent as a batch of its own: the message, or every fault."""
    try:
        return encode_columns(batch_from_rows([record], fields), fields)
    except InvalidInput as error:
        return error.violations


def outcome_alone(fields: tuple[Field, ...], record: dict[str, Any]) -> Any:
    """Say what becomes of a record that goes the short way."""
    records = Records(fields)
    try:
        shape, row = records.admit(record)
        return records.encode(shape, [row])
    except InvalidInput as error:
        return error.violations


@given(st.data())
def test_a_record_is_the_batch_of_one_row(data: st.DataObject) -> None:
    """What is sent of a single record, and what is refused of it, is what a batch of it has."""
    fields = data.draw(fields_of(any_types))
    record = data.draw(st.fixed_dictionaries({}, optional={f.name: value_for(f.type, f.required) for f in fields}))
    assert str(outcome_alone(fields, record)) == str(outcome(fields, record))


@given(st.data())
def test_rows_together_are_each_as_it_is_alone(data: st.DataObject) -> None:
    """Decoded from a message of several, every row is the one that comes of a message of its own."""
    fields = data.draw(fields_of(any_types))
    signature = Signature(fields, ())
    made = st.fixed_dictionaries({f.name: value_for(f.type, f.required) for f in fields})
    records = Records(fields)
    rows: dict[Any, list[tuple[object, ...]]] = {}
    for record in data.draw(st.lists(made, max_size=6)):
        try:
            shape, row = records.admit(record)
            records.encode(shape, [row])
        except InvalidInput:
            continue
        rows.setdefault(shape, []).append(row)
    for shape, those in rows.items():
        together = decode_columns(records.encode(shape, those), signature)
        for place, row in enumerate(those):
            alone = decode_columns(records.encode(shape, [row]), signature)
            assert together.schema == alone.schema
            # Not as Python values: a timestamp may be outside the years of `datetime`.
            sliced = encode_columns(together.slice(place, 1), fields)
            assert str(sliced) == str(encode_columns(alone, fields))


@pytest.mark.parametrize(
    ("record", "names", "nulls"),
    [
        ({"double": 1.0}, ("double",), ()),
        ({"double": None}, ("double",), ()),
        ({"long": None}, ("long",), (0,)),
        ({"long": 1, "string": None}, ("long", "string"), (1,)),
        ({"string": "a", "long": 1}, ("long", "string"), ()),
    ],
)
def test_absent_and_null_columns_make_another_shape(
    record: dict[str, Any], names: tuple[str, ...], nulls: tuple[int, ...]
) -> None:
    """The shape tells which columns are there and which are null; a missing number is NaN, and no null."""
    shape, _ = Records(SCALARS).admit(record)
    assert (shape.names, shape.nulls) == (names, nulls)


def test_a_whole_record_is_full() -> None:
    """With every column and no null the shape is the one of nearly all rows, whether values are exact or not."""
    fields = SCALARS[:-1]
    exact = {"boolean": True, "integer": 1, "long": 2, "float": 0.5, "double": 1.5, "string": "ü", "binary": b"b"}
    for record in (exact, exact | {"double": 1}, exact | {"long": 2.0}, exact | {"double": math.nan}):
        shape, row = Records(fields).admit(record)
        assert shape is FULL
        assert [type(value) for value in row] == [bool, int, int, float, float, str, bytes]


@pytest.mark.parametrize(
    "wrong",
    [
        {"boolean": 1}, {"integer": 2**31}, {"long": 2**63}, {"long": 1.5}, {"float": 1e39}, {"double": 2**53 + 1},
        {"double": "1"}, {"string": 1}, {"string": "\ud800"}, {"binary": "b"}, {"double": True},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    """A value of the right Python type is refused too where the column can't hold it."""
    (name,) = wrong
    with pytest.raises(InvalidInput) as raised:
        Records(SCALARS).admit(wrong)
    assert [fault.field for fault in raised.value.violations] == [f'columns["{name}"][0]']


def test_every_fault_of_a_record_is_told() -> None:
    """An unknown column, a missing one and a wrong value are all in one error."""
    fields = (Field("x", Scalar(K.DOUBLE)), Field("y", Scalar(K.DOUBLE)))
    with pytest.raises(InvalidInput) as raised:
        Records(fields).admit({"x": "no", "z": 1})
    assert [fault.field for fault in raised.value.violations] == ['columns["z"]', 'columns["x"][0]', 'columns["y"]']


def test_a_model_without_a_signature() -> None:
    """Columns of any name are taken, and rows of other names have another shape."""
    records = Records(())
    one, row = records.admit({"a": 1, "b": "two"})
    other, _ = records.admit({"a": 1})
    assert one.names == ("a", "b")
    assert one != other
    assert records.encode(one, [row, row]).num_rows == 2
