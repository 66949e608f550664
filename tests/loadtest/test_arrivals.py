"""When calls of an open loop begin."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.loadtest.generator import arrival_times


@given(st.floats(0.1, 5_000), st.floats(0.01, 2), st.integers(0, 2**32))
def test_times_are_in_order_and_repeat(rate: float, seconds: float, seed: int) -> None:
    """Times rise, lie within the test, and are the same for the same seed."""
    times = list(itertools.islice(arrival_times(rate, seconds, seed), 500))

    assert times == sorted(times)
    assert all(0 < time < seconds for time in times)
    assert times == list(itertools.islice(arrival_times(rate, seconds, seed), 500))


@pytest.mark.parametrize("seed", range(5))
def test_gaps_are_exponential(seed: int) -> None:
    """There are as many calls as the rate says, and a share of 1/e of gaps is longer than the mean one."""
    times = list(arrival_times(2_000, 10, seed))
    gaps = [b - a for a, b in itertools.pairwise(times)]

    assert abs(len(times) - 20_000) < 5 * math.sqrt(20_000)
    assert sum(gap > 1 / 2_000 for gap in gaps) / len(gaps) == pytest.approx(1 / math.e, abs=0.02)
