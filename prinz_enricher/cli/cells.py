"""Cells of a CSV file, which are text: read as values that the coercion policy of the service takes or refuses.

Arrow reads whole columns at once where it reads just what is meant; the others are read cell by cell.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from prinz_enricher.batch.faults import Faults, column_path
from prinz_enricher.batch.number import EXACT_BITS
from prinz_enricher.signature import AnyValue, Field, arrow_type

# What Arrow's reader and those of pandas and R take for a missing value, but in text.
_NULLS: Final = pa.array(pacsv.ConvertOptions().null_values)
_NUMBER: Final = re.compile(r"[+-]?(?:(\d+)|(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d{1,6})?)", re.ASCII)
_INFINITE: Final = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE | re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}

_FIRST_INSTANT: Final = pa.scalar(datetime(1, 1, 1), pa.timestamp("us"))
_WHOLE_CHARACTERS: Final = b"0123456789-"
_NUMBER_CHARACTERS: Final = b"0123456789-+.eE"


def read_cells(cells: pa.Array, field: Field, faults: Faults) -> pa.Array | list[object]:
    """Read a column of cells.

    A whole number is read exactly, a decimal as Python's `float` reads it. Values of nested types and of any type are
    JSON.

    Args:
        cells: Text, without a value where a cell is empty.
        field: The input that they are for.
        faults: Takes what is not JSON, but should be.

    Returns:
        A value for each cell: what can't be read as the field's type is left as text, for the policy to refuse.
    """
    target = arrow_type(field.type)
    if isinstance(field.type, AnyValue) or pa.types.is_nested(target):
        return list(_from_json(cells, column_path(field.name), faults))
    if pa.types.is_string(target):
        return cells
    if pa.types.is_binary(target):
        return cells.cast(pa.binary())
    quick, slow = _readers(target)
    read = quick(cells)
    if read is None:
        cells = pc.ascii_trim(cells, characters=" \t")
        cells = pc.if_else(pc.is_in(cells, _NULLS), pa.scalar(None, pa.string()), cells)
        read = quick(cells)
    return [None if cell is None else slow(cell) for cell in cells.to_pylist()] if read is None else read


Quick = Callable[[pa.Array], pa.Array | None]
"""Reads a column at once; None where it is not sure to read just what is meant."""


def _readers(target: pa.DataType) -> tuple[Quick, Callable[[str], object]]:
    if pa.types.is_floating(target):
        return (lambda cells: _floats(cells, EXACT_BITS[target])), _float
    if pa.types.is_integer(target):
        return (lambda cells: _cast(cells, pa.int64(), _WHOLE_CHARACTERS)), _whole
    if pa.types.is_boolean(target):
        return (lambda cells: _cast(cells, pa.bool_(), None)), lambda cell: _BOOLEANS.get(cell.lower(), cell)
    # The policy reads the others.
    return _instants, lambda cell: cell


def _has_only(cells: pa.Array, characters: bytes) -> bool:
    if len(cells) == 0:
        return True
    offsets = np.frombuffer(cells.buffers()[1], np.int32)[cells.offset : cells.offset + len(cells) + 1]
    text = cells.buffers()[2]
    held = text.slice(offsets[0], offsets[-1] - offsets[0]).to_pybytes() if text is not None else b""
    return not held.translate(None, characters)


def _cast(cells: pa.Array, type: pa.DataType, characters: bytes | None) -> pa.Array | None:
    """Have Arrow read cells of some characters: of others it would take more, such as 0x10 for 16."""
    if characters is not None and not _has_only(cells, characters):
        return None
    try:
        return cells.cast(type)
    except pa.ArrowInvalid:
        return None


def _floats(cells: pa.Array, bits: int) -> pa.Array | None:
    # As doubles in any case: `coerce` rounds and refuses as on every other road.
    read = _cast(cells, pa.float64(), _NUMBER_CHARACTERS)
    if read is None:
        return None
    large = pc.greater_equal(pc.abs(read), float(1 << bits))
    if pc.any(large).as_py() and (
        # Whole numbers that a floating point number may not tell, and decimals that are none of its numbers.
        pc.any(pc.match_substring_regex(cells.filter(large), "^[+-]?[0-9]+$")).as_py()
        or pc.any(pc.is_inf(read)).as_py()
    ):
        return None
    return read


def _instants(cells: pa.Array) -> pa.Array | None:
    read = _cast(cells, pa.timestamp("us"), None)
    if read is not None:
        # To Arrow an hour needs no minutes, and there is a year 0.
        other = pc.or_(pc.equal(pc.binary_length(cells), len("2024-01-01T10")), pc.less(read, _FIRST_INSTANT))
        read = None if pc.any(other).as_py() else read
    return read


def _float(cell: str) -> object:
    number = _NUMBER.fullmatch(cell)
    if number is None:
        return float(cell) if _INFINITE.fullmatch(cell) else cell
    value = float(cell)
    if math.isinf(value):
        return Decimal(cell)
    # A small one is the same as a float, and keeps the sign of a zero.
    return int(cell) if number[1] and abs(value) >= 1 << min(EXACT_BITS.values()) else value


def _whole(cell: str) -> object:
    return Decimal(cell) if _NUMBER.fullmatch(cell) else cell


def _from_json(cells: pa.Array, path: str, faults: Faults) -> Iterator[object]:
    for row, cell in enumerate(cells.to_pylist()):
        try:
            yield read_json(cell) if cell else None
        except ValueError:
            faults.add(f"{path}[{row}]", "is not JSON")
            yield None


def read_json(text: str | bytes) -> Any:
    """Read JSON as `json.loads` does; a whole number that a float can't tell, as 1e400, is an exact decimal.

    Raises:
        ValueError: The text is not JSON, or has a number beyond all bounds.
    """
    return json.loads(text, parse_float=_literal)


def _literal(text: str) -> float | Decimal:
    value = float(text)
    if math.isinf(value) or (value.is_integer() and abs(value) >= 1 << EXACT_BITS[pa.float64()]):
        try:
            exact = Decimal(text)
        except ArithmeticError:
            raise ValueError("a number is beyond all bounds") from None
        if exact != value and exact == exact.to_integral_value():
            return exact
    return value


_KEPT: Final = (
    ("^(0|-?[1-9][0-9]{0,17})$", pa.int64(), "whole numbers"),
    (r"^-?(0|[1-9][0-9]{0,7})(\.[0-9]{1,7})?$", pa.float64(), "numbers"),
)
"""Text of which a number tells all, up to 15 digits of a decimal."""


class KeptColumn:
    """A column that is kept beside the scores: numbers where that loses nothing, such as the zeros of `007`, else text.

    Args:
        first: The first of its cells, which say what it is.
    """

    def __init__(self, first: pa.Array) -> None:
        fitting = ((of, type, name) for of, type, name in _KEPT if first.null_count < len(first) and _all(first, of))
        self._pattern, self._type, self.name = next(fitting, ("", pa.string(), "text"))

    def read(self, cells: pa.Array) -> tuple[pa.Array | None, int]:
        """Read some of its cells.

        Returns:
            The values, and 0; or None, and which of the cells is not like the first ones.
        """
        if self._pattern and not _all(cells, self._pattern):
            strange = pc.invert(pc.match_substring_regex(cells, self._pattern))
            return None, int(pc.index(strange, value=True).as_py())
        return cells.cast(self._type), 0


def _all(cells: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(cells, pattern)).as_py() is not False
