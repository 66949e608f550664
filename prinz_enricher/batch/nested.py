"""Nested values of the wire into Arrow arrays, value by value."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.element import Admission
from prinz_enricher.batch.faults import Faults
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Type, arrow_type, from_value
from prinz_enricher.signature.value import TooDeep


def nested_array(
    values: Iterable[value_pb2.Value], validity: bytes, type: Type, required: bool, path: str, faults: Faults
) -> pa.Array:
    """Check nested values and bring them to a type.

    Args:
        values: One for each row.
        validity: Arrow bitmap of their nulls; empty where there are none.
        type: What is wanted.
        required: Whether a null is refused.
        path: The path of the column.
        faults: Takes what is refused.

    Returns:
        An array of `arrow_type(type)`; None where there was a fault.
    """
    read = [_read(value) for value in values]
    if validity:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(read), bitorder="little")
        read = [value if bit else None for value, bit in zip(read, bits.tolist(), strict=True)]
    return admitted_array(read, type, required, path, faults)


def _read(value: value_pb2.Value) -> object:
    try:
        return from_value(value)
    except TooDeep as exc:
        return exc


def admitted_array(values: Iterable[object], type: Type, required: bool, path: str, faults: Faults) -> pa.Array:
    """Check Python values and bring them to a type.

    Args:
        values: One for each row, Python values or such as `from_value` gives.
        type: What is wanted.
        required: Whether a null is refused.
        path: The path of the column.
        faults: Takes what is refused.

    Returns:
        An array of `arrow_type(type)`; None where there was a fault.
    """
    before = len(faults.violations) + faults.omitted
    admit = Admission(path, faults).admit
    held = [admit(value, type, required, row) for row, value in enumerate(values)]
    if len(faults.violations) + faults.omitted > before:
        return None
    try:
        return pa.array(held, arrow_type(type))
    except pa.ArrowInvalid:
        # What Arrow's offsets can't hold any more.
        faults.add(path, wanted.TOO_LARGE)
        return None
