"""Arrow IPC messages: what one says before its body is read, and the frame that it has in a stream.

pyarrow does not show it: this is just enough of the flatbuffers of `Message.fbs` and `Schema.fbs`
(https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format). What is damaged raises `struct.error`,
`IndexError` or `ValueError`; pyarrow verifies the same bytes before it uses them.
"""

from __future__ import annotations

import struct
from typing import Final

SCHEMA: Final = 1
DICTIONARY: Final = 2
BATCH: Final = 3

END: Final = struct.pack("<Ii", 0xFFFFFFFF, 0)
"""What ends a stream."""

_ARRAY: Final = 64
"""Bytes that an array counts as, beside its values: what it costs to read even an empty one."""

_MESSAGE_KIND, _MESSAGE_HEADER, _SCHEMA_ENDIANNESS = 1, 2, 0
_DICTIONARY_ID, _DICTIONARY_DATA, _DICTIONARY_DELTA = 0, 1, 2
_BATCH_LENGTH, _BATCH_NODES, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 1, 2, 3


def frame(metadata: memoryview) -> bytes:
    """Return what stands before the body of a message in a stream: the metadata, with its length."""
    padding = -len(metadata) % 8
    return struct.pack("<Ii", 0xFFFFFFFF, len(metadata) + padding) + bytes(metadata) + bytes(padding)


def kind_of(metadata: memoryview) -> int:
    """Return the kind of a message: `SCHEMA`, `DICTIONARY`, `BATCH` or another one."""
    field = _field(metadata, _number("<I", metadata, 0), _MESSAGE_KIND)
    return 0 if field is None else _number("<B", metadata, field)


def is_big_endian(metadata: memoryview) -> bool:
    """Return whether a schema announces big-endian values."""
    schema = _table(metadata, _number("<I", metadata, 0), _MESSAGE_HEADER)
    field = None if schema is None else _field(metadata, schema, _SCHEMA_ENDIANNESS)
    return field is not None and _number("<h", metadata, field) != 0


def dictionary_of(metadata: memoryview) -> tuple[int, bool]:
    """Return the id of a dictionary, and whether it adds to what came before."""
    dictionary = _table(metadata, _number("<I", metadata, 0), _MESSAGE_HEADER)
    if dictionary is None:
        return 0, False
    id, delta = (_field(metadata, dictionary, slot) for slot in (_DICTIONARY_ID, _DICTIONARY_DELTA))
    return 0 if id is None else _number("<q", metadata, id), delta is not None and bool(_number("<B", metadata, delta))


def rows_of(metadata: memoryview) -> int:
    """Return the rows that a record batch announces."""
    batch = _table(metadata, _number("<I", metadata, 0), _MESSAGE_HEADER)
    return 0 if batch is None else _length(metadata, batch)


def batch_size(metadata: memoryview, body: memoryview) -> tuple[int, int, int]:
    """Return the length of a record batch or dictionary, the bytes of its buffers once decompressed, and its values.

    Values are those of all arrays, at any depth of nesting, and each array is some more.
    """
    batch = _table(metadata, _number("<I", metadata, 0), _MESSAGE_HEADER)
    if batch is not None and kind_of(metadata) == DICTIONARY:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if batch is None:
        return 0, 0, 0
    compressed = _field(metadata, batch, _BATCH_COMPRESSION) is not None
    lengths, _ = _pairs(metadata, batch, _BATCH_NODES)
    total, values = 0, sum(lengths) + _ARRAY * len(lengths)
    if lengths and min(lengths) < 0:
        raise ValueError
    for offset, size in zip(*_pairs(metadata, batch, _BATCH_BUFFERS), strict=True):
        if compressed and size >= 8:
            # A compressed buffer begins with its length; -1 says that it is not compressed after all.
            plain = _number("<q", body, offset)
            size = size - 8 if plain == -1 else max(plain, 0)  # noqa: PLW2901
        total += size
    return _length(metadata, batch), total, values


def _length(data: memoryview, batch: int) -> int:
    field = _field(data, batch, _BATCH_LENGTH)
    return 0 if field is None else _number("<q", data, field)


def _pairs(data: memoryview, table: int, slot: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the first and the second numbers of the structs that a table's field holds."""
    start = _table(data, table, slot)
    if start is None:
        return (), ()
    count = _number("<I", data, start)
    if count > len(data):
        raise IndexError
    numbers = struct.unpack_from(f"<{2 * count}q", data, start + 4)
    return numbers[::2], numbers[1::2]


def _table(data: memoryview, table: int, slot: int) -> int | None:
    """Return the position that a table's field refers to; None where it has its default."""
    field = _field(data, table, slot)
    return None if field is None else field + _number("<I", data, field)


def _field(data: memoryview, table: int, slot: int) -> int | None:
    """Return the position of a table's field; None where it has its default."""
    vtable = table - _number("<i", data, table)
    place = 4 + 2 * slot
    if place >= _number("<H", data, vtable):
        return None
    offset = _number("<H", data, vtable + place)
    return table + offset if offset else None


def _number(format: str, data: memoryview, position: int) -> int:
    if position < 0:
        raise IndexError
    value: int = struct.unpack_from(format, data, position)[0]
    return value
