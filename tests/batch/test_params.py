"""Parameters: checked, and filled with the signature's defaults."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from prinz_enricher.batch import decode_params, select_outputs
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field, Micros, Param, Record, Scalar, ScalarKind, Signature, to_value

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
    for given in ({"many": 1.0}, {"many": None}, {"n": None}, {"n": [1]}):
        with pytest.raises(InvalidInput):
            decode(**given)


def test_outputs_are_picked_in_the_order_named() -> None:
    """No names are all outputs; names that are none of an output are all told."""
    fields = tuple(Field(name, AnyValue()) for name in "abc")
    assert select_outputs(fields, []) == fields
    assert select_outputs(fields, ["c", "a"]) == (fields[2], fields[0])
    with pytest.raises(InvalidInput) as caught:
        select_outputs(fields, ["a", "x", "a", "y"])
    assert [violation.field for violation in caught.value.violations] == ["outputs[1]", "outputs[2]", "outputs[3]"]
