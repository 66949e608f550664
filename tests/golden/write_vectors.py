"""Writes `vectors.json`, which pins the wire form of each type for any language.

Run `python -m tests.golden.write_vectors` only when the contract grows; a changed line is a broken client. Each vector
holds a signature (MLflow's own JSON and `prinz.enricher.v1.Signature`), its digest, a `ColumnBatch`, and what decoding
gives: the rows and the batch as it is encoded again, or the violations. Bytes are hexadecimal. In rows, binary is
{"binary": hex}, an instant {"micros": number}, a record or map {"record": {…}}, and NaN, Infinity and -Infinity are
{"double": text}; all whole numbers are written in full.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from prinz_enricher.batch import decode_columns, encode_columns
from prinz_enricher.batch.python_values import python_values
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Micros, read_signature, to_wire
from prinz_enricher.signature.arrow import caller_schema
from prinz_enricher.signature.value import fill_value

PATH = Path(__file__).with_name("vectors.json")

NULL = None
INF, NAN = math.inf, math.nan
RECORD = {"type": "object", "properties": {"a": {"type": "long"}, "b": {"type": "string", "required": False}}}
OBJECT = {"type": "object", "properties": {"s": {"type": "string", "required": False}}}
# By name: properties that an object may lack.
OPTIONAL: dict[str, dict[str, Any]] = {
    "b": {"type": "boolean", "required": False},
    "d": {"type": "double", "required": False},
    "f": {"type": "float", "required": False},
    "l": {"type": "array", "items": {"type": "long"}, "required": False},
    "m": {"type": "map", "values": OBJECT, "required": False},
    "o": {**OBJECT, "required": False},
    "v": {"type": "any", "required": False},
}


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    """Write a tensor as MLflow does."""
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}


# Name, MLflow's type, whether it is required, the kind of wire column, and the values of its rows.
CASES: list[tuple[str, dict[str, Any], bool, str, list[Any]]] = [
    ("boolean", {"type": "boolean"}, True, "bools", [True, False]),
    ("boolean, optional", {"type": "boolean"}, False, "bools", [True, NULL]),
    ("boolean of numbers", {"type": "boolean"}, True, "int64s", [1, 0]),
    ("integer", {"type": "integer"}, True, "int32s", [0, -1, 2**31 - 1, -(2**31)]),
    ("integer of longs", {"type": "integer"}, True, "int64s", [7, 2**31]),
    ("integer of doubles", {"type": "integer"}, True, "doubles", [3.0, 3.7, 3e9, NAN, INF]),
    ("integer of booleans", {"type": "integer"}, True, "bools", [True]),
    ("integer of null", {"type": "integer"}, True, "int32s", [1, NULL]),
    ("integer, optional", {"type": "integer"}, False, "int32s", [1, NULL]),
    ("integer of NaN, optional", {"type": "integer"}, False, "doubles", [1.0, NAN]),
    ("long", {"type": "long"}, True, "int64s", [0, 2**53 + 1, 2**63 - 1, -(2**63)]),
    ("long of integers", {"type": "long"}, True, "int32s", [5]),
    ("long of doubles", {"type": "long"}, True, "doubles", [2.0**62, -0.0]),
    ("long of doubles out of range", {"type": "long"}, True, "doubles", [2.0**63]),
    ("long of text", {"type": "long"}, True, "strings", ["1"]),
    ("float", {"type": "float"}, True, "floats", [0.5, -0.0, INF, NAN]),
    ("float of doubles", {"type": "float"}, True, "doubles", [0.1, 1e-50, 3.4028234663852886e38]),
    ("float of doubles out of range", {"type": "float"}, True, "doubles", [0.1, 1e39, INF]),
    ("float of longs", {"type": "float"}, True, "int64s", [2**24, 2**24 + 1]),
    ("double", {"type": "double"}, True, "doubles", [0.1, -0.0, 5e-324, INF, -INF, NAN]),
    ("double of null", {"type": "double"}, True, "doubles", [1.5, NULL]),
    ("double of floats", {"type": "double"}, True, "floats", [0.5]),
    ("double of longs", {"type": "double"}, True, "int64s", [2**53, -(2**53), 7]),
    ("double of longs out of range", {"type": "double"}, True, "int64s", [2**53 + 1]),
    ("string", {"type": "string"}, True, "strings", ["", "zażółć", "𝄞", NULL]),
    ("string of numbers", {"type": "string"}, True, "doubles", [1.0]),
    ("binary", {"type": "binary"}, True, "binaries", [b"", b"\x00\xff"]),
    ("binary of text", {"type": "binary"}, True, "strings", ["AP8="]),
    ("datetime", {"type": "datetime"}, True, "timestamps", [0, 1_795_442_706_250_000, -1, -62_135_596_800_000_000]),
    (
        "datetime of text",
        {"type": "datetime"},
        True,
        "strings",
        ["2026-11-23", "2026-11-23T14:05:06.25", "2026-11-23T14:05:06+02:00", "2026-11-23T14:05:06.123456000Z"],
    ),
    (
        "datetime of wrong text",
        {"type": "datetime"},
        True,
        "strings",
        ["yesterday", "2026-02-30", "2026-11-23T14:05:06.1234567"],
    ),
    ("datetime of longs", {"type": "datetime"}, True, "int64s", [0]),
    ("array", {"type": "array", "items": {"type": "double"}}, True, "nested", [[], [1.5, 2, NULL]]),
    ("array, refused", {"type": "array", "items": {"type": "long"}}, True, "nested", [[1, 2.5], NULL, 3, [NULL]]),
    (
        "array of arrays",
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        False,
        "nested",
        [[["a"], []], NULL],
    ),
    (
        "array of datetimes",
        {"type": "array", "items": {"type": "datetime"}},
        True,
        "nested",
        [[Micros(5), "2026-11-23"]],
    ),
    ("sparkml_vector", {"type": "sparkml_vector"}, True, "nested", [[1.0, 2.0]]),
    ("map", {"type": "map", "values": {"type": "long"}}, True, "nested", [{}, {"b": 1, "a": 2.0}]),
    ("map, refused", {"type": "map", "values": {"type": "boolean"}}, True, "nested", [{"a": 1}, []]),
    ("object", RECORD, True, "nested", [{"a": 1, "b": "x"}, {"a": 2}, {"b": NULL, "a": 3}]),
    ("object, refused", RECORD, True, "nested", [{"b": "x"}, {"a": 1, "c": 1}, {"a": NULL}, {"a": 1, "b": 1}]),
    (
        "object, absent and null",
        {"type": "object", "properties": OPTIONAL},
        True,
        "nested",
        [{}, dict.fromkeys(OPTIONAL), {"d": 0.1, "l": [], "o": {}}, {"o": {"s": NULL}, "m": {"k": {}}, "v": NULL}],
    ),
    (
        "array of objects, absent and null",
        {"type": "array", "items": OBJECT},
        False,
        "nested",
        [[{}, {"s": NULL}, {"s": "x"}], [], NULL],
    ),
    (
        "any",
        {"type": "any"},
        True,
        "nested",
        [NULL, 1, 1.0, True, "a", [1, [NULL]], {"k": {"n": NAN}}, INF, 2**63 - 1, -0.0],
    ),
    ("any of doubles", {"type": "any"}, True, "doubles", [1.0, 0.1]),
    ("any of text", {"type": "any"}, True, "strings", ["1", '{"a":1}']),
    ("any, refused", {"type": "any"}, True, "nested", [b"x", {"k": [Micros(0)]}]),
    ("tensor float32", tensor("float32"), True, "doubles", [0.1, NAN]),
    ("tensor int8", tensor("int8"), True, "int32s", [-128, 127]),
    ("tensor int8, refused", tensor("int8"), True, "int32s", [-129, 128]),
    ("tensor uint64", tensor("uint64"), True, "int64s", [0, 2**63 - 1]),
    ("tensor uint64, refused", tensor("uint64"), True, "int64s", [-1]),
    ("tensor float16", tensor("float16"), True, "floats", [0.5, 65504.0]),
    ("tensor of lists", tensor("int64", 2), True, "nested", [[1, 2], [3.0, 4]]),
    ("tensor of lists, refused", tensor("int64", 2), True, "nested", [[1], [1, 2, 3], NULL, [1, NULL]]),
    ("tensor of images", tensor("uint8", 2, -1, 1), True, "nested", [[[[0], [255]], []]]),
]


def shown(value: Any) -> Any:
    """Write a value so that any JSON reader gives it back."""
    match value:
        case Micros():
            return {"micros": int(value)}
        case bytes():
            return {"binary": value.hex()}
        case float() if not math.isfinite(value):
            return {"double": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
        case list():
            return [shown(one) for one in value]
        case dict():
            return {"record": {key: shown(one) for key, one in sorted(value.items())}}
    return value


def batch_of(kind: str, rows: list[Any]) -> value_pb2.ColumnBatch:
    """Write rows as a column of one kind."""
    message = value_pb2.ColumnBatch(num_rows=len(rows))
    column = message.columns.add(name="x")
    held = getattr(column, kind).values
    if kind == "nested":
        for row in rows:
            fill_value(held.add(), row)
        return message
    if None in rows:
        column.validity = np.packbits([row is not None for row in rows], bitorder="little").tobytes()
    empty = next(row for row in rows if row is not None).__class__()
    held.extend(empty if row is None else row for row in rows)
    return message


def vector(name: str, entry: dict[str, Any], required: bool, kind: str, rows: list[Any]) -> dict[str, Any]:
    """Make the vector of a case."""
    inputs = json.dumps(
        [{**entry, "name": "x"} if entry["type"] == "tensor" else {**entry, "name": "x", "required": required}]
    )
    signature = read_signature({"signature": {"inputs": inputs}})
    message = batch_of(kind, rows)
    made = {
        "name": name,
        "mlflow_inputs": json.loads(inputs),
        "signature": to_wire(signature).SerializeToString(deterministic=True).hex(),
        "digest": signature.digest,
        "sent": {"kind": kind, "rows": shown(rows)},
        "column_batch": message.SerializeToString(deterministic=True).hex(),
    }
    try:
        batch = decode_columns(message, signature)
    except InvalidInput as error:
        return made | {
            "accepted": False,
            "reason": error.reason,
            "violations": [{"field": one.field, "description": one.description} for one in error.violations],
        }
    return made | {
        "accepted": True,
        "arrow_type": str(caller_schema(batch.schema).field("x").type),
        "rows": shown(python_values(batch.column(0), batch.schema.field("x"))),
        "encoded_again": encode_columns(batch).SerializeToString(deterministic=True).hex(),
    }


def vectors() -> list[dict[str, Any]]:
    """Make all vectors."""
    return [vector(*case) for case in CASES]


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
