"""The wire's `Value` and Python values, one to one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

from prinz_enricher.contract import value_pb2

# How deep values and types may be nested: far more than a model needs, far less than Python's stack holds.
MAX_DEPTH: Final = 32
# The description of a violation.
TOO_DEEP: Final = f"is nested deeper than {MAX_DEPTH} levels"
# A `Value` without a kind: an error of its sender.
UNSET: Final = object()

_PLAIN_KINDS: Final = frozenset({"double_value", "int64_value", "string_value", "bool_value", "bytes_value"})
_EPOCH: Final = datetime(1970, 1, 1)
_MICROSECOND: Final = timedelta(microseconds=1)


class Micros(int):
    """An instant: microseconds since 1970-01-01T00:00:00 UTC. Has the range of the wire, unlike `datetime`."""

    __slots__ = ()

    @classmethod
    def of(cls, instant: date) -> Micros:
        """Return the instant of a date (its midnight) or a datetime (in UTC where it names no zone)."""
        if not isinstance(instant, datetime):
            instant = datetime(instant.year, instant.month, instant.day)
        if instant.utcoffset() is not None:
            instant = instant.astimezone(UTC)
        return cls((instant.replace(tzinfo=None) - _EPOCH) // _MICROSECOND)

    def datetime(self) -> datetime:
        """Return the instant without a zone; raises OverflowError outside the years 1 to 9999."""
        return _EPOCH + timedelta(microseconds=int(self))


class TooDeep(ValueError):
    """A value is nested deeper than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(TOO_DEEP)


def from_value(value: value_pb2.Value, depth: int = 0) -> object:
    """Return None, bool, int, float, str, bytes, `Micros`, or a list or dict of those; `UNSET` where no kind is set.

    Raises TooDeep where it is nested deeper than `MAX_DEPTH`, with `depth` levels around it.
    """
    kind = value.WhichOneof("kind")
    if kind in _PLAIN_KINDS:
        return getattr(value, kind)
    match kind:
        case "null_value":
            return None
        case "timestamp_value":
            return Micros(value.timestamp_value)
        case None:
            return UNSET
    if depth >= MAX_DEPTH:
        raise TooDeep
    if kind == "list_value":
        return [from_value(one, depth + 1) for one in value.list_value.values]
    return {key: from_value(one, depth + 1) for key, one in value.record_value.fields.items()}


def to_value(value: object) -> value_pb2.Value:
    """Write None, bool, int, float, str, bytes, `Micros`, datetime, date, or a list, tuple or mapping of those.

    Raises TooDeep, or ValueError for a whole number outside 64 bits, text that is not Unicode, or any other type.
    """
    message = value_pb2.Value()
    fill_value(message, value)
    return message


def fill_value(message: value_pb2.Value, value: object, depth: int = 0) -> None:
    """Write a value into an empty message; otherwise as `to_value`."""
    match value:
        case None:
            message.null_value = 0  # type: ignore[assignment]  # google.protobuf.NULL_VALUE
        case bool():
            message.bool_value = value
        case Micros():
            message.timestamp_value = int(value)
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError("is a whole number beyond 64 bits")
            message.int64_value = value
        case float():
            message.double_value = value
        case str():
            try:
                message.string_value = value
            except UnicodeEncodeError as exc:
                raise ValueError("is not Unicode text") from exc
        case bytes():
            message.bytes_value = value
        case date():
            message.timestamp_value = int(Micros.of(value))
        case list() | tuple() | dict() | Mapping() if depth >= MAX_DEPTH:
            raise TooDeep
        case list() | tuple():
            message.list_value.SetInParent()
            add = message.list_value.values.add
            for one in value:
                fill_value(add(), one, depth + 1)
        case dict() | Mapping():
            message.record_value.SetInParent()
            fields = message.record_value.fields
            for key, one in value.items():
                fill_value(fields[key], one, depth + 1)
        case _:
            raise ValueError("is of a type that the wire does not have")


def to_python(value: object) -> object:
    """Return what `from_value` returned with `datetime` for `Micros` (or OverflowError), and None for `UNSET`."""
    match value:
        case Micros():
            return value.datetime()
        case list():
            return [to_python(one) for one in value]
        case dict():
            return {key: to_python(one) for key, one in value.items()}
        case _:
            return None if value is UNSET else value
