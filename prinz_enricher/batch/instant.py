"""Dates and times into timestamps without a zone, in UTC: exactly, or not at all."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch import wanted
from prinz_enricher.batch.faults import Faults
from prinz_enricher.batch.number import Mask, null_mask, number_array, numbers
from prinz_enricher.batch.place import Place
from prinz_enricher.signature import Micros

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,18}))?)?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)

# The part of the above that Arrow reads too, and to the same instant.
_PLAIN_ISO: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?$"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECONDS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_INT64: Final = np.iinfo(np.int64)


class NotAnInstant(ValueError):
    """Text that names no instant; the text of the error is that of a violation."""


def parse_instant(text: str) -> Micros:
    """Read an ISO-8601 date, or date and time; where it names no zone it is in UTC.

    Args:
        text: Such as `2026-11-23`, `2026-11-23T14:05:06.25` or `2026-11-23T14:05:06+02:00`.

    Returns:
        The instant.

    Raises:
        NotAnInstant: It is not of this form, or finer than a microsecond.
    """
    found = _ISO.fullmatch(text)
    if found is None:
        raise NotAnInstant(wanted.NOT_ISO)
    year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = found.groups()
    digits = (fraction or "").ljust(6, "0")
    if digits[6:].strip("0"):
        raise NotAnInstant(wanted.TOO_FINE)
    try:
        zone = timezone(timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1))
        if int(minutes or 0) > 59:
            raise NotAnInstant(wanted.NOT_ISO)
        local = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), int(digits[:6]), zone
        )
    except ValueError as exc:
        raise NotAnInstant(wanted.NOT_ISO) from exc
    return Micros((local - _EPOCH) // timedelta(microseconds=1))


def is_instant(type: pa.DataType) -> bool:
    """Tell whether an Arrow type is text, a date or a timestamp."""
    types = pa.types
    return bool(types.is_string(type) or types.is_timestamp(type) or types.is_date(type))


def coerce_instant(array: pa.Array, target: pa.DataType, required: bool, place: Place, faults: Faults) -> pa.Array:
    """Bring dates, timestamps of any unit and zone, or ISO-8601 text to a timestamp type.

    Args:
        array: For which `is_instant` holds.
        target: A timestamp type without a zone.
        required: Whether a null is refused.
        place: Where the array is.
        faults: Takes what is refused.

    Returns:
        An array of the target type, with nothing that is right at the places of refused values.
    """
    nulls = null_mask(array)
    if nulls is not None and required:
        place.refuse(faults, nulls, wanted.NULL)
    if array.type == target:
        return _refuse_nat(array, nulls, place, faults)
    if pa.types.is_string(array.type):
        array = _parse(array, place, faults)
    elif pa.types.is_date32(array.type):
        array = array.cast(pa.timestamp("s"))
    elif pa.types.is_date64(array.type):
        array = array.view(pa.timestamp("ms"))
    # The numbers of a zoned timestamp are those of UTC already.
    counts = array.view(pa.int64()) if array.offset == 0 else pa.concat_arrays([array]).view(pa.int64())
    return _refuse_nat(_rescale(counts, array.type.unit, target, place, faults), nulls, place, faults)


def _refuse_nat(array: pa.Array, nulls: Mask | None, place: Place, faults: Faults) -> pa.Array:
    # The least number of 64 bits is numpy's "not a time": it would turn into a null on its way to the model.
    wrong = numbers(array) == _INT64.min
    if nulls is not None:
        wrong &= ~nulls
    if wrong.any():
        place.refuse(faults, wrong, wanted.TOO_FAR)
    return array


def _parse(array: pa.Array, place: Place, faults: Faults) -> pa.Array:
    if pc.all(pc.match_substring_regex(array, _PLAIN_ISO)).as_py() is True:
        try:
            micros = array.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            micros = None
        # Python's calendar begins with the year 1, Arrow's with 0.
        if micros is not None and not pc.any(pc.less(micros, pa.scalar(datetime(1, 1, 1), pa.timestamp("us")))).as_py():
            return micros
    read: list[int | None] = []
    for index, text in enumerate(array.to_pylist()):
        try:
            read.append(None if text is None else parse_instant(text))
        except NotAnInstant as exc:
            faults.add(place.at(index), str(exc))
            read.append(None)
    return pa.array(read, pa.timestamp("us"))


def _rescale(counts: pa.Array, unit: str, target: pa.DataType, place: Place, faults: Faults) -> pa.Array:
    have, want = _NANOSECONDS[unit], _NANOSECONDS[target.unit]
    if have == want:
        return counts.view(target)
    nulls = null_mask(counts)
    values = np.frombuffer(counts.buffers()[1], np.int64, len(counts)) if len(counts) else np.zeros(0, np.int64)
    if nulls is not None:
        values = np.where(nulls, 0, values)
    if have > want:
        factor = have // want
        far = (values > _INT64.max // factor) | (values < -(_INT64.max // factor))
        if far.any():
            place.refuse(faults, far, wanted.TOO_FAR)
            values = np.where(far, 0, values)
        return number_array(values * factor, target, nulls)
    scaled, rest = np.divmod(values, want // have)
    if rest.any():
        place.refuse(faults, rest != 0, wanted.TOO_FINE)
    return number_array(scaled, target, nulls)
