"""The processes that make load: started, told what to do, listened to, and ended."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from prinz_enricher.loadtest.errors import LoadTestError
from prinz_enricher.loadtest.job import STOP, Job, Order
from prinz_enricher.loadtest.ladder import Closed, Step
from prinz_enricher.loadtest.tally import Tally

_LOOK_SECONDS: Final = 0.1
"""How soon it is seen that the run was ended."""

_END_SECONDS: Final = 10.0
"""How long a process may take to end when it is told to."""

Progress = Callable[[dict[str, float]], None]
"""Told now and then how far a step is: `seconds` of the measured time, `answered` and `errors` so far."""


class Processes:
    """Runs steps on several processes at the same time; ends them with its context.

    Args:
        count: How many.
        job: What each of them does.
    """

    def __init__(self, count: int, job: Job) -> None:
        self._count = count
        self._job = job
        self._running: list[subprocess.Popen[bytes]] = []
        self._told: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()

    def __enter__(self) -> Self:
        """Start them, and wait until each has made a call.

        Raises:
            LoadTestError: One could not make its first call, or ended.
        """
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End them."""
        self._end()

    def run(
        self,
        step: Step,
        *,
        seconds: float,
        warm_up: float,
        seed: int,
        progress: Progress,
        stopped: threading.Event,
    ) -> list[Tally]:
        """Run a step.

        Args:
            step: The whole of it; each process has its share.
            seconds: The measured time.
            warm_up: Seconds of the same load before it.
            seed: Of the planned times of open loops; each process has one of its own, which follows from it.
            progress: Is told how far it is.
            stopped: Ends the step when it is set.

        Returns:
            What each process that took part counted.

        Raises:
            LoadTestError: A process ended.
        """
        waiting = set()
        for place in range(self._count):
            share = step.share(place, self._count)
            if not isinstance(share, Closed) or share.concurrency:
                self._send(place, Order(share, seconds, warm_up, seed * self._count + place).line())
                waiting.add(place)
        tallies: list[Tally] = []
        states: dict[int, dict[str, float]] = {}
        told_to_stop = False
        while waiting:
            if stopped.is_set() and not told_to_stop:
                told_to_stop = True
                for place in waiting:
                    self._send(place, STOP)
            with contextlib.suppress(queue.Empty):
                place, message = self._told.get(timeout=_LOOK_SECONDS)
                if message is None:
                    raise self._lost(place)
                if message["kind"] == "result":
                    waiting.discard(place)
                    tallies.append(Tally.from_json(message["tally"]))
                else:
                    states[place] = message
                    progress(_together(states))
        return tallies

    def _start(self) -> None:
        parts = self._job.parts()
        command = [sys.executable, "-m", "prinz_enricher.loadtest"]
        for place in range(self._count):
            # A session of its own: Ctrl-C is for the one that reports, which ends the others in order.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
            )
            self._running.append(process)
            threading.Thread(target=self._listen, args=(place, process), daemon=True).start()
        for place in range(self._count):
            for part in parts:
                self._send(place, part)
        for _ in range(self._count):
            place, message = self._told.get()
            if message is None:
                raise self._lost(place)
            if message["kind"] == "failed":
                raise LoadTestError(
                    f"the first call of the mode {self._job.mode.value} failed: "
                    f"{message['reason']}{': ' * bool(message['message'])}{message['message']}"
                )

    def _send(self, place: int, part: bytes) -> None:
        stdin = self._running[place].stdin
        assert stdin is not None  # noqa: S101 - it was started with one
        left = memoryview(part)
        # A process that is gone is found by its standard output.
        with contextlib.suppress(BrokenPipeError):
            while left:
                left = left[stdin.write(left) :]

    def _listen(self, place: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was started with one
        for line in process.stdout:
            self._told.put((place, json.loads(line)))
        self._told.put((place, None))

    def _lost(self, place: int) -> LoadTestError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running[place].wait(_END_SECONDS)
        return LoadTestError(
            f"a process of the generator ended by itself, with exit code {self._running[place].poll()}"
        )

    def _end(self) -> None:
        for process in self._running:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._running:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _together(states: dict[int, dict[str, float]]) -> dict[str, float]:
    return {
        "seconds": max(state["seconds"] for state in states.values()),
        "answered": sum(state["answered"] for state in states.values()),
        "errors": sum(state["errors"] for state in states.values()),
    }
