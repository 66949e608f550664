"""Callers take turns, whatever any of them has waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from prinz_enricher.fronts.grpc.turns import Turns


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a loop of its own, which ends it when it takes too long."""
    asyncio.run(asyncio.wait_for(test(), 10))


def test_callers_take_turns() -> None:
    """Of one caller with many and another with one, the other comes second; the order of each is kept."""

    async def test() -> None:
        turns, begun = Turns(0.001), list[str]()

        async def begin(caller: str, name: str) -> None:
            await turns.wait(caller)
            begun.append(name)

        names = [*(("greedy", f"greedy {number}") for number in range(4)), ("other", "other 0")]
        await asyncio.gather(*(begin(*name) for name in names))

        assert begun == ["greedy 0", "greedy 1", "other 0", "greedy 2", "greedy 3"]

    run(test)


def test_whoever_has_gone_takes_no_turn() -> None:
    """A turn of one that was cancelled goes to the next of its caller."""

    async def test() -> None:
        turns = Turns(3600.0)
        await turns.wait("one")
        waiting = [asyncio.ensure_future(turns.wait("one")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()

        turns.begin("one")
        await waiting[1]

        assert not waiting[2].done()
        turns.begin("one")
        await waiting[2]
        turns.begin("one")

    run(test)


def test_nobody_begins_while_none_may() -> None:
    """Turns stand still while none may begin, and go on afterwards."""

    async def test() -> None:
        may, asked = False, asyncio.Event()

        def ask() -> bool:
            asked.set()
            return may

        turns = Turns(0.001, ask)
        waiting = asyncio.ensure_future(turns.wait("one"))
        for _ in range(3):
            asked.clear()
            await asked.wait()
        assert not waiting.done()
        may = True
        await waiting

    run(test)
