"""The wire format of protobuf, as far as large messages are read and written by hand: tags, varints, lengths, views.

protobuf copies packed values and bytes when it parses a message, and once more when they are read. Here the large ones
are cut out of the message before protobuf parses the rest, and stay views of its bytes. What is not written in the one
plain way is left to protobuf: values that came in parts, or that a later field replaces.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from prinz_enricher.contract import value_pb2

# The wire type of what has a length: text, bytes, messages and packed values.
BYTES: Final = 2
# Fields of a batch that are walked: the columns that there may be, the number of rows, and what a later version adds.
MAX_FIELDS: Final = 10_016
# Rows from which a batch is written in parts; a smaller one is quicker written by protobuf.
MANY_ROWS: Final = 4096

COLUMNS: Final = value_pb2.ColumnBatch.DESCRIPTOR.fields_by_name["columns"].number
DENSE_VALUES: Final = value_pb2.DenseBatch.DESCRIPTOR.fields_by_name["values"].number

_VARINT: Final = 0
# Fields are numbered from 1.
_FIRST_TAG: Final = 8
# Bytes of a value, by the other wire types.
_FIXED: Final = {1: 8, 5: 4}

# Fields of a column that are walked; it has three, but a later version of the contract may have more.
_MAX_COLUMN_FIELDS: Final = 16

_VALUES: Final = {one.number: one.name for one in value_pb2.Column.DESCRIPTOR.oneofs_by_name["values"].fields}
# Bytes of a value, of the kinds of column whose packed form is just the memory of the values.
WIDTHS: Final = {"doubles": 8, "floats": 4, "bools": 1}
# The tag of field 1 with a length: `values` of each of those kinds, packed.
_PACKED: Final = b"\x0a"

Part: TypeAlias = bytes | pa.Buffer
"""Part of a serialised message: something with a length and memory."""


class NotPlain(Exception):
    """A message is damaged or unusual."""


class ManyFields(NotPlain):
    """A message has more fields than are walked."""


class WireField(NamedTuple):
    """A field of a serialised message: where its tag begins, where its value (after the length), and where it ends."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


def fields_of(view: memoryview, most: int = sys.maxsize) -> Iterator[WireField]:
    """Walk the fields of a serialised message, without those of messages in it.

    Raises NotPlain where it is damaged or unusual, and ManyFields where it has more than `most`.
    """
    at, whole = 0, len(view)
    for _ in range(most):
        if at == whole:
            return
        # Most tags and lengths are a byte.
        tag, value = view[at], at + 1
        if tag > 0x7F:
            tag, value = read_varint(view, at)
        wire_type = tag & 7
        if tag < _FIRST_TAG or value == whole:
            raise NotPlain
        if wire_type == BYTES:
            size, value = view[value], value + 1
            if size > 0x7F:
                size, value = read_varint(view, value - 1)
            end = value + size
        elif wire_type == _VARINT:
            end = value + 1 if view[value] <= 0x7F else read_varint(view, value, 10)[1]
        elif wire_type in _FIXED:
            end = value + _FIXED[wire_type]
        else:
            raise NotPlain  # groups, which proto3 does not have, and invalid wire types
        if end > whole:
            raise NotPlain
        yield WireField(tag >> 3, wire_type, at, value, end)
        at = end
    if at != whole:
        raise ManyFields


def read_varint(view: memoryview, at: int, longest: int = 5) -> tuple[int, int]:
    """Return the value of a varint, and where it ends; raises NotPlain if it has more bytes than needed or allowed."""
    value = 0
    for place, byte in enumerate(view[at : at + longest]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if place and not byte:
                raise NotPlain
            return value, at + place + 1
    raise NotPlain


def varint(value: int) -> bytes:
    """Write a varint of a number that is not negative."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def prefix(number: int, size: int) -> bytes:
    """Write what precedes a value of `size` bytes: the tag of its field and the length."""
    return varint(number << 3 | BYTES) + varint(size)


@dataclass(frozen=True, slots=True)
class Views:
    """Values cut out of a message: an Arrow stream or those of dense rows, or packed ones of columns by their place."""

    data: memoryview | None = None
    columns: Mapping[int, memoryview] = field(default_factory=dict)


def view_columns(batch: memoryview) -> tuple[bytes, Views]:
    """Cut the large values out of a serialised `ColumnBatch`; raises NotPlain where protobuf is to judge the message.

    Returns the message without the values of some columns, of which each is still of its kind, and those values.
    """
    rest: list[bytes | memoryview] = []
    views: dict[int, memoryview] = {}
    place = 0
    # All of them first: of too many, none is looked into.
    for one in list(fields_of(batch, MAX_FIELDS)):
        is_column = one.number == COLUMNS and one.wire_type == BYTES
        column = _view_column(batch[one.value : one.end]) if is_column else None
        if column is None:
            rest.append(batch[one.start : one.end])
        else:
            written, views[place] = column
            rest += (prefix(COLUMNS, len(written)), written)
        place += is_column
    return b"".join(rest), Views(columns=views)


def view_dense(batch: memoryview) -> tuple[bytes, Views]:
    """Cut the values, of several the last, out of a serialised `DenseBatch`; otherwise as `view_columns`."""
    rest: list[memoryview] = []
    values = None
    for one in fields_of(batch, MAX_FIELDS):
        if one.number == DENSE_VALUES and one.wire_type == BYTES:
            values = batch[one.value : one.end]
        else:
            rest.append(batch[one.start : one.end])
    return b"".join(rest), Views(values)


def _view_column(column: memoryview) -> tuple[bytes, memoryview] | None:
    """Cut the values out of a column; None where it is to be left whole."""
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
