"""The steps of a load test."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.loadtest.generator import Step
from prinz_enricher.loadtest.run import Rate, Schedule, parse_concurrencies, parse_rates


def test_steps_are_read() -> None:
    """Concurrencies are whole numbers; rates are numbers, or shares with a percent sign."""
    assert parse_concurrencies("1, 16,64") == (1, 16, 64)
    assert parse_rates("1000,2.5, 70%") == (Rate(1000.0), Rate(2.5), Rate(0.7, relative=True))


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1,,2", "x", "²"])
def test_wrong_concurrencies_are_refused(text: str) -> None:
    """What is no whole number above 0 is refused."""
    with pytest.raises(ValueError, match="whole number"):
        parse_concurrencies(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1,,2", "x", "%", "inf", "nan", "0%"])
def test_wrong_rates_are_refused(text: str) -> None:
    """What is no number above 0 is refused."""
    with pytest.raises(ValueError, match="invalid rate"):
        parse_rates(text)


def test_nothing_asked_for() -> None:
    """Without steps there are closed loops; a share without a closed loop brings one."""
    assert Schedule.of((), ()).concurrencies == (1, 16, 64)
    assert Schedule.of((), (Rate(0.7, relative=True),)).concurrencies == (64,)
    assert Schedule.of((), (Rate(100.0),)).concurrencies == ()
    assert len(Schedule.of((1, 2), (Rate(100.0),))) == 3


def test_a_share_is_of_the_best_closed_loop() -> None:
    """A rate with a percent sign is a share of the most that a closed loop reached."""
    reached: list[float] = []
    steps = Schedule((1, 2), (Rate(0.5, relative=True), Rate(7.0))).steps(lambda: max(reached))

    assert next(steps) == Step("closed", 1)
    reached.append(100.0)
    assert next(steps) == Step("closed", 2)
    reached.append(80.0)
    assert list(steps) == [Step("open", 50.0), Step("open", 7.0)]


def test_a_share_of_nothing_is_left_out() -> None:
    """Where no closed loop had an answer there is no rate that is a share of it."""
    assert list(Schedule((), (Rate(0.5, relative=True), Rate(7.0))).steps(lambda: 0.0)) == [Step("open", 7.0)]


@given(st.integers(1, 500), st.integers(1, 40))
def test_shares_are_the_whole(concurrency: int, processes: int) -> None:
    """Processes together do what is asked for, as evenly as can be."""
    shares = [Step("closed", concurrency).share(place, processes).load for place in range(processes)]
    rates = [Step("open", 1000.0).share(place, processes).load for place in range(processes)]

    assert sum(shares) == concurrency
    assert max(shares) - min(shares) <= 1
    assert sum(rates) == pytest.approx(1000.0)
