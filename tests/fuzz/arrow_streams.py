"""Arrow IPC streams for a signature: sound ones, sound ones of odd types and encodings, and damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tests.fuzz.damage import NUMBERS, changes, damaged
from tests.fuzz.messages import Draw

FREE = 50_000_000
"""Nulls that a column claims to have, in no bytes."""


def _decimals(rows: int) -> pa.Array:
    return pa.array([100] * rows, pa.decimal128(38, -2))


def _nested(rows: int) -> pa.Array:
    type = pa.int64()
    for level in range(40):
        type = pa.list_(type) if level % 2 else pa.struct([("a", type)])
    return pa.nulls(rows, type)


def _free_lists(rows: int) -> pa.Array:
    offsets = np.linspace(0, FREE, rows + 1).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.nulls(FREE))


def _misnamed(rows: int) -> pa.Array:
    return pa.array([{"abcdefgh": place} for place in range(rows)], pa.struct([("abcdefgh", pa.int64())]))


def _union(rows: int) -> pa.Array:
    kinds = pa.array([place % 2 for place in range(rows)], pa.int8())
    return pa.UnionArray.from_sparse(kinds, [pa.nulls(rows, pa.int64()), pa.nulls(rows, pa.utf8())])


def _encoded(rows: int) -> pa.Array:
    ends = pa.array([rows], pa.int32()) if rows else pa.array([], pa.int32())
    return pa.RunEndEncodedArray.from_arrays(ends, pa.array([1.5] * len(ends)))


def _map_of_numbers(rows: int) -> pa.Array:
    return pa.array([[(1, 2), (1, 3)]] * rows, pa.map_(pa.int64(), pa.int64()))


def _dictionary(rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["y" * 100_000]))


def _dictionary_of_lists(rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.uint16()), pa.array([[1, None], []]))


def _typed(type: pa.DataType, value: Any) -> Callable[[int], pa.Array]:
    return lambda rows: pa.array([value, None, value, value, value][:rows] + [None] * max(0, rows - 5), type)


ODD: Final[list[Callable[[int], pa.Array]]] = [
    _decimals,
    _nested,
    _free_lists,
    _misnamed,
    _union,
    _encoded,
    _map_of_numbers,
    _dictionary,
    _dictionary_of_lists,
    pa.nulls,
    lambda rows: pa.nulls(rows, pa.list_(pa.null(), 1_000_000)),
    lambda rows: pa.nulls(rows, pa.struct([])),
    _typed(pa.list_(pa.struct([])), [{}, {}]),
    _typed(pa.list_(pa.list_(pa.int64())), [[]]),
    _typed(pa.list_(pa.map_(pa.utf8(), pa.int64())), []),
    _typed(pa.struct([("a", pa.list_(pa.utf8()))]), {"a": []}),
    _typed(pa.decimal256(76, 70), 1),
    _typed(pa.date32(), 2**31 - 1),
    _typed(pa.date64(), 2**62),
    _typed(pa.time64("ns"), 5),
    _typed(pa.duration("s"), 2**62),
    _typed(pa.month_day_nano_interval(), (1, 2, 3)),
    _typed(pa.timestamp("s", "Europe/Warsaw"), 2**62),
    _typed(pa.timestamp("ns", "Nowhere/At all"), -(2**63)),
    _typed(pa.float16(), 1.0),
    _typed(pa.uint64(), 2**64 - 1),
    _typed(pa.large_utf8(), "2026-11-23"),
    _typed(pa.utf8(), "[" * 5000),
    _typed(pa.utf8(), "9" * 5000),
    _typed(pa.utf8(), '{"a":1,"a":"\\ud800"}'),
    _typed(pa.string_view(), "longer than twelve characters"),
    _typed(pa.binary_view(), b"longer than twelve characters"),
    _typed(pa.binary(0), b""),
    _typed(pa.large_list(pa.int64()), [1, None]),
    _typed(pa.list_view(pa.int64()), [1, None]),
    _typed(pa.map_(pa.utf8(), pa.utf8()), [("a", "b"), ("a", "c")]),
    _typed(pa.struct([("a", pa.int64()), ("a", pa.int64())]), None),
    _typed(pa.uuid(), b"0123456789abcdef"),
    _typed(pa.bool8(), 1),
    _typed(pa.json_(), "{}"),
]
"""Columns of a number of rows, of types that no signature has."""


def streams(batch: pa.RecordBatch) -> st.SearchStrategy[bytes]:
    """Make streams from rows that fit a signature."""
    return st.composite(lambda draw: _stream(draw, batch))()


def _stream(draw: Draw, batch: pa.RecordBatch) -> bytes:
    for _ in range(draw(st.integers(0, 2))):
        batch = _odd(draw, batch)
    cut = draw(st.integers(0, batch.num_rows))
    batches = [batch] if cut == 0 else [batch.slice(0, cut), batch.slice(cut)]
    options = pa.ipc.IpcWriteOptions(compression=draw(st.sampled_from([None, None, "lz4", "zstd"])))
    sink = pa.BufferOutputStream()
    try:
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            for one in batches:
                writer.write_batch(one)
    except pa.ArrowCapacityError:
        # Of so many rows a column would claim more nulls than a stream can tell.
        return b""
    data: bytes = sink.getvalue().to_pybytes()
    if draw(st.booleans()):
        data = data.replace(b"abcdefgh", b"abc\xff\xfefgh")
    match draw(st.integers(0, 3)):
        case 0:
            return data
        case 1:
            return damaged(data, draw(changes))
        case _:
            return _damaged_messages(draw, data)


def _odd(draw: Draw, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Change a column into one that says the same otherwise, or something else."""
    place = draw(st.integers(0, max(0, batch.num_columns - 1)))
    if batch.num_columns == 0:
        return batch
    name = batch.schema.names[place]
    match draw(st.integers(0, 4)):
        case 0:
            return batch.append_column(name, batch.column(place))
        case 1:
            return batch.remove_column(place)
        case 2:
            try:
                return batch.set_column(place, name, batch.column(place).dictionary_encode())
            except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
                return batch
        case _:
            return batch.set_column(place, name, draw(st.sampled_from(ODD))(batch.num_rows))


def _damaged_messages(draw: Draw, data: bytes) -> bytes:
    """Damage what the messages say of themselves, and leave their frames as they are; or change their order."""
    messages = parts(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(messages) - 1))
        message = bytearray(messages[place])
        match draw(st.integers(0, 7)):
            case 0:
                messages.insert(draw(st.integers(0, len(messages))), bytes(message))
            case 1:
                messages.pop(place)
                messages.append(bytes(message))
            case 2 if len(message) > 24:
                # Beyond the frame there is the flatbuffer, in words of four bytes, and the body after it.
                size = int.from_bytes(message[4:8], "little")
                at = 8 + 4 * draw(st.integers(0, max(0, min(size, len(message) - 16) // 4 - 1)))
                message[at : at + 8] = draw(st.sampled_from(NUMBERS)).to_bytes(8, "little")
                messages[place] = bytes(message)
            case _ if len(message) > 24:
                at = 8 + draw(st.integers(0, len(message) - 9))
                message[at] = draw(st.integers(0, 255))
                messages[place] = bytes(message)
    return b"".join(messages)


def parts(data: bytes) -> list[bytes]:
    """Cut a sound stream into its messages, the last of which is the end marker."""
    source = pa.BufferReader(data)
    reader = pa.ipc.MessageReader.open_stream(source)
    ends = [source.tell() for _ in reader]
    bounds = [0, *(end for end in ends if end < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]
