"""A whole load test: the schedule of its steps, and the run of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa

from prinz_enricher.loadtest.callers import GeneratorJob, ServerUnderTest
from prinz_enricher.loadtest.generator import GeneratorProcesses, Progress, Step
from prinz_enricher.loadtest.report import Arguments, Report, StepReport, installed_versions, this_machine
from prinz_enricher.loadtest.request_pool import ModelUnderTest, record_baseline

DEFAULT_CONCURRENCIES: Final = (1, 16, 64)
SEARCH_CONCURRENCY: Final = 64
"""The closed loop that finds the maximum where rates are shares of it and no closed loop is asked for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that was asked for: calls a second, or a share (0.7 is 70 %) of what the closed loops reach."""

    value: float
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a test: closed loops, then open loops."""

    concurrencies: tuple[int, ...]
    rates: tuple[Rate, ...]

    @classmethod
    def of(cls, concurrencies: Sequence[int], rates: Sequence[Rate]) -> Schedule:
        """Make the schedule of what was asked for; closed loops are added where there would be none to measure."""
        if not concurrencies and not rates:
            return cls(DEFAULT_CONCURRENCIES, ())
        if not concurrencies and any(rate.relative for rate in rates):
            return cls((SEARCH_CONCURRENCY,), tuple(rates))
        return cls(tuple(concurrencies), tuple(rates))

    def __len__(self) -> int:
        return len(self.concurrencies) + len(self.rates)

    def steps(self, maximum: Callable[[], float]) -> Iterator[Step]:
        """Yield the steps; open loops whose rate is a share of a maximum of 0 are left out.

        `maximum` returns the calls a second that the closed loops reached, and is called once they have been yielded.
        """
        for concurrency in self.concurrencies:
            yield Step("closed", concurrency)
        reached = maximum()
        for rate in self.rates:
            value = rate.value * reached if rate.relative else rate.value
            if value > 0:
                yield Step("open", value)


def parse_concurrencies(text: str) -> tuple[int, ...]:
    """Parse `1,16,64`; raises ValueError where a part is not a whole number above 0."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or int(part) == 0:
            raise ValueError(f'invalid concurrency "{part}"; expected a whole number above 0')
    return tuple(map(int, parts))


def parse_rates(text: str) -> tuple[Rate, ...]:
    """Parse `1000,2500.5,70%`; raises ValueError where a part is not a number above 0, with or without a %."""
    return tuple(_parse_rate(part.strip()) for part in text.split(","))


def _parse_rate(part: str) -> Rate:
    try:
        value = float(part.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f'invalid rate "{part}"; expected calls a second, such as 1000, or a share, such as 70%')
    return Rate(value / 100, relative=True) if part.endswith("%") else Rate(value)


def run(
    server: ServerUnderTest,
    model: ModelUnderTest,
    rows: Sequence[pa.RecordBatch],
    schedule: Schedule,
    arguments: Arguments,
    stopped: threading.Event,
    on_step: Callable[[int, Step], None],
    on_progress: Callable[[Progress], None],
) -> Report:
    """Run a load test with the rows of each call of its pool, until it is over or `stopped` is set.

    `on_step` is called when a step begins, with its number from 0, and `on_progress` now and then while it runs. The
    report lacks steps that were not measured: those after the test was stopped, and rates that are a share of a maximum
    where no closed loop had an answer. Raises LoadTestError if calls are refused, or if a generator process ended.
    """
    started, machine, check_scores = datetime.now(UTC), this_machine(), arguments.check == "scores"
    pool = record_baseline(server, model, rows, arguments)
    name = f"{model.reference.name}/{model.reference.version}"
    limit = max(1, arguments.max_in_flight // arguments.processes)
    job = GeneratorJob(server, arguments.mode, name, pool, check_scores, limit, arguments.warm_up, arguments.duration)
    reports: list[StepReport] = []
    with contextlib.closing(GeneratorProcesses(arguments.processes, job)) as processes:
        processes.start()
        steps = schedule.steps(lambda: max((report.calls_per_second for report in reports), default=0.0))
        for number, step in enumerate(steps):
            if stopped.is_set():
                break
            on_step(number, step)
            counters = processes.run(step, arguments.seed + number, on_progress, stopped)
            report = StepReport.of(step, counters, arguments.rows)
            # A step that was stopped in its warm-up has measured nothing.
            if report.seconds:
                reports.append(report)
    return Report(
        started=started,
        interrupted=stopped.is_set(),
        model=name,
        signature_digest=model.signature.digest,
        arguments=arguments,
        machine=machine,
        versions=installed_versions(),
        steps=reports,
    )
