"""One step of a load test in one process: calls are begun, awaited, checked and counted."""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from typing import Any, Final

from prinz_enricher.loadtest.arrivals import poisson
from prinz_enricher.loadtest.callers import Caller
from prinz_enricher.loadtest.ladder import Closed, Open, Step
from prinz_enricher.loadtest.reasons import NO_ANSWER, WRONG_ANSWER, CallFailedError
from prinz_enricher.loadtest.tally import Tally

_NAP: Final = 0.1
"""Seconds after which an open loop that waits for its next call looks whether the run was ended."""

_BEHIND: Final = 8
"""Calls that an open loop which is behind its plan begins at once, before it lets answers in."""

_OVERDUE_NS: Final = 50_000_000
"""How long after the end an open loop still begins what was planned before it: a timer rings a little late, and the
last call of a step would be lost to that."""

_CUT_SECONDS: Final = 1.0
"""How long answers may take that are on their way when the run is ended."""


class StepRun:
    """Runs a step.

    A call is counted where it began (in an open loop: was planned) in the measured time, and its answer is waited for
    beyond the end of it; errors count where they came after its beginning. Throughput counts the right answers that
    came within it, whenever their calls began.

    Args:
        caller: Sends calls.
        step: This process's share of the step.
        seconds: The measured time.
        warm_up: Seconds of the same load before it, which are not measured.
        seed: Of the planned times of an open loop.
        most: Calls that an open loop has on their way at most; those planned beyond it are counted as unsent.
        patience: Seconds after the end for which answers are waited for.
    """

    def __init__(
        self,
        caller: Caller,
        step: Step,
        *,
        seconds: float,
        warm_up: float,
        seed: int,
        most: int,
        patience: float,
    ) -> None:
        self._caller = caller
        self._step = step
        self._seed = seed
        self._most = most
        self._patience = patience
        self._warm_up, self._seconds = warm_up, seconds
        self._begin = self._end = 0
        self._stopped = asyncio.Event()
        self._numbers = itertools.count()
        self._calls: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._tally = Tally()

    async def run(self) -> Tally:
        """Run the step to its end, or until `stop`."""
        start = time.monotonic_ns()
        self._begin = start + int(self._warm_up * 1e9)
        self._end = self._begin + int(self._seconds * 1e9)
        match self._step:
            case Closed(concurrency):
                senders = [asyncio.create_task(self._call_on_and_on()) for _ in range(concurrency)]
            case Open(rate):
                senders = [asyncio.create_task(self._follow_plan(start, rate))]
        before = await self._wait(self._begin)
        after = await self._wait(self._end)
        if self._stopped.is_set():
            self._end = max(self._begin, min(self._end, time.monotonic_ns()))
        self._tally.seconds = (self._end - self._begin) / 1e9
        self._tally.processor_seconds = after - before
        await self._drain(senders)
        return self._tally

    def stop(self) -> None:
        """End the run now: what has been measured is the result."""
        self._stopped.set()

    def progress(self) -> dict[str, Any]:
        """Tell how far the step is, for a person who waits."""
        return {
            "seconds": (time.monotonic_ns() - self._begin) / 1e9,
            "answered": self._tally.answered,
            "errors": self._tally.errors.total(),
        }

    async def _wait(self, moment: int) -> float:
        """Wait for a moment or the end of the run; return the processor time that this process has used."""
        pause = (moment - time.monotonic_ns()) / 1e9
        if pause > 0 and not self._stopped.is_set():
            _, waiting = await asyncio.wait([asyncio.ensure_future(self._stopped.wait())], timeout=pause)
            for one in waiting:
                one.cancel()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    async def _drain(self, senders: list[asyncio.Task[None]]) -> None:
        """Wait for the answers that are on their way, and give up the others."""
        limit = time.monotonic() + (_CUT_SECONDS if self._stopped.is_set() else self._patience)
        while (tasks := {task for task in senders if not task.done()} | self._calls) and time.monotonic() < limit:
            # An open loop that is at its end begins no calls any more, but may be about to.
            await asyncio.wait(tasks, timeout=limit - time.monotonic())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in senders:
            if not task.cancelled() and (fault := task.exception()) is not None:
                raise fault
        if self._fault is not None:
            raise self._fault

    async def _call_on_and_on(self) -> None:
        """Be one caller of a closed loop."""
        while not self._stopped.is_set() and (now := time.monotonic_ns()) < self._end:
            await self._call(next(self._numbers), now)

    async def _follow_plan(self, start: int, rate: float) -> None:
        """Be an open loop: begin each call at its planned time, or as soon as possible after it."""
        behind = 0
        for planned in poisson(rate, self._warm_up + self._seconds, self._seed):
            moment = start + int(planned * 1e9)
            while (pause := moment - time.monotonic_ns()) > 0 and not self._stopped.is_set():
                behind = 0
                await asyncio.sleep(min(pause / 1e9, _NAP))
            now = time.monotonic_ns()
            if self._stopped.is_set() and now < moment:
                return
            if now >= self._end + _OVERDUE_NS or len(self._calls) >= self._most:
                self._tally.unsent += self._begin <= moment < self._end
                behind += 1
                if now < self._end and behind % _BEHIND == 0:
                    await asyncio.sleep(0)
                continue
            task = asyncio.create_task(self._call(next(self._numbers), now, moment))
            self._calls.add(task)
            task.add_done_callback(self._ended)
            behind += 1
            if behind % _BEHIND == 0:
                await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault

    async def _call(self, number: int, begun: int, planned: int | None = None) -> None:
        """Make a call and count it."""
        if planned is None:
            moment = begun
        else:
            moment = planned
            if planned >= self._begin:
                self._tally.sent(max(0, time.monotonic_ns() - planned))
        counted = moment >= self._begin
        answer: Any = None
        reason = ""
        try:
            answer = await self._caller.send(number)
        except CallFailedError as failure:
            reason = failure.reason
        except asyncio.CancelledError:
            if self._stopped.is_set():
                self._tally.cut += 1
            else:
                self._tally.errors[NO_ANSWER] += 1
            raise
        ended = time.monotonic_ns()
        if not reason and not self._caller.is_right(number, answer):
            reason = WRONG_ANSWER
        if reason:
            # Also of a call of the warm-up: or a server that hangs would show no errors at all.
            if ended >= self._begin:
                self._tally.errors[reason] += 1
            return
        self._tally.answered += self._begin <= ended < self._end
        if counted:
            self._tally.latencies.add(ended - moment)
