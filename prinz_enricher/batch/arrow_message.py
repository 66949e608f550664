"""What an Arrow IPC message tells before its body is read, and pyarrow does not show: byte order and sizes.

Reads just enough of the flatbuffers of `Message.fbs` and `Schema.fbs`. What does not read well raises `struct.error` or
`IndexError`; pyarrow verifies the same bytes before it uses them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_MESSAGE_HEADER: Final = 2
_SCHEMA_ENDIANNESS: Final = 0
_BATCH_LENGTH: Final = 0
_BATCH_BUFFERS: Final = 2
_BATCH_COMPRESSION: Final = 3
_DICTIONARY_DATA: Final = 1


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The size of a record batch or dictionary.

    Attributes:
        rows: Its length.
        bytes: How many bytes its buffers have, decompressed.
    """

    rows: int
    bytes: int


def is_big_endian(metadata: memoryview) -> bool:
    """Tell whether a schema message announces big-endian data.

    Args:
        metadata: The flatbuffer of the message.
    """
    schema = _table(metadata, _root(metadata), _MESSAGE_HEADER)
    if schema is None:
        return False
    field = _field(metadata, schema, _SCHEMA_ENDIANNESS)
    return field is not None and _int16(metadata, field) != 0


def batch_size(metadata: memoryview, body: memoryview, is_dictionary: bool) -> BatchSize:
    """Read the size of a record batch or dictionary before it is decompressed.

    Args:
        metadata: The flatbuffer of the message.
        body: Its body.
        is_dictionary: Whether it is a dictionary.
    """
    batch = _table(metadata, _root(metadata), _MESSAGE_HEADER)
    if batch is not None and is_dictionary:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if batch is None:
        return BatchSize(0, 0)
    length = _field(metadata, batch, _BATCH_LENGTH)
    rows = 0 if length is None else _int64(metadata, length)
    compressed = _field(metadata, batch, _BATCH_COMPRESSION) is not None
    total = 0
    for offset, size in _buffers(metadata, batch):
        if compressed and size >= 8:
            # A compressed buffer begins with its length; -1 says that it is not compressed after all.
            plain = _int64(body, offset)
            total += size - 8 if plain == -1 else max(plain, 0)
        else:
            total += size
    return BatchSize(rows, total)


def _buffers(data: memoryview, batch: int) -> list[tuple[int, int]]:
    field = _field(data, batch, _BATCH_BUFFERS)
    if field is None:
        return []
    start = field + _uint32(data, field)
    count = _uint32(data, start)
    if count > len(data):
        raise IndexError
    return [struct.unpack_from("<qq", data, start + 4 + 16 * index) for index in range(count)]


def _root(data: memoryview) -> int:
    return _uint32(data, 0)


def _table(data: memoryview, table: int, slot: int) -> int | None:
    field = _field(data, table, slot)
    return None if field is None else field + _uint32(data, field)


def _field(data: memoryview, table: int, slot: int) -> int | None:
    """Find the position of a table's field; None where it has its default."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise IndexError
    place = 4 + 2 * slot
    if place >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + place)[0]
    return table + offset if offset else None


def _uint32(data: memoryview, position: int) -> int:
    value: int = struct.unpack_from("<I", data, position)[0]
    return value


def _int16(data: memoryview, position: int) -> int:
    value: int = struct.unpack_from("<h", data, position)[0]
    return value


def _int64(data: memoryview, position: int) -> int:
    if position < 0:
        raise IndexError
    value: int = struct.unpack_from("<q", data, position)[0]
    return value
