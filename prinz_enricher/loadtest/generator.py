"""The processes that generate load: the one that starts them, and what runs in each of them.

They talk by pickles over a socket pair: first a `GeneratorJob`, answered by `READY` or an error; then a `Step` and a
seed for each step, answered by `Progress` now and then and by `Counters` at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Final, Literal, NamedTuple

from prinz_enricher.client import ServiceError
from prinz_enricher.loadtest.callers import Caller, CoalescedCaller, GeneratorJob, LoadTestError, ScoreCaller
from prinz_enricher.loadtest.counters import Counters

READY: Final = "ready"
STOP: Final = "stop"
WRONG_ANSWER: Final = "WRONG_ANSWER"
"""The reason of an answer that is not the one which the same rows had before the test."""
NO_ANSWER: Final = "NO_ANSWER"
"""The reason of a call that had neither answer nor error when the time for its answer was over."""

_POLL_SECONDS: Final = 0.1
"""How soon the end of the test, or an open loop's next call, is noticed."""
_PROGRESS_SECONDS: Final = 0.25
_EXIT_SECONDS: Final = 10.0
_BURST: Final = 8
"""Calls that an open loop which is behind its schedule begins before it receives answers."""
_OVERDUE_NS: Final = 50_000_000
"""How late after the end an open loop begins what was planned before it, as timers are late: it may be a last call."""
_CUT_SECONDS: Final = 1.0
"""How long answers may take that are on their way when the test is stopped."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a load test.

    In a closed loop each of `load` callers calls again once it has its answer. In an open loop `load` calls a second
    begin at planned times, whether earlier ones are answered or not.
    """

    loop: Literal["closed", "open"]
    load: float

    def share(self, process: int, processes: int) -> Step:
        """Return the part of one of several processes; its load may be 0."""
        if self.loop == "open":
            return Step("open", self.load / processes)
        return Step("closed", self.load // processes + (process < self.load % processes))


class Progress(NamedTuple):
    """How far a step is: seconds of the measured time, negative in the warm-up, and calls so far."""

    seconds: float
    answered: int
    errors: int


class GeneratorProcesses:
    """Processes that run the same steps at the same time, from `start` to `close`."""

    def __init__(self, count: int, job: GeneratorJob) -> None:
        self._count = count
        self._job = job
        self._processes: dict[Connection, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the processes; raises LoadTestError unless each of them makes a first call."""
        for _ in range(self._count):
            ours, theirs = Pipe()
            # Not by `-m`, which would make a second module of this one, whose classes pickles do not know.
            command = [sys.executable, "-c", f"from {__name__} import main; main({theirs.fileno()})"]
            with theirs:
                # A session of its own: Ctrl-C is for the process that reports, which ends the others.
                process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
            self._processes[ours] = process
        for connection in self._processes:
            self._send(connection, self._job)
        for connection in self._processes:
            answer = self._receive(connection)
            if answer != READY:
                raise LoadTestError(f"the first call of the mode {self._job.mode} failed: {answer}")

    def close(self) -> None:
        """End the processes."""
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            try:
                process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(
        self, step: Step, seed: int, on_progress: Callable[[Progress], None], stopped: threading.Event
    ) -> list[Counters]:
        """Run a step, each process its share, until it is over or `stopped` is set; return what each counted.

        `on_progress` is called now and then with the progress of all processes together. Raises LoadTestError if a
        process ended.
        """
        waiting = set()
        for place, connection in enumerate(self._processes):
            if (share := step.share(place, self._count)).load:
                self._send(connection, (share, seed * self._count + place))
                waiting.add(connection)
        counters: list[Counters] = []
        progress: dict[Connection, Progress] = {}
        stopping = False
        while waiting:
            if stopped.is_set() and not stopping:
                stopping = True
                for connection in waiting:
                    self._send(connection, STOP)
            for connection in waiting.intersection(wait(list(waiting), _POLL_SECONDS)):
                message = self._receive(connection)
                if isinstance(message, Counters):
                    counters.append(message)
                    waiting.discard(connection)
                else:
                    progress[connection] = message
                    seconds, answered, errors = zip(*progress.values(), strict=True)
                    on_progress(Progress(max(seconds), sum(answered), sum(errors)))
        return counters

    @staticmethod
    def _send(connection: Connection, message: object) -> None:
        # The end of a process is noticed where its messages are received.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(message)

    def _receive(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[connection]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_EXIT_SECONDS)
            raise LoadTestError(f"a generator process ended unexpectedly with exit code {process.poll()}") from None


def arrival_times(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the seconds from the start at which calls begin, in order, the same for the same arguments.

    A Poisson process, as many independent callers make it; those of several processes with shares of a rate and other
    seeds are together one of the whole rate.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    planned = chance.expovariate(rate)
    while planned < seconds:
        yield planned
        planned += chance.expovariate(rate)


class _StepRun:
    """One process's share of a step of a job.

    Latency counts for calls that began (in an open loop: were planned) in the measured time; their answers are waited
    for beyond its end. Errors count from its beginning on; throughput counts the right answers that came within it.
    """

    def __init__(self, caller: Caller, job: GeneratorJob, step: Step, seed: int) -> None:
        self._caller = caller
        self._job = job
        self._step = step
        self._seed = seed
        self._begin = self._end = 0
        self._stopped = asyncio.Event()
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._counters = Counters()

    async def run(self) -> Counters:
        start = time.monotonic_ns()
        self._begin = start + int(self._job.warm_up * 1e9)
        self._end = self._begin + int(self._job.seconds * 1e9)
        if self._step.loop == "open":
            self._start(self._run_open(start))
        else:
            for _ in range(int(self._step.load)):
                self._start(self._run_closed())
        await self._wait_until(self._begin)
        before = time.process_time()
        await self._wait_until(self._end)
        self._counters.processor_seconds = time.process_time() - before
        if self._stopped.is_set():
            self._end = max(self._begin, min(self._end, time.monotonic_ns()))
        self._counters.seconds = (self._end - self._begin) / 1e9
        await self._drain()
        return self._counters

    def stop(self, _message: object) -> None:
        self._stopped.set()

    def progress(self) -> Progress:
        counters = self._counters
        return Progress((time.monotonic_ns() - self._begin) / 1e9, counters.answered, counters.errors.total())

    async def _wait_until(self, moment: int) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), max(0, (moment - time.monotonic_ns()) / 1e9))

    async def _drain(self) -> None:
        """Wait for the answers that are on their way, and abandon the others."""
        # A call ends by its own deadline; one that does not is abandoned soon after.
        limit = time.monotonic() + (_CUT_SECONDS if self._stopped.is_set() else self._job.server.timeout + 1.0)
        # An open loop that is at its end may still begin its last calls.
        while self._tasks and (patience := limit - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fault is not None:
            raise self._fault

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault

    async def _run_closed(self) -> None:
        while not self._stopped.is_set() and (now := time.monotonic_ns()) < self._end:
            await self._call(next(self._numbers), now)

    async def _run_open(self, start: int) -> None:
        """Begin each call at its planned time, or as soon as possible after it."""
        behind = 0
        for planned in arrival_times(self._step.load, self._job.warm_up + self._job.seconds, self._seed):
            moment = start + int(planned * 1e9)
            while (pause := moment - time.monotonic_ns()) > 0 and not self._stopped.is_set():
                behind = 0
                await asyncio.sleep(min(pause / 1e9, _POLL_SECONDS))
            now = time.monotonic_ns()
            if self._stopped.is_set() and now < moment:
                return
            # One of the tasks is this loop.
            if now >= self._end + _OVERDUE_NS or len(self._tasks) > self._job.max_in_flight:
                self._counters.unsent += self._begin <= moment < self._end
            else:
                self._start(self._call(next(self._numbers), moment, planned=True))
            behind += 1
            if now < self._end + _OVERDUE_NS and behind % _BURST == 0:
                await asyncio.sleep(0)

    async def _call(self, number: int, moment: int, *, planned: bool = False) -> None:
        """Make a call that begins, or was planned, at a moment, and count it."""
        counters = self._counters
        if planned and moment >= self._begin:
            counters.add_sent(max(0, time.monotonic_ns() - moment))
        try:
            answer = await self._caller.send(number)
            ended = time.monotonic_ns()
            reason = "" if self._caller.is_right(number, answer) else WRONG_ANSWER
        except ServiceError as error:
            ended = time.monotonic_ns()
            reason = error.reason or error.code.name
        except asyncio.CancelledError:
            if self._stopped.is_set():
                counters.cut += 1
            else:
                counters.errors[NO_ANSWER] += 1
            raise
        if reason:
            # Also for calls of the warm-up: otherwise a server that hangs would show no errors.
            if ended >= self._begin:
                counters.errors[reason] += 1
            return
        counters.answered += self._begin <= ended < self._end
        if moment >= self._begin:
            counters.latencies.add(ended - moment)


def main(descriptor: int) -> None:
    """Run a generator process, until the process that started it closes the socket or ends."""
    with (
        Connection(descriptor) as connection,
        contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError),
        # `select` wakes to the microsecond; Python's epoll waits for whole milliseconds: too coarse for planned times.
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner,
    ):
        runner.run(_serve(connection))


async def _serve(connection: Connection) -> None:
    job: GeneratorJob = connection.recv()
    caller = CoalescedCaller(job) if job.mode == "coalesced" else ScoreCaller(job)
    try:
        await caller.send(0)
        connection.send(READY)
        await _run_steps(connection, job, caller)
    except ServiceError as error:
        connection.send(str(error))
    finally:
        await caller.close()


async def _run_steps(connection: Connection, job: GeneratorJob, caller: Caller) -> None:
    message = await _receive(connection)
    while True:
        following = asyncio.create_task(_receive(connection))
        if message != STOP:
            run = _StepRun(caller, job, *message)
            # Whatever comes while a step runs is to end it.
            following.add_done_callback(run.stop)
            step = asyncio.create_task(run.run())
            while not (await asyncio.wait([step], timeout=_PROGRESS_SECONDS))[0]:
                connection.send(run.progress())
            connection.send(step.result())
        message = await following


async def _receive(connection: Connection) -> Any:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection.fileno())
    return connection.recv()
