"""The breaker and the retries, by a clock that the test moves."""

import pytest

from prinz_enricher.scoring.remote.endpoint_client import RetryBudget, backoff
from prinz_enricher.scoring.remote.http_sender import retry_after
from prinz_enricher.scoring.remote.load_balancer import MAX_PAUSE_SECONDS, Breaker, State


def opened(failures: int = 3, pause: float = 5.0, now: float = 0.0) -> Breaker:
    """Return a breaker that has just opened."""
    breaker = Breaker(failures, pause)
    for _ in range(failures):
        breaker.fail(now, trial=breaker.start(now))
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """An answer between failures begins the count anew."""
    breaker = Breaker(failures=3, pause=5.0)
    for failed in (True, True, False, True, True):
        assert breaker.allows(0.0)
        trial = breaker.start(0.0)
        if failed:
            breaker.fail(0.0, trial=trial)
        else:
            breaker.succeed(trial=trial)
    assert breaker.state(0.0) is State.CLOSED
    breaker.fail(0.0, trial=breaker.start(0.0))
    assert breaker.state(0.0) is State.OPEN
    assert not breaker.allows(4.9)
    assert breaker.opens_in(2.0) == 3.0


def test_one_trial_at_a_time() -> None:
    """After the pause one request goes through; its answer closes the breaker."""
    breaker = opened()
    assert breaker.state(5.0) is State.HALF_OPEN
    assert breaker.allows(5.0)
    assert breaker.start(5.0)
    assert not breaker.allows(5.0)
    breaker.succeed(trial=True)
    assert breaker.state(5.0) is State.CLOSED
    assert breaker.allows(5.0)


def test_pause_doubles_while_trials_fail() -> None:
    """Each failed trial doubles the pause, up to a limit; an answer makes it short again."""
    breaker = opened()
    now, pauses = 5.0, []
    for _ in range(6):
        breaker.fail(now, trial=breaker.start(now))
        pauses.append(breaker.opens_in(now))
        now += pauses[-1]
    assert pauses == [10.0, 20.0, 40.0, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS]
    breaker.succeed(trial=breaker.start(now))
    for _ in range(3):
        breaker.fail(now, trial=breaker.start(now))
    assert breaker.opens_in(now) == 5.0


def test_trial_that_tells_nothing_makes_room_for_another() -> None:
    """A trial that was cancelled leaves the next request to try."""
    breaker = opened()
    breaker.give_up(trial=breaker.start(5.0))
    assert breaker.state(5.0) is State.HALF_OPEN
    assert breaker.allows(5.0)


def test_late_ends_of_earlier_requests() -> None:
    """Requests from before it opened neither lengthen the pause nor end another's trial; an answer is an answer."""
    breaker = opened()
    breaker.fail(4.0, trial=False)
    assert breaker.opens_in(4.0) == 1.0
    assert breaker.start(5.0)
    breaker.fail(5.5, trial=False)
    breaker.give_up(trial=False)
    assert not breaker.allows(5.5)
    breaker.succeed(trial=False)
    assert breaker.state(5.5) is State.CLOSED


def test_budget_is_a_share_and_a_burst() -> None:
    """Retries are a burst at first, and then a share of the calls; they are not saved up beyond the burst."""
    budget = RetryBudget(0.1, 3)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


def test_backoff_grows_by_chance() -> None:
    """Each retry may wait twice as long as the one before, up to a second."""
    assert [backoff(retry, 1.0) for retry in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert backoff(3, 0.0) == 0.0
    assert backoff(10_000, 1.0) == 1.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 9_999_999_999.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 -0000", 60.0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("1.5", None),
        ("٣", None),
        ("Thu, 99 Jan 1970 00:01:40 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """Seconds and dates are understood, and nothing else."""
    assert retry_after(text, now=40.0) == seconds
