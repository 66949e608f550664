"""Which models may be given the rows of several callers at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.worker.batching import may_share

Rows = Any


def rows(*values: float | None, kind: pa.DataType | None = None) -> pa.RecordBatch:
    """Make rows of one column."""
    return pa.RecordBatch.from_arrays([pa.array(values, kind or pa.float64())], names=["x"])


def scores(values: Any, kind: pa.DataType | None = None) -> pa.RecordBatch:
    """Make an answer."""
    return pa.RecordBatch.from_arrays([pa.array(values, kind)], names=["y"])


def own(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer each row for itself."""
    return scores(batch.column(0).to_numpy(zero_copy_only=False) * 2.0)


def first_row(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer all rows as the first one."""
    return scores([batch.column(0)[0].as_py()] * batch.num_rows)


def mean(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer each row by the mean of all."""
    values = batch.column(0).to_numpy()
    return scores(values - values.mean())


def place(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer each row by its place."""
    return scores([float(number) for number in range(batch.num_rows)])


def chance(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer by chance."""
    return scores(np.random.default_rng().normal(size=batch.num_rows))


def rounding(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer as a matrix product does: in another order, and so with another last bit, among others."""
    values = batch.column(0).to_numpy() * 0.1
    return scores(np.nextafter(values, np.inf) if batch.num_rows > 1 else values)


def off_by_a_little(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer with an error far above rounding, among others."""
    values = batch.column(0).to_numpy()
    return scores(values * (1 + 1e-9) if batch.num_rows > 1 else values)


def beyond(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer with an infinity, the other one among others."""
    return scores([np.inf if batch.num_rows > 1 else -np.inf] * batch.num_rows)


def text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer with texts, other ones among others."""
    return scores([f"of {batch.num_rows}"] * batch.num_rows)


def nothing(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer NaN, null and lists with them."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([float("nan")] * batch.num_rows),
            pa.array([None] * batch.num_rows, pa.float64()),
            pa.array([[1.0, float("nan")]] * batch.num_rows),
        ],
        names=["a", "b", "c"],
    )


def alone_only(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Take one row, and no more."""
    if batch.num_rows > 1:
        raise ValueError
    return own(batch)


@pytest.mark.parametrize(
    ("model", "shared", "exactly"),
    [
        (own, True, True),
        (first_row, False, False),
        (mean, False, False),
        (place, False, False),
        (chance, False, False),
        (rounding, True, False),
        (off_by_a_little, False, False),
        (beyond, False, False),
        (text, False, False),
        (nothing, True, True),
        (alone_only, False, False),
    ],
)
def test_models(model: Callable[[Rows], Rows], shared: bool, exactly: bool) -> None:
    """Those that give each row its own answer may, also from a single sample row; others may not."""
    for samples in ([rows(1.5, 2.5)], [rows(3.0)], [rows(1.0, 1.0)]):
        assert may_share(model, samples, exact=False)[0] is shared
        assert may_share(model, samples, exact=True)[0] is exactly


def test_without_two_rows_nothing_is_shown() -> None:
    """A single text says nothing, nor do no samples; the model is warm all the same."""
    asked: list[int] = []

    def model(batch: Rows) -> Rows:
        asked.append(batch.num_rows)
        return scores([1.0] * batch.num_rows)

    one_text = pa.RecordBatch.from_arrays([pa.array(["a"])], names=["x"])
    assert may_share(model, [one_text], exact=False) == (False, "there are no two sample rows to show it with")
    assert asked == [1]
    assert may_share(model, [], exact=False)[0] is False


def test_rows_that_a_model_refuses_show_nothing() -> None:
    """Where the model raises on made-up rows, its example decides; where it raises on all, nothing is shown."""

    def picky(batch: Rows) -> Rows:
        if min(batch.column(0).to_pylist()) < 10:
            raise ValueError
        return own(batch)

    assert may_share(picky, [rows(1.0, 2.0), rows(10.0, 20.0)], exact=False)[0] is True
    assert may_share(picky, [rows(1.0, 2.0)], exact=False) == (False, "the model raises ValueError on sample rows")


def test_whole_numbers_are_varied_within_their_type() -> None:
    """The greatest number of a type has no neighbour above it."""
    greatest = rows(2**63 - 1, kind=pa.int64())
    assert may_share(lambda batch: scores(batch.column(0)), [greatest], exact=True)[0] is True
