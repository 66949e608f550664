"""Messages changed in one place, by their descriptor: what is read well goes deeper than what damage leaves."""

from __future__ import annotations

import random
import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.fuzz.damage import KINDS, NUMBERS, Change, damaged

DOUBLES = tuple(
    struct.unpack("<d", struct.pack("<Q", bits))[0]
    for bits in (0, 1, 1 << 63, 0x3FF0000000000000, 0x7FF0000000000000, 0x7FF0000000000001, 0xFFF8DEADBEEF0000, 2**63)
)
BITS = {
    FieldDescriptor.CPPTYPE_INT32: (32, True),
    FieldDescriptor.CPPTYPE_INT64: (64, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
    FieldDescriptor.CPPTYPE_ENUM: (31, False),
}


def random_changes(source: random.Random) -> list[Change]:
    """Make changes for `damaged`; much faster than hypothesis does, for there to be many calls."""
    numbers = (source.choice(NUMBERS), source.getrandbits(64))
    return [(source.choice(KINDS), source.getrandbits(16), source.choice(numbers)) for _ in range(source.randint(1, 3))]


def mutate(message: Message, source: random.Random) -> None:
    """Change one place of a message, somewhere in it."""
    present = [field for field, _ in message.ListFields()]
    inner = [field for field in present if field.message_type is not None and not _is_map(field)]
    if inner and source.random() < 0.85:
        # By their sizes: most of a request is its rows, and a name that is changed ends it at once.
        chosen = source.choices(inner, [_size(getattr(message, field.name)) for field in inner])[0]
        held = getattr(message, chosen.name)
        if not chosen.is_repeated:
            mutate(held, source)
        elif held and source.random() < 0.85:
            mutate(source.choice(held), source)
        else:
            _change_length(held, source)
        return
    fields = message.DESCRIPTOR.fields
    # Of all fields, so that absent ones come in, and other members of a oneof take the place of one that is set.
    large = [field for field in present if field.type == FieldDescriptor.TYPE_BYTES]
    likely = large if large and source.random() < 0.8 else present
    field: Any = source.choice(likely if likely and source.random() < 0.8 else list(fields))
    if _is_map(field):
        _mutate_map(getattr(message, field.name), source)
    elif field.is_repeated:
        _mutate_repeated(message, field, source)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    elif source.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _content(field, getattr(message, field.name), source))


def _size(held: Any) -> int:
    return 1 + (held.ByteSize() if isinstance(held, Message) else sum(one.ByteSize() for one in held))


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _mutate_map(held: Any, source: random.Random) -> None:
    if held:
        held[source.choice(sorted(held))].Clear()


def _change_length(held: Any, source: random.Random) -> None:
    if source.random() < 0.5:
        del held[source.randrange(len(held))]
    else:
        held.add().CopyFrom(source.choice(held))


def _mutate_repeated(message: Message, field: Any, source: random.Random) -> None:
    held = getattr(message, field.name)
    if field.message_type is not None:
        held.add()
        return
    place = source.randrange(len(held) + 1)
    if place == len(held):
        held.append(_content(field, held[0] if held else None, source))
    elif source.random() < 0.2:
        del held[place]
    else:
        held[place] = _content(field, held[place], source)


def _content(field: Any, value: Any, source: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return damaged(value or b"\x00", random_changes(source))
        case FieldDescriptor.CPPTYPE_STRING:
            return damaged((value or " ").encode(), random_changes(source)).decode(errors="replace")
        case FieldDescriptor.CPPTYPE_BOOL:
            return not value
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return source.choice(DOUBLES)
    bits, signed = BITS[field.cpp_type]
    number = int(source.choice(((value or 0) + 1, (value or 0) - 1, source.choice(NUMBERS)))) % (1 << bits)
    return number - (1 << bits) if signed and number >= 1 << (bits - 1) else number
