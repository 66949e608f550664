"""The values of a model server's answers, each as it is or refused."""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime

import numpy as np
import pytest

from prinz_enricher.errors import OutputMismatch
from prinz_enricher.scoring.remote.predictions import decode
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Tensor, Type
from tests.scoring.remote.reading import (
    BINARY,
    BOOLEAN,
    DATETIME,
    DOUBLE,
    FLOAT,
    INTEGER,
    LONG,
    STRING,
    only,
    read,
)


@pytest.mark.parametrize(
    ("type", "written", "value"),
    [
        (BOOLEAN, "true", True),
        (INTEGER, "3.0", 3),
        (INTEGER, "-2147483648", -(2**31)),
        (LONG, "9007199254740993", 2**53 + 1),
        (LONG, "9223372036854775807", 2**63 - 1),
        (LONG, "4611686018427387904.0", 2**62),
        (DOUBLE, "9007199254740992", 2.0**53),
        (DOUBLE, "-0.0", -0.0),
        (DOUBLE, "NaN", math.nan),
        (DOUBLE, "null", math.nan),
        (DOUBLE, "Infinity", math.inf),
        (DOUBLE, "-Infinity", -math.inf),
        (DOUBLE, "5e-324", 5e-324),
        (FLOAT, "0.1", float(np.float32(0.1))),
        (FLOAT, "16777216", 2.0**24),
        (FLOAT, "Infinity", math.inf),
        (STRING, '"zażółć \\ud834\\udd1e"', "zażółć 𝄞"),
        (STRING, "null", None),
        (STRING, "NaN", None),
        (BINARY, '"AP8=\\n"', b"\x00\xff"),
        (BINARY, '""', b""),
        (BINARY, json.dumps(base64.encodebytes(b"abc" * 40).decode()), b"abc" * 40),
        (DATETIME, '"2026-11-23T14:05:06.250000"', datetime(2026, 11, 23, 14, 5, 6, 250_000)),
        (DATETIME, '"2026-11-23T14:05:06.123456000"', datetime(2026, 11, 23, 14, 5, 6, 123_456)),
        (DATETIME, '"2026-11-23T14:05:06+02:00"', datetime(2026, 11, 23, 12, 5, 6)),
        (DATETIME, '"2026-11-23"', datetime(2026, 11, 23)),
        (Tensor("uint64", (-1,)), "18446744073709551615", 2**64 - 1),
        (Tensor("float16", (-1,)), "0.1", float(np.float16(0.1))),
        (Tensor("int8", (-1,)), "[127]", 127),
        (Tensor("datetime64[s]", (-1,)), '"2026-11-23T14:05:06"', datetime(2026, 11, 23, 14, 5, 6)),
        (ListOf(LONG), "[1, 2.0, null]", [1, 2, None]),
        (ListOf(AnyValue()), "[1, NaN, null]", ["1", None, None]),
        (ListOf(BINARY), '["AP8=\\n"]', [b"\x00\xff"]),
        (Tensor("float64", (-1, 2)), "[1, 0.5]", [1.0, 0.5]),
        (Tensor("float32", (-1, 2, 1)), "[[1.0], [0.5]]", [[1.0], [0.5]]),
        (Tensor("int64", (-1, -1)), "[]", []),
        (MapOf(LONG), '{"b": 1, "a": 2.0}', [("b", 1), ("a", 2)]),
        (Record((Field("a", LONG), Field("b", STRING, False))), '{"a": 1}', {"a": 1, "b": None}),
        (AnyValue(), '{"a": [1, 1.0, NaN, null, "é"]}', '{"a": [1, 1.0, NaN, null, "é"]}'),
        (AnyValue(), "9223372036854775809", "9223372036854775809"),
        (AnyValue(), "null", None),
    ],
)
def test_values_are_read_as_they_are(type: Type, written: str, value: object) -> None:
    """Alone, and beside others of their kind."""
    for rows in (1, 3):
        [got] = read(f"[{', '.join([written] * rows)}]", only(type), rows)
        assert repr(got) == repr([value] * rows)


@pytest.mark.parametrize(
    ("type", "written"),
    [
        (BOOLEAN, "1"),
        (BOOLEAN, '"true"'),
        (BOOLEAN, "null"),
        (INTEGER, "3.7"),
        (INTEGER, "2147483648"),
        (INTEGER, "3e9"),
        (INTEGER, "NaN"),
        (INTEGER, "Infinity"),
        (INTEGER, "true"),
        (INTEGER, '"33"'),
        (INTEGER, "null"),
        (LONG, "9223372036854775808"),
        (LONG, "9223372036854775808.0"),
        (LONG, "1" * 400),
        (LONG, "1" * 5000),
        (LONG, "1e400"),
        (DOUBLE, "9007199254740993"),
        (DOUBLE, "1" * 400),
        (DOUBLE, "1e400"),
        (DOUBLE, "-1e400"),
        (DOUBLE, "1" * 400 + ".0"),
        (DOUBLE, "true"),
        (DOUBLE, '"1.5"'),
        (FLOAT, "1e39"),
        (FLOAT, "16777217"),
        (STRING, "1"),
        (STRING, '"\\ud800"'),
        (BINARY, '"no base64!"'),
        (BINARY, '"AP9="'),
        (BINARY, '"AP8"'),
        (BINARY, "[1]"),
        (DATETIME, "1704067200000000000"),
        (DATETIME, '"yesterday"'),
        (DATETIME, '"NaT"'),
        (DATETIME, '"2026-11-23T14:05:06.123456789"'),
        (Tensor("datetime64[ns]", (-1,)), '"9999-01-01T00:00:00"'),
        (Tensor("datetime64[s]", (-1,)), '"2026-11-23T14:05:06.5"'),
        (Tensor("float16", (-1,)), "65520.0"),
        (ListOf(LONG), "[1, 2.5]"),
        (ListOf(LONG), "1"),
        (Tensor("float64", (-1, 2)), "[1.0]"),
        (Tensor("float64", (-1, 2)), '[1.0, "2"]'),
        (MapOf(LONG), "[]"),
        (MapOf(LONG), '{"a": 1, "a": 2}'),
        (MapOf(LONG), '{"\\ud800": 1}'),
        (Record((Field("a", LONG),)), '{"a": 1, "b": 1}'),
        (Record((Field("a", LONG),)), "{}"),
        (AnyValue(), '{"a": "\\ud800"}'),
        (AnyValue(), "1e400"),
        (AnyValue(), "[" * 40 + "]" * 40),
        (AnyValue(), "[" * 100_000 + "]" * 100_000),
    ],
)
def test_what_is_not_declared_is_refused(type: Type, written: str) -> None:
    """No number is rounded or wrapped, and nothing of the data is told."""
    for rows in (1, 2):
        with pytest.raises(OutputMismatch) as caught:
            read(f"[{', '.join([written] * rows)}]", only(type), rows)
        assert written.strip('"') not in str(caught.value).replace("output_0", "") or len(written) < 3


def test_what_is_missing_is_null_where_the_output_is_optional() -> None:
    """In the way of pandas, NaN and NaT, or as null."""
    assert read("[1.0, NaN, null]", only(INTEGER, required=False), 3) == [[1, None, None]]
    assert read("[true, NaN, null]", only(BOOLEAN, required=False), 3) == [[True, None, None]]
    assert read('["2026-11-23", "NaT", null, NaN]', only(DATETIME, required=False), 4) == [
        [datetime(2026, 11, 23), None, None, None]
    ]
    [values] = read("[1.0, NaN, null]", only(DOUBLE, required=False), 3)
    assert math.isnan(values[1])
    assert values[2] is None


def test_nanoseconds_of_a_tensor_are_counted() -> None:
    """As numpy gives them as whole numbers, where the dtype says what they count."""
    signature = only(Tensor("datetime64[ns]", (-1,)))
    content = b'{"predictions": [1704067200123456789]}'
    assert decode(content, "m", "1", signature, 1).column(0)[0].value == 1704067200123456789
