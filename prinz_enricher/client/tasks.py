"""Coalescing of the rows of tasks of one event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

from prinz_enricher.client.coalescing import Lane, RowCall, RowMessage
from prinz_enricher.client.score_plan import RowForm
from prinz_enricher.client.scores import Scores
from prinz_enricher.client.service_error import client_closed, copy_error, is_one_rows_fault, timed_out
from prinz_enricher.contract import enricher_service_pb2 as pb

MAX_ALONE: Final = 16
"""Rows that are sent again concurrently, each alone, after their message was refused."""

_TICK: Final = 0.001
"""Seconds between two checks for callers whose time is up."""

# None means that the row must be sent alone.
_Waiter = asyncio.Future[Scores | None]
_Call = RowCall[_Waiter]


class TaskCoalescer:
    """Merges the rows of several tasks into messages of up to `max_rows` rows.

    A message gets its rows when its task runs, after the tasks that were ready before it, so that callers that one
    response woke go together again. `send` sends a request with a deadline by `time.monotonic()`.
    """

    def __init__(self, send: Callable[[bytes, float], Awaitable[pb.ScoreResponse]], max_rows: int) -> None:
        self._send = send
        self._max_rows = max_rows
        self._lanes: dict[Hashable, Lane[_Waiter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(MAX_ALONE)
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    async def score(self, form: RowForm, row: tuple[object, ...], deadline: float) -> Scores:
        """Score a row together with concurrent ones; `deadline` is by `time.monotonic()`."""
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        call = RowCall(row, deadline, waiter)
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
                message.task.cancel()
            raise
        return scores if scores is not None else await self._score_alone(form, call)

    def _start(self, loop: asyncio.AbstractEventLoop, lane: Lane[_Waiter], form: RowForm) -> None:
        task = loop.create_task(self._send_next(lane, form))
        # The loop itself holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_next(self, lane: Lane[_Waiter], form: RowForm) -> None:
        """Send the next message, and answer its callers."""
        message = lane.next_message()
        if message is not None:
            message.task = asyncio.current_task()
            calls = message.calls
            try:
                response = await self._send(form.request([call.row for call in calls]), message.deadline)
                for call, scores in zip(calls, form.read_responses(response, len(calls)), strict=True):
                    if not call.waiter.done():
                        call.waiter.set_result(scores)
            except asyncio.CancelledError:
                _fail(message, client_closed())
                # Callers that were cancelled too learn it only when they run.
                for call in lane.calls():
                    call.gone = call.waiter.cancelled()
                raise
            except Exception as error:  # noqa: BLE001 - each of its callers raises it
                _fail(message, error)
            finally:
                if lane.finish() is not None:
                    self._start(asyncio.get_running_loop(), lane, form)
        if lane.is_idle and self._lanes.get(form.key) is lane:
            del self._lanes[form.key]

    async def _score_alone(self, form: RowForm, call: _Call) -> Scores:
        try:
            await asyncio.wait_for(self._alone.acquire(), max(call.deadline - time.monotonic(), 0.0))
        except TimeoutError:
            raise timed_out() from None
        try:
            return form.read_responses(await self._send(form.request([call.row]), call.deadline), 1)[0]
        finally:
            self._alone.release()

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = loop.call_later(max(at - time.monotonic(), 0.0), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the callers whose time is up, and set the timer for the next one."""
        now = time.monotonic()
        following = math.inf
        for lane in self._lanes.values():
            for call in lane.calls():
                if call.waiter.done():
                    continue
                if call.deadline <= now:
                    call.gone = True
                    call.waiter.set_exception(timed_out())
                else:
                    following = min(following, call.deadline)
        self._alarm, self._alarm_at = None, math.inf
        if following < math.inf:
            self._set_alarm(loop, max(following, now + _TICK))


def _fail(message: RowMessage[_Waiter], error: Exception) -> None:
    alone = len(message.calls) > 1 and is_one_rows_fault(error)
    for call in message.calls:
        if call.waiter.done():
            continue
        if alone:
            call.waiter.set_result(None)
        else:
            call.waiter.set_exception(copy_error(error))
