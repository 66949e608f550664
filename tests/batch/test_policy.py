"""The coercion policy, held to its plain reference over random signatures and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import Violations, coerce, decode_columns, encode_columns
from prinz_enricher.batch.python_values import python_values
from prinz_enricher.batch.violation import column_path
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Micros,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    input_schema,
)
from prinz_enricher.signature.value import fill_value
from tests.batch.batch_reference import accept, canonical, kind_of
from tests.batch.batch_strategies import doubles, fitting, integers, leaves, signatures, types, value_for

KINDS = {
    bool: ("bools", bool),
    float: ("doubles", float),
    str: ("strings", str),
    bytes: ("binaries", bytes),
    Micros: ("timestamps", int),
    int: ("int64s", int),
}


def nested_column(message: value_pb2.ColumnBatch, name: str, rows: list[Any]) -> None:
    """Add a column of nested values."""
    column = message.columns.add(name=name)
    column.nested.SetInParent()
    for row in rows:
        fill_value(column.nested.values.add(), row)


def plain_column(message: value_pb2.ColumnBatch, name: str, rows: list[Any]) -> bool:
    """Add a column of plain values with a bitmap; False where they are not of one type."""
    held = {row.__class__ for row in rows if row is not None}
    if len(held) != 1 or not held <= KINDS.keys():
        return False
    kind, convert = KINDS[held.pop()]
    column = message.columns.add(name=name)
    if None in rows:
        column.validity = np.packbits([row is not None for row in rows], bitorder="little").tobytes()
    getattr(column, kind).values.extend(convert() if row is None else convert(row) for row in rows)
    return True


def outcome(message: value_pb2.ColumnBatch, signature: Signature) -> tuple[Any, list[str]]:
    """Decode, and give the values by column or the paths of the violations."""
    try:
        batch = decode_columns(message, signature)
    except InvalidInput as error:
        lengths = [len(violation.description) for violation in error.violations]
        assert max(lengths) <= 80
        return None, sorted(violation.field for violation in error.violations)
    batch.validate(full=True)
    assert batch.schema.equals(input_schema(signature), check_metadata=True)
    return {
        field.name: python_values(array, arrow)
        for field, arrow, array in zip(signature.inputs, batch.schema, batch.columns, strict=True)
    }, []


@st.composite
def requests(draw: st.DrawFn, fit: bool) -> tuple[Signature, dict[str, list[Any]], int]:
    """Draw a signature and rows for it."""
    signature = draw(signatures)
    count = draw(st.integers(0, 4))
    make = fitting if fit else value_for
    columns = {
        field.name: draw(st.lists(make(field.type, field.required), min_size=count, max_size=count))
        for field in signature.inputs
    }
    return signature, columns, count


def expected(signature: Signature, columns: dict[str, list[Any]]) -> tuple[Any, list[str]]:
    """Say by the reference what is to come of columns."""
    refused: list[str] = []
    values = {
        field.name: [
            accept(row, field.type, field.required, f"{column_path(field.name)}[{index}]", refused)
            for index, row in enumerate(columns[field.name])
        ]
        for field in signature.inputs
    }
    return (None, sorted(refused)) if refused else (values, [])


@given(requests(fit=False))
def test_nested_values_follow_the_reference(request: Any) -> None:
    """Each value comes out as the reference says, or each refused one is told at its path."""
    signature, columns, count = request
    message = value_pb2.ColumnBatch(num_rows=count)
    for name, rows in columns.items():
        nested_column(message, name, rows)
    values, refused = outcome(message, signature)
    want, paths = expected(signature, columns)
    assert refused == paths
    assert canonical(values) == canonical(want)


@given(requests(fit=True))
def test_columns_to_arrow_to_columns_is_the_identity(request: Any) -> None:
    """What was decoded is encoded as columns that decode to the same, however often."""
    signature, columns, count = request
    message = value_pb2.ColumnBatch(num_rows=count)
    for name, rows in columns.items():
        if not plain_column(message, name, rows):
            nested_column(message, name, rows)
    values, refused = outcome(message, signature)
    if refused:
        assert refused == expected(signature, columns)[1]
        return
    batch = decode_columns(message, signature)
    back = encode_columns(batch)
    again = decode_columns(back, signature)
    assert canonical(values) == canonical(expected(signature, columns)[0])
    assert canonical(outcome(back, signature)[0]) == canonical(values)
    assert encode_columns(again).SerializeToString(deterministic=True) == back.SerializeToString(deterministic=True)


PLAIN = types.filter(lambda type: kind_of(type) is not None)
UNIFORM = st.sampled_from([st.booleans(), integers, doubles, leaves.filter(lambda v: isinstance(v, str | None))])


@given(PLAIN, st.booleans(), UNIFORM.flatmap(lambda one: st.lists(one | st.none(), min_size=1, max_size=6)))
def test_plain_columns_follow_the_reference(type: Any, required: bool, rows: list[Any]) -> None:
    """A column of one kind is decoded as each of its values alone, or refused as a whole for its kind."""
    signature = Signature((Field("x", type, required),), ())
    message = value_pb2.ColumnBatch(num_rows=len(rows))
    if not plain_column(message, "x", rows):
        return
    values, refused = outcome(message, signature)
    want, paths = expected(signature, {"x": rows})
    if refused == ['columns["x"]']:
        assert all(f'columns["x"][{index}]' in paths for index, row in enumerate(rows) if row is not None)
    else:
        assert refused == paths
        assert canonical(values) == canonical(want)


def encodings(array: pa.Array) -> list[pa.Array | pa.ChunkedArray]:
    """Give the same array in each way that Arrow has to hold it."""
    padded = pa.concat_arrays([array, array, array]).slice(len(array), len(array))
    forms = [array, padded, pa.chunked_array([array.slice(0, 1), array.slice(1)])]
    if array.type != pa.float16():
        forms.append(array.dictionary_encode())
    if pa.types.is_string(array.type):
        forms += [array.cast(pa.large_utf8()), array.cast(pa.string_view())]
    if pa.types.is_binary(array.type):
        forms += [array.cast(pa.large_binary()), array.cast(pa.binary_view())]
    return forms


@given(
    PLAIN.filter(lambda type: kind_of(type) != "datetime"),
    st.booleans(),
    st.sampled_from(
        [
            pa.int8(),
            pa.int16(),
            pa.int32(),
            pa.int64(),
            pa.uint8(),
            pa.uint16(),
            pa.uint32(),
            pa.uint64(),
            pa.float16(),
            pa.float32(),
            pa.float64(),
            pa.bool_(),
            pa.utf8(),
            pa.binary(),
        ]
    ),
    st.data(),
)
def test_arrow_arrays_follow_the_reference(type: Any, required: bool, arrow: pa.DataType, data: st.DataObject) -> None:
    """An array of any plain Arrow type, in any encoding, is coerced as each of its values alone."""
    if pa.types.is_integer(arrow):
        bounds = np.iinfo(arrow.to_pandas_dtype())
        one: st.SearchStrategy[Any] = st.integers(int(bounds.min), int(bounds.max)) | st.integers(0, 100)
    elif pa.types.is_floating(arrow):
        one = st.floats(width=arrow.bit_width)
        one |= st.integers(-3000, 3000).map(lambda n: float(np.dtype(arrow.to_pandas_dtype()).type(n)))
    else:
        one = {pa.bool_(): st.booleans(), pa.utf8(): st.text(max_size=3), pa.binary(): st.binary(max_size=3)}[arrow]
    rows = data.draw(st.lists(one | st.none(), min_size=1, max_size=6))
    signature = Signature((Field("x", type, required),), ())
    want, paths = expected(signature, {"x": rows})
    for array in encodings(pa.array(rows, arrow)):
        faults = Violations()
        got = coerce(array, type, required, 'columns["x"]', faults)
        refused = sorted(violation.field for violation in faults.reported)
        if refused == ['columns["x"]']:
            assert all(f'columns["x"][{index}]' in paths for index, row in enumerate(rows) if row is not None)
            continue
        assert refused == paths
        if not refused:
            got.validate(full=True)
            assert canonical(python_values(got)) == canonical(want["x"])


@given(requests(fit=False))
def test_nested_arrow_arrays_follow_the_reference(request: Any) -> None:
    """Lists, maps and records in Arrow are coerced as their values are on the wire."""
    signature, columns, _ = request
    for field in signature.inputs:
        rows = columns[field.name]
        if any(isinstance(row, dict) for row in rows) or isinstance(field.type, AnyValue):
            continue
        try:
            array = pa.array([_plain(row) for row in rows])
            # Bytes beside texts are taken for texts, UTF-8 or not.
            array.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
            continue
        rows = [_wire(row, field.type) for row in array.to_pylist()]
        if not isinstance(field.type, ListOf | Tensor) or not pa.types.is_list(array.type) or _holds_any(field.type):
            continue
        faults = Violations()
        got = coerce(array, field.type, field.required, column_path(field.name), faults)
        refused = sorted(violation.field for violation in faults.reported)
        want, paths = expected(Signature((field,), ()), {field.name: rows})
        if any("[*]" in path for path in refused) or column_path(field.name) in refused:
            continue
        if refused or paths:
            assert set(refused) <= set(paths)
            assert bool(refused) == bool(paths)
        else:
            got.validate(full=True)
            assert canonical(python_values(got)) == canonical(want[field.name])


def _holds_any(type: Any) -> bool:
    """Tell whether there is an `any` in a type: in Arrow its text is JSON, on the wire it is a text."""
    if isinstance(type, ListOf):
        return _holds_any(type.items)
    if isinstance(type, MapOf):
        return _holds_any(type.values)
    if isinstance(type, Record):
        return any(_holds_any(field.type) for field in type.fields)
    return isinstance(type, AnyValue)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, Micros) else value


def _wire(value: Any, type: Any) -> Any:
    """Return a value of Arrow as it is on the wire, where an object is without what is null and optional."""
    if isinstance(value, list):
        return [_wire(one, type.items if isinstance(type, ListOf) else None) for one in value]
    if not isinstance(value, dict) or not isinstance(type, Record):
        return value
    fields = {field.name: field for field in type.fields}
    types = {name: field.type for name, field in fields.items()}
    kept = {name: one for name, one in value.items() if one is not None or name not in fields or fields[name].required}
    return {name: _wire(one, types.get(name)) for name, one in kept.items()}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("value", [3.7, 2.0**63, float("nan"), float("inf"), True, "3", b"3", Micros(3)])
def test_long_refuses_what_is_no_whole_number(value: Any, required: bool) -> None:
    """A long takes neither fractions, nor NaN, nor what is not a number at all."""
    message = value_pb2.ColumnBatch(num_rows=1)
    plain_column(message, "x", [value])
    with pytest.raises(InvalidInput) as caught:
        decode_columns(message, Signature((Field("x", Scalar(ScalarKind.LONG), required),), ()))
    assert caught.value.violations[0].field in {'columns["x"]', 'columns["x"][0]'}
