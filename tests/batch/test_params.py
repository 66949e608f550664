"""Parameters: checked, and filled with the signature's defaults."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prinz_enricher.batch import decode_params, encode_params, select_outputs
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Micros,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    to_value,
)

K = ScalarKind
PARAMS = (
    Param("t", Scalar(K.FLOAT), 0.1),
    Param("n", Scalar(K.INTEGER), 3),
    Param("flag", Scalar(K.BOOLEAN), default=True),
    Param("when", Scalar(K.DATETIME), datetime(2026, 11, 23)),
    Param("many", Scalar(K.DOUBLE), [1.0], (-1,)),
    Param("none", Scalar(K.STRING), None),
    Param("o", Record((Field("k", Scalar(K.LONG)), Field("w", Scalar(K.DATETIME), required=False))), {"k": 1}),
)
SIGNATURE = Signature((), (Field("y", AnyValue()),), PARAMS)


def decode(**given: Any) -> dict[str, object]:
    """Decode some parameters."""
    return decode_params({name: to_value(value) for name, value in given.items()}, SIGNATURE)


def test_what_is_not_given_has_its_default() -> None:
    """A call without parameters has all of them."""
    assert decode() == {param.name: param.default for param in PARAMS}


def test_values_are_coerced_as_columns_are() -> None:
    """Whole doubles become integers, ISO-8601 text becomes an instant; a float keeps all its digits."""
    got = decode(
        t=0.3,
        n=4.0,
        flag=False,
        when="2026-01-01T01:00:00+01:00",
        many=[1, 2.5],
        none=None,
        o={"k": 2.0, "w": Micros(1)},
    )
    assert got == {
        "t": 0.3,
        "n": 4,
        "flag": False,
        "when": datetime(2026, 1, 1),
        "many": [1.0, 2.5],
        "none": None,
        "o": {"k": 2, "w": datetime(1970, 1, 1, 0, 0, 0, 1)},
    }
    assert [value.__class__ for value in (got["n"], got["many"][0])] == [int, float]  # type: ignore[index]


def test_every_fault_is_told_at_its_path() -> None:
    """Unknown names, wrong types, lengths and ranges are all in one error."""
    with pytest.raises(InvalidInput) as caught:
        decode(t=1e39, n=2**31, flag=1, when=Micros(2**62), many=[1.0, "x"], none=3, o={"k": 1.5, "x": 1}, zz=1)
    assert [violation.field for violation in caught.value.violations] == [
        'params["t"]',
        'params["n"]',
        'params["flag"]',
        'params["when"]',
        'params["many"][1]',
        'params["none"]',
        'params["o"].k',
        'params["o"].x',
        'params["zz"]',
    ]
    for given in ({"many": 1.0}, {"n": [1]}):
        with pytest.raises(InvalidInput):
            decode(**given)


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ({param.name: None for param in PARAMS}, [f'params["{param.name}"]' for param in PARAMS if param.default]),
        ({"many": [1.0, None, 2.0, None]}, ['params["many"][1]', 'params["many"][3]']),
        ({"o": {"k": None}}, ['params["o"].k']),
        ({"text": None, "d": None, "t": math.nan}, ['params["text"]', 'params["d"]']),
        ({"deep": {"a b": [None], "m": {"x": None, "y": 1.0}}}, ['params["deep"]["a b"][0]', 'params["deep"].m["x"]']),
    ],
)
def test_a_null_is_refused_by_its_name(given: dict[str, Any], paths: list[str]) -> None:
    """Of every type and at every depth a null is a fault, once; also where it comes as numpy or pandas have it."""
    deep = Record((Field("a b", ListOf(Scalar(K.FLOAT))), Field("m", MapOf(Scalar(K.DOUBLE)))))
    more = (Param("text", Scalar(K.STRING), ""), Param("d", Scalar(K.DOUBLE), 1.0), Param("deep", deep, {}))
    signature = Signature((), SIGNATURE.outputs, (*PARAMS, *more))
    wire = {name: to_value(value) for name, value in given.items()}
    for check in (lambda: decode_params(wire, signature), lambda: encode_params(given, signature)):
        with pytest.raises(InvalidInput) as caught:
            check()
        assert sorted(one.field for one in caught.value.violations) == sorted(paths)
        assert {one.description for one in caught.value.violations} == {"is null, but a value is required"}
    for null in (pd.NA, pd.NaT, np.datetime64("NaT")):
        with pytest.raises(InvalidInput, match="is null"):
            encode_params({"d": null}, signature)


def test_a_null_of_any_type_is_a_value() -> None:
    """A parameter of the type `any` takes it, alone and inside, whatever its default is."""
    signature = Signature((), SIGNATURE.outputs, (Param("a", AnyValue(), 1), Param("o", MapOf(AnyValue()), {})))
    for given in ({"a": None, "o": {"x": None}}, {"a": [None, {"y": None}], "o": {}}):
        assert decode_params(encode_params(given, signature), signature) == given


def test_a_null_that_is_the_default_is_taken_and_nan_is_a_value() -> None:
    """The declared default null can be given; NaN is what it is, alone and in a list."""
    assert decode(none=None)["none"] is None
    got = decode(t=math.nan, many=[math.nan, math.inf])
    assert repr((got["t"], got["many"])) == "(nan, [nan, inf])"


AS_ROWS: list[tuple[str, object, object]] = [
    ("n", np.int64(3), 3),
    ("n", np.uint8(3), 3),
    ("n", np.array(3), 3),
    ("n", np.float32(3.0), 3),
    ("n", Decimal("3.0"), 3),
    ("t", np.float64(0.25), 0.25),
    ("t", Decimal("0.25"), 0.25),
    ("t", np.int16(2), 2.0),
    ("flag", np.bool_(False), False),
    ("flag", np.array(True), True),
    ("none", np.str_("a"), "a"),
    ("when", date(2026, 1, 2), datetime(2026, 1, 2)),
    ("when", datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 1, 2)),
    ("when", pd.Timestamp("2026-01-02 01:00", tz="Europe/Warsaw"), datetime(2026, 1, 2)),
    ("when", np.datetime64("2026-01-02"), datetime(2026, 1, 2)),
    ("many", np.array([1, 2]), [1.0, 2.0]),
    ("many", (np.float32(0.5), Decimal("0.1")), [0.5, 0.1]),
    ("many", np.array([1.5, 2], dtype=object), [1.5, 2.0]),
    ("many", np.array([]), []),
    ("o", {"k": np.int64(7), "w": pd.Timestamp(0)}, {"k": 7, "w": datetime(1970, 1, 1)}),
]


@pytest.mark.parametrize(("name", "given", "wanted"), AS_ROWS, ids=[f"{n}={v!r}" for n, v, _ in AS_ROWS])
def test_what_rows_take_is_taken_on_the_way_out(name: str, given: object, wanted: object) -> None:
    """Python values of numpy, pandas, decimals and dates reach the service as plain values."""
    got = decode_params(encode_params({name: given}, SIGNATURE), SIGNATURE)[name]
    assert (repr(got), type(got)) == (repr(wanted), type(wanted))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("n", np.float64(3.7)),
        ("n", np.uint64(2**63)),
        ("n", 2**70),
        ("n", np.array([3])),
        ("n", "3"),
        ("n", slice(1)),
        ("t", Decimal("0.1000000000000000000000001")),
        ("t", np.float64(1e39)),
        ("t", np.bool_(True)),
        ("many", np.array(1.0)),
        ("many", np.array([[1.0]])),
        ("many", {1.0}),
        ("when", np.datetime64(1, "ns")),
        ("when", pd.Timestamp(1)),
        ("none", "\ud800"),
        ("o", {"k": 2**64}),
        ("nobody", 1),
    ],
    ids=repr,
)
def test_what_rows_refuse_is_refused_by_its_name(name: str, given: object) -> None:
    """What would lose something, or is of no known type, is told with the name of the parameter."""
    with pytest.raises(InvalidInput) as caught:
        encode_params({name: given, "flag": True}, SIGNATURE)
    assert [one.field.startswith(f'params["{name}"]') for one in caught.value.violations] == [True]


def test_outputs_are_picked_in_the_order_named() -> None:
    """No names are all outputs; names that are none of an output are all told."""
    fields = tuple(Field(name, AnyValue()) for name in "abc")
    assert select_outputs(fields, []) == fields
    assert select_outputs(fields, ["c", "a"]) == (fields[2], fields[0])
    with pytest.raises(InvalidInput) as caught:
        select_outputs(fields, ["a", "x", "a", "y"])
    assert [violation.field for violation in caught.value.violations] == ["outputs[1]", "outputs[2]", "outputs[3]"]
