"""Arrow arrays without nesting: encodings undone, numbers and instants converted exactly, or not at all.

The one exception is a floating point number into a narrower floating point type, which is rounded to the nearest.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch import violation
from prinz_enricher.batch.read_bounds import CHUNK
from prinz_enricher.batch.violation import FieldPath
from prinz_enricher.signature import Micros
from prinz_enricher.signature.arrow import INTEGER_DTYPES

# How large a column may become where its encoding is expanded: the limit of Arrow's offsets.
MAX_BYTES: Final = 2**31 - 1
# From which bound of its size on the text of a dictionary is counted exactly.
_EXACT_SIZE: Final = 1 << 20
_TEXTS: Final = frozenset(type.id for type in (pa.utf8(), pa.large_utf8(), pa.binary(), pa.large_binary()))
_OFFSET: Final = 4
# How many values there may be that take no memory in Arrow, nulls and empty records, but would in another form.
MAX_FREE_VALUES: Final = 1 << 12
# Up to which power of two a floating point type holds every whole number.
EXACT_BITS: Final[dict[pa.DataType, int]] = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
# `DataType.to_pandas_dtype` would import pandas.
DTYPES: Final = {pa.type_for_alias(one): np.dtype(one) for one in (*INTEGER_DTYPES, "float16", "float32", "float64")}

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,18}))?)?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)
# The part of the above that Arrow reads too, and as the same instant.
_PLAIN_ISO: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?$"

NANOSECONDS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT64: Final = np.iinfo(np.int64)

_T = TypeVar("_T")
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]


def null_mask(array: pa.Array) -> Mask | None:
    """Return which values are null, of shape (length,); None where there are none."""
    if array.null_count == 0:
        return None
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def numbers(array: pa.Array) -> Numbers:
    """View the values of an array of numbers, or of timestamps as int64, in place, whatever is under its nulls."""
    dtype = np.dtype(np.int64) if pa.types.is_timestamp(array.type) else DTYPES[array.type]
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)


def filled(array: pa.Array) -> tuple[Numbers, Mask | None]:
    """Return the values as `numbers` does, booleans as uint8 and 0 for nulls, and which are null."""
    nulls = null_mask(array)
    values = numbers(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array)
    return (values if nulls is None else np.where(nulls, np.zeros((), values.dtype), values)), nulls


def number_array(values: Numbers, type: pa.DataType, nulls: Mask | None) -> pa.Array:
    """Return an array of numbers over the same memory."""
    return pa.Array.from_buffers(type, len(values), [validity(nulls), pa.py_buffer(np.ascontiguousarray(values))])


def validity(nulls: Mask | None) -> pa.Buffer | None:
    """Return Arrow's bitmap of which values are not null; None where there are no nulls."""
    return None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little").tobytes())


# Encodings: Arrow's many ways to hold the same values.


def amplifies(values: int, bytes: int, free: int = MAX_FREE_VALUES) -> bool:
    """Return whether there are more values than their bytes can hold: a few bytes may claim billions of nulls."""
    # The bytes are `get_total_buffer_size`, since `nbytes` follows even offsets that lie outside.
    return values > max(free, 8 * bytes)


def sound(array: pa.Array) -> pa.Array:
    """Return a valid array as one that can be computed on."""
    # Arrow's own check ignores the offsets of an array without values, but the process ends where they lie outside.
    return array if len(array) else pa.nulls(0, array.type)


def plain_array(array: pa.Array, path: FieldPath) -> pa.Array | None:
    """Undo dictionaries, large and view types of a valid array; None where the type or the expanded size is refused."""
    types = pa.types
    array = sound(array)
    if types.is_dictionary(array.type):
        size = _laid_out(array.dictionary, array.indices)
        if size > MAX_BYTES:
            path.refuse("is too large when its dictionary is expanded")
            return None
        path.violations.bounds.take(size)
        array = array.dictionary_decode()
    type = array.type
    if isinstance(type, pa.BaseExtensionType) or types.is_union(type) or types.is_run_end_encoded(type):
        path.refuse(violation.OTHER_TYPE)
        return None
    if types.is_large_string(type) or types.is_string_view(type):
        return _cast(array, pa.utf8(), path)
    if types.is_large_binary(type) or types.is_binary_view(type) or types.is_fixed_size_binary(type):
        return _cast(array, pa.binary(), path)
    return array


def _laid_out(dictionary: pa.Array, indices: pa.Array) -> int:
    """Return how many bytes the values of a dictionary have once they are laid out, or an upper bound."""
    if pa.types.is_primitive(dictionary.type):
        return len(indices) * int(dictionary.type.bit_width) // 8
    # Unlike `nbytes` this looks at no offsets.
    largest = int(dictionary.get_total_buffer_size())
    if dictionary.type.id in _TEXTS and len(dictionary):
        lengths = pc.binary_length(dictionary)
        largest = int(pc.max(lengths).as_py() or 0)
        # A bound by the largest entry first: most dictionaries are small.
        if largest * len(indices) > _EXACT_SIZE:
            return int(pc.sum(lengths.cast(pa.int64()).take(indices)).as_py() or 0) + _OFFSET * len(indices)
    return (largest + _OFFSET) * len(indices)


def _cast(array: pa.Array, target: pa.DataType, path: FieldPath) -> pa.Array | None:
    size = 0
    if len(array) and (pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type)):
        # The length of each value is the first four of the sixteen bytes of its view.
        views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)[array.offset : array.offset + len(array), 0]
        size = int(views.sum(dtype=np.int64))
    path.violations.bounds.take(size)
    with contextlib.suppress(pa.ArrowInvalid):
        if size <= MAX_BYTES:
            return array.cast(target)
    path.refuse(violation.TOO_LARGE)
    return None


# Parts of arrays


def listed(array: pa.Array) -> Iterator[Any]:
    """Yield the values of an array as Python's, a few at a time: pyarrow lets no other thread run meanwhile."""
    for start in range(0, len(array), CHUNK):
        yield from array.slice(start, CHUNK).to_pylist()


def read_texts(array: pa.Array, path: FieldPath, read: Callable[[str], _T | None]) -> tuple[list[_T | None], pa.Array]:
    """Read each different text of an array once, however often it is there.

    Returns what was read, None for a null, and which of it each value of the array is. A text of which `read` raises a
    ValueError is refused wherever it is, with the error's own text.
    """
    texts = array.dictionary_encode("encode")
    values: list[_T | None] = []
    faults: dict[int, str] = {}
    for index, text in enumerate(path.violations.bounds.watched(listed(texts.dictionary))):
        try:
            values.append(None if text is None else read(text))
        except ValueError as exc:
            values.append(None)
            faults[index] = str(exc)
    if faults:
        which = np.asarray(texts.indices)
        wrong = np.zeros(len(values), np.bool_)
        wrong[list(faults)] = True
        path.refuse_where(wrong[which], lambda index: faults[int(which[index])])
    return values, texts.indices


def list_lengths(array: pa.Array, nulls: Mask | None) -> npt.NDArray[np.int64]:
    """Return the length of each list or map, 0 for a null one."""
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size, np.int64)
    else:
        offsets: npt.NDArray[np.int64] = np.asarray(array.offsets).astype(np.int64)
        lengths = offsets[1:] - offsets[:-1]
    return lengths if nulls is None else np.where(nulls, 0, lengths)


def list_offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each list begins, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def map_entries(array: pa.Array, nulls: Mask | None) -> tuple[npt.NDArray[np.int64], pa.Array, pa.Array]:
    """Return where the entries of each map begin, and the keys and values of them all, without those of null maps."""
    starts = np.asarray(array.offsets).astype(np.int64)
    lengths = list_lengths(array, nulls)
    offsets = list_offsets(lengths)
    if int(starts[-1] - starts[0]) == int(offsets[-1]):
        return offsets, array.keys.slice(starts[0], offsets[-1]), array.items.slice(starts[0], offsets[-1])
    picked = pa.array(np.repeat(starts[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1]))
    return offsets, array.keys.take(picked), array.items.take(picked)


def spread(array: pa.Array, places: npt.NDArray[np.intp], length: int) -> pa.Array:
    """Return an array of some length with the values at their places, and null elsewhere."""
    back = np.full(length, -1, np.int64)
    back[places] = np.arange(len(places))
    return array.take(pa.array(back, mask=back < 0))


# Numbers


def coerce_number(array: pa.Array, target: pa.DataType, name: str, required: bool, path: FieldPath) -> pa.Array:
    """Bring an array of whole, floating point or decimal numbers to a whole or floating point type.

    In a floating point type nulls become NaN; in a whole one they are refused if a value is required. The array that is
    returned has arbitrary values in place of refused ones. The name is what a caller calls the type.
    """
    nulls = null_mask(array)
    floating = pa.types.is_floating(target)
    if nulls is not None and required and not floating:
        path.refuse_where(nulls, violation.NULL)
    if array.type == target and (nulls is None or not floating):
        return array
    if pa.types.is_decimal(array.type):
        return _from_decimal(array, target, name, path)
    source = numbers(array)
    if nulls is not None:
        source = np.where(nulls, np.zeros((), source.dtype), source)
    dtype = DTYPES[target]
    if source.dtype.kind == "f":
        values = _round(source, dtype, name, path) if floating else _whole(source, dtype, name, path)
    elif floating:
        bits = EXACT_BITS[target]
        _refuse_outside(source, -(1 << bits), 1 << bits, violation.INEXACT.format(name, bits), path)
        with np.errstate(over="ignore"):
            values = source.astype(dtype)
    else:
        bounds = np.iinfo(dtype)
        _refuse_outside(source, int(bounds.min), int(bounds.max), violation.OUT_OF_RANGE.format(name), path)
        values = source.astype(dtype)
    if nulls is not None and floating:
        values = values.copy() if values is source else values
        values[nulls] = np.nan
        nulls = None
    return number_array(values, target, nulls)


def _round(source: Numbers, dtype: np.dtype[Any], name: str, path: FieldPath) -> Numbers:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values: Numbers = source.astype(dtype, copy=False)
    if dtype.itemsize < source.dtype.itemsize:
        path.refuse_where(np.isinf(values) & ~np.isinf(source), violation.OUT_OF_RANGE.format(name))
    return values


def _whole(source: Numbers, dtype: np.dtype[Any], name: str, path: FieldPath) -> Numbers:
    bounds = np.iinfo(dtype)
    # A signalling NaN is refused as any other; numpy's warning of it would go to nobody.
    with np.errstate(invalid="ignore"):
        wide = source.astype(np.float64, copy=False)
        finite = np.isfinite(wide)
        whole = finite & (np.trunc(wide) == wide)
        # Each bound is a power of two or zero, so it is exact as float64; the upper one is the first that does not fit.
        fits = whole & (wide >= float(bounds.min)) & (wide < float(int(bounds.max) + 1))
    if not fits.all():
        path.refuse_where(~finite, violation.NOT_FINITE)
        path.refuse_where(finite & ~whole, violation.NOT_WHOLE)
        path.refuse_where(whole & ~fits, violation.OUT_OF_RANGE.format(name))
        wide = np.where(fits, wide, 0.0)
    values: Numbers = wide.astype(dtype)
    return values


def _refuse_outside(source: Numbers, low: int, high: int, description: str, path: FieldPath) -> None:
    own = np.iinfo(source.dtype)
    wrong = np.zeros(len(source), np.bool_)
    if low > own.min:
        wrong |= source < low
    if high < own.max:
        wrong |= source > high
    path.refuse_where(wrong, description)


def decimal_double(value: Decimal, dtype: np.dtype[Any]) -> float | None:
    """Return the double that stands for a decimal: the nearest, if its shortest decimal form is the decimal itself.

    The dtype to which the double is rounded has to hold a whole number exactly, too; a fraction is rounded.
    """
    nearest = float(value)
    exact = Decimal(repr(nearest)) == value
    if exact and nearest.is_integer():
        with np.errstate(over="ignore"):
            narrow = dtype.type(nearest)
        exact = float(narrow) in (nearest, math.inf, -math.inf) or Decimal(str(narrow)) == value
    return nearest if exact else None


def _from_decimal(array: pa.Array, target: pa.DataType, name: str, path: FieldPath) -> pa.Array:
    # One by one: Arrow's own cast of decimals to floating point is not always the nearest number.
    dtype = DTYPES[target]
    values = path.violations.bounds.watched(listed(array))
    if pa.types.is_floating(target):
        doubles = [math.nan if value is None else decimal_double(value, dtype) for value in values]
        path.refuse_where(np.array([double is None for double in doubles], np.bool_), violation.INEXACT_DECIMAL)
        held = np.array([0.0 if double is None else double for double in doubles], np.float64)
        return number_array(_round(held, dtype, name, path), target, None)
    bounds = np.iinfo(dtype)
    whole: list[int | None] = [None] * len(array)
    for index, value in enumerate(values):
        if value is None:
            continue
        if value != value.to_integral_value():
            path.refuse_at(index, violation.NOT_WHOLE)
        elif not bounds.min <= value <= bounds.max:
            path.refuse_at(index, violation.OUT_OF_RANGE.format(name))
        else:
            whole[index] = int(value)
    return pa.array(whole, target)


# Instants: timestamps without a zone, in UTC


class NotAnInstant(ValueError):
    """Text that names no instant; the text of the error is that of a violation."""


def parse_instant(text: str) -> Micros:
    """Parse an ISO-8601 date, or date and time, such as `2026-11-23T14:05:06.25+02:00`; without a zone it is in UTC.

    Raises NotAnInstant where it is not of this form, or finer than a microsecond.
    """
    found = _ISO.fullmatch(text)
    if found is None:
        raise NotAnInstant(violation.NOT_ISO)
    year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = found.groups()
    digits = (fraction or "").ljust(6, "0")
    if digits[6:].strip("0"):
        raise NotAnInstant(violation.TOO_FINE)
    try:
        zone = timezone(timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1))
        if int(minutes or 0) > 59:
            raise NotAnInstant(violation.NOT_ISO)
        local = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), int(digits[:6]), zone
        )
    except ValueError as exc:
        raise NotAnInstant(violation.NOT_ISO) from exc
    return Micros((local - _EPOCH) // timedelta(microseconds=1))


def coerce_instant(array: pa.Array, target: pa.DataType, required: bool, path: FieldPath) -> pa.Array:
    """Bring dates, timestamps of any unit and zone, or ISO-8601 text to a timestamp type without a zone.

    The array that is returned has arbitrary values in place of refused ones, such as nulls where a value is required.
    """
    nulls = null_mask(array)
    if nulls is not None and required:
        path.refuse_where(nulls, violation.NULL)
    if array.type != target:
        if pa.types.is_string(array.type):
            array = _parse(array, path)
        elif pa.types.is_date32(array.type):
            array = array.cast(pa.timestamp("s"))
        elif pa.types.is_date64(array.type):
            array = array.view(pa.timestamp("ms"))
        # The numbers of a zoned timestamp are those of UTC already.
        counts = array.view(pa.int64()) if array.offset == 0 else pa.concat_arrays([array]).view(pa.int64())
        array = _rescale(counts, array.type.unit, target, path)
    # The least number of 64 bits is numpy's "not a time": it would become a null on its way to the model.
    wrong = numbers(array) == _INT64.min
    path.refuse_where(wrong if nulls is None else wrong & ~nulls, violation.TOO_FAR)
    return array


def _parse(array: pa.Array, path: FieldPath) -> pa.Array:
    if pc.all(pc.match_substring_regex(array, _PLAIN_ISO)).as_py() is True:
        with contextlib.suppress(pa.ArrowInvalid):
            micros = array.cast(pa.timestamp("us"))
            # Python's calendar begins with the year 1, Arrow's with 0.
            if not pc.any(pc.less(micros, pa.scalar(datetime(1, 1, 1), pa.timestamp("us")))).as_py():
                return micros
    instants, which = read_texts(array, path, parse_instant)
    return pa.array(instants, pa.timestamp("us")).take(which)


def _rescale(counts: pa.Array, unit: str, target: pa.DataType, path: FieldPath) -> pa.Array:
    have, want = NANOSECONDS[unit], NANOSECONDS[target.unit]
    if have == want:
        return counts.view(target)
    values, nulls = filled(counts)
    if have > want:
        factor = have // want
        far = (values > _INT64.max // factor) | (values < -(_INT64.max // factor))
        if far.any():
            path.refuse_where(far, violation.TOO_FAR)
            values = np.where(far, 0, values)
        return number_array(values * factor, target, nulls)
    scaled, rest = np.divmod(values, want // have)
    path.refuse_where(rest != 0, violation.TOO_FINE)
    return number_array(scaled, target, nulls)
