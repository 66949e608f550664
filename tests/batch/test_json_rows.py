"""JSON of callers: exact both ways, and what is not is refused."""

from __future__ import annotations

import json
import math
import struct
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_from_rows, batch_to_rows, decode_columns, encode_columns
from prinz_enricher.batch.json_answers import EXACT, NULLS, PYTHON, json_values, write
from prinz_enricher.batch.json_rows import columns_of, json_columns, json_params, parse_json
from prinz_enricher.errors import InvalidInput, InvalidRequest
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
    Tensor,
    Type,
)

LONG, DOUBLE, FLOAT = Scalar(ScalarKind.LONG), Scalar(ScalarKind.DOUBLE), Scalar(ScalarKind.FLOAT)


def read(body: str | bytes, *fields: Field) -> list[dict[str, object]]:
    """Return what a model of these inputs gets of a body of rows."""
    columns, rows = columns_of(parse_json(body if isinstance(body, bytes) else body.encode()))
    message = json_columns(columns, rows, fields)
    return batch_to_rows(decode_columns(message, Signature(fields, ())))


def one(text: str, type: Type, *, required: bool = True) -> Any:
    """Return what a model gets of a single value."""
    [row] = read(f'[{{"x": {text}}}]', Field("x", type, required))
    return row["x"]


def fault(text: str, type: Type) -> str:
    """Return what is wrong with a single value."""
    with pytest.raises(InvalidInput) as raised:
        one(text, type)
    [found] = raised.value.violations
    return f"{found.field} {found.description}"


@pytest.mark.parametrize(
    ("text", "type", "value"),
    [
        ("9007199254740993", LONG, 2**53 + 1),
        ("-9223372036854775808", LONG, -(2**63)),
        ("5.000000000000000000", LONG, 5),
        ("9007199254740993.000", LONG, 2**53 + 1),
        ("9.007199254740993e15", LONG, 2**53 + 1),
        ("1e3", Scalar(ScalarKind.INTEGER), 1000),
        ("0.1", DOUBLE, 0.1),
        ("1e23", DOUBLE, 1e23),
        ("16777216", FLOAT, 16777216.0),
        ("0.1", FLOAT, struct.unpack("<f", struct.pack("<f", 0.1))[0]),
        ("5", DOUBLE, 5.0),
        ('"Infinity"', DOUBLE, math.inf),
        ('"NaN"', Scalar(ScalarKind.STRING), "NaN"),
        ('"AP8="', Scalar(ScalarKind.BINARY), b"\x00\xff"),
        ('"2024-02-29T23:59:59.5+02:00"', Scalar(ScalarKind.DATETIME), datetime(2024, 2, 29, 21, 59, 59, 500_000)),
        ('"2024-02-29"', Scalar(ScalarKind.DATETIME), datetime(2024, 2, 29)),
        ("[1, 2.5, null]", AnyValue(), [1, 2.5, None]),
        ('{"a": [9007199254740993.0]}', MapOf(ListOf(LONG)), {"a": [2**53 + 1]}),
        ('[["/w=="]]', ListOf(ListOf(Scalar(ScalarKind.BINARY))), [[b"\xff"]]),
        ("[[1, 2], [3.0, 4]]", Tensor("int64", (-1, 2, 2)), [[1, 2], [3, 4]]),
        ("true", Scalar(ScalarKind.BOOLEAN), True),
    ],
)
def test_values(text: str, type: Type, value: object) -> None:
    """A value is exactly what is written, in the type that is declared."""
    got = one(text, type)

    assert got == value
    assert got.__class__ is value.__class__


@pytest.mark.parametrize("text", ["null", '"NaN"'])
def test_missing_numbers(text: str) -> None:
    """A null, and "NaN", of a floating point number is NaN."""
    assert math.isnan(one(text, DOUBLE))
    assert math.isnan(one(text, FLOAT))
    assert math.isnan(one(f"[{text}]", ListOf(DOUBLE))[0])


def test_null_and_missing() -> None:
    """A key that some rows lack is a null to them; one that all of them lack is not a column."""
    fields = (Field("a", LONG, required=False), Field("b", LONG, required=False))

    assert read('[{"a": 1}, {"a": null}, {}]', *fields) == [{"a": 1}, {"a": None}, {"a": None}]
    record = Record((Field("p", DOUBLE, required=False),))
    assert one('{"p": null}', record) == {"p": None}
    assert one("{}", record) == {}
    assert read('[{"a": null}]', fields[0]) == [{"a": None}]


@pytest.mark.parametrize(
    ("text", "type", "why"),
    [
        ("3.7", LONG, 'columns["x"][0] is not a whole number'),
        ("3.0000000000000000001", LONG, 'columns["x"][0] is not a whole number'),
        ("1e-400", LONG, 'columns["x"][0] is not a whole number'),
        ("9223372036854775808", LONG, 'columns["x"][0] is outside the range of long'),
        ("1e300", LONG, 'columns["x"][0] is outside the range of long'),
        ("2147483648", Scalar(ScalarKind.INTEGER), 'columns["x"][0] is outside the range of integer'),
        ("9007199254740993", DOUBLE, 'columns["x"][0] is a whole number beyond 2^53, inexact as double'),
        ("16777217", FLOAT, 'columns["x"][0] is a whole number beyond 2^24, inexact as float'),
        ("1" * 400, DOUBLE, 'columns["x"][0] is a whole number beyond 2^53, inexact as double'),
        ("1e39", FLOAT, 'columns["x"][0] is outside the range of float'),
        ("18446744073709551616", AnyValue(), 'columns["x"][0] is a whole number beyond 64 bits'),
        ('"AP9="', Scalar(ScalarKind.BINARY), 'columns["x"][0] is not base64 text with its padding'),
        ('"AP8"', Scalar(ScalarKind.BINARY), 'columns["x"][0] is not base64 text with its padding'),
        ('"\\ud800"', Scalar(ScalarKind.STRING), 'columns["x"][0] is not Unicode text'),
        ('{"\\ud800": 1}', AnyValue(), 'columns["x"][0] is not Unicode text'),
        ("[" * 40 + "]" * 40, AnyValue(), 'columns["x"][0] is nested deeper than 32 levels'),
        ("null", LONG, 'columns["x"][0] is null'),
        ("true", LONG, 'columns["x"] is a boolean; wanted long'),
        ("1", Scalar(ScalarKind.STRING), 'columns["x"] is a whole number; wanted string'),
        ("[[1, 2.5]]", ListOf(ListOf(LONG)), 'columns["x"][0][0][1] is not a whole number'),
    ],
)
def test_refused_values(text: str, type: Type, why: str) -> None:
    """A value that would be changed is refused where it stands, in the words of gRPC."""
    assert why in fault(text, type)


def test_levels() -> None:
    """As many levels as on the wire are read, around which the lists and objects of a body do not count."""
    nested = one("[" * 32 + "]" * 32, AnyValue())

    assert json.dumps(nested) == "[" * 32 + "]" * 32


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'[{"a": 1, "a": 2}]', "same key twice"),
        (b'\xef\xbb\xbf[{"a": 1}]', "byte order mark"),
        ('[{"a": 1}]'.encode("utf-16"), "is not UTF-8"),
        ('[{"a": 1}]'.encode("utf-16-le"), "is not JSON"),
        (b"[NaN]", "NaN or Infinity as it is"),
        (b"[1e999]", "beyond the range of a double"),
        (b"[1e-99999999999999999999]", "beyond the range of a double"),
        (b"[" + b"9" * 10_000 + b"]", "more than 1000 digits"),
        (b"[0." + b"9" * 10_000 + b"]", "more than 1000 digits"),
        (b"[" * 100_000, "nested too deep"),
        (b"[1,]", "is not JSON, see line 1, column"),
        (b"", "is not JSON"),
        (b"[1] 2", "is not JSON"),
    ],
)
def test_refused_bodies(body: bytes, why: str) -> None:
    """A body that is not JSON, or not one way only, is refused by a sentence that repeats nothing of it."""
    with pytest.raises(InvalidRequest, match=why):
        parse_json(body)


def test_tokens_of_python() -> None:
    """NaN and Infinity as Python writes them are read where that is asked for."""
    values = parse_json(b"[NaN, Infinity, -Infinity]", tokens=True)

    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


def test_mixed_columns() -> None:
    """Whole numbers and fractions in a column are doubles; each fault of a column is named."""
    assert read('[{"x": 1}, {"x": 2.5}, {"x": null}]', Field("x", DOUBLE))[:2] == [{"x": 1.0}, {"x": 2.5}]
    with pytest.raises(InvalidInput) as raised:
        read('[{"x": 1.5}, {"x": 9007199254740993}, {"x": "a"}, {"x": true}]', Field("x", DOUBLE))
    assert [found.field for found in raised.value.violations] == [f'columns["x"][{row}]' for row in (1, 2, 3)]


def test_sparse_rows() -> None:
    """Rows that each have another column are refused before they become columns, which would take a terabyte."""
    rows = [{f"k{place}": 1} for place in range(5_000)]

    with pytest.raises(InvalidRequest, match="lack most of their columns"):
        columns_of(rows)
    wrongs: list[object] = [{}, [1], [[]]]
    for wrong in wrongs:
        with pytest.raises(InvalidRequest):
            columns_of(wrong)


def test_params() -> None:
    """Parameters are read by their types; one that is unknown is left to the service to refuse."""
    params = (Param("at", Scalar(ScalarKind.LONG), 1), Param("key", Scalar(ScalarKind.BINARY), b""))

    written = json_params(parse_json(b'{"at": 7.0000000000000000000, "key": "/w==", "other": 1}'), params)

    assert written["key"].bytes_value == b"\xff"
    assert written["at"].double_value == 7.0
    assert written["other"].int64_value == 1


FIELDS = (
    Field("long", LONG), Field("double", DOUBLE), Field("float", FLOAT), Field("text", Scalar(ScalarKind.STRING)),
    Field("bytes", Scalar(ScalarKind.BINARY)), Field("at", Scalar(ScalarKind.DATETIME)),
    Field("map", MapOf(ListOf(DOUBLE))), Field("flag", Scalar(ScalarKind.BOOLEAN), required=False),
)  # fmt: skip
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "long": INT64,
            "double": st.floats(allow_nan=False),
            "float": st.floats(allow_nan=False, width=32),
            "text": TEXT,
            "bytes": st.binary(max_size=20),
            "at": st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),
            "map": st.dictionaries(TEXT, st.lists(st.floats(allow_nan=False), max_size=3), max_size=3),
            "flag": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


@given(ROWS)
def test_both_ways(rows: list[dict[str, object]]) -> None:
    """What is written as JSON is read back to the same bits; maps are in the order of their keys."""
    message = encode_columns(batch_from_rows(rows, FIELDS), FIELDS)
    columns = {column.name: json_values(column, EXACT) for column in message.columns}
    body = write([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])

    assert read(body, *FIELDS) == rows
    assert all(list(row["map"]) == sorted(row["map"]) for row in json.loads(body))


def test_what_json_lacks() -> None:
    """NaN and infinities are texts, nulls or tokens, as the reader takes them."""
    message = encode_columns(_batch([math.nan, -math.inf, 1.5]), ())
    [column] = message.columns

    assert write(json_values(column, EXACT)) == '["NaN","-Infinity",1.5]'
    assert write(json_values(column, NULLS)) == "[null,null,1.5]"
    assert write(json_values(column, PYTHON)) == "[NaN,-Infinity,1.5]"


def _batch(values: list[float]) -> Any:
    return batch_from_rows({"y": values}, (Field("y", DOUBLE),))
