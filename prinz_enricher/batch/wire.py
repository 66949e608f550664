"""The wire format of protobuf, as far as large messages are read and written by hand: tags, varints, lengths.

What is not written in the one plain way is not read here: what it means is protobuf's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

BYTES: Final = 2
"""The wire type of what has a length: text, bytes, messages and packed values."""

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5


class NotPlain(Exception):
    """A message is damaged or unusual."""


class WireField(NamedTuple):
    """One field of a serialised message.

    Attributes:
        number: Its number.
        wire_type: How it is written.
        start: Where its tag begins.
        value: Where its value begins, after the length of what has one.
        end: Where it ends.
    """

    number: int
    wire_type: int
    start: int
    value: int
    end: int


def fields_of(view: memoryview, most: int) -> Iterator[WireField]:
    """Walk the fields of one message, without those of messages in it.

    Args:
        view: The serialised message.
        most: How many fields are walked; a message of more is left to protobuf, which is quicker at that.

    Raises:
        NotPlain: The message is damaged or unusual, or has more fields.
    """
    at = 0
    for _ in range(most):
        if at == len(view):
            return
        tag, value = read_varint(view, at)
        wire_type = tag & 7
        if wire_type == BYTES:
            size, value = read_varint(view, value)
            end = value + size
        else:
            end = _end(view, value, wire_type)
        if end > len(view):
            raise NotPlain
        yield WireField(tag >> 3, wire_type, at, value, end)
        at = end
    if at != len(view):
        raise NotPlain


def _end(view: memoryview, at: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return read_varint(view, at, 10)[1]
    if wire_type == _FIXED64:
        return at + 8
    if wire_type == _FIXED32:
        return at + 4
    raise NotPlain  # groups, which proto3 does not have, and what is no wire type


def read_varint(view: memoryview, at: int, longest: int = 5) -> tuple[int, int]:
    """Read a varint.

    Args:
        view: A serialised message.
        at: Where the varint begins.
        longest: How many bytes it may have.

    Returns:
        Its value, and where it ends.

    Raises:
        NotPlain: There is none, or it is written longer than it is.
    """
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
    """Write what stands before a value with a length: its tag and the length.

    Args:
        number: Of the field.
        size: Of the value in bytes.
    """
    return varint(number << 3 | BYTES) + varint(size)
