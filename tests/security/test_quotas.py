"""Quotas: rows a second and calls in flight of each principal."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.config import QuotaSettings
from prinz_enricher.errors import QuotaExceeded
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas

NK, OPS = Principal("nk"), Principal("ops")


class Clock:
    """A clock that stands until it is set."""

    now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def quotas(clock: Clock | None = None, *, rows: int | None = None, calls: int | None = None) -> Quotas:
    """Return quotas by a clock."""
    return Quotas(QuotaSettings(rows_per_second=rows, calls_in_flight=calls), clock=clock or Clock())


def test_without_quotas_everything_passes() -> None:
    """A service without them counts nothing."""
    unlimited = quotas()
    assert not unlimited.enabled
    assert unlimited.charge(NK, 1 << 40) is None
    assert [unlimited.enter(NK) for _ in range(100)] == [None] * 100
    unlimited.leave(NK)


def test_rows_of_a_second_pass_at_once() -> None:
    """The bucket holds the rows of a second, and is full again after one; each principal has its own."""
    clock = Clock()
    limited = quotas(clock, rows=1_000)
    assert limited.charge(NK, 600) is None
    assert limited.charge(NK, 400) is None
    refused = limited.charge(NK, 1)
    assert isinstance(refused, QuotaExceeded)
    assert (refused.quota, refused.principal) == ("rows_per_second", "nk")
    assert limited.charge(OPS, 1_000) is None
    # Another object of the same name is the same caller.
    assert limited.charge(Principal("nk", ("risk",)), 1) is not None
    clock.now += 1
    assert limited.charge(NK, 1_000) is None
    assert limited.rejections() == {"nk": 2}


def test_larger_batch_leaves_a_debt() -> None:
    """More rows than those of a second pass when the bucket is full, and are made up for."""
    clock = Clock()
    limited = quotas(clock, rows=1_000)
    assert limited.charge(NK, 1) is None
    refused = limited.charge(NK, 5_000)
    assert refused is not None
    assert refused.retry_after == pytest.approx(0.001)
    clock.now += 0.001
    assert limited.charge(NK, 5_000) is None
    refused = limited.charge(NK, 10)
    assert refused is not None
    assert refused.retry_after == pytest.approx(4.01)
    assert "try again in 4.01" in refused.message


@given(st.lists(st.tuples(st.integers(0, 5_000), st.floats(0, 3)), max_size=20), st.integers(1, 2_000))
def test_time_of_a_refusal_is_right(asked: list[tuple[int, float]], rate: int) -> None:
    """Whoever waits as long as it was told passes, and nobody passes much earlier; the rate is kept on the whole."""
    clock = Clock()
    limited = quotas(clock, rows=rate)
    passed, last = 0, 0
    for rows, pause in asked:
        clock.now += pause
        refused = limited.charge(NK, rows)
        if refused is not None:
            assert refused.retry_after is not None
            clock.now += max(refused.retry_after - 2e-3, 0)
            if refused.retry_after > 2e-3:
                assert limited.charge(NK, rows) is not None
            clock.now += min(refused.retry_after, 2e-3)
            assert limited.charge(NK, rows) is None
        # Before the last batch, which may leave a debt, at most what the time and one bucket allow had passed.
        assert passed <= rate * (clock.now - 1_000.0 + 1.0) + last
        passed, last = passed + rows, rows


def test_calls_in_flight() -> None:
    """One call more than the limit is refused, until one has left; a refused one does not leave."""
    limited = quotas(calls=2)
    assert [limited.enter(NK), limited.enter(NK)] == [None, None]
    refused = limited.enter(NK)
    assert refused is not None
    assert refused.quota == "calls_in_flight"
    assert (refused.retry_after or 0) > 0
    assert limited.enter(OPS) is None
    limited.leave(NK)
    assert limited.enter(NK) is None
    assert limited.enter(NK) is not None


def test_callers_without_a_name_share_a_quota() -> None:
    """Where nobody is asked for a name, all are `anonymous`."""
    limited = quotas(calls=1)
    assert limited.enter(None) is None
    refused = limited.enter(None)
    assert refused is not None
    assert refused.principal == "anonymous"


def test_many_names_take_no_memory() -> None:
    """Who has nothing in flight and a full bucket is forgotten; refusals are counted by the first thousand names."""
    clock = Clock()
    limited = quotas(clock, rows=1, calls=1)
    assert limited.enter(OPS) is None
    for number in range(3_000):
        caller = Principal(f"caller-{number}")
        assert limited.charge(caller, 1) is None
        assert limited.charge(caller, 1) is not None
        clock.now += 0.1
    assert max(len(held) for held in vars(limited).values() if isinstance(held, dict)) <= 1_001
    assert len(limited.rejections()) == 1_001
    assert sum(limited.rejections().values()) == 3_000
    assert limited.enter(OPS) is not None


def test_threads_count_each_call_once() -> None:
    """Of calls from eight threads exactly as many pass as the quota has."""
    limited = quotas(rows=1_000, calls=500)
    passed: list[object] = []

    def call() -> None:
        for _ in range(200):
            if limited.enter(NK) is None:
                passed.append("call")
            if limited.charge(NK, 1) is None:
                passed.append("row")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (passed.count("call"), passed.count("row")) == (500, 1_000)


def test_other_quotas_go_on_with_what_was_used() -> None:
    """Calls in flight stay counted, also while they are not limited; rows that are owed are owed at the new rate."""
    clock = Clock()
    limited = quotas(clock, rows=1_000, calls=3)
    assert [limited.enter(NK) for _ in range(3)] == [None] * 3
    assert limited.charge(NK, 10_000) is None
    limited.change(QuotaSettings(rows_per_second=10_000, calls_in_flight=4))
    assert limited.enter(NK) is None
    assert limited.enter(NK) is not None
    refused = limited.charge(NK, 1_000)
    assert refused is not None
    assert refused.retry_after == pytest.approx(0.1, abs=0.01)
    # At a lower rate nobody waits longer for what was used before.
    limited.change(QuotaSettings(rows_per_second=1_000, calls_in_flight=None))
    refused = limited.charge(NK, 100)
    assert refused is not None
    assert refused.retry_after == pytest.approx(0.1, abs=0.01)
    for _ in range(3):
        limited.leave(NK)
    limited.change(QuotaSettings(calls_in_flight=1))
    assert limited.charge(NK, 1 << 40) is None
    assert limited.enter(NK) is not None
    limited.leave(NK)
    assert limited.enter(NK) is None
    limited.change(QuotaSettings())
    assert not limited.enabled
