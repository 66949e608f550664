"""Rows of several tasks of one event loop in one message."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

from prinz_enricher.client.coalescing import Call, Lane, Message
from prinz_enricher.client.errors import may_be_one_rows, own_copy, too_late, was_closed
from prinz_enricher.client.model import Form
from prinz_enricher.client.scores import Scores
from prinz_enricher.contract import enricher_service_pb2 as pb

ALONE_AT_ONCE: Final = 16
"""Rows that are sent again at a time, each alone, after a message of theirs was refused."""

_TICK: Final = 0.001
"""Seconds between two looks for callers whose time is up."""

# None is for a caller that is to go alone.
_Waiter = asyncio.Future[Scores | None]
_Call = Call[_Waiter]


class TaskLanes:
    """Puts rows of several tasks together.

    A message takes its rows when the event loop comes to it, after the tasks that were ready before it: of many that an
    answer woke, all go together again.

    Args:
        send: Sends a request, which is given up at a time by `time.monotonic()`, and gives the answer.
        max_rows: Of a message.
    """

    def __init__(self, send: Callable[[bytes, float], Awaitable[pb.ScoreResponse]], max_rows: int) -> None:
        self._send = send
        self._max_rows = max_rows
        self._lanes: dict[Hashable, Lane[_Waiter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(ALONE_AT_ONCE)
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    async def score(self, form: Form, row: tuple[object, ...], deadline: float) -> Scores:
        """Score a row, together with those of other tasks that ask at the same time.

        Args:
            form: Of the row.
            row: Its values.
            deadline: When it is given up, by `time.monotonic()`.

        Raises:
            ServiceError: As the service says, or the time is up.
        """
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        call = Call(row, deadline, waiter)
        key = form.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self._max_rows)
        if lane.join(call):
            self._start(loop, lane, form)
        if deadline < self._alarm_at:
            self._set_alarm(loop, deadline)
        try:
            scores = await waiter
        except asyncio.CancelledError:
            call.gone = True
            message = call.message
            if message is not None and message.is_unwanted:
                message.carrier.cancel()
            raise
        return scores if scores is not None else await self._go_alone(form, call)

    def _start(self, loop: asyncio.AbstractEventLoop, lane: Lane[_Waiter], form: Form) -> None:
        task = loop.create_task(self._carry(lane, form))
        # The loop itself holds tasks but weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, lane: Lane[_Waiter], form: Form) -> None:
        """Send the next message and hand out its answer."""
        message = lane.take()
        if message is not None:
            message.carrier = asyncio.current_task()
            calls = message.calls
            try:
                response = await self._send(form.request([call.row for call in calls]), message.deadline)
                for call, scores in zip(calls, form.answers(response, len(calls)), strict=True):
                    if not call.waiter.done():
                        call.waiter.set_result(scores)
            except asyncio.CancelledError:
                _fail(message, was_closed())
                # Those who were cancelled too know it only when their turn comes.
                for call in lane.calls():
                    call.gone = call.waiter.cancelled()
                raise
            except Exception as error:  # noqa: BLE001 - each of its callers raises it
                _fail(message, error)
            finally:
                if lane.land() is not None:
                    self._start(asyncio.get_running_loop(), lane, form)
        if lane.is_idle and self._lanes.get(form.key) is lane:
            del self._lanes[form.key]

    async def _go_alone(self, form: Form, call: _Call) -> Scores:
        try:
            await asyncio.wait_for(self._alone.acquire(), max(call.deadline - time.monotonic(), 0.0))
        except TimeoutError:
            raise too_late() from None
        try:
            return form.answers(await self._send(form.request([call.row]), call.deadline), 1)[0]
        finally:
            self._alone.release()

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = loop.call_later(max(at - time.monotonic(), 0.0), self._give_up, loop)

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the callers whose time is up; come back when that of the next one is."""
        now = time.monotonic()
        following = math.inf
        for lane in self._lanes.values():
            for call in lane.calls():
                if call.waiter.done():
                    continue
                if call.deadline <= now:
                    call.gone = True
                    call.waiter.set_exception(too_late())
                else:
                    following = min(following, call.deadline)
        self._alarm, self._alarm_at = None, math.inf
        if following < math.inf:
            self._set_alarm(loop, max(following, now + _TICK))


def _fail(message: Message[_Waiter], error: Exception) -> None:
    alone = len(message.calls) > 1 and may_be_one_rows(error)
    for call in message.calls:
        if call.waiter.done():
            continue
        if alone:
            call.waiter.set_result(None)
        else:
            call.waiter.set_exception(own_copy(error))
