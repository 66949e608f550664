"""Numbers into numbers: exactly, or not at all.

The one exception is a floating point number into a narrower floating point type, which is rounded to the nearest.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.faults import Faults
from prinz_enricher.batch.numpy_dtype import numpy_dtype
from prinz_enricher.batch.place import Place

EXACT_BITS: Final[dict[pa.DataType, int]] = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
"""Up to which power of two a floating point type tells every whole number."""

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]


def is_number(type: pa.DataType) -> bool:
    """Tell whether an Arrow type is a whole, floating point or decimal number."""
    return bool(pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type))


def null_mask(array: pa.Array) -> Mask | None:
    """Mark an array's nulls: shape (length,); None where there are none."""
    if array.null_count == 0:
        return None
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def numbers(array: pa.Array) -> Numbers:
    """View a number array's values in place, whatever is under its nulls.

    Args:
        array: Of a whole or floating point type, or of timestamps.

    Returns:
        Shape (length,), of the type's own dtype; int64 for timestamps.
    """
    timestamp = pa.types.is_timestamp(array.type)
    dtype = np.dtype(np.int64) if timestamp else numpy_dtype(array.type)
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)


def number_array(values: Numbers, type: pa.DataType, nulls: Mask | None) -> pa.Array:
    """Make an array of numbers, over the same memory."""
    validity = None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little").tobytes())
    return pa.Array.from_buffers(type, len(values), [validity, pa.py_buffer(np.ascontiguousarray(values))])


def coerce_number(
    array: pa.Array, target: pa.DataType, name: str, required: bool, place: Place, faults: Faults
) -> pa.Array:
    """Bring an array of numbers to a number type.

    Args:
        array: For which `is_number` holds.
        target: A whole or floating point type. In a floating point one, nulls become NaN.
        name: What a caller calls the target.
        required: Whether a null is refused, where the target is a whole type.
        place: Where the array is.
        faults: Takes what is refused.

    Returns:
        An array of the target type, with nothing that is right at the places of refused values.
    """
    nulls = null_mask(array)
    floating = pa.types.is_floating(target)
    if nulls is not None and required and not floating:
        place.refuse(faults, nulls, wanted.NULL)
    if array.type == target and (nulls is None or not floating):
        return array
    if pa.types.is_decimal(array.type):
        return _from_decimal(array, target, name, place, faults)
    source = numbers(array)
    if nulls is not None:
        source = np.where(nulls, np.zeros((), source.dtype), source)
    dtype = numpy_dtype(target)
    if source.dtype.kind == "f":
        values = _round(source, dtype, name, place, faults) if floating else _whole(source, dtype, name, place, faults)
    elif floating:
        values = _inexact(source, dtype, EXACT_BITS[target], name, place, faults)
    else:
        values = _narrow(source, dtype, name, place, faults)
    if nulls is not None and floating:
        values = values.copy() if values is source else values
        values[nulls] = np.nan
        nulls = None
    return number_array(values, target, nulls)


def _round(source: Numbers, dtype: np.dtype[Any], name: str, place: Place, faults: Faults) -> Numbers:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values: Numbers = source.astype(dtype, copy=False)
    if dtype.itemsize < source.dtype.itemsize:
        overflow = np.isinf(values) & ~np.isinf(source)
        if overflow.any():
            place.refuse(faults, overflow, wanted.out_of_range(name))
    return values


def _whole(source: Numbers, dtype: np.dtype[Any], name: str, place: Place, faults: Faults) -> Numbers:
    bounds = np.iinfo(dtype)
    # A NaN that signals is refused as any other; numpy's warning of it would go to nobody.
    with np.errstate(invalid="ignore"):
        wide = source.astype(np.float64, copy=False)
        finite = np.isfinite(wide)
        whole = finite & (np.trunc(wide) == wide)
        # Each bound is a power of two or zero, so it is exact as float64; the upper one is the first that does not fit.
        fits = whole & (wide >= float(bounds.min)) & (wide < float(int(bounds.max) + 1))
    if not fits.all():
        place.refuse(faults, ~finite, wanted.NOT_FINITE)
        place.refuse(faults, finite & ~whole, wanted.NOT_WHOLE)
        place.refuse(faults, whole & ~fits, wanted.out_of_range(name))
        wide = np.where(fits, wide, 0.0)
    values: Numbers = wide.astype(dtype)
    return values


def _outside(source: Numbers, low: int, high: int) -> Mask | None:
    """Mark what is outside of bounds; None where the type alone rules it out."""
    own = np.iinfo(source.dtype)
    wrong = np.zeros(len(source), np.bool_)
    if low > own.min:
        wrong |= source < low
    if high < own.max:
        wrong |= source > high
    return wrong if wrong.any() else None


def _inexact(source: Numbers, dtype: np.dtype[Any], bits: int, name: str, place: Place, faults: Faults) -> Numbers:
    wrong = _outside(source, -(1 << bits), 1 << bits)
    if wrong is not None:
        place.refuse(faults, wrong, wanted.inexact(name, bits))
    with np.errstate(over="ignore"):
        values: Numbers = source.astype(dtype)
    return values


def _narrow(source: Numbers, dtype: np.dtype[Any], name: str, place: Place, faults: Faults) -> Numbers:
    bounds = np.iinfo(dtype)
    wrong = _outside(source, int(bounds.min), int(bounds.max))
    if wrong is not None:
        place.refuse(faults, wrong, wanted.out_of_range(name))
    values: Numbers = source.astype(dtype)
    return values


def decimal_double(value: Decimal, dtype: np.dtype[Any]) -> float | None:
    """Give the double that tells a decimal: the nearest, if its shortest decimal form is the decimal itself.

    Args:
        value: The decimal.
        dtype: What the double is to be rounded to. It has to tell a whole number, too; a fraction is rounded.
    """
    nearest = float(value)
    told = Decimal(repr(nearest)) == value
    if told and nearest.is_integer():
        with np.errstate(over="ignore"):
            narrow = dtype.type(nearest)
        told = float(narrow) in (nearest, math.inf, -math.inf) or Decimal(str(narrow)) == value
    return nearest if told else None


def _from_decimal(array: pa.Array, target: pa.DataType, name: str, place: Place, faults: Faults) -> pa.Array:
    # One by one: Arrow's own cast of decimals to floating point is not always the nearest number.
    floating = pa.types.is_floating(target)
    if floating:
        doubles = np.full(len(array), np.nan)
        wrong = np.zeros(len(array), np.bool_)
        dtype = numpy_dtype(target)
        for index, value in enumerate(array.to_pylist()):
            if value is not None:
                double = decimal_double(value, dtype)
                wrong[index] = double is None
                doubles[index] = 0.0 if double is None else double
        place.refuse(faults, wrong, wanted.INEXACT_DECIMAL)
        return number_array(_round(doubles, dtype, name, place, faults), target, None)
    bounds = np.iinfo(numpy_dtype(target))
    whole: list[int | None] = [None] * len(array)
    for index, value in enumerate(array.to_pylist()):
        if value is None:
            continue
        if value != value.to_integral_value():
            faults.add(place.at(index), wanted.NOT_WHOLE)
        elif not bounds.min <= value <= bounds.max:
            faults.add(place.at(index), wanted.out_of_range(name))
        else:
            whole[index] = int(value)
    return pa.array(whole, target)
