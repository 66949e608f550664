"""Calls that an event loop takes in one by one."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

import pytest

from prinz_enricher.fronts.grpc import call_batcher
from prinz_enricher.fronts.grpc.call_batcher import IDLE_TICKS, MAX_WAIT, CallBatcher
from prinz_enricher.service.calls import Call
from tests.support.callback_call import CallbackCall


def test_calls_that_come_within_a_few_turns_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc.aio needs some turns of the loop for each call; those that wait in it go along."""
    # A busy machine may take longer than that for a few turns.
    monkeypatch.setattr(call_batcher, "MAX_WAIT", 60.0)

    async def run() -> list[int]:
        batcher, sizes = _batcher()
        for _ in range(5):
            batcher.add(_call())
            for _ in range(3):
                await asyncio.sleep(0)
        await _until(lambda: sum(sizes) == 5)
        return sizes

    assert asyncio.run(run()) == [5]


def test_a_call_alone_goes_without_a_timer() -> None:
    """A call that nobody follows is handed over by turns of the loop, none of which sleeps."""

    async def run() -> int:
        batcher, sizes = _batcher()
        batcher.add(_call())
        turns = 0
        while not sizes:
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(run()) <= IDLE_TICKS + 1


def test_calls_without_end_do_not_hold_up_the_first() -> None:
    """Where each turn brings another call, those that are there go after a while."""

    async def run() -> tuple[list[int], int]:
        batcher, sizes = _batcher()
        began, added = time.monotonic(), 0
        while not sizes:
            batcher.add(_call())
            added += 1
            await asyncio.sleep(0)
            assert time.monotonic() - began < 60
        assert time.monotonic() - began >= MAX_WAIT / 2
        return sizes, added

    sizes, added = asyncio.run(run())
    assert 0 < sizes[0] <= added


def test_what_comes_during_a_hand_over_is_not_lost() -> None:
    """A handler that brings another call, as an answer may, finds it handed over next."""

    async def run() -> list[int]:
        sizes: list[int] = []

        def handle(calls: Sequence[Call]) -> None:
            sizes.append(len(calls))
            if len(sizes) < 3:
                batcher.add(_call())

        batcher = CallBatcher(handle, 1000)
        batcher.add(_call())
        await _until(lambda: len(sizes) == 3)
        return sizes

    assert asyncio.run(run()) == [1, 1, 1]


def test_a_system_without_sched_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a thread can't give way, calls are handed over all the same."""
    monkeypatch.delattr(os, "sched_yield")

    async def run() -> list[int]:
        batcher, sizes = _batcher()
        batcher.add(_call())
        await _until(lambda: bool(sizes))
        return sizes

    assert asyncio.run(run()) == [1]


def test_no_more_wait_than_may() -> None:
    """Calls that wait count as in flight: as many as may wait are handed over at once, and those after them as well."""

    async def run() -> tuple[list[int], list[int]]:
        batcher, sizes = _batcher(max_calls=3)
        for _ in range(7):
            batcher.add(_call())
        at_once = list(sizes)
        await _until(lambda: sum(sizes) == 7)
        return at_once, sizes

    assert asyncio.run(run()) == ([3, 3], [3, 3, 1])


def _batcher(max_calls: int = 1000) -> tuple[CallBatcher, list[int]]:
    sizes: list[int] = []
    return CallBatcher(lambda calls: sizes.append(len(calls)), max_calls), sizes


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110 - the turns of the loop are what is tested
            await asyncio.sleep(0)


def _call() -> Call:
    return CallbackCall("Score", b"", 0.0, None, lambda _: None, lambda _: None)
