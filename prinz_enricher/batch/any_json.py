"""Values of any type as JSON text, the way Python writes it: 1 and 1.0 stay apart, NaN and Infinity are told."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Final

import numpy as np

from prinz_enricher.batch import wanted
from prinz_enricher.batch.faults import Faults, Step, joined, quoted
from prinz_enricher.batch.number import decimal_double
from prinz_enricher.signature import Micros
from prinz_enricher.signature.value import MAX_DEPTH, UNSET

write_json: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=True, sort_keys=True, separators=(",", ":"), default=float
).encode
"""Writes a value that was checked already; a decimal as the double that tells it."""


class NotJson(ValueError):
    """Text that is not JSON, or that can't be read without a change to it."""


def to_json(value: object, base: str, path: list[Step], faults: Faults) -> str | None:
    """Write a value as JSON text.

    Args:
        value: Of what `from_value` gives.
        base: The path of its column or parameter.
        path: The steps from there to the value; as it was when the call returns.
        faults: Takes what JSON can't tell: binary and timestamps.

    Returns:
        The text; None for a null and where there was a fault.
    """
    if value is None or not _check(value, base, path, faults, 0):
        return None
    return write_json(value)


def _check(value: object, base: str, path: list[Step], faults: Faults, depth: int) -> bool:
    if isinstance(value, list | dict) and depth < MAX_DEPTH:
        return _check_parts(value, base, path, faults, depth)
    fault = _fault(value)
    if fault is not None:
        faults.add(joined(base, path), fault)
    return fault is None


def _fault(value: object) -> str | None:
    """Say what is wrong with a value that has no parts."""
    match value:
        case Micros():
            return wanted.INSTANT_IN_ANY
        case str():
            return None if is_unicode(value) else wanted.NOT_UNICODE
        case None | bool() | int() | float():
            return None
        case Decimal():
            return wanted.INEXACT_DECIMAL if decimal_double(value, np.dtype(np.float64)) is None else None
        case bytes():
            return wanted.BINARY_IN_ANY
        case list() | dict():
            return too_deep()
    return wanted.UNSET_VALUE if value is UNSET else wanted.OTHER_TYPE


def _check_parts(
    value: list[object] | dict[object, object], base: str, path: list[Step], faults: Faults, depth: int
) -> bool:
    if isinstance(value, list):
        parts: list[tuple[Step, object]] = list(enumerate(value))
    elif all(isinstance(key, str) and is_unicode(key) for key in value):
        parts = [(f"[{quoted(str(key))}]", one) for key, one in value.items()]
    else:
        faults.add(joined(base, path), wanted.KEY_NOT_UNICODE)
        return False
    # Each part is checked, also after one that is wrong.
    right = [_step(one, base, path, faults, depth, step) for step, one in parts]
    return all(right)


def _step(value: object, base: str, path: list[Step], faults: Faults, depth: int, step: Step) -> bool:
    path.append(step)
    right = _check(value, base, path, faults, depth + 1)
    path.pop()
    return right


def too_deep() -> str:
    """Say that a value is nested too deep."""
    return f"is nested deeper than {MAX_DEPTH} levels"


def is_unicode(text: str) -> bool:
    """Tell whether text can be written as UTF-8, so holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_json(text: str) -> object:
    """Read JSON text as Python writes it.

    Args:
        text: One JSON value, with NaN, Infinity and -Infinity allowed.

    Returns:
        None, bool, int, float, str, or a list or dict of those.

    Raises:
        NotJson: It is not JSON, is nested too deep, has a key twice or a number that a double overflows on.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_float=_finite)
    except NotJson:
        raise
    except (ValueError, RecursionError) as exc:
        raise NotJson(wanted.NOT_JSON) from exc
    if not _shallow(value, MAX_DEPTH):
        raise NotJson(too_deep())
    # Only an escape in the text can make half of a surrogate pair.
    if "\\u" in text and not is_unicode(write_json(value)):
        raise NotJson(wanted.NOT_UNICODE)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise NotJson(wanted.TWICE)
    return read


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(wanted.NOT_JSON)
    return value


def _shallow(value: object, levels: int) -> bool:
    if isinstance(value, list):
        return levels > 0 and all(_shallow(one, levels - 1) for one in value)
    if isinstance(value, dict):
        return levels > 0 and all(_shallow(one, levels - 1) for one in value.values())
    return True
