"""Messages made from their descriptor alone: right in structure, of any content, and now and then not quite right.

They are written as bytes rather than as objects: so they can hold what no object does, such as two members of a oneof,
text that is no UTF-8, fields of unknown numbers, and nesting beyond what protobuf reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Hints = Mapping[str, st.SearchStrategy[Any]]
"""Content for some fields, by their full names: what reaches further than chance does."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEPTH = 5

integers = (
    st.integers(-3, 9)
    | st.sampled_from([2**p + d for p in (7, 8, 15, 16, 31, 32, 53, 62, 63) for d in (-1, 0, 1)])
    | st.integers(-(2**63), 2**63 - 1)
)
# Signalling and quiet NaNs with payloads, infinities and the ends of the range come of any bits.
floats = st.binary(min_size=4, max_size=4) | st.sampled_from([struct.pack("<I", 0x7F800001), struct.pack("<f", 1.0)])
doubles = st.binary(min_size=8, max_size=8) | st.sampled_from(
    [struct.pack("<Q", 0x7FF0000000000001), struct.pack("<d", 3.0), struct.pack("<d", 1e300)]
)
texts = (
    st.text(max_size=12)
    | st.sampled_from(["", "\x00", "\ufeff", "\u202e", "e\u0301" * 20, "𝄞", "9" * 5000, "[" * 3000, "../..", "%s{0}"])
    | st.builds(lambda text, times: text * times, st.text(max_size=3), st.integers(0, 20_000))
)
binaries = st.binary(max_size=40) | st.builds(
    lambda byte, times: bytes([byte]) * times, st.integers(0, 255), st.integers(0, 300_000)
)
odd_utf8 = st.sampled_from([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])


def varint(number: int) -> bytes:
    """Write a number, modulo 2^64."""
    number &= (1 << 64) - 1
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def tagged(number: int, wire: int, payload: bytes) -> bytes:
    """Write a field."""
    return varint(number << 3 | wire) + (varint(len(payload)) if wire == BYTES else b"") + payload


def messages(descriptor: Any, hints: Hints) -> st.SearchStrategy[bytes]:
    """Make messages of a kind, serialised."""
    return st.composite(lambda draw: _message(draw, descriptor, hints, DEPTH))()


def _message(draw: Draw, descriptor: Any, hints: Hints, depth: int) -> bytes:
    oneofs = [list(oneof.fields) for oneof in descriptor.oneofs]
    of_oneof = {field.number for fields in oneofs for field in fields}
    parts = []
    for group in [*oneofs, *([field] for field in descriptor.fields if field.number not in of_oneof)]:
        how = draw(st.integers(0, 15))
        if how in {5, 6}:
            continue
        # Once in a while two members of a oneof, or a single field twice: the last one counts, or they are merged.
        for _ in range(2 if how == 15 else 1):
            field = draw(st.sampled_from(group))
            parts.append(_field(draw, field, hints, depth))
    if depth == DEPTH and draw(st.integers(0, 30)) == 30:
        parts.append(draw(_oddities))
    return b"".join(parts)


_oddities = st.sampled_from(
    [
        tagged(1, VARINT, varint(-1)),
        tagged(2, FIXED32, b"\x00" * 4),
        tagged(3, BYTES, b"\xff\xff\xff"),
        tagged(1999, BYTES, b"unknown"),
        tagged(5, BYTES, tagged(1, BYTES, b"k")),
        varint(4 << 3 | 3) + varint(4 << 3 | 4),  # an empty group
        varint(4 << 3 | 4),  # the end of a group that never began
        varint(0),  # field number zero
        b"\x08" + b"\xff" * 10,  # a number that never ends
        b"\x12\xff\xff\xff\xff\x07",  # longer than the message
    ]
)


def _field(draw: Draw, field: Any, hints: Hints, depth: int) -> bytes:
    if not field.is_repeated:
        wire, payload = _content(draw, field, hints, depth)
        return tagged(field.number, wire, payload)
    held = [_content(draw, field, hints, depth) for _ in range(draw(st.integers(0, 4)))]
    if field.is_packed and draw(st.booleans()):
        return tagged(field.number, BYTES, b"".join(payload for _, payload in held))
    return b"".join(tagged(field.number, wire, payload) for wire, payload in held)


def _content(draw: Draw, field: Any, hints: Hints, depth: int) -> tuple[int, bytes]:
    hinted = hints.get(field.full_name)
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            if draw(st.integers(0, 150)) == 150:
                return BYTES, draw(_deep(field.message_type))
            return BYTES, _message(draw, field.message_type, hints, depth - 1) if depth else b""
        case FieldDescriptor.TYPE_STRING:
            if draw(st.integers(0, 600)) == 600:
                return BYTES, draw(odd_utf8)
            return BYTES, draw(texts if hinted is None else hinted).encode(errors="replace")
        case FieldDescriptor.TYPE_BYTES:
            return BYTES, draw(binaries if hinted is None else hinted)
        case FieldDescriptor.TYPE_DOUBLE:
            return FIXED64, draw(doubles)
        case FieldDescriptor.TYPE_FLOAT:
            return FIXED32, draw(floats)
        case _:
            return VARINT, varint(draw(integers if hinted is None else hinted))


def _deep(descriptor: Any) -> st.SearchStrategy[bytes]:
    """Nest a message in itself: up to beyond what protobuf reads."""
    circle = list(_circle(descriptor, ()))

    def nested(path: tuple[FieldDescriptor, ...], levels: int) -> bytes:
        inner = b""
        for _ in range(levels):
            for field in reversed(path):
                inner = tagged(field.number, BYTES, inner)
        return inner

    return st.builds(nested, st.sampled_from(circle), st.integers(1, 60)) if circle else st.just(b"")


def _circle(descriptor: Any, path: tuple[FieldDescriptor, ...]) -> Iterable[tuple[FieldDescriptor, ...]]:
    """Find the ways by which a message holds another of its kind."""
    for field in descriptor.fields:
        if field.message_type is None or len(path) == 4:
            continue
        if field.message_type is (path[0].containing_type if path else descriptor):
            yield (*path, field)
        else:
            yield from _circle(field.message_type, (*path, field))
