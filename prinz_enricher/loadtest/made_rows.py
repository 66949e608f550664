"""Rows made from a signature: different ones, of every type that a signature can have, the same for the same seed.

Numbers are small (0 to 100), texts and lists short, and nothing is null: what a model is likely to take. A model that
wants more of its inputs than their types, such as texts out of a list, is tried with rows of a file.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import batch_from_rows
from prinz_enricher.loadtest.errors import LoadTestError
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Micros, Record, Scalar, Signature, Tensor, Type

ANY_SIZE: Final = 3
"""The size of a dimension of a tensor that may have any: one for all rows, so that they stack."""

_START: Final = datetime(2020, 1, 1)
_DAYS: Final = 3_650


def make_rows(signature: Signature, count: int, seed: int) -> pa.RecordBatch:
    """Make rows that a signature takes.

    Args:
        signature: Of the model.
        count: How many rows.
        seed: Of the chance.

    Returns:
        All inputs, optional ones too, with exactly the types of `input_schema`.

    Raises:
        LoadTestError: The signature declares no inputs.
    """
    if not signature.inputs:
        raise LoadTestError("the model has no signature to make rows from; --input names a file of rows")
    chance = random.Random(seed)  # noqa: S311 - no secret
    columns = {field.name: _column(field.type, count, chance) for field in signature.inputs}
    return batch_from_rows(columns, signature.inputs)


def _column(type: Type, count: int, chance: random.Random) -> Any:
    """Give the values of a column; numbers as an array, which is quick for many rows."""
    numbers = np.random.default_rng(chance.getrandbits(64))
    match type:
        case Scalar(kind) if kind.value in {"float", "double"}:
            return numbers.uniform(0.0, 100.0, count)
        case Scalar(kind) if kind.value in {"integer", "long"}:
            return numbers.integers(0, 101, count)
        case Scalar(kind) if kind.value == "boolean":
            return numbers.integers(0, 2, count).astype(np.bool_)
    return [_value(type, chance) for _ in range(count)]


def _value(type: Type, chance: random.Random) -> object:
    match type:
        case Scalar(kind):
            return _LEAVES[kind.value](chance)
        case Tensor(dtype, shape):
            return _tensor(dtype, shape[1:], chance)
        case ListOf(items):
            return [_value(items, chance) for _ in range(chance.randint(1, 4))]
        case MapOf(values):
            return {key: _value(values, chance) for key in chance.sample("abcdef", chance.randint(1, 3))}
        case Record(fields):
            return _record(fields, chance)
        case AnyValue():
            return chance.choice([_whole, _decimal, _text, _boolean])(chance)


def _record(fields: tuple[Field, ...], chance: random.Random) -> dict[str, object]:
    return {field.name: _value(field.type, chance) for field in fields}


def _tensor(dtype: str, shape: tuple[int, ...], chance: random.Random) -> object:
    if not shape:
        return _LEAVES["datetime" if dtype.startswith("datetime64") else dtype](chance)
    size = ANY_SIZE if shape[0] < 0 else shape[0]
    return [_tensor(dtype, shape[1:], chance) for _ in range(size)]


def _boolean(chance: random.Random) -> bool:
    return chance.random() < 0.5


def _whole(chance: random.Random) -> int:
    return chance.randint(0, 100)


def _decimal(chance: random.Random) -> float:
    return chance.uniform(0.0, 100.0)


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 8)))


def _binary(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, 16))


def _instant(chance: random.Random) -> Micros:
    # A whole day is exact in each unit that a tensor's dtype may have.
    return Micros.of(_START + timedelta(days=chance.randrange(_DAYS)))


_LEAVES: Final[dict[str, Callable[[random.Random], object]]] = {
    **dict.fromkeys(("boolean", "bool"), _boolean),
    **dict.fromkeys(
        ("integer", "long", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), _whole
    ),
    **dict.fromkeys(("float", "double", "float16", "float32", "float64"), _decimal),
    **dict.fromkeys(("string", "str", "object"), _text),
    **dict.fromkeys(("binary", "bytes"), _binary),
    "datetime": _instant,
}
