"""Whether a model may be given the rows of several callers at once, or several rows at all.

It must give each row the answer that it gives it alone. Some published models read only the first row, or take a mean
over all of them, or sort them. Such a model is found here by scoring sample rows alone, together, and together the
other way round.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from prinz_enricher.ipc.faults import OutputDiffers

from .fields import is_any, is_nested

_MOST_ROWS = 8
_FEW_ROWS = 2
_MANY_ROWS = 64

_SLOW_SECONDS = 10.0
"""For `_MANY_ROWS` rows: a model that is slower is tried with as many only where rows gain from being together."""

_TELLING = 3
"""Different answers from which on it is no chance that rows have one another's."""

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
        shown: Whether it was seen; False where no rows could be tried.
    """

    shared: bool
    single: bool
    why: str
    shown: bool = True

    @property
    def note(self) -> str:
        """What people should know of it; empty where calls are shared."""
        return "" if self.shared else f"{'rows' if self.single else 'calls'} are scored one at a time: {self.why}"


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
    shown: Sharing | None = None
    trials = _trials(samples)
    for rows in trials:
        sharing = _try(score, rows, exact=exact)
        if sharing.shown and not sharing.shared:
            return sharing
        if sharing.shown:
            shown = shown or sharing
        elif shown is None:
            why = sharing.why
    if not trials:
        _warm(score, samples)
    return shown or Sharing(shared=False, single=False, why=why, shown=False)


def _try(score: Score, rows: pa.RecordBatch, *, exact: bool) -> Sharing:
    """Score rows alone, together, together the other way round, and each many times over."""
    count = rows.num_rows
    began = time.monotonic()
    try:
        alone = [kept(score(rows.slice(i, 1))) for i in range(count)]
    except Exception as exc:  # noqa: BLE001 - a model raises what it likes
        return _of_several(score, rows, f"the model raises {type(exc).__name__} on sample rows")
    many = [i % count for i in range(_MANY_ROWS)]
    try:
        apart_seconds = time.monotonic() - began
        together = _apart(kept(score(rows)))
        seconds = time.monotonic() - began - apart_seconds
        if seconds * _MANY_ROWS / count > _SLOW_SECONDS and seconds * 2 > apart_seconds:
            why = f"{count} rows take {seconds:.1f} s together, and {apart_seconds:.1f} s alone, so nothing is gained"
            return Sharing(shared=False, single=True, why=why)
        reversed_ = _in_order(score, rows, list(range(count))[::-1])
        crowd = _apart(kept(score(rows.take(pa.array(many)))))
    except Exception as exc:  # noqa: BLE001 - a model raises what it likes
        why = str(exc) if isinstance(exc, OutputDiffers) else f"the model raises {type(exc).__name__} on several rows"
        return Sharing(shared=False, single=True, why=why)
    if _all_same(together, alone, exact=exact) and _all_same(reversed_, alone, exact=exact):
        if not _all_same(crowd, [alone[i] for i in many], exact=exact):
            why = "the model gives a row another answer among many or equal ones than alone"
            return Sharing(shared=False, single=True, why=why)
        if _distinct(alone) == 1 and with_variations(rows) is rows:
            # Any order would look like this.
            why = "all sample rows get the same answer"
            return Sharing(shared=False, single=False, why=why, shown=False)
        return Sharing(shared=True, single=False, why=f"shown on {rows.num_rows} sample rows")
    if not _all_same([kept(score(rows.slice(i, 1))) for i in range(count)], alone, exact=exact):
        # Whether its rows come back in their order does not show either.
        return Sharing(shared=False, single=True, why="the model gives the same row another answer each time")
    moved = not (_all_same(together, alone, exact=False) and _all_same(reversed_, alone, exact=False))
    permuted = moved and _is_permuted(together, alone) and _is_permuted(reversed_, alone)
    # Of a few labels it may be chance.
    if permuted and _distinct(alone) >= min(_TELLING, rows.num_rows):
        raise RowsExchanged(
            "it gives rows the answers of other rows: they come back in another order; return them in the order of the"
            " input, or with its index"
        )
    # Where its place does not matter, its company does: that is what the author means by several rows.
    by_place = permuted or not all(
        _all_same(together, _in_order(score, rows, order), exact=False) for order in _turns(rows.num_rows)
    )
    why = f"the model gives a row another answer among others than alone{', by its place' if by_place else ''}"
    return Sharing(shared=False, single=by_place, why=why)


def _in_order(score: Score, rows: pa.RecordBatch, order: list[int]) -> list[pa.RecordBatch]:
    """Score rows in another order; return their answers in the order of the rows."""
    answers = dict(zip(order, _apart(kept(score(rows.take(pa.array(order))))), strict=True))
    return [answers[place] for place in range(len(order))]


def _turns(count: int) -> list[list[int]]:
    """Return the orders in which each row is once the first, and those the other way round."""
    turns = [[(place + first) % count for place in range(count)] for first in range(count)]
    return [*turns, *(turn[::-1] for turn in turns)]


def _of_several(score: Score, rows: pa.RecordBatch, why: str) -> Sharing:
    """Tell of a model that raises on single rows whether it takes several."""
    try:
        score(rows)
    except Exception:  # noqa: BLE001 - a model raises what it likes
        return Sharing(shared=False, single=False, why=why, shown=False)
    return Sharing(shared=False, single=False, why=f"{why} alone")


def kept(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return answers in memory of their own: a model may use its own again for the next."""
    return batch.take(pa.array(range(batch.num_rows)))


def _apart(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [batch.slice(i, 1) for i in range(batch.num_rows)]


def _all_same(some: list[pa.RecordBatch], others: list[pa.RecordBatch], *, exact: bool) -> bool:
    return all(_same(one, other, exact=exact) for one, other in zip(some, others, strict=True))


def _is_permuted(together: list[pa.RecordBatch], alone: list[pa.RecordBatch]) -> bool:
    """Tell whether rows have the answers that they have alone, or one another's."""
    left = list(alone)
    for one in together:
        found = next((place for place, own in enumerate(left) if _same(one, own, exact=False)), None)
        if found is None:
            return False
        del left[found]
    return True


def _distinct(answers: list[pa.RecordBatch]) -> int:
    return sum(not any(_same(one, other, exact=False) for other in answers[:i]) for i, one in enumerate(answers))


def _warm(score: Score, samples: Sequence[pa.RecordBatch]) -> None:
    """Have the model do once what it does lazily."""
    for rows in samples:
        with contextlib.suppress(Exception):
            score(rows)
            return


def _trials(samples: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Give batches of at least two rows each: as they are, with other numbers, and with gaps."""
    trials: list[pa.RecordBatch] = []
    for batch in samples:
        few = batch.slice(0, _FEW_ROWS)
        for rows in (with_variations(batch.slice(0, _MOST_ROWS // 2)), _unlike(few), _with_gaps(few)):
            if rows.num_rows > 1 and not any(rows.equals(other) for other in trials):
                trials.append(rows)
    return trials


def with_variations(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows, and after them each with other numbers; the rows themselves where there are no numbers."""
    return _followed(
        rows, lambda values: values * 1.5 + 1.0, lambda values: np.where(values > 0, values - 1, values + 1)
    )


def _unlike(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows, and after them each with numbers of another magnitude, every second one of the other sign."""
    return _followed(rows, _far, lambda values: -(values // 2) - 1)


def _far(values: Any) -> Any:
    return values * np.where(np.arange(len(values)) % 2, 100.0, -100.0) - 1.0


def _with_gaps(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows, and before them the first one without its numbers: models fill gaps from other rows."""
    return _followed(rows, lambda values: values * np.nan, lambda values: values).slice(rows.num_rows - 1)


def _followed(rows: pa.RecordBatch, floats: Callable[[Any], Any], wholes: Callable[[Any], Any]) -> pa.RecordBatch:
    changed = False
    arrays = []
    for array in rows.columns:
        if pa.types.is_floating(array.type) and array.type != pa.float16():
            arrays.append(pa.array(floats(np.nan_to_num(array.to_numpy(zero_copy_only=False))), array.type))
            changed = True
        elif pa.types.is_integer(array.type) and not array.null_count:
            values = array.to_numpy()
            arrays.append(pa.array(wholes(values).astype(values.dtype), array.type))
            changed = True
        else:
            arrays.append(array)
    if not changed:
        return rows
    varied = pa.RecordBatch.from_arrays(arrays, schema=rows.schema)
    return pa.Table.from_batches([rows, varied]).combine_chunks().to_batches()[0]


def _same(one: pa.RecordBatch, other: pa.RecordBatch, *, exact: bool) -> bool:
    if one.serialize().equals(other.serialize()):
        return True
    return all(
        _alike(a[0].as_py(), b[0].as_py(), field, exact=exact)
        for a, b, field in zip(one.columns, other.columns, one.schema, strict=True)
    )


def _alike(one: Any, other: Any, field: pa.Field, *, exact: bool) -> bool:
    """Compare two values of a type: NaN is NaN, and 0.0 is not -0.0 where every bit counts."""
    kind = field.type
    if one is None or other is None:
        return one is other
    if is_any(field):
        return _alike_json(json.loads(one), json.loads(other), exact=exact)
    if kind in TOLERANCE:
        return _near(float(one), float(other), 0.0 if exact else TOLERANCE[kind])
    if pa.types.is_struct(kind):
        return all(_alike(one[child.name], other[child.name], child, exact=exact) for child in kind)
    if pa.types.is_map(kind):
        item = kind.item_field
        return [key for key, _ in one] == [key for key, _ in other] and all(
            _alike(a, b, item, exact=exact) for (_, a), (_, b) in zip(one, other, strict=True)
        )
    if is_nested(kind):
        return len(one) == len(other) and all(
            _alike(a, b, kind.value_field, exact=exact) for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)


def _alike_json(one: Any, other: Any, *, exact: bool) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return _near(one, other, 0.0 if exact else TOLERANCE[pa.float64()])
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_alike_json(a, b, exact=exact) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike_json(one[key], other[key], exact=exact) for key in one)
    return type(one) is type(other) and one == other


def _near(one: float, other: float, tolerance: float) -> bool:
    if not math.isfinite(one) or not math.isfinite(other):
        return one == other or (math.isnan(one) and math.isnan(other))
    if tolerance:
        return abs(one - other) <= tolerance * max(abs(one), abs(other))
    return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)
