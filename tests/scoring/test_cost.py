"""What a model call is expected to cost, and how long a job would wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.scoring.cost import CallCost


@given(
    fixed=st.floats(1e-6, 10.0),
    each=st.floats(1e-6, 1.0),
    sizes=st.lists(st.integers(1, 1000), min_size=10, max_size=60).filter(lambda sizes: max(sizes) > 2 * min(sizes)),
    rows=st.integers(1, 1000),
)
def test_a_line_is_learnt(fixed: float, each: float, sizes: list[int], rows: int) -> None:
    """Where calls cost a + b·n, so does the estimate, for other sizes too, up to sixteen times the largest."""
    cost = CallCost()
    for size in sizes:
        cost.observe(size, fixed + each * size)
    if all(fixed + each * size <= 9 * (fixed + each * min(sizes)) for size in sizes):
        # Below the bound for outliers, whatever the order.
        rows = min(rows, 16 * sizes[-1])
        assert cost.estimate(rows) == pytest.approx(fixed + each * rows, rel=0.05, abs=1e-3 * fixed)


def test_other_sizes_follow_the_line() -> None:
    """Ten calls of a few rows tell what a hundred rows cost."""
    cost = CallCost()
    for size in (1, 5, 2, 8, 3, 9, 1, 4, 7, 6):
        cost.observe(size, 0.010 + 0.001 * size)
    assert cost.estimate(100) == pytest.approx(0.110)
    assert cost.estimate(1) == pytest.approx(0.011)


def test_nothing_is_known_after_a_few_calls() -> None:
    """A guess must not refuse anybody."""
    cost = CallCost()
    for _ in range(4):
        cost.observe(1, 1.0)
    assert not cost.known
    assert cost.wait(100, 100, 0.0, 1) == 0.0
    cost.observe(1, 1.0)
    assert cost.known
    assert cost.wait(100, 100, 0.5, 1) == pytest.approx(100.5)


def test_rows_of_one_size_tell_nothing_of_more_rows() -> None:
    """What is not known counts as free: a job is refused for what was seen, not for what is feared."""
    cost = CallCost()
    for _ in range(10):
        cost.observe(1, 0.01)
    assert cost.estimate(1000) == pytest.approx(0.01)


def test_a_few_rows_tell_nothing_of_very_many() -> None:
    """What noise makes of calls of a few rows shuts nobody out while a call of many rows waits or is scored."""
    cost = CallCost()
    for _ in range(10):
        for size, took in ((1, 0.002), (19, 0.04), (20, 0.02), (3, 0.001)):
            cost.observe(size, took)
    assert 0.02 < cost.estimate(20) < 0.05
    assert cost.estimate(50_000) < 1.0
    assert cost.wait(2, 50_020, 0.0, 1) < 1.5
    # Once such a call was seen, it is known what it costs; not forever.
    cost.observe(50_000, 20.0)
    for _ in range(5):
        cost.observe(2, 0.002)
    assert cost.estimate(50_000) == pytest.approx(20.0, rel=0.2)


def test_one_pause_of_the_machine_counts_little() -> None:
    """A call that took a thousand times as long counts as one of ten times."""
    cost = CallCost()
    for _ in range(50):
        cost.observe(1, 0.001)
    cost.observe(1, 1.0)
    assert cost.estimate(1) < 0.002


def test_more_workers_make_the_wait_shorter() -> None:
    """The work that waits is shared by all of them."""
    cost = CallCost()
    for _ in range(10):
        cost.observe(1, 0.01)
    assert cost.wait(8, 8, 0.0, 4) == pytest.approx(0.02)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e4)), max_size=50), st.integers(1, 10**6))
def test_an_estimate_is_never_negative(calls: list[tuple[int, float]], rows: int) -> None:
    """Whatever was observed, a call costs nothing or more, and finitely much."""
    cost = CallCost()
    for size, took in calls:
        cost.observe(size, took)
    assert 0 <= cost.estimate(rows) < float("inf")
