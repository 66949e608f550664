"""Calls of many tasks that share messages: each gets its own answer, error and deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from prinz_enricher.client import AsyncClient, Scores, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import EnricherError, InvalidInput, ModelError, Overloaded
from prinz_enricher.signature import Field, Signature
from tests.client.conftest import SIGNATURE, StandIn

SECONDS = 60.0


class Callers:
    """Tasks that score with one client, which knows the signature already, before a service that holds its answers."""

    def __init__(self, client: AsyncClient, stand_in: StandIn) -> None:
        self.client = client
        self.stand_in = stand_in

    async def ask(self, *numbers: float, timeouts: Sequence[float] = ()) -> list[asyncio.Task[Scores]]:
        """Score whole rows, each in a task of its own and the last ones with timeouts, until all of them wait."""
        all_timeouts = [None] * (len(numbers) - len(timeouts)) + [*timeouts]
        asked = [
            asyncio.create_task(self.client.score("twice", {"x": float(x), "note": ""}, timeout=timeout))
            for x, timeout in zip(numbers, all_timeouts, strict=True)
        ]
        # A row joins the others the first time that its task runs.
        await asyncio.sleep(0)
        return asked

    async def wait_for(self, requests: int) -> None:
        """Wait until so many scorings have come."""
        await asyncio.to_thread(self.stand_in.wait_for, requests)


@asynccontextmanager
async def callers(stand_in: StandIn, **more: Any) -> AsyncIterator[Callers]:
    """Begin with a client."""
    stand_in.held = True
    async with AsyncClient(stand_in.address, **more) as client:
        await client.signature("twice")
        try:
            yield Callers(client, stand_in)
        finally:
            stand_in.go(1000)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in an event loop, where whatever goes wrong unseen is a fault too."""
    unseen: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        await asyncio.wait_for(test(), SECONDS)

    asyncio.run(watched())
    assert unseen == []


async def ys(asked: Sequence[Awaitable[Scores]]) -> list[float]:
    """Return the answers."""
    return [scores.to_rows()[0]["y"] for scores in await asyncio.gather(*asked)]


async def refused(asked: Awaitable[Scores]) -> ServiceError:
    """Return the error."""
    with pytest.raises(ServiceError) as raised:
        await asked
    return raised.value


def thirteen(request: pb.ScoreRequest) -> EnricherError | None:
    """Fail as a model that does not like a row."""
    (xs,) = (column.doubles.values for column in request.columns.columns if column.name == "x")
    return ModelError("twice", "1", "ValueError", "0") if 13 in xs else None


def test_the_first_goes_at_once_and_the_others_together(stand_in: StandIn) -> None:
    """Those who come while a message is on its way go together in the next one, and each gets his own answer."""

    async def test() -> None:
        async with callers(stand_in) as those:
            first = await those.ask(0)
            await those.wait_for(1)
            others = await those.ask(*range(1, 20))
            stand_in.go(2)
            assert await ys(first + others) == [2.0 * x for x in range(20)]
            assert others[3].result().batch.to_pylist() == [{"y": 8.0}]

    run(test)
    assert stand_in.rows() == [1, 19]
    assert all(request.independent_rows for request in stand_in.requests)


def test_tasks_that_are_ready_together_go_together(stand_in: StandIn) -> None:
    """Rows of one turn of the event loop are one message, and a message has a limit."""

    async def test() -> None:
        async with callers(stand_in, max_coalesced_rows=8) as those:
            asked = await those.ask(*range(20))
            stand_in.go(3)
            assert await ys(asked) == [2.0 * x for x in range(20)]

    run(test)
    assert stand_in.rows() == [8, 8, 4]


def test_one_bad_row_fails_alone(stand_in: StandIn) -> None:
    """A message that the model fails on is taken apart: only the guilty caller gets the error."""
    stand_in.refuse = thirteen

    async def test() -> None:
        async with callers(stand_in) as those:
            asked = await those.ask(*range(20))
            stand_in.go(100)
            assert (await refused(asked.pop(13))).reason == "MODEL_ERROR"
            assert await ys(asked) == [2.0 * x for x in range(20) if x != 13]
            with pytest.raises(InvalidInput):
                await those.client.score("twice", {"x": "no"})

    run(test)
    assert stand_in.rows() == [20] + [1] * 20


def test_what_is_nobodys_fault_is_told_to_all(stand_in: StandIn) -> None:
    """An overloaded service is not asked again: each caller gets the error, with when to come back."""
    stand_in.refuse = lambda _: Overloaded("a test", 7.0)

    async def test() -> None:
        async with callers(stand_in) as those:
            asked = await those.ask(*range(5))
            stand_in.go(100)
            errors = [await refused(one) for one in asked]
            assert {(error.reason, error.retry_after) for error in errors} == {("OVERLOADED", 7.0)}
            assert len(set(map(id, errors))) == 5

    run(test)
    assert stand_in.rows() == [5]


def test_another_signature(stand_in: StandIn) -> None:
    """Where the signature is another one by now it is asked for once, and all rows are sent again."""

    async def test() -> None:
        async with callers(stand_in) as those:
            asked = await those.ask(*range(10))
            note = Field("note", SIGNATURE.inputs[1].type)
            stand_in.signature = Signature((SIGNATURE.inputs[0], note), SIGNATURE.outputs)
            stand_in.go(100)
            assert await ys(asked) == [2.0 * x for x in range(10)]

    run(test)
    assert stand_in.signatures == 2


def test_a_signature_is_asked_for_once(stand_in: StandIn) -> None:
    """Of many tasks that name a new model at the same time, one asks for its signature."""

    async def test() -> None:
        async with AsyncClient(stand_in.address) as client:
            assert await ys([client.score("twice", {"x": float(x)}) for x in range(20)]) == [2.0 * x for x in range(20)]

    run(test)
    assert stand_in.signatures == 1


def test_each_has_his_own_deadline(stand_in: StandIn) -> None:
    """A caller whose time is up gets DEADLINE_EXCEEDED, on the way and while he waits; the others get their answers."""

    async def test() -> None:
        async with callers(stand_in) as those:
            away = await those.ask(1, 2, timeouts=[0.2])
            await those.wait_for(1)
            waiting = await those.ask(3, 4, timeouts=[0.1])
            for late in (away.pop(), waiting.pop()):
                assert (await refused(late)).code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not any(one.done() for one in away + waiting)
            stand_in.go(2)
            assert await ys(away + waiting) == [2.0, 6.0]

    run(test)
    assert stand_in.rows() == [2, 1]


def test_who_is_cancelled_is_left_out(stand_in: StandIn) -> None:
    """A cancelled caller's row is not sent; on the way, it hurts nobody else."""

    async def test() -> None:
        async with callers(stand_in) as those:
            away = await those.ask(1, 2)
            await those.wait_for(1)
            waiting = await those.ask(3, 4)
            away.pop().cancel()
            waiting.pop().cancel()
            await asyncio.sleep(0)
            stand_in.go(2)
            assert await ys(away + waiting) == [2.0, 6.0]

    run(test)
    assert stand_in.rows() == [2, 1]


def test_a_message_that_nobody_wants_is_given_up(stand_in: StandIn) -> None:
    """Where all its callers are cancelled a message is cancelled too, and the next one leaves at once."""

    async def test() -> None:
        async with callers(stand_in) as those:
            away = await those.ask(1, 2)
            await those.wait_for(1)
            waiting = await those.ask(3)
            for one in away:
                one.cancel()
            await those.wait_for(2)
            stand_in.go(2)
            assert await ys(waiting) == [6.0]
            assert all(one.cancelled() for one in away)

    run(test)


def test_an_event_loop_that_ends(stand_in: StandIn) -> None:
    """Callers that are cancelled with their event loop leave nothing behind."""

    async def test() -> None:
        stand_in.held = True
        client = AsyncClient(stand_in.address)
        those = Callers(client, stand_in)
        await client.signature("twice")
        forgotten = await those.ask(1)
        await those.wait_for(1)
        forgotten += await those.ask(2, 3)
        assert not any(one.done() for one in forgotten)

    run(test)
    assert stand_in.rows() == [1]


def test_a_client_that_is_closed(stand_in: StandIn) -> None:
    """Calls under way end with CANCELLED, and so do those that wait, and later ones."""

    async def test() -> None:
        async with callers(stand_in) as those:
            asked = await those.ask(1, 2)
            await those.wait_for(1)
            asked += await those.ask(3)
            many = asyncio.create_task(those.client.score("twice", [{"x": 1.0}] * 2))
            await those.wait_for(2)
            await those.client.close()
            for one in (*asked, many, *await those.ask(4)):
                assert (await refused(one)).code is grpc.StatusCode.CANCELLED

    run(test)


def test_without_coalescing(stand_in: StandIn) -> None:
    """Each row has a message of its own."""

    async def test() -> None:
        async with callers(stand_in, coalesce=False) as those:
            asked = await those.ask(*range(5))
            await those.wait_for(5)
            stand_in.go(5)
            assert await ys(asked) == [2.0 * x for x in range(5)]

    run(test)
    assert stand_in.rows() == [1] * 5
