"""Rows of several threads in one message: who sends it also hands out what comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final, Protocol

from prinz_enricher.client.coalescing import Call, Lane, Message
from prinz_enricher.client.errors import may_be_one_rows, own_copy, too_late
from prinz_enricher.client.model import Form
from prinz_enricher.client.scores import Scores
from prinz_enricher.contract import enricher_service_pb2 as pb

ALONE_AT_ONCE: Final = 16
"""Rows that are sent again at a time, each alone, after a message of theirs was refused."""


class Line(Protocol):
    """Carries requests to the service."""

    def call(self, request: bytes, deadline: float) -> pb.ScoreResponse:
        """Send a request, and wait for the answer; a quarter quicker than `start`.

        Args:
            request: As it goes over the wire.
            deadline: When it is given up, by `time.monotonic()`.

        Raises:
            ServiceError: It was refused, or the service is not there.
        """

    def start(self, request: bytes, deadline: float) -> Sending:
        """Send a request, likewise, and do not wait."""


class Sending(Protocol):
    """A request on its way."""

    def result(self, timeout: float) -> pb.ScoreResponse:
        """Wait for the answer.

        Raises:
            TimeoutError: It did not come in this time; it is still on its way.
            ServiceError: It was refused, or the service is not there.
        """

    def then(self, done: Callable[[], None]) -> None:
        """Have something done, in another thread, once there is an answer."""


class _Sign:
    """What a waiting thread is woken by to do: `SEND` the next message, or go `ALONE`."""


_SEND, _ALONE = _Sign(), _Sign()

_Outcome = Scores | Exception | _Sign


class _Waiter:
    """What one thread waits on."""

    __slots__ = ("gate", "outcome")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.outcome: _Outcome | None = None

    def wake(self, outcome: _Outcome) -> None:
        """Let the thread go on."""
        self.outcome = outcome
        self.gate.release()

    def wait(self, seconds: float) -> bool:
        """Wait; tell whether there is an outcome."""
        return self.gate.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))


_Call = Call[_Waiter]


class ThreadLanes:
    """Puts rows of several threads together.

    Args:
        line: To the service.
        max_rows: Of a message.
    """

    def __init__(self, line: Line, max_rows: int) -> None:
        self._line = line
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, Lane[_Waiter]] = {}
        self._alone = threading.BoundedSemaphore(ALONE_AT_ONCE)

    def score(self, form: Form, row: tuple[object, ...], deadline: float) -> Scores:
        """Score a row, together with those of other threads that ask at the same time.

        Args:
            form: Of the row.
            row: Its values.
            deadline: When it is given up, by `time.monotonic()`.

        Raises:
            ServiceError: As the service says, or the time is up.
        """
        call = Call(row, deadline, _Waiter())
        key = form.key
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane(self._max_rows)
            sends = lane.join(call)
        if sends:
            self._carry(lane, form, call)
        while True:
            outcome = self._outcome(lane, key, call)
            if outcome is _SEND:
                self._carry(lane, form, call)
            elif outcome is _ALONE:
                return self._go_alone(form, call)
            elif isinstance(outcome, Scores):
                return outcome
            else:
                assert isinstance(outcome, Exception)  # noqa: S101 - nothing else is left
                raise outcome

    def _outcome(self, lane: Lane[_Waiter], key: Hashable, call: _Call) -> _Outcome:
        waiter = call.waiter
        if not waiter.wait(call.deadline - time.monotonic()):
            with self._lock:
                if waiter.outcome is None or waiter.outcome is _SEND:
                    call.gone = True
                    if waiter.outcome is _SEND:
                        self._wake_next(lane.relay())
                    self._forget(lane, key)
                    return too_late()
            waiter.gate.acquire()
        outcome, waiter.outcome = waiter.outcome, None
        assert outcome is not None  # noqa: S101 - the gate was open
        return outcome

    def _carry(self, lane: Lane[_Waiter], form: Form, sender: _Call) -> None:
        """Send the next message and hand out its answer."""
        with self._lock:
            message = lane.take()
            if message is None:
                self._forget(lane, form.key)
                return
        calls = message.calls
        rows = [call.row for call in calls]
        sending: Sending | None = None
        # What the others do where this thread is interrupted.
        outcomes: list[_Outcome] = [_ALONE] * len(calls)
        try:
            if len(calls) == 1:
                outcomes = _answers(form, self._line.call(form.request(rows), message.deadline), calls)
            else:
                sending = self._line.start(form.request(rows), message.deadline)
                outcomes = _answers(form, sending.result(sender.deadline - time.monotonic()), calls)
                sending = None
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes, sending = _failures(error, calls), None
        finally:
            if sending is None:
                self._land(lane, form, message, outcomes)
            else:
                # The thread that sent it gives up; the others still want their answers.
                sending.then(partial(self._land_late, lane, form, message, sending))

    def _land_late(self, lane: Lane[_Waiter], form: Form, message: Message[_Waiter], sending: Sending) -> None:
        try:
            outcomes = _answers(form, sending.result(0.0), message.calls)
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes = _failures(error, message.calls)
        self._land(lane, form, message, outcomes)

    def _land(self, lane: Lane[_Waiter], form: Form, message: Message[_Waiter], outcomes: list[_Outcome]) -> None:
        with self._lock:
            following = lane.land()
            if following is not None:
                following.waiter.wake(_SEND)
            self._forget(lane, form.key)
            for call, outcome in zip(message.calls, outcomes, strict=True):
                if not call.gone:
                    call.waiter.wake(outcome)

    @staticmethod
    def _wake_next(call: _Call | None) -> None:
        if call is not None:
            call.waiter.wake(_SEND)

    def _forget(self, lane: Lane[_Waiter], key: Hashable) -> None:
        if lane.is_idle and self._lanes.get(key) is lane:
            del self._lanes[key]

    def _go_alone(self, form: Form, call: _Call) -> Scores:
        if not self._alone.acquire(timeout=max(call.deadline - time.monotonic(), 0.0)):
            raise too_late()
        try:
            return form.answers(self._line.call(form.request([call.row]), call.deadline), 1)[0]
        finally:
            self._alone.release()


def _answers(form: Form, response: pb.ScoreResponse, calls: Sequence[_Call]) -> list[_Outcome]:
    return list(form.answers(response, len(calls)))


def _failures(error: Exception, calls: Sequence[_Call]) -> list[_Outcome]:
    if len(calls) > 1 and may_be_one_rows(error):
        return [_ALONE] * len(calls)
    return [own_copy(error) for _ in calls]
