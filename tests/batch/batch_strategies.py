"""Random types, signatures and values: such as fit, and such as nearly fit."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

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
    Type,
)

names = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=6
) | st.sampled_from(["a", "b", "alcohol", "free sulfur dioxide", 'quo"te', "0"])
texts = st.text(st.characters(codec="utf-8"), max_size=8)
int64s = st.integers(-(2**63), 2**63 - 1)
edges = st.sampled_from(
    [s * (2**p + d) for p in (7, 8, 11, 15, 16, 24, 31, 32, 53, 62) for d in (-1, 0, 1) for s in (1, -1)]
    + [0, 1, 2**63 - 1, -(2**63)]
)
integers = st.integers(-100, 100) | edges | int64s
doubles = (
    st.floats(width=64)
    | edges.map(float)
    | st.sampled_from(
        [0.0, -0.0, 0.1, 3.7, 65504.0, 65520.0, 3.4028234e38, 3.4028235677973366e38, 1e39, 5e-324, math.nan]
    )
)
micros = st.integers(-(2**62), 2**62).map(Micros) | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]).map(Micros)
isos = st.sampled_from(
    [
        "2026-11-23",
        "2026-11-23T14:05",
        "2026-11-23T14:05:06",
        "2026-11-23T14:05:06.250",
        "2026-11-23T14:05:06.1234567",
        "2026-11-23T14:05:06.123456000",
        "2026-11-23T14:05:06Z",
        "2026-11-23T14:05:06+02:00",
        "2026-02-30",
        "2026-11-23T25:00",
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00+01:00",
        "0000-01-01",
        "9999-12-31T23:59:59.999999",
        "now",
        "",
    ]
) | st.datetimes().map(lambda when: when.isoformat())

leaves = st.none() | st.booleans() | integers | doubles | texts | isos | st.binary(max_size=6) | micros
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)

jsons: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | int64s | st.floats() | texts,
    lambda parts: st.lists(st.none() | parts, max_size=3) | st.dictionaries(texts, parts, max_size=3),
    max_leaves=4,
)

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "str",
)
scalars = st.sampled_from(ScalarKind).map(Scalar)
tensors = st.builds(
    Tensor, st.sampled_from(DTYPES), st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=2).map(lambda rest: (-1, *rest))
)


def fields_of(
    types: st.SearchStrategy[Type], min_size: int = 1, max_size: int = 4
) -> st.SearchStrategy[tuple[Field, ...]]:
    """Make fields with different names."""
    return st.lists(
        st.builds(Field, names, types, st.booleans()),
        min_size=min_size,
        max_size=max_size,
        unique_by=lambda field: field.name,
    ).map(tuple)


def _records(types: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    return fields_of(types, 1, 3).map(lambda fields: Record(tuple(sorted(fields, key=lambda field: field.name))))


columns = st.recursive(
    scalars | st.just(AnyValue()),
    lambda inner: inner.map(ListOf) | inner.map(MapOf) | _records(inner),
    max_leaves=4,
)
types: st.SearchStrategy[Type] = scalars | columns | tensors
signatures = fields_of(types).map(lambda fields: Signature(fields, (Field("output_0", AnyValue()),)))


def fitting(type: Type, required: bool) -> st.SearchStrategy[Any]:
    """Make values that a type mostly takes as they are."""
    match type:
        case Scalar(kind):
            made = _scalar(kind.value)
            free = kind is ScalarKind.STRING
        case Tensor(dtype, shape):
            return _tensor(dtype, shape[1:])
        case AnyValue():
            made = jsons
            free = True
        case ListOf(items):
            made, free = st.lists(fitting(items, True), max_size=3), False
        case MapOf(inner):
            made, free = st.dictionaries(texts, fitting(inner, True), max_size=3), False
        case Record(fields):
            parts = {field.name: (fitting(field.type, field.required), field.required) for field in fields}
            made = st.fixed_dictionaries(
                {name: values for name, (values, required) in parts.items() if required},
                optional={name: values for name, (values, required) in parts.items() if not required},
            )
            free = False
    return made if required and not free else made | st.none()


def _tensor(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    if not shape:
        return _scalar(dtype)
    low, high = (0, 3) if shape[0] < 0 else (shape[0], shape[0])
    return st.lists(_tensor(dtype, shape[1:]), min_size=low, max_size=high)


def _scalar(name: str) -> st.SearchStrategy[Any]:
    match name:
        case "boolean" | "bool":
            return st.booleans()
        case "integer":
            return st.integers(-(2**31), 2**31 - 1)
        case "long":
            return int64s
        case "float" | "float32":
            return st.floats(width=32)
        case "float16":
            return st.floats(width=16)
        case "double" | "float64":
            return st.floats(width=64)
        case "string" | "str":
            return texts
        case "binary":
            return st.binary(max_size=6)
        case "datetime":
            return micros
    bits = int(name.lstrip("uint"))
    return (
        st.integers(0, min(2**bits, 2**63) - 1)
        if name[0] == "u"
        else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


def value_for(type: Type, required: bool) -> st.SearchStrategy[Any]:
    """Make values that fit a type, nearly fit it, or do not fit it at all."""
    match type:
        case ListOf(items):
            near: st.SearchStrategy[Any] = st.lists(value_for(items, True), max_size=3)
        case MapOf(inner):
            near = st.dictionaries(texts, value_for(inner, True), max_size=3)
        case Record(fields):
            parts = {field.name: value_for(field.type, field.required) for field in fields}
            near = st.fixed_dictionaries({}, optional=parts) | st.fixed_dictionaries(parts)
            near |= st.dictionaries(names, leaves, max_size=2)
        case Scalar() | Tensor(_, (_,)):
            near = leaves
        case _:
            near = values
    return st.one_of(fitting(type, required), fitting(type, required), near, leaves)
