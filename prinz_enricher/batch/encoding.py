"""Arrow's many ways to hold the same values, brought to the plain one."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch import wanted
from prinz_enricher.batch.faults import Faults
from prinz_enricher.batch.place import Place

MAX_BYTES: Final = 2**31 - 1
"""How large a column may become where its encoding is expanded: what Arrow's offsets hold."""

MAX_FREE_VALUES: Final = 1 << 12
"""How many values there may be that take no memory in Arrow, nulls and empty records, but would in another form."""


def amplifies(values: int, bytes: int, free: int = MAX_FREE_VALUES) -> bool:
    """Tell whether there are more values than their bytes can hold: a few bytes may claim billions of nulls.

    Args:
        values: How many there are.
        bytes: What they take in Arrow: `get_total_buffer_size`, since `nbytes` follows even offsets that lie outside.
        free: How many there may be in any case.
    """
    return values > max(free, 8 * bytes)


def sound(array: pa.Array) -> pa.Array:
    """Give an array that can be worked on.

    Args:
        array: Valid by Arrow's own check, which does not look at the offsets of an array without a value; but Arrow
            does, and ends the process where they lie outside.
    """
    return array if len(array) else pa.nulls(0, array.type)


def plain_array(array: pa.Array, place: Place, faults: Faults) -> pa.Array | None:
    """Undo the encodings of an array: dictionaries, large and view types.

    Args:
        array: Of any Arrow type; valid.
        place: Where the array is.
        faults: Takes a type that is never taken, and an expansion that is too large.

    Returns:
        The same values, text as utf8 and binary as binary; None where there was a fault.
    """
    types = pa.types
    array = sound(array)
    if types.is_dictionary(array.type):
        if _expands(array.dictionary, array.indices):
            faults.add(place.whole, "is too large when its dictionary is expanded")
            return None
        array = array.dictionary_decode()
    type = array.type
    if isinstance(type, pa.BaseExtensionType) or types.is_union(type) or types.is_run_end_encoded(type):
        faults.add(place.whole, wanted.OTHER_TYPE)
        return None
    if types.is_large_string(type) or types.is_string_view(type):
        return _cast(array, pa.utf8(), place, faults)
    if types.is_large_binary(type) or types.is_binary_view(type) or types.is_fixed_size_binary(type):
        return _cast(array, pa.binary(), place, faults)
    return array


def _expands(dictionary: pa.Array, indices: pa.Array) -> bool:
    # Unlike `nbytes` this looks at no offsets.
    largest = dictionary.get_total_buffer_size()
    if len(dictionary) == 0 or largest == 0:
        return False
    if pa.types.is_string(dictionary.type) or pa.types.is_binary(dictionary.type):
        largest = int(pc.max(pc.binary_length(dictionary)).as_py() or 0)
    # A bound by the largest entry first: most dictionaries are small.
    if largest * len(indices) <= MAX_BYTES:
        return False
    if not (pa.types.is_string(dictionary.type) or pa.types.is_binary(dictionary.type)):
        return True
    return int(pc.sum(pc.binary_length(dictionary).cast(pa.int64()).take(indices)).as_py() or 0) > MAX_BYTES


def _view_size(array: pa.Array) -> int:
    # The length of each value is the first four of the sixteen bytes of its view.
    views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)[array.offset : array.offset + len(array), 0]
    return int(views.sum(dtype=np.int64))


def _cast(array: pa.Array, target: pa.DataType, place: Place, faults: Faults) -> pa.Array | None:
    view = pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type)
    try:
        if not (view and len(array) and _view_size(array) > MAX_BYTES):
            return array.cast(target)
    except pa.ArrowInvalid:
        view = False
    faults.add(place.whole, wanted.TOO_LARGE)
    return None
