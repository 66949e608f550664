"""How a model is tried with sample rows: whether it can be served, and which rows may be in one call.

It must give each row the answer that it gives it alone. Some published models read only the first row, or take a mean
over all of them, or sort them. Such a model is found by scoring sample rows alone, together, and in reverse order.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows, OutputDiffers, ValueMissing
from prinz_enricher.ipc.fields import is_any, is_nested

_MADE_ROWS = 2
_MOST_ROWS = 8
_FEW_ROWS = 2
_MANY_ROWS = 64
# For `_MANY_ROWS` rows: a slower model is tried with as many only where rows gain from being together.
_SLOW_SECONDS = 10.0
# Different answers from which on rows do not have one another's by chance.
_CERTAIN = 3
# How far apart two numbers may be, relative to the greater, that are the same but for rounding: a matrix product adds
# in another order for one row than for many (BLAS), which no caller can tell from the order of its own rows.
_TOLERANCE = {pa.float64(): 1e-12, pa.float32(): 1e-5, pa.float16(): 1e-2}

# Returns the outputs of rows; raises what the model raises.
Score = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to try a model with: its own input example, or rows made from its signature."""

    rows: pa.RecordBatch
    example: bool


class UnfitModel(Exception):
    """The model can't be served as it is registered; the message says why, and what its author can do."""


class OutputsDiffer(UnfitModel):
    """The model's answer is not what its signature declares; `sample` has the rows that show it."""

    def __init__(self, sample: Sample, why: str) -> None:
        name = "its input example" if sample.example else "rows made from its signature"
        super().__init__(
            f"its answer to {name} is not what its signature declares: {why}; log it with the signature that it"
            " has, or set its tag prinz.outputs to observed (where scoring.allow_observed_outputs is set)"
        )
        self.sample = sample


class RowsExchanged(Exception):
    """The model gives rows the answers of other rows."""


def made_batch(inputs: pa.Schema) -> pa.RecordBatch | None:
    """Make rows for a schema, with other values in each; None for a schema without columns."""
    if not len(inputs):
        return None
    arrays = [pa.array([_made(field, row) for row in range(_MADE_ROWS)], field.type) for field in inputs]
    return pa.RecordBatch.from_arrays(arrays, schema=inputs)


def _made(field: pa.Field, row: int) -> Any:
    kind = field.type
    if is_any(field):
        return "null"
    if pa.types.is_boolean(kind):
        return bool(row % 2)
    if pa.types.is_integer(kind):
        return 1 + row
    if pa.types.is_floating(kind):
        return np.float16(0.5 + row) if kind == pa.float16() else 0.5 + row
    if pa.types.is_timestamp(kind):
        return datetime(2024, 1, 1 + row)
    if pa.types.is_binary(kind):
        return b"ab"[row:]
    if pa.types.is_map(kind):
        return [("a", _made(kind.item_field, row))]
    if pa.types.is_struct(kind):
        return {child.name: _made(child, row) for child in kind}
    if is_nested(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else 2
        return [_made(kind.value_field, row + i) for i in range(size)]
    return "ab"[row:]


def _trials(samples: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Return batches of at least two rows each: as they are, with numbers of other sizes and signs, and with gaps."""

    def far(values: Any) -> Any:
        return values * np.where(np.arange(len(values)) % 2, 100.0, -100.0) - 1.0

    trials: list[pa.RecordBatch] = []
    for batch in samples:
        few = batch.slice(0, _FEW_ROWS)
        unlike = _followed(few, far, lambda values: -(values // 2) - 1)
        # The first row without its numbers comes first: models fill gaps from other rows.
        gaps = _followed(few, lambda values: values * np.nan, lambda values: values).slice(few.num_rows - 1)
        for rows in (with_variations(batch.slice(0, _MOST_ROWS // 2)), unlike, gaps):
            if rows.num_rows > 1 and not any(rows.equals(other) for other in trials):
                trials.append(rows)
    return trials


def with_variations(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows, followed by each with other numbers; the rows themselves where there are no numbers."""
    return _followed(rows, lambda some: some * 1.5 + 1.0, lambda some: np.where(some > 0, some - 1, some + 1))


def _followed(rows: pa.RecordBatch, floats: Callable[[Any], Any], wholes: Callable[[Any], Any]) -> pa.RecordBatch:
    """Return rows, followed by the same ones with their numbers changed."""
    columns, arrays = rows.columns, []
    for array in columns:
        if pa.types.is_floating(array.type) and array.type != pa.float16():
            arrays.append(pa.array(floats(np.nan_to_num(array.to_numpy(zero_copy_only=False))), array.type))
        elif pa.types.is_integer(array.type) and not array.null_count:
            values = array.to_numpy()
            arrays.append(pa.array(wholes(values).astype(values.dtype), array.type))
        else:
            arrays.append(array)
    if all(new is old for new, old in zip(arrays, columns, strict=True)):
        return rows
    return joined([rows, pa.RecordBatch.from_arrays(arrays, schema=rows.schema)])


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return the rows of several batches as one."""
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def kept(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return answers in memory of their own: a model may use its own again for the next."""
    return batch.take(pa.array(range(batch.num_rows)))


def check_answers(score: Score, samples: Iterable[Sample]) -> None:
    """Raise UnfitModel where a model does not answer sample rows, its example first, as its signature declares.

    The first sample that shows something decides. A model may raise on made-up rows, or miss values there; on its own
    example it must not. One that takes single rows only is asked with a single one.
    """
    for sample in samples:
        failed = _first_failure(score, sample)
        if failed is None:
            return
        rows, failure = failed
        if isinstance(failure, OutputDiffers) and (sample.example or not isinstance(failure, ValueMissing)):
            raise OutputsDiffer(Sample(rows, sample.example), str(failure)) from failure
        if sample.example and not isinstance(failure, InvalidRows):
            raise UnfitModel(f"it fails on its input example: {sentence(failure)}") from failure


def _first_failure(score: Score, sample: Sample) -> tuple[pa.RecordBatch, Exception] | None:
    """Return the first row that fails alone, and why; None where all of them succeed together, or each alone."""
    together = sample.rows if sample.example else with_variations(sample.rows)
    rows = [together.slice(place, 1) for place in range(together.num_rows)]
    with contextlib.suppress(Exception):
        score(together)
        return None
    for row in rows:
        try:
            score(row)
        except Exception as exc:  # noqa: BLE001 - a model raises what it likes
            return row, exc
    return None


def sentence(exc: BaseException) -> str:
    """Return an exception as one sentence: its type, and the first line of its message."""
    try:
        first = next((line.strip() for line in str(exc).splitlines() if line.strip()), "")
    except Exception:  # noqa: BLE001 - a model raises what it likes
        first = ""
    return f"{type(exc).__name__}: {first}" if first else type(exc).__name__


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which rows may be in one call of a model, and why; not `shown` where no rows could be tried."""

    shared: bool  # whether those of several callers may
    single: bool  # whether each row must be alone: what it gets among others depends on its place
    why: str
    shown: bool = True

    @property
    def note(self) -> str:
        """What people should know of it; empty where calls are shared."""
        return "" if self.shared else f"{'rows' if self.single else 'calls'} are scored one at a time: {self.why}"


def may_share(score: Score, samples: Sequence[pa.RecordBatch], *, exact: bool) -> Sharing:
    """Return which rows may be in one call, as sample rows show it; raises RowsExchanged.

    Where `exact`, every bit must be the same; else floats may differ as rounding differs.
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
        # The model does once what it does lazily.
        for rows in samples:
            with contextlib.suppress(Exception):
                score(rows)
                break
    return shown or Sharing(shared=False, single=False, why=why, shown=False)


def _try(score: Score, rows: pa.RecordBatch, *, exact: bool) -> Sharing:
    """Score rows alone, together, in reverse order, and each many times over."""
    count = rows.num_rows
    in_order = list(range(count))
    began = time.monotonic()
    try:
        alone = _alone(score, rows)
    except Exception as exc:  # noqa: BLE001 - a model raises what it likes
        why = f"the model raises {type(exc).__name__} on sample rows"
        with contextlib.suppress(Exception):
            score(rows)
            return Sharing(shared=False, single=False, why=f"{why} alone")
        return Sharing(shared=False, single=False, why=why, shown=False)
    many = [place % count for place in range(_MANY_ROWS)]
    try:
        seconds_alone = time.monotonic() - began
        together = _apart(score(rows))
        seconds = time.monotonic() - began - seconds_alone
        if seconds * _MANY_ROWS / count > _SLOW_SECONDS and seconds * 2 > seconds_alone:
            why = f"{count} rows take {seconds:.1f} s together, and {seconds_alone:.1f} s alone, so nothing is gained"
            return Sharing(shared=False, single=True, why=why)
        backwards = _permuted(score, rows, in_order[::-1])
        crowd = _apart(score(rows.take(pa.array(many))))
    except Exception as exc:  # noqa: BLE001 - a model raises what it likes
        why = str(exc) if isinstance(exc, OutputDiffers) else f"the model raises {type(exc).__name__} on several rows"
        return Sharing(shared=False, single=True, why=why)
    if _all_same(together, alone, exact=exact) and _all_same(backwards, alone, exact=exact):
        if not _all_same(crowd, [alone[place] for place in many], exact=exact):
            return Sharing(
                shared=False,
                single=True,
                why="the model gives a row another answer among many or equal ones than alone",
            )
        if _distinct(alone) == 1 and with_variations(rows) is rows:
            # Any order would look like this.
            return Sharing(shared=False, single=False, why="all sample rows get the same answer", shown=False)
        return Sharing(shared=True, single=False, why=f"shown on {count} sample rows")
    if not _all_same(_alone(score, rows), alone, exact=exact):
        # Whether its rows come back in their order does not show either.
        return Sharing(shared=False, single=True, why="the model gives the same row another answer each time")
    moved = not (_all_same(together, alone, exact=False) and _all_same(backwards, alone, exact=False))
    exchanged = moved and _is_permutation(together, alone) and _is_permutation(backwards, alone)
    # Of a few labels it may be chance.
    if exchanged and _distinct(alone) >= min(_CERTAIN, count):
        raise RowsExchanged(
            "it gives rows the answers of other rows: they come back in another order; return them in the order of the"
            " input, or with its index"
        )
    # Where its place does not matter, its company does: that is what the author means by several rows.
    turns = [in_order[first:] + in_order[:first] for first in in_order]
    by_place = exchanged or not all(
        _all_same(together, _permuted(score, rows, order), exact=False)
        for order in [*turns, *(turn[::-1] for turn in turns)]
    )
    why = f"the model gives a row another answer among others than alone{', by its place' if by_place else ''}"
    return Sharing(shared=False, single=by_place, why=why)


def _alone(score: Score, rows: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [kept(score(rows.slice(place, 1))) for place in range(rows.num_rows)]


def _permuted(score: Score, rows: pa.RecordBatch, order: list[int]) -> list[pa.RecordBatch]:
    """Score rows in another order; return their answers in the order of the rows."""
    answers = dict(zip(order, _apart(score(rows.take(pa.array(order)))), strict=True))
    return [answers[place] for place in range(len(order))]


def _apart(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    batch = kept(batch)
    return [batch.slice(place, 1) for place in range(batch.num_rows)]


def _is_permutation(together: list[pa.RecordBatch], alone: list[pa.RecordBatch]) -> bool:
    """Return whether rows have the answers that they have alone, or one another's."""
    left = list(alone)
    for one in together:
        found = next((place for place, own in enumerate(left) if _same(one, own, exact=False)), None)
        if found is None:
            return False
        del left[found]
    return True


def _distinct(answers: list[pa.RecordBatch]) -> int:
    return sum(not any(_same(one, other, exact=False) for other in answers[:i]) for i, one in enumerate(answers))


def _all_same(some: list[pa.RecordBatch], others: list[pa.RecordBatch], *, exact: bool) -> bool:
    return all(_same(one, other, exact=exact) for one, other in zip(some, others, strict=True))


def _same(one: pa.RecordBatch, other: pa.RecordBatch, *, exact: bool) -> bool:
    return one.serialize().equals(other.serialize()) or all(
        _alike(a[0].as_py(), b[0].as_py(), field, exact=exact)
        for a, b, field in zip(one.columns, other.columns, one.schema, strict=True)
    )


def _alike(one: Any, other: Any, field: pa.Field | None, *, exact: bool) -> bool:
    """Compare two values of a field, or of JSON; NaN equals NaN, and 0.0 does not equal -0.0 where every bit counts."""
    if one is None or other is None:
        return one is other
    if field is not None and is_any(field):
        return _alike(json.loads(one), json.loads(other), None, exact=exact)
    kind = None if field is None else field.type
    if isinstance(one, float | np.floating) and isinstance(other, float | np.floating):
        one, other = float(one), float(other)
        if exact or not math.isfinite(one) or not math.isfinite(other):
            same_sign = math.copysign(1.0, one) == math.copysign(1.0, other)
            return (one == other and same_sign) or (math.isnan(one) and math.isnan(other))
        tolerance = _TOLERANCE[pa.float64() if kind is None else kind]
        return bool(abs(one - other) <= tolerance * max(abs(one), abs(other)))
    if kind is not None and pa.types.is_map(kind):
        return [key for key, _ in one] == [key for key, _ in other] and all(
            _alike(a, b, kind.item_field, exact=exact) for (_, a), (_, b) in zip(one, other, strict=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _alike(one[name], other[name], None if kind is None else kind[name], exact=exact) for name in one
        )
    if isinstance(one, list) and isinstance(other, list):
        items = None if kind is None else kind.value_field
        return len(one) == len(other) and all(_alike(a, b, items, exact=exact) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)
