"""The alarms of a pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from prinz_enricher.scoring.runtime.timer import Timer
from tests.scoring.scripted import PATIENCE, until


@pytest.fixture
def timer() -> Iterator[Timer]:
    """A timer that is closed."""
    made = Timer("test")
    try:
        yield made
    finally:
        made.close()


def test_alarms_ring_in_order_of_time_and_never_early(timer: Timer) -> None:
    """Whatever the order they were set in."""
    rung: list[tuple[int, float]] = []

    def ring(i: int) -> None:
        rung.append((i, time.monotonic()))

    now = time.monotonic()
    for i in (3, 1, 2):
        timer.call_at(now + i * 0.02, partial(ring, i))
    until(lambda: len(rung) == 3)
    assert [i for i, _ in rung] == [1, 2, 3]
    assert all(at >= now + i * 0.02 for i, at in rung)


def test_a_cancelled_alarm_does_not_ring_and_keeps_nothing_alive(timer: Timer) -> None:
    """Thousands of deadlines that were met cost no memory until they would have rung."""
    rung = threading.Event()
    far = time.monotonic() + PATIENCE
    alarms = [timer.call_at(far, rung.set) for _ in range(10_000)]
    for alarm in alarms:
        alarm.cancel()
    timer.call_at(far, lambda: None)
    assert len(timer._heap) < 2_000
    assert all(alarm.call is None for alarm in alarms)
    assert not rung.is_set()


def test_an_alarm_that_fails_does_not_stop_the_others(timer: Timer) -> None:
    """The deadlines of all jobs hang on one thread."""
    rung = threading.Event()

    def fail() -> None:
        raise RuntimeError

    timer.call_at(time.monotonic(), fail)
    timer.call_at(time.monotonic(), rung.set)
    assert rung.wait(PATIENCE)


@pytest.mark.parametrize("far", [3.6e11, float("inf")])
def test_an_alarm_beyond_what_a_lock_can_wait_for_keeps_others_ringing(
    timer: Timer, far: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller may name any deadline; the one whose alarm is the earliest must not end the thread."""
    rung, waits = threading.Event(), threading.Event()
    wait = timer._changed.wait

    def noted(seconds: float | None = None) -> bool:
        waits.set()
        return wait(seconds)

    monkeypatch.setattr(timer._changed, "wait", noted)
    timer.call_at(time.monotonic() + far, lambda: None)
    assert waits.wait(PATIENCE)
    timer.call_at(time.monotonic() + 0.02, rung.set)
    assert rung.wait(PATIENCE)
