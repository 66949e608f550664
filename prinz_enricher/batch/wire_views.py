"""The values of a serialised batch, viewed where they lie instead of being parsed.

protobuf copies packed values and bytes when it parses a message, and once more when they are read. Here the large ones
are cut out of the message before protobuf parses the rest, and stay views of its bytes. Only what is written in the one
plain way is cut out: values that came in parts, or of which a later field takes the place, are left to protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from prinz_enricher.batch.wire import BYTES, NotPlain, fields_of, prefix, read_varint
from prinz_enricher.contract import value_pb2

MAX_FIELDS: Final = 10_000
"""Fields of a message that are walked."""

_MAX_COLUMN_FIELDS: Final = 16
"""Fields of a column that are walked; it has three, but a later version of the contract may have more."""

_COLUMNS: Final = value_pb2.ColumnBatch.DESCRIPTOR.fields_by_name["columns"].number
_DENSE_VALUES: Final = value_pb2.DenseBatch.DESCRIPTOR.fields_by_name["values"].number
_VALUES: Final = {one.number: one.name for one in value_pb2.Column.DESCRIPTOR.oneofs_by_name["values"].fields}
WIDTHS: Final = {"doubles": 8, "floats": 4, "bools": 1}
"""Bytes of a value, of the kinds of column whose packed form is just the memory of the values."""

_PACKED: Final = b"\x0a"
"""The tag of field 1 with a length: `values` of each of those kinds, packed."""


@dataclass(frozen=True, slots=True)
class Views:
    """What was left in the bytes of a message, which is empty where they were.

    Attributes:
        data: The Arrow stream, or the values of dense rows; None where the message has it.
        columns: By its place in the batch: the packed values of a column that the message is without.
    """

    data: memoryview | None = None
    columns: Mapping[int, memoryview] = field(default_factory=dict)


def view_columns(batch: memoryview) -> tuple[bytes, Views]:
    """Take the large values out of a `ColumnBatch`.

    Args:
        batch: The serialised message.

    Returns:
        The message without the values of some columns, of which each is still of its kind, and those values.

    Raises:
        NotPlain: The message is protobuf's to judge.
    """
    rest: list[bytes | memoryview] = []
    views: dict[int, memoryview] = {}
    place = 0
    for one in fields_of(batch, MAX_FIELDS):
        column = None
        if one.number == _COLUMNS and one.wire_type == BYTES:
            column = _view_column(batch[one.value : one.end])
            if column is not None:
                written, views[place] = column
                rest += (prefix(_COLUMNS, len(written)), written)
            place += 1
        if column is None:
            rest.append(batch[one.start : one.end])
    return b"".join(rest), Views(columns=views)


def view_dense(batch: memoryview) -> tuple[bytes, Views]:
    """Take the values out of a `DenseBatch`.

    Args:
        batch: The serialised message.

    Returns:
        The message without the values, and the values, of several the last.

    Raises:
        NotPlain: The message is protobuf's to judge.
    """
    rest: list[memoryview] = []
    values = None
    for one in fields_of(batch, MAX_FIELDS):
        if one.number == _DENSE_VALUES and one.wire_type == BYTES:
            values = batch[one.value : one.end]
        else:
            rest.append(batch[one.start : one.end])
    return b"".join(rest), Views(values)


def _view_column(column: memoryview) -> tuple[bytes, memoryview] | None:
    """Take the values out of a column; None where it is to be left whole."""
    rest: list[bytes | memoryview] = []
    values = None
    try:
        for one in fields_of(column, _MAX_COLUMN_FIELDS):
            kind = _VALUES.get(one.number)
            if kind is None:
                rest.append(column[one.start : one.end])
                continue
            if one.wire_type != BYTES or values is not None or kind not in WIDTHS:
                return None
            values = _view_packed(column[one.value : one.end], kind)
            if values is None:
                return None
            rest.append(prefix(one.number, 0))
    except NotPlain:
        return None
    return None if values is None else (b"".join(rest), values)


def _view_packed(values: memoryview, kind: str) -> memoryview | None:
    """View the packed values of a message that holds nothing else."""
    if bytes(values[:1]) != _PACKED:
        return None
    size, start = read_varint(values, 1)
    if size == 0 or size % WIDTHS[kind] or start + size != len(values):
        return None
    packed = values[start:]
    # Each boolean is a varint, which may be longer and is true for any other number.
    return None if kind == "bools" and np.frombuffer(packed, np.uint8).max() > 1 else packed
