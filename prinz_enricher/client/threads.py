"""Coalescing of the rows of several threads: the thread that sends a message also answers the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Final

from prinz_enricher.client.channel import Channel, PendingScore
from prinz_enricher.client.coalescing import Lane, RowCall, RowMessage
from prinz_enricher.client.score_plan import RowForm
from prinz_enricher.client.scores import Scores
from prinz_enricher.client.service_error import copy_error, is_one_rows_fault, timed_out
from prinz_enricher.contract import enricher_service_pb2 as pb

MAX_ALONE: Final = 16
"""Rows that are sent again concurrently, each alone, after their message was refused."""


class _Sign:
    """What a woken thread must do: `SEND` the next message, or send its row `ALONE`."""


_SEND, _ALONE = _Sign(), _Sign()

_Outcome = Scores | Exception | _Sign


class _Waiter:
    """What a thread waits on."""

    __slots__ = ("gate", "outcome")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.outcome: _Outcome | None = None

    def wake(self, outcome: _Outcome) -> None:
        """Wake the thread."""
        self.outcome = outcome
        self.gate.release()

    def wait(self, seconds: float) -> bool:
        """Wait; returns whether there is an outcome."""
        return self.gate.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))


_Call = RowCall[_Waiter]


class ThreadCoalescer:
    """Merges the rows of several threads into messages of up to `max_rows` rows."""

    def __init__(self, channel: Channel, max_rows: int) -> None:
        self._channel = channel
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, Lane[_Waiter]] = {}
        self._alone = threading.BoundedSemaphore(MAX_ALONE)

    def score(self, form: RowForm, row: tuple[object, ...], deadline: float) -> Scores:
        """Score a row together with concurrent ones; `deadline` is by `time.monotonic()`."""
        call = RowCall(row, deadline, _Waiter())
        key = form.key
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane(self._max_rows)
            sends = lane.join(call)
        if sends:
            self._send_next(lane, form, call)
        while True:
            outcome = self._outcome(lane, key, call)
            if outcome is _SEND:
                self._send_next(lane, form, call)
            elif outcome is _ALONE:
                return self._score_alone(form, call)
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
                    return timed_out()
            waiter.gate.acquire()
        outcome, waiter.outcome = waiter.outcome, None
        assert outcome is not None  # noqa: S101 - the gate was open
        return outcome

    def _send_next(self, lane: Lane[_Waiter], form: RowForm, sender: _Call) -> None:
        """Send the next message, and answer its callers."""
        with self._lock:
            message = lane.next_message()
            if message is None:
                self._forget(lane, form.key)
                return
        calls = message.calls
        rows = [call.row for call in calls]
        pending: PendingScore | None = None
        # For the others, where this thread is interrupted.
        outcomes: list[_Outcome] = [_ALONE] * len(calls)
        try:
            if len(calls) == 1:
                outcomes = _answers(form, self._channel.score(form.request(rows), message.deadline), calls)
            else:
                pending = self._channel.start_score(form.request(rows), message.deadline)
                outcomes = _answers(form, pending.result(sender.deadline - time.monotonic()), calls)
                pending = None
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes, pending = _failures(error, calls), None
        finally:
            if pending is None:
                self._finish(lane, form, message, outcomes)
            else:
                # The thread that sent it gives up; the others still wait.
                pending.add_done_callback(partial(self._finish_late, lane, form, message, pending))

    def _finish_late(
        self, lane: Lane[_Waiter], form: RowForm, message: RowMessage[_Waiter], pending: PendingScore
    ) -> None:
        try:
            outcomes = _answers(form, pending.result(0.0), message.calls)
        except Exception as error:  # noqa: BLE001 - each of its callers raises it
            outcomes = _failures(error, message.calls)
        self._finish(lane, form, message, outcomes)

    def _finish(
        self, lane: Lane[_Waiter], form: RowForm, message: RowMessage[_Waiter], outcomes: list[_Outcome]
    ) -> None:
        with self._lock:
            following = lane.finish()
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

    def _score_alone(self, form: RowForm, call: _Call) -> Scores:
        if not self._alone.acquire(timeout=max(call.deadline - time.monotonic(), 0.0)):
            raise timed_out()
        try:
            return form.read_responses(self._channel.score(form.request([call.row]), call.deadline), 1)[0]
        finally:
            self._alone.release()


def _answers(form: RowForm, response: pb.ScoreResponse, calls: Sequence[_Call]) -> list[_Outcome]:
    return list(form.read_responses(response, len(calls)))


def _failures(error: Exception, calls: Sequence[_Call]) -> list[_Outcome]:
    if len(calls) > 1 and is_one_rows_fault(error):
        return [_ALONE] * len(calls)
    return [copy_error(error) for _ in calls]
