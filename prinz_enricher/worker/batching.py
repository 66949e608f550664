"""Whether a model may be given the rows of several callers at once, or several rows at all.

It must give each row the answer that it gives it alone. Some published models read only the first row, or take a mean
over all of them, or sort them. Such a model is found here by scoring sample rows alone, together, and together the
other way round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .faults import OutputDiffers

_MOST_ROWS = 8

TOLERANCE = {pa.float64(): 1e-12, pa.float32(): 1e-5, pa.float16(): 1e-2}
"""How far apart two numbers may be, relative to the greater, that are the same but for rounding: a matrix product adds
in another order for one row than for many (BLAS), which no caller can tell from the order of its own rows."""

Score = Callable[[pa.RecordBatch], pa.RecordBatch]


class RowsExchanged(Exception):
    """The model gives rows the answers of other rows."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which rows may be in one call of a model.

    Attributes:
        shared: Whether those of several callers may.
        single: Whether each row must be in a call of its own: what a row gets among others depends on its place.
        why: Why that is so.
    """

    shared: bool
    single: bool
    why: str


def may_share(score: Score, samples: Sequence[pa.RecordBatch], *, exact: bool) -> Sharing:
    """Tell which rows may be in one call.

    Args:
        score: Gives the outputs of rows.
        samples: Rows to try.
        exact: Whether every bit must be the same; else floats may differ as rounding differs.

    Raises:
        RowsExchanged: The model answers the right rows in the wrong order.
    """
    why = "there are no two sample rows to show it with"
    for rows in _trials(samples):
        try:
            alone = [score(rows.slice(i, 1)) for i in range(rows.num_rows)]
        except Exception as exc:  # noqa: BLE001 - a model raises what it likes
            why = f"the model raises {type(exc).__name__} on sample rows"
            continue
        try:
            together = _apart(score(rows))
            # Back in the order of the others.
            reversed_ = _apart(score(rows.take(pa.array(range(rows.num_rows)[::-1]))))[::-1]
        except Exception as exc:  # noqa: BLE001 - a model raises what it likes
            why = (
                str(exc) if isinstance(exc, OutputDiffers) else f"the model raises {type(exc).__name__} on several rows"
            )
            return Sharing(shared=False, single=True, why=why)
        if _all_same(together, alone, exact=exact) and _all_same(reversed_, alone, exact=exact):
            return Sharing(shared=True, single=False, why=f"shown on {rows.num_rows} sample rows")
        if not _all_same([score(rows.slice(i, 1)) for i in range(rows.num_rows)], alone, exact=exact):
            why = "the model gives the same row another answer each time"
            return Sharing(shared=False, single=False, why=why)
        if _is_exchange(together, alone) or _is_exchange(reversed_, alone):
            raise RowsExchanged(
                "it gives rows the answers of other rows: they come back in another order; return them in the order"
                " of the input, or with its index"
            )
        # Where its place does not matter, its company does: that is what the author means by several rows.
        by_place = not _all_same(together, reversed_, exact=exact)
        why = f"the model gives a row another answer among others than alone{', by its place' if by_place else ''}"
        return Sharing(shared=False, single=by_place, why=why)
    if not _trials(samples):
        _warm(score, samples)
    return Sharing(shared=False, single=False, why=why)


def _apart(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [batch.slice(i, 1) for i in range(batch.num_rows)]


def _all_same(some: list[pa.RecordBatch], others: list[pa.RecordBatch], *, exact: bool) -> bool:
    return all(_same(one, other, exact=exact) for one, other in zip(some, others, strict=True))


def _is_exchange(together: list[pa.RecordBatch], alone: list[pa.RecordBatch]) -> bool:
    """Tell whether rows that differ from what they are alone have one another's answers."""
    moved = [i for i, (one, own) in enumerate(zip(together, alone, strict=True)) if not _same(one, own, exact=False)]
    left = list(moved)
    for i in moved:
        found = next((j for j in left if _same(together[i], alone[j], exact=False)), None)
        if found is None:
            return False
        left.remove(found)
    return bool(moved)


def _warm(score: Score, samples: Sequence[pa.RecordBatch]) -> None:
    """Have the model do once what it does lazily."""
    for rows in samples:
        with contextlib.suppress(Exception):
            score(rows)
            return


def _trials(samples: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Give batches of at least two different rows each, the most telling first."""
    trials = []
    for batch in samples:
        rows = batch.slice(0, _MOST_ROWS)
        if (more := with_variations(rows)) is not rows:
            trials.append(more)
        if rows.num_rows > 1:
            trials.append(rows)
    return trials


def with_variations(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows, and after them each with other numbers; the rows themselves where there are no numbers."""
    changed = False
    arrays = []
    for array in rows.columns:
        if pa.types.is_floating(array.type) and array.type != pa.float16():
            values = array.to_numpy(zero_copy_only=False)
            arrays.append(pa.array(np.nan_to_num(values) * 1.5 + 1.0, array.type))
            changed = True
        elif pa.types.is_integer(array.type) and not array.null_count:
            values = array.to_numpy()
            # One step down from the greatest, so that it stays inside of its type.
            arrays.append(pa.array(np.where(values > 0, values - 1, values + 1).astype(values.dtype), array.type))
            changed = True
        else:
            arrays.append(array)
    if not changed:
        return rows
    varied = pa.RecordBatch.from_arrays(arrays, schema=rows.schema)
    return pa.Table.from_batches([rows, varied]).combine_chunks().to_batches()[0]


def _same(one: pa.RecordBatch, other: pa.RecordBatch, *, exact: bool) -> bool:
    return all(_same_column(a, b, exact=exact) for a, b in zip(one.columns, other.columns, strict=True))


def _same_column(one: pa.Array, other: pa.Array, *, exact: bool) -> bool:
    tolerance = TOLERANCE.get(one.type)
    if tolerance is not None and not exact:
        return _close(one.to_numpy(zero_copy_only=False), other.to_numpy(zero_copy_only=False), tolerance)
    if pa.types.is_fixed_size_list(one.type) or pa.types.is_list(one.type):
        lengths = one.value_lengths() if pa.types.is_list(one.type) else None
        if one.null_count or other.null_count or (lengths is not None and not lengths.equals(other.value_lengths())):
            return _equal(one, other)
        return _same_column(one.flatten(), other.flatten(), exact=exact)
    return _equal(one, other)


def _equal(one: pa.Array, other: pa.Array) -> bool:
    """Compare bit by bit: to Arrow no NaN equals another, and 0.0 equals -0.0."""
    if one.type in TOLERANCE:
        return one.is_null().equals(other.is_null()) and _bits(one) == _bits(other)
    return bool(one.equals(other))


def _bits(array: pa.Array) -> bytes:
    values: Any = array.fill_null(0.0).to_numpy(zero_copy_only=False)
    return bytes(values.tobytes())


def _close(one: Any, other: Any, tolerance: float) -> bool:
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    with np.errstate(all="ignore"):
        # Of two infinities the difference is as large as any tolerance of them.
        near = np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b)))
    return bool(np.all(near | (a == b) | (np.isnan(a) & np.isnan(b))))
