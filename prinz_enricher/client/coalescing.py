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
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeAlias, TypeVar

from prinz_enricher.client.connection import AsyncChannel, Channel, acquired, async_acquired, seconds_until
from prinz_enricher.client.score_plan import RowForm, RowRequest
from prinz_enricher.client.scores import Scores
from prinz_enricher.client.service_error import client_closed, copy_error, is_one_rows_fault, timed_out

MAX_ALONE: Final = 16
"""Rows that are sent again concurrently, each alone, after their message was refused."""

_TICK: Final = 0.001
"""Seconds between two checks for tasks whose time is up."""

W = TypeVar("W")


@dataclass(slots=True, eq=False)
class RowCall(Generic[W]):
    """A caller with one row; it gives up at `deadline`, by `time.monotonic()`, and is `gone` then.

    Attributes:
        waiter: What it waits on.
        message: The message in flight with its row, if any.
    """

    row: tuple[object, ...]
    deadline: float
    waiter: W
    gone: bool = False
    message: RowMessage[W] | None = None


@dataclass(slots=True, eq=False)
class RowMessage(Generic[W]):
    """Rows that are in flight together, until the latest deadline of their callers; `task` sends them, if it is one."""

    calls: list[RowCall[W]]
    deadline: float
    task: Any = None

    @property
    def rows(self) -> list[tuple[object, ...]]:
        """The rows, in the order of the calls."""
        return [call.row for call in self.calls]

    @property
    def is_unwanted(self) -> bool:
        """Whether all callers have given up."""
        return all(call.gone for call in self.calls)


class Lane(Generic[W]):
    """The calls that may share messages of up to `max_rows` rows. Not safe for threads.

    `join` and `finish` say that a message may leave; it gets its rows when it does, with `next_message`.
    """

    __slots__ = ("_leaving", "_max_rows", "_message", "_waiting", "form")

    def __init__(self, form: RowForm, max_rows: int) -> None:
        self.form = form
        self._max_rows = max_rows
        self._waiting: list[RowCall[W]] = []
        self._message: RowMessage[W] | None = None
        self._leaving = False

    def join(self, call: RowCall[W]) -> bool:
        """Add a call; returns whether its caller must send the next message."""
        self._waiting.append(call)
        if self._leaving or self._message is not None:
            return False
        self._leaving = True
        return True

    def next_message(self) -> RowMessage[W] | None:
        """Return the message to send, with the rows that have waited longest; None where no caller is left."""
        self._leaving = False
        self._drop_gone()
        calls = self._waiting[: self._max_rows]
        if not calls:
            return None
        del self._waiting[: self._max_rows]
        self._message = message = RowMessage(calls, max(call.deadline for call in calls))
        for call in calls:
            call.message = message
        return message

    def finish(self) -> RowCall[W] | None:
        """End the message in flight; returns the caller that must send the next one, if any."""
        if self._message is not None:
            for call in self._message.calls:
                # A reference cycle would last until a garbage collection.
                call.message = None
        self._message = None
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
        return not self._waiting and self._message is None and not self._leaving

    def calls(self) -> Iterator[RowCall[W]]:
        """Yield the calls that have not given up."""
        for group in (self._waiting, self._message.calls if self._message else ()):
            yield from (call for call in group if not call.gone)


class _Sign(Enum):
    """What a caller without scores must do: send the next message, or its own row again."""

    SEND = 0
    ALONE = 1


_Outcome: TypeAlias = Scores | Exception | _Sign


def _failures(error: Exception, calls: Sequence[RowCall[W]]) -> Sequence[_Outcome]:
    if len(calls) > 1 and is_one_rows_fault(error):
        return [_Sign.ALONE] * len(calls)
    return [copy_error(error) for _ in calls]


class _Lanes(Generic[W]):
    """The lanes that are not idle."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._lanes: dict[Hashable, Lane[W]] = {}

    def _lane(self, form: RowForm) -> Lane[W]:
        key = form.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(form, self._max_rows)
        return lane

    def _drop_if_idle(self, lane: Lane[W]) -> None:
        key = lane.form.key
        if lane.is_idle and self._lanes.get(key) is lane:
            del self._lanes[key]


class _Gate:
    """What a thread waits on."""

    __slots__ = ("_lock", "outcome")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.outcome: _Outcome | None = None

    def open(self, outcome: _Outcome) -> None:
        """Wake the thread."""
        self.outcome = outcome
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait; returns whether there is an outcome. -1 waits for ever."""
        return self._lock.acquire(timeout=seconds)


class ThreadCoalescer(_Lanes[_Gate]):
    """Merges the rows of several threads: the one that sends a message also answers the others."""

    def __init__(self, channel: Channel, max_rows: int) -> None:
        super().__init__(max_rows)
        self._channel = channel
        self._lock = threading.Lock()
        self._alone = threading.BoundedSemaphore(MAX_ALONE)

    def score(self, request: RowRequest, deadline: float) -> Scores:
        """Score a row together with concurrent ones; `deadline` is by `time.monotonic()`."""
        call = RowCall(request.row, deadline, _Gate())
        with self._lock:
            lane = self._lane(request.form)
            sends = lane.join(call)
        outcome = _Sign.SEND if sends else self._wait(lane, call)
        while outcome is _Sign.SEND:
            self._send_next(lane, call)
            outcome = self._wait(lane, call)
        if outcome is _Sign.ALONE:
            with acquired(self._alone, deadline):
                return request.read(self._channel.score(request.encode(), deadline))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _wait(self, lane: Lane[_Gate], call: RowCall[_Gate]) -> _Outcome:
        gate = call.waiter
        if not gate.wait(seconds_until(call.deadline)):
            with self._lock:
                if gate.outcome is None or gate.outcome is _Sign.SEND:
                    call.gone = True
                    if gate.outcome is _Sign.SEND:
                        self._wake(lane.relay())
                    self._drop_if_idle(lane)
                    return timed_out()
            gate.wait(-1)
        outcome, gate.outcome = gate.outcome, None
        assert outcome is not None  # noqa: S101 - the gate was open
        return outcome

    def _send_next(self, lane: Lane[_Gate], sender: RowCall[_Gate]) -> None:
        """Send the next message, and answer its callers."""
        with self._lock:
            message = lane.next_message()
            if message is None:
                self._drop_if_idle(lane)
                return
        form, count = lane.form, len(message.calls)
        pending: Any = None
        # For the others, where this thread is interrupted.
        outcomes: Sequence[_Outcome] = [_Sign.ALONE] * count
        try:
            request = form.request(message.rows)
            if count == 1:
                response = self._channel.score(request, message.deadline)
            else:
                pending = self._channel.start_score(request, message.deadline)
                response = self._channel.result_of(pending, seconds_until(sender.deadline))
            outcomes, pending = form.read_responses(response, count), None
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes, pending = _failures(error, message.calls), None
        finally:
            if pending is None:
                self._finish(lane, message, outcomes)
            else:
                # The thread that sent it gives up; the others still wait.
                pending.add_done_callback(lambda done: self._finish_late(lane, message, done))

    def _finish_late(self, lane: Lane[_Gate], message: RowMessage[_Gate], done: Any) -> None:
        outcomes: Sequence[_Outcome]
        try:
            outcomes = lane.form.read_responses(self._channel.result_of(done, 0.0), len(message.calls))
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes = _failures(error, message.calls)
        self._finish(lane, message, outcomes)

    def _finish(self, lane: Lane[_Gate], message: RowMessage[_Gate], outcomes: Sequence[_Outcome]) -> None:
        with self._lock:
            self._wake(lane.finish())
            self._drop_if_idle(lane)
            for call, outcome in zip(message.calls, outcomes, strict=True):
                if not call.gone:
                    call.waiter.open(outcome)

    @staticmethod
    def _wake(sender: RowCall[_Gate] | None) -> None:
        if sender is not None:
            sender.waiter.open(_Sign.SEND)


# ALONE is the only sign that a task gets, since another one sends.
_Future: TypeAlias = asyncio.Future[Scores | _Sign]


class TaskCoalescer(_Lanes[_Future]):
    """Merges the rows of several tasks of one event loop.

    A message gets its rows when its task runs, after the tasks that were ready before it, so that callers that one
    response woke go together again.
    """

    def __init__(self, channel: AsyncChannel, max_rows: int) -> None:
        super().__init__(max_rows)
        self._channel = channel
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(MAX_ALONE)
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    async def score(self, request: RowRequest, deadline: float) -> Scores:
        """Score a row together with concurrent ones; `deadline` is by `time.monotonic()`."""
        loop = asyncio.get_running_loop()
        call: RowCall[_Future] = RowCall(request.row, deadline, loop.create_future())
        lane = self._lane(request.form)
        if lane.join(call):
            self._start(loop, lane)
        if deadline < self._alarm_at:
            self._set_alarm(loop, deadline)
        try:
            outcome = await call.waiter
        except asyncio.CancelledError:
            call.gone = True
            message = call.message
            if message is not None and message.is_unwanted:
                message.task.cancel()
            raise
        if isinstance(outcome, Scores):
            return outcome
        async with async_acquired(self._alone, deadline):
            return request.read(await self._channel.score(request.encode(), deadline))

    def _start(self, loop: asyncio.AbstractEventLoop, lane: Lane[_Future]) -> None:
        task = loop.create_task(self._send_next(lane))
        # The loop itself holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_next(self, lane: Lane[_Future]) -> None:
        """Send the next message, and answer its callers."""
        message = lane.next_message()
        if message is not None:
            message.task = asyncio.current_task()
            calls = message.calls
            try:
                response = await self._channel.score(lane.form.request(message.rows), message.deadline)
                _answer(calls, lane.form.read_responses(response, len(calls)))
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
                    self._start(asyncio.get_running_loop(), lane)
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


def _answer(calls: Sequence[RowCall[_Future]], outcomes: Sequence[_Outcome]) -> None:
    for call, outcome in zip(calls, outcomes, strict=True):
        if call.waiter.done():
            continue
        if isinstance(outcome, Exception):
            call.waiter.set_exception(outcome)
        else:
            call.waiter.set_result(outcome)
