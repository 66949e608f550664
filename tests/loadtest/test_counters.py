"""The histogram of latencies."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.loadtest.counters import Histogram

durations = st.integers(0, 300) | st.integers(0, 10**13)
many = st.lists(durations, max_size=60)


def histogram_of(*parts: list[int]) -> Histogram:
    """Count durations, each list in a histogram of its own, and merge them in order."""
    whole = Histogram()
    for part in parts:
        one = Histogram()
        for value in part:
            one.add(value)
        whole.merge(one)
    return whole


@given(st.lists(durations, min_size=1, max_size=60), st.floats(0, 100))
def test_percentile_is_exact_to_one_percent(values: list[int], percent: float) -> None:
    """A percentile is that of the sorted durations by nearest rank, off by at most 1 %."""
    rank = max(1, math.ceil(percent / 100 * len(values)))
    exact = sorted(values)[rank - 1]

    assert histogram_of(values).percentile(percent) == pytest.approx(exact, rel=0.01)


@given(many, many, many)
def test_merge_is_associative(a: list[int], b: list[int], c: list[int]) -> None:
    """However parts are merged, the whole is that of all durations."""
    left, right = histogram_of(a, b), histogram_of(a)
    left.merge(histogram_of(c))
    right.merge(histogram_of(b, c))

    assert left == right == histogram_of(a + b + c) == histogram_of(c, b, a)


@given(many)
def test_ends_count_and_sum_are_exact(values: list[int]) -> None:
    """The shortest, the longest, the count and the sum are not rounded, and buckets hold each duration once."""
    histogram = histogram_of(values)
    buckets = list(histogram.buckets())

    assert (histogram.shortest, histogram.longest) == (min(values, default=0), max(values, default=0))
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert [count for _, _, count in buckets] == [sum(a <= v <= b for v in values) for a, b, _ in buckets]
    assert sum(count for _, _, count in buckets) == len(values)


@given(many)
def test_it_can_be_pickled(values: list[int]) -> None:
    """What a generator process sends arrives the same."""
    histogram = histogram_of(values)

    assert pickle.loads(pickle.dumps(histogram)) == histogram  # noqa: S301 - our own


def test_empty() -> None:
    """Without durations there is no percentile and no mean."""
    assert math.isnan(Histogram().percentile(50))
    assert math.isnan(Histogram().mean)


def test_negative_is_refused() -> None:
    """A duration below zero is none."""
    with pytest.raises(ValueError, match="negative"):
        Histogram().add(-1)
