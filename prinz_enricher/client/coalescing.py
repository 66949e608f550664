"""Coalescing: single rows of concurrent callers share messages.

Calls of one lane differ in their rows alone. The first leaves at once; those that come while its message is in flight
leave together in the next one. There is no timer. One message of a lane is in flight at a time: with two, 256 callers
were no quicker, since they come back together, and so leave together.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import Any, Final, Generic, TypeAlias, TypeVar

from prinz_enricher.client.call_span import Context, caller_context
from prinz_enricher.client.connection import AsyncChannel, Channel, acquired, async_acquired, seconds_until
from prinz_enricher.client.score_plan import RowRequest
from prinz_enricher.client.scores import Scores, read_rows
from prinz_enricher.client.service_error import client_closed, copy_error, is_one_rows_fault, timed_out

MAX_ALONE: Final = 16
"""Rows that are sent again concurrently, each alone, after their message was refused."""

_TICK: Final = 0.001
"""Seconds between two checks for tasks whose time is up."""

W = TypeVar("W")


class Sign(Enum):
    """What a caller without scores must do: send the next message, or its own row again, alone."""

    SEND = 0
    ALONE = 1


Outcome: TypeAlias = Scores | Exception | Sign


@dataclass(slots=True, eq=False)
class RowCall(Generic[W]):
    """A caller with one row; it gives up at `deadline`, by `time.monotonic()`, and is `gone` then.

    Attributes:
        waiter: What it waits on.
        outcome: What a thread finds when it wakes.
        context: The caller's context of OpenTelemetry, if it has any.
    """

    row: tuple[object, ...]
    deadline: float
    waiter: W
    gone: bool = False
    outcome: Outcome | None = None
    context: Context | None = field(default_factory=caller_context)


class Lane(Generic[W]):
    """The calls that may share messages of up to `max_rows` rows. Not safe for threads.

    `join` and `finish` say that a message may leave; it gets its rows when it does, with `next_message`.

    Attributes:
        request: The one of the first call; those of the others have the same `key`.
        in_flight: The calls of the message in flight, in order.
        task: The task that sends the next message, or has sent the one in flight; held, since the loop holds it weakly.
    """

    __slots__ = ("_leaving", "_max_rows", "_waiting", "in_flight", "request", "task")

    def __init__(self, request: RowRequest, max_rows: int) -> None:
        self.request = request
        self.in_flight: list[RowCall[W]] = []
        self.task: asyncio.Task[None] | None = None
        self._max_rows = max_rows
        self._waiting: list[RowCall[W]] = []
        self._leaving = False

    def join(self, call: RowCall[W]) -> bool:
        """Add a call; returns whether its caller must send the next message."""
        self._waiting.append(call)
        if self._leaving or self.in_flight:
            return False
        self._leaving = True
        return True

    def next_message(self) -> list[RowCall[W]]:
        """Return the calls of the message to send, those that have waited longest; none where no caller is left."""
        self._leaving = False
        self._drop_gone()
        self.in_flight = self._waiting[: self._max_rows]
        del self._waiting[: self._max_rows]
        return self.in_flight

    def encode(self) -> bytes:
        """Return the serialised message in flight; raises InvalidInput for values without a form on the wire."""
        return self.request.encode([call.row for call in self.in_flight])

    def contexts(self) -> list[Context]:
        """Return the contexts of the calls of the message in flight."""
        return [call.context for call in self.in_flight if call.context is not None]

    def deadline(self) -> float:
        """Return the latest deadline of those in flight."""
        return max(call.deadline for call in self.in_flight)

    def finish(self) -> RowCall[W] | None:
        """End the message in flight; returns the caller that must send the next one, if any."""
        self.in_flight = []
        return self.relay()

    def relay(self) -> RowCall[W] | None:
        """Return another caller that must send the next message, if any."""
        self._drop_gone()
        self._leaving = bool(self._waiting)
        return self._waiting[0] if self._waiting else None

    def _drop_gone(self) -> None:
        if any(call.gone for call in self._waiting):
            self._waiting = [call for call in self._waiting if not call.gone]

    @property
    def is_idle(self) -> bool:
        """Whether no call waits, and none is in flight."""
        return not (self._waiting or self.in_flight or self._leaving)

    @property
    def is_unwanted(self) -> bool:
        """Whether there is a message in flight whose callers have all given up."""
        return bool(self.in_flight) and all(call.gone for call in self.in_flight)

    def calls(self) -> Iterator[RowCall[W]]:
        """Yield the calls that have not given up."""
        return (call for call in chain(self._waiting, self.in_flight) if not call.gone)


def _failures(error: Exception, calls: Sequence[RowCall[W]]) -> Sequence[Outcome]:
    if len(calls) > 1 and is_one_rows_fault(error):
        return [Sign.ALONE] * len(calls)
    return [copy_error(error) for _ in calls]


class _Lanes(Generic[W]):
    """The lanes that are not idle."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._lanes: dict[Hashable, Lane[W]] = {}

    def _lane(self, request: RowRequest) -> Lane[W]:
        key = request.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(request, self._max_rows)
        return lane

    def _drop_if_idle(self, lane: Lane[W]) -> None:
        key = lane.request.key
        if lane.is_idle and self._lanes.get(key) is lane:
            del self._lanes[key]


class ThreadCoalescer(_Lanes[threading.Lock]):
    """Merges the rows of several threads: the one that sends a message also answers the others."""

    def __init__(self, channel: Channel, max_rows: int) -> None:
        super().__init__(max_rows)
        self._channel = channel
        self._lock = threading.Lock()
        self._alone = threading.BoundedSemaphore(MAX_ALONE)

    def score(self, request: RowRequest, deadline: float) -> Scores:
        """Score a row together with concurrent ones; `deadline` is by `time.monotonic()`."""
        call = RowCall(request.row, deadline, threading.Lock())
        call.waiter.acquire()
        with self._lock:
            lane = self._lane(request)
            sends = lane.join(call)
        outcome = Sign.SEND if sends else self._wait(lane, call)
        while outcome is Sign.SEND:
            self._send_next(lane)
            outcome = self._wait(lane, call)
        if outcome is Sign.ALONE:
            with acquired(self._alone, deadline):
                return request.read(self._channel.score(request.encode(), deadline))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _wait(self, lane: _ThreadLane, call: _ThreadCall) -> Outcome:
        try:
            if not call.waiter.acquire(timeout=seconds_until(call.deadline)) and self._gives_up(lane, call):
                return timed_out()
        except BaseException:
            # The thread is interrupted, and must not be the next sender.
            self._gives_up(lane, call)
            raise
        outcome, call.outcome = call.outcome, None
        assert outcome is not None  # noqa: S101 - it was woken
        return outcome

    def _gives_up(self, lane: _ThreadLane, call: _ThreadCall) -> bool:
        with self._lock:
            if call.outcome is not None and call.outcome is not Sign.SEND:
                return False
            call.gone = True
            if call.outcome is Sign.SEND:
                _wake(lane.relay(), Sign.SEND)
            self._drop_if_idle(lane)
            return True

    def _send_next(self, lane: _ThreadLane) -> None:
        """Send the next message. Who sent it waits like the others, and may give up before them."""
        with self._lock:
            calls = lane.next_message()
            if not calls:
                self._drop_if_idle(lane)
                return
        # For the others, where this thread is interrupted.
        outcomes: Sequence[Outcome] | None = [Sign.ALONE] * len(calls)
        try:
            if len(calls) == 1:
                response = self._channel.score(lane.encode(), lane.deadline(), lane.contexts())
                outcomes = read_rows(response, lane.request.outputs, 1)
            else:
                future = self._channel.start_score(lane.encode(), lane.deadline(), lane.contexts())
                outcomes = None
                future.add_done_callback(lambda done: self._read(lane, calls, done))
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes = _failures(error, calls)
        finally:
            if outcomes is not None:
                self._finish(lane, calls, outcomes)

    def _read(self, lane: _ThreadLane, calls: list[_ThreadCall], done: Any) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = read_rows(self._channel.result_of(done), lane.request.outputs, len(calls))
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes = _failures(error, calls)
        self._finish(lane, calls, outcomes)

    def _finish(self, lane: _ThreadLane, calls: list[_ThreadCall], outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            _wake(lane.finish(), Sign.SEND)
            self._drop_if_idle(lane)
            for call, outcome in zip(calls, outcomes, strict=True):
                if not call.gone:
                    _wake(call, outcome)


_ThreadLane: TypeAlias = Lane[threading.Lock]
_ThreadCall: TypeAlias = RowCall[threading.Lock]


def _wake(call: _ThreadCall | None, outcome: Outcome) -> None:
    if call is not None:
        call.outcome = outcome
        call.waiter.release()


# ALONE is the only sign that a task gets, since another one sends.
_Future: TypeAlias = asyncio.Future[Scores | Sign]


class TaskCoalescer(_Lanes[_Future]):
    """Merges the rows of several tasks of one event loop.

    A message gets its rows when its task runs, after the tasks that were ready before it, so that callers that one
    response woke go together again.
    """

    def __init__(self, channel: AsyncChannel, max_rows: int) -> None:
        super().__init__(max_rows)
        self._channel = channel
        self._alone = asyncio.Semaphore(MAX_ALONE)
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    async def score(self, request: RowRequest, deadline: float) -> Scores:
        """Score a row together with concurrent ones; `deadline` is by `time.monotonic()`."""
        loop = asyncio.get_running_loop()
        call: RowCall[_Future] = RowCall(request.row, deadline, loop.create_future())
        lane = self._lane(request)
        if lane.join(call):
            lane.task = loop.create_task(self._send_next(lane))
        if deadline < self._alarm_at:
            self._set_alarm(loop, deadline)
        try:
            outcome = await call.waiter
        except asyncio.CancelledError:
            call.gone = True
            if lane.is_unwanted and lane.task is not None:
                lane.task.cancel()
            raise
        if isinstance(outcome, Scores):
            return outcome
        async with async_acquired(self._alone, deadline):
            return request.read(await self._channel.score(request.encode(), deadline))

    async def _send_next(self, lane: Lane[_Future]) -> None:
        """Send the next message, and answer its callers."""
        calls = lane.next_message()
        if calls:
            try:
                response = await self._channel.score(lane.encode(), lane.deadline(), lane.contexts())
                _answer(calls, read_rows(response, lane.request.outputs, len(calls)))
            except asyncio.CancelledError:
                _answer(calls, _failures(client_closed(), calls))
                # Callers that were cancelled too learn it only when they run.
                for call in lane.calls():
                    call.gone = call.waiter.cancelled()
                raise
            except Exception as error:  # noqa: BLE001 - each of its callers raises it
                _answer(calls, _failures(error, calls))
            finally:
                if lane.finish() is not None:
                    lane.task = asyncio.create_task(self._send_next(lane))
        self._drop_if_idle(lane)

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


def _answer(calls: Sequence[RowCall[_Future]], outcomes: Sequence[Outcome]) -> None:
    for call, outcome in zip(calls, outcomes, strict=True):
        if call.waiter.done():
            continue
        if isinstance(outcome, Exception):
            call.waiter.set_exception(outcome)
        else:
            call.waiter.set_result(outcome)
