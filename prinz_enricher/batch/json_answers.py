"""Columns of the wire as JSON, exact: the way back of `json_rows`.

A whole number is written with all its digits, a floating point number with the fewest that read back the same, a
float32 as the double that it is; binary is base64, an instant ISO-8601 text.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Micros
from prinz_enricher.signature.value import UNSET, from_value

write: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=True, separators=(",", ":")).encode
"""Writes what `json_values` returns, and names."""

_TEXTS: Final = {math.inf: "Infinity", -math.inf: "-Infinity"}


@dataclass(frozen=True, slots=True)
class JsonStyle:
    """How values are written that JSON does not have.

    Attributes:
        not_finite: NaN and infinities: as `text`, such as "NaN"; as `null`; or as the `token` that Python writes.
        zone: What follows an instant.
    """

    not_finite: str
    zone: str


EXACT: Final = JsonStyle("text", "Z")
"""Each value can be read back."""
NULLS: Final = JsonStyle("null", "Z")
"""For readers that take numbers alone; a missing number is NaN to a model, and a null to them."""
PYTHON: Final = JsonStyle("token", "")
"""As MLflow's server writes."""


def json_values(column: value_pb2.Column, style: JsonStyle) -> list[Any]:
    """Return the values of a column as `write` takes them; raises OverflowError for a year that ISO-8601 lacks."""
    kind = column.WhichOneof("values")
    if kind is None:
        return []
    values: list[Any] = list(getattr(column, kind).values)
    if kind in {"doubles", "floats"}:
        if style.not_finite != "token" and not all(map(math.isfinite, values)):
            values = [_number(value, style) for value in values]
    elif kind in {"binaries", "timestamps", "nested"}:
        if kind == "timestamps":
            values = list(map(Micros, values))
        elif kind == "nested":
            values = list(map(from_value, values))
        if column.validity:
            # What stands for a null need not be an instant.
            values = _with_nulls(values, column.validity)
        return [_plain(value, style) for value in values]
    return _with_nulls(values, column.validity) if column.validity else values


def _with_nulls(values: Sequence[Any], validity: bytes) -> list[Any]:
    return [value if validity[row >> 3] >> (row & 7) & 1 else None for row, value in enumerate(values)]


def _number(value: float, style: JsonStyle) -> object:
    if math.isfinite(value) or style.not_finite == "token":
        return value
    return None if style.not_finite == "null" else _TEXTS.get(value, "NaN")


def _plain(value: object, style: JsonStyle) -> object:
    match value:
        case float():
            return _number(value, style)
        case Micros():
            return value.datetime().isoformat() + style.zone
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return [_plain(one, style) for one in value]
        case dict():
            # The wire has them in no order; the same answer is the same text.
            return {name: _plain(one, style) for name, one in sorted(value.items())}
    return None if value is UNSET else value
