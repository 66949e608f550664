"""Which models may be given the rows of several callers at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.worker.trial import RowsExchanged, Sharing, may_share

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
        assert may_share(model, samples, exact=False).shared is shared
        assert may_share(model, samples, exact=True).shared is exactly


def test_without_two_rows_nothing_is_shown() -> None:
    """A single text says nothing, nor do no samples; the model is warm all the same."""
    asked: list[int] = []

    def model(batch: Rows) -> Rows:
        asked.append(batch.num_rows)
        return scores([1.0] * batch.num_rows)

    one_text = pa.RecordBatch.from_arrays([pa.array(["a"])], names=["x"])
    nothing = Sharing(shared=False, single=False, why="there are no two sample rows to show it with", shown=False)
    assert may_share(model, [one_text], exact=False) == nothing
    assert asked == [1]
    assert may_share(model, [], exact=False) == nothing


def test_rows_that_a_model_refuses_show_nothing() -> None:
    """Where the model raises on made-up rows, its example decides; where it raises on all, nothing is shown."""

    def picky(batch: Rows) -> Rows:
        if min(batch.column(0).to_pylist()) < 10:
            raise ValueError
        return own(batch)

    assert may_share(picky, [rows(1.0, 2.0), rows(10.0, 20.0)], exact=False).shared
    assert may_share(picky, [rows(1.0, 2.0)], exact=False).why == "the model raises ValueError on sample rows"


def test_whole_numbers_are_varied_within_their_type() -> None:
    """The greatest number of a type has no neighbour above it."""
    greatest = rows(2**63 - 1, kind=pa.int64())
    assert may_share(lambda batch: scores(batch.column(0)), [greatest], exact=True).shared


@pytest.mark.parametrize(
    ("model", "single"),
    [
        # The place of a row decides what it gets, or whether it gets anything: each row is right alone.
        (first_row, True),
        (place, True),
        (alone_only, True),
        # What a row gets depends on its company, whatever the order: what the author means by several rows.
        (mean, False),
        (text, False),
        # Of a model that answers by chance the order does not show.
        (chance, True),
        (own, False),
    ],
)
def test_rows_go_one_by_one_where_their_place_decides(model: Callable[[Rows], Rows], single: bool) -> None:
    """Then a request of several rows is right as well."""
    assert may_share(model, [rows(1.5, 2.5)], exact=False).single is single


def ascending(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer in the order of the values."""
    return scores(np.sort(batch.column(0).to_numpy()) * 2.0)


def backwards(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer from the last row on."""
    return scores(batch.column(0).to_numpy()[::-1] * 2.0)


def first_last(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer the first row where the last one should be, and the last one where the first one should be."""
    values = batch.column(0).to_pylist()
    return scores([values[-1], *values[1:-1], values[0]])


def groups(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Answer the small ones first, then the others."""
    values = batch.column(0).to_pylist()
    return scores([one for one in values if one < 2] + [one for one in values if one >= 2])


@pytest.mark.parametrize("model", [ascending, backwards, first_last, groups])
@pytest.mark.parametrize("samples", [[rows(1.5, 2.5)], [rows(2.5, 1.5)], [rows(1.0)]])
def test_a_model_that_gives_rows_the_answers_of_others_is_found(
    model: Callable[[Rows], Rows], samples: list[Rows]
) -> None:
    """Whatever the order of the sample rows."""
    with pytest.raises(RowsExchanged, match="in another order"):
        may_share(model, samples, exact=False)


@pytest.mark.parametrize(("by_row", "shared"), [(True, False), (False, True)], ids=["each row", "each call"])
def test_a_slow_model_is_tried_with_many_rows_only_where_it_gains(
    monkeypatch: pytest.MonkeyPatch, by_row: bool, shared: bool
) -> None:
    """A model that takes a second for each row gets its rows alone; one that takes it for a call is tried in full."""
    now = 0.0
    most = 0

    def slow(batch: pa.RecordBatch) -> pa.RecordBatch:
        nonlocal now, most
        now += batch.num_rows if by_row else 1.0
        most = max(most, batch.num_rows)
        return own(batch)

    monkeypatch.setattr("prinz_enricher.worker.trial.time.monotonic", lambda: now)
    sharing = may_share(slow, [rows(1.0, 2.0)], exact=True)
    assert (sharing.shared, sharing.single) == (shared, not shared)
    assert (most < 64) is by_row
    assert not by_row or now <= 10
