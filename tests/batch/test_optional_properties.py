"""Properties that an object lacks, and those that are null in it: told apart from the wire to the model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prinz_enricher.batch import (
    Violations,
    batch_from_rows,
    batch_to_rows,
    caller_batch,
    conform,
    decode_columns,
    decode_params,
    decode_stream,
    encode_columns,
    encode_stream,
)
from prinz_enricher.batch.python_values import python_values
from prinz_enricher.client.row_forms import to_batch
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Type,
    to_value,
    to_wire,
)
from prinz_enricher.signature.value import fill_value
from prinz_enricher.worker.model_inputs import column_values
from tests.batch.batch_reference import accept, canonical
from tests.batch.batch_strategies import columns, fitting

DOUBLE, FLOAT, LONG, STRING = (
    Scalar(kind) for kind in (ScalarKind.DOUBLE, ScalarKind.FLOAT, ScalarKind.LONG, ScalarKind.STRING)
)
PROMO = Record((Field("sku", STRING), Field("promo", DOUBLE, required=False)))


def signature_of(type: Type, *, required: bool = True) -> Signature:
    """Make a signature of one input, `x`."""
    return Signature((Field("x", type, required),), (Field("y", type, required),))


def from_wire(rows: list[Any], signature: Signature) -> pa.RecordBatch:
    """Decode rows of nested values."""
    message = value_pb2.ColumnBatch(num_rows=len(rows))
    column = message.columns.add(name="x")
    column.nested.SetInParent()
    for row in rows:
        fill_value(column.nested.values.add(), row)  # noqa: PD011 - no pandas object
    return decode_columns(message, signature)


def through_ipc(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Send a batch as the front sends it to a worker."""
    schema = pa.ipc.read_schema(batch.schema.serialize())
    read = pa.ipc.read_record_batch(batch.serialize(), schema)
    read.validate(full=True)
    return read


def read(batch: pa.RecordBatch) -> list[Any]:
    """Give the values of the only column."""
    return python_values(batch.column(0), batch.schema.field(0))


def outline(value: Any) -> Any:
    """Tell which properties there are and which are null, of whatever types the values are."""
    if isinstance(value, dict):
        return {key: outline(one) for key, one in sorted(value.items())}
    if isinstance(value, list | np.ndarray):
        return [outline(one) for one in value]
    return None if value is None else "value"


def without_nulls(value: Any, type: Type) -> Any:
    """Leave out the optional properties that are null."""
    match type, value:
        case Record(fields), dict():
            kept = [one for one in fields if one.required or value.get(one.name) is not None]
            return {one.name: without_nulls(value[one.name], one.type) for one in kept}
        case ListOf(items), list():
            return [without_nulls(one, items) for one in value]
        case MapOf(values), dict():
            return {key: without_nulls(one, values) for key, one in value.items()}
    return value


NESTED = columns.filter(lambda type: isinstance(type, ListOf | MapOf | Record))


@given(st.data(), NESTED, st.booleans())
def test_rows_reach_a_model_with_the_properties_that_they_came_with(data: Any, type: Type, required: bool) -> None:
    """From the wire over the worker's socket to its values: neither is an absent property null, nor a null absent."""
    rows = data.draw(st.lists(fitting(type, required), max_size=4))
    refused: list[str] = []
    wanted = [accept(row, type, required, "x", refused) for row in rows]
    assume(not refused)
    batch = through_ipc(from_wire(rows, signature_of(type, required=required)))
    assert canonical(read(batch)) == canonical(wanted)
    try:
        seen = column_values(batch.column(0), batch.schema.field(0))
    except InvalidRows:
        # A datetime that pandas can't hold.
        assume(False)
    assert outline(seen) == outline(wanted)
    start = len(rows) // 2
    assert canonical(read(batch.slice(start, 2))) == canonical(wanted[start : start + 2])
    assert outline(column_values(batch.column(0).slice(start, 2), batch.schema.field(0))) == outline(
        wanted[start : start + 2]
    )


@given(st.data(), NESTED, st.booleans())
def test_in_arrow_a_null_of_an_optional_property_is_an_absent_one(data: Any, type: Type, required: bool) -> None:
    """What leaves in Arrow has the schema that callers are told, and comes back without the properties of a null."""
    signature = signature_of(type, required=required)
    rows = data.draw(st.lists(fitting(type, required), max_size=4))
    try:
        batch = from_wire(rows, signature)
    except InvalidInput:
        assume(False)
    told = pa.ipc.read_schema(pa.py_buffer(to_wire(signature).input_arrow_schema))
    for part in (batch, batch.slice(len(rows) // 2, 2)):
        plain = caller_batch(part)
        plain.validate(full=True)
        assert plain.schema.equals(told, check_metadata=True)
        again = decode_stream(encode_stream(caller_batch(part)), signature)
        again.validate(full=True)
        assert canonical(read(again)) == canonical([without_nulls(row, type) for row in read(part)])


@pytest.mark.parametrize(
    ("type", "rows"),
    [
        (PROMO, [{"sku": "a", "promo": 0.1}, {"sku": "b"}, {"sku": "b", "promo": None}]),
        (ListOf(PROMO), [[{"sku": "a"}, {"sku": "b", "promo": None}, {"sku": "c", "promo": 1.0}], []]),
        (MapOf(PROMO), [{"k": {"sku": "a"}, "l": {"sku": "b", "promo": None}}]),
        (Record((Field("deep", PROMO, required=False),)), [{}, {"deep": None}, {"deep": {"sku": "a"}}]),
        (MapOf(ListOf(Record((Field("l", ListOf(LONG), required=False),)))), [{"k": [{}, {"l": None}, {"l": []}]}]),
        (Record((Field("any", AnyValue(), required=False), Field("must", AnyValue()))), [{"any": None, "must": None}]),
        (Record((Field("any", AnyValue(), required=False), Field("must", AnyValue()))), [{"must": {"k": None}}]),
        (Record((Field("value", Record((Field("value", FLOAT, required=False),))),)), [{"value": {}}]),
    ],
    ids=str,
)
def test_absent_and_null_at_any_depth(type: Type, rows: list[Any]) -> None:
    """In objects, lists and maps: what a model and a client get is what was given."""
    fields = (Field("x", type),)
    batch = batch_from_rows([{"x": row} for row in rows], fields)
    assert column_values(batch.column(0), batch.schema.field(0)) == rows
    back = decode_columns(encode_columns(batch), Signature(fields, ()))
    assert batch_to_rows(back) == [{"x": row} for row in rows]


@pytest.mark.parametrize("null", [None, pd.NA, pd.NaT, np.datetime64("NaT")])
def test_what_python_calls_missing_is_a_null(null: Any) -> None:
    """Of an optional floating point number as well, which is no NaN then; a NaN stays one."""
    batch = batch_from_rows([{"x": {"sku": "a", "promo": null}}, {"x": {"sku": "a", "promo": math.nan}}], [_X])
    assert read(batch)[0] == {"sku": "a", "promo": None}
    assert math.isnan(read(batch)[1]["promo"])


_X = Field("x", PROMO)


def test_a_data_frame_of_objects_is_read_value_by_value() -> None:
    """Arrow, which reads other columns of pandas, would not tell the two apart."""
    rows = [{"sku": "a"}, {"sku": "b", "promo": None}, None, {"sku": "c", "promo": 1.5}]
    field = Field("x", PROMO, required=False)
    frame = pd.DataFrame({"x": pd.Series(rows, dtype=object)})
    assert read(to_batch(frame, Signature((field,), ()))) == rows
    assert read(to_batch({"x": frame["x"]}, Signature((field,), ()))) == rows


@pytest.mark.parametrize(
    "promo",
    [
        pa.array([0.5, None, None]),
        pa.array([0.5, None, 7.0]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), pa.array([0.5, None])),
        pa.array([None, None, 2], pa.int8()),
        pa.nulls(3),
    ],
    ids=lambda array: f"{array.type}",
)
def test_a_null_in_arrow_is_an_absent_property_in_every_encoding(promo: pa.Array) -> None:
    """Also where the nulls are those of a dictionary."""
    given = pa.StructArray.from_arrays([pa.array(["a", "b", "c"]), promo], names=["sku", "promo"])
    batch = batch_from_rows({"x": given}, [_X])
    wanted = [
        {"sku": sku} | ({} if one is None else {"promo": one})
        for sku, one in zip("abc", promo.to_pylist(), strict=True)
    ]
    assert read(batch) == wanted
    assert column_values(batch.column(0), batch.schema.field(0)) == wanted


def test_metadata_that_a_caller_made_up_is_only_that() -> None:
    """A field that calls itself an optional property of ours, and is none, is read as what it is."""
    field = pa.field("promo", pa.float64(), metadata={b"prinz.type": b"optional"})
    given = pa.StructArray.from_arrays([pa.array(["a"]), pa.array([0.5])], fields=[pa.field("sku", pa.utf8()), field])
    assert read(batch_from_rows({"x": given}, [_X])) == [{"sku": "a", "promo": 0.5}]
    assert python_values(given) == [{"sku": "a", "promo": 0.5}]


def test_a_batch_as_it_is_held_is_taken_as_it_is() -> None:
    """Its nulls stay nulls, as where a load test reads its rows from a file of JSON."""
    rows = [{"sku": "a"}, {"sku": "b", "promo": None}, {"sku": "c", "promo": math.inf}]
    batch = batch_from_rows([{"x": row} for row in rows], [_X])
    assert read(conform(batch, [_X], Violations())) == rows


def test_a_column_without_the_property_and_one_under_null_records() -> None:
    """What Arrow has no column for is absent in each record; what is under a null record is not looked at."""
    absent = batch_from_rows({"x": pa.array([{"sku": "a"}, {"sku": "b"}])}, [_X])
    assert read(absent) == [{"sku": "a"}, {"sku": "b"}]
    children = [pa.array(["a", "b"]), pa.array([0.5, 1.5])]
    under = pa.StructArray.from_arrays(children, names=["sku", "promo"], mask=pa.array([True, False]))
    given = batch_from_rows({"x": under}, [Field("x", PROMO, required=False)])
    assert read(given) == [None, {"sku": "b", "promo": 1.5}]


def test_what_is_refused_of_an_optional_property_is_told_at_its_row() -> None:
    """Also behind rows that lack it, and where its own properties are at fault."""
    type = Record((Field("n", Record((Field("k", LONG),)), required=False),))
    given = pa.array([None, {"n": None}, {"n": {"k": 1.5}}], pa.struct([("n", pa.struct([("k", pa.float64())]))]))
    forms: list[Any] = [{"x": given}, [{"x": {}}, {"x": {"n": None}}, {"x": {"n": {"k": 1.5}}}]]
    for rows in forms:
        with pytest.raises(InvalidInput) as caught:
            batch_from_rows(rows, [Field("x", type, required=False)])
        assert [violation.field for violation in caught.value.violations] == ['columns["x"][2].n.k']


def test_a_parameter_that_is_an_object_has_the_properties_that_it_was_given() -> None:
    """Absent and null are told apart in parameters as in rows."""
    signature = Signature((), (), (Param("p", PROMO, {"sku": "default"}),))
    for value in ({"sku": "a"}, {"sku": "a", "promo": None}, {"sku": "a", "promo": 0.5}):
        assert decode_params({"p": to_value(value)}, signature) == {"p": value}
