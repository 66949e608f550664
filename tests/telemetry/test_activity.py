"""What versions did in the last minutes: exact differences of the series, in bounded memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.telemetry import activity
from prinz_enricher.telemetry.activity import SAMPLES, Activity, quantile
from prinz_enricher.telemetry.series import SECONDS, Series


def counts(**buckets: int) -> list[int]:
    """Return counts of the buckets of SECONDS; `at_3=2` has two values in the bucket of the third bound."""
    found = [0] * (len(SECONDS) + 1)
    for name, count in buckets.items():
        found[int(name.removeprefix("at_"))] = count
    return found


def test_differences() -> None:
    """An interval has the calls, the errors and the durations since the sample before, by phase."""
    series, clock = Series(), 100.0
    kept = Activity(series, clock)
    wine = series.version("wine", "1")
    wine.answered(3, 30, 0.0005, 0.003, 0.004)
    wine.failed("INVALID_INPUT")
    kept.sample(115.0)
    kept.sample(130.0)
    wine.answered(2, 2, 30.0, 0.15, 30.0)
    kept.sample(146.0)

    first, idle, last = kept.of("wine")

    assert (first.end, first.seconds, first.calls, first.errors) == (115.0, 15.0, 4, 1)
    assert first.counts == {"queue": counts(at_0=3), "compute": counts(at_2=3), "total": counts(at_2=3)}
    assert (idle.calls, idle.errors, sum(idle.counts["total"])) == (0, 0, 0)
    assert (last.seconds, last.calls, last.errors) == (16.0, 2, 0)
    assert last.counts == {"queue": counts(at_13=2), "compute": counts(at_7=2), "total": counts(at_13=2)}


def test_versions_apart_and_together() -> None:
    """A model's versions are summed up unless one is named; those of other models are not there."""
    series = Series()
    kept = Activity(series, 0.0)
    for model, version, calls in (("wine", "1", 2), ("wine", "2", 5), ("fraud", "1", 11)):
        series.version(model, version).answered(calls, calls, 0.1, 0.1, 0.1)
    kept.sample(15.0)

    assert [[one.calls for one in kept.of(*key)] for key in (("wine",), ("wine", "1"), ("wine", "2"))] == [
        [7],
        [2],
        [5],
    ]
    assert [one.calls for one in kept.of("nothing")] == [0]


def test_a_version_that_comes_again() -> None:
    """A version that is gone takes its figures along; one of the same number begins anew."""
    series = Series()
    kept = Activity(series, 0.0)
    series.version("wine", "1").answered(9, 9, 0.1, 0.1, 0.1)
    kept.sample(15.0)
    series.retain([])
    kept.sample(30.0)
    assert [one.calls for one in kept.of("wine")] == [0, 0]

    series.version("wine", "1").answered(2, 2, 0.1, 0.1, 0.1)
    kept.sample(45.0)
    series.retain([])
    series.version("wine", "1").answered(3, 3, 0.1, 0.1, 0.1)
    kept.sample(60.0)
    assert [one.calls for one in kept.of("wine")] == [0, 0, 0, 3]


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), max_size=3 * SAMPLES))
def test_the_last_minutes(calls: list[list[int]]) -> None:
    """Whatever is called when, each interval that is kept has its calls, and only the last ones are kept."""
    series = Series()
    kept = Activity(series, 0.0)
    for sample, by_version in enumerate(calls):
        for version, number in enumerate(by_version):
            for _ in range(number):
                series.version("wine", str(version)).answered(1, 1, 0.0, 0.0, 0.0)
        kept.sample(sample + 1.0)

    for version in range(3):
        assert [one.calls for one in kept.of("wine", str(version))] == [one[version] for one in calls[-SAMPLES:]]
    assert [one.calls for one in kept.of("wine")] == [sum(one) for one in calls[-SAMPLES:]]
    assert [one.end for one in kept.of("wine")] == [place + 1.0 for place in range(len(calls))][-SAMPLES:]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many versions that are called all the time less of the past is kept, and that is exact."""
    monkeypatch.setattr(activity, "MAX_ROWS", 1_000)
    series = Series()
    kept = Activity(series, 0.0)

    def call_all(sample: int) -> None:
        for version in range(300):
            series.version("wine", str(version)).answered(sample + 1, 1, 0.0, 0.0, 0.0)
        kept.sample(sample + 1.0)

    for sample in range(5):
        call_all(sample)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for sample in range(5, 25):
            call_all(sample)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert [one.calls for one in kept.of("wine", "7")] == [23, 24, 25]
    # Three samples of 300 rows are some 500 kB, all of them would be 4 MB.
    assert grown < 1_000_000


@pytest.mark.parametrize(
    ("share", "given", "expected"),
    [
        (0.5, counts(), None),
        (0.5, counts(at_0=4), 0.0005),
        (1.0, counts(at_0=4), 0.001),
        (0.5, counts(at_3=1, at_5=1), 0.01),
        (0.75, counts(at_3=1, at_5=1), 0.035),
        (0.99, counts(at_0=98, at_13=2), 10.0),
        (0.25, counts(at_0=2, at_1=2), 0.0005),
    ],
)
def test_quantiles(share: float, given: list[int], expected: float | None) -> None:
    """Quantiles are those of histogram_quantile, from 0 in the first bucket to the last bound beyond the last."""
    assert quantile(share, given) == (expected if expected is None else pytest.approx(expected))
