"""A large message is parsed in pieces: protobuf lets nothing else run while it parses, and makes much of few bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from prinz_enricher.batch.wire import BYTES, MAX_FIELDS, ManyFields, NotPlain, WireField, fields_of, prefix
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2

PIECE: Final = 256 * 1024
"""Bytes that are parsed at once, of the smallest values in a few milliseconds."""
_FEW: Final = PIECE // 2
"""Values that are parsed at once, of `_LONG` bytes in all at most."""
_LONG: Final = 2 * 1024 * 1024

# A large column is parsed by itself, since what it takes depends on its kind.
_BY_COLUMN: Final = (pb.ScoreRequest, value_pb2.ColumnBatch, value_pb2.Column)
_LARGE_COLUMN: Final = 1024
_MAX_DEPTH: Final = 100  # as protobuf has it
_LONGEST_VARINT: Final = 10
_FIXED: Final = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)

_TEXTS: Final = (value_pb2.StringValues, value_pb2.BytesValues)
_INTEGERS: Final = (value_pb2.Int32Values, value_pb2.Int64Values, value_pb2.TimestampValues)
_LISTS: Final = (*_TEXTS, *_INTEGERS, value_pb2.NestedValues)
# Bytes of memory of a text beside its own, and of a value with the list or record that it may be, as measured.
_TEXT: Final = 32
_VALUE: Final = 110
_INTEGER: Final = 8
# Of each value and each text the tag of field 1 is written; the same byte in a text or number only counts too much.
_TAG: Final = 0x0A


class ManyValues(Exception):
    """A column has more values than a request may have rows."""


class PieceParser:
    """Parses requests in pieces, and lets other threads run between two of them.

    Args:
        take: Gets the bytes of memory that a piece takes, about, before it is parsed; may raise.
        max_rows: Values that a column may have.
    """

    def __init__(self, take: Callable[[int], None], max_rows: int) -> None:
        self._take = take
        self._max_rows = max_rows

    def parse(self, message: Message, data: memoryview, depth: int = 0) -> None:
        """Merge serialised fields into a message of a `ScoreRequest`, as its `MergeFromString` does.

        A value that is larger than `PIECE` is parsed in pieces itself. `depth` is the number of messages around this
        one. Raises DecodeError where `data` is not such a message, ManyFields where it has more columns than any model
        takes, ManyValues, NotPlain where it is larger than a piece and written as no library of protobuf does (groups,
        overlong lengths), and as `take` does.
        """
        if depth > _MAX_DEPTH:
            raise DecodeError
        by_column = isinstance(message, _BY_COLUMN)
        large = _LARGE_COLUMN if by_column else PIECE
        fields: Iterable[WireField] = ()
        if len(data) > large and (by_column or not _is_quick(message, data)):
            try:
                fields = list(fields_of(data, 2 * MAX_FIELDS)) if by_column else fields_of(data)
            except ManyFields:
                raise
            except NotPlain:
                if len(data) > PIECE:
                    raise
        start = 0
        for one in fields:
            is_large = one.end - one.start > large
            if is_large or one.end - start > PIECE:
                self._merge(message, data[start : one.start])
                start = one.start
            if is_large:
                self._parse_field(message, one, data, depth)
                start = one.end
        self._merge(message, data[start:])

    def _parse_field(self, message: Message, one: WireField, data: memoryview, depth: int) -> None:
        field = message.DESCRIPTOR.fields_by_number.get(one.number)
        value = data[one.value : one.end]
        if field is None or one.wire_type != BYTES:
            self._merge(message, data[one.start : one.end])
        elif field.message_type is None:
            for piece in _packed(value, field) if field.is_packed else (value,):
                self._merge(message, memoryview(prefix(one.number, len(piece)) + bytes(piece)))
        elif not field.message_type.GetOptions().map_entry:
            held: Any = getattr(message, field.name)
            part = held.add() if field.is_repeated else held
            part.SetInParent()
            self.parse(part, value, depth + 1)
        elif len(value) <= PIECE:
            self._merge(message, data[one.start : one.end])
        else:
            self._parse_entry(getattr(message, field.name), value, depth + 1)

    def _parse_entry(self, entries: Any, data: memoryview, depth: int) -> None:
        key, values = b"", []
        for one in fields_of(data, MAX_FIELDS):
            if one.wire_type == BYTES and one.number == 1:
                key = bytes(data[one.value : one.end])
            elif one.wire_type == BYTES and one.number == 2:
                values.append(data[one.value : one.end])
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise DecodeError from None
        if name in entries:
            del entries[name]
        for value in values:
            self.parse(entries[name], value, depth + 1)

    def _merge(self, message: Message, data: memoryview) -> None:
        if not data:
            return
        if isinstance(message, _TEXTS):
            self._take(len(data) + _TEXT * _count_tags(data))
        elif isinstance(message, _INTEGERS):
            # Values that are appended to others are moved.
            self._take((2 if message.values else 1) * _INTEGER * len(data))
        else:
            self._take(2 * len(data) + _VALUE * _count_tags(data))
        message.MergeFromString(bytes(data))
        if isinstance(message, value_pb2.ColumnBatch) and len(message.columns) > MAX_FIELDS:
            raise ManyFields
        if isinstance(message, _LISTS) and len(message.values) > self._max_rows:
            raise ManyValues


def _packed(values: memoryview, field: Any) -> Iterator[memoryview]:
    """Yield pieces of packed numbers, each of whole ones."""
    start = 0
    while len(values) - start > PIECE:
        end = start + PIECE
        if field.type not in _FIXED:
            while values[end - 1] > 0x7F:
                end += 1
                if end - start > PIECE + _LONGEST_VARINT or end > len(values):
                    raise DecodeError
        yield values[start:end]
        start = end
    yield values[start:]


def _is_quick(message: Message, data: memoryview) -> bool:
    return len(data) <= _LONG and not isinstance(message, _INTEGERS) and _count_tags(data) <= _FEW


def _count_tags(data: memoryview) -> int:
    """Return the number of texts or values at most."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == _TAG))
