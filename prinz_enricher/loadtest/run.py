"""A whole load test: the ladder's steps one after the other, and the report on them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from prinz_enricher.loadtest.job import Job
from prinz_enricher.loadtest.ladder import Closed, Ladder, Step
from prinz_enricher.loadtest.prepared import Form, Mode
from prinz_enricher.loadtest.processes import Processes
from prinz_enricher.loadtest.rehearsal import Subject, rehearse
from prinz_enricher.loadtest.report import Arguments, Report, StepReport, now, these_versions, this_machine
from prinz_enricher.loadtest.target import Target


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        target: The server.
        subject: The model.
        rows: Of each call of the pool.
        ladder: The steps.
        arguments: What was asked for; the rest follows from it.
    """

    target: Target
    subject: Subject
    rows: Sequence[pa.RecordBatch]
    ladder: Ladder
    arguments: Arguments


class Observer(Protocol):
    """Who watches a test."""

    def begins(self, number: int, step: Step) -> None:
        """Be told that a step begins; the first one has the number 0."""

    def goes_on(self, state: dict[str, float]) -> None:
        """Be told how far it is: `seconds` of the measured time, `answered` and `errors` so far."""

    def ended(self, report: StepReport) -> None:
        """Be told what it found out."""


def run(plan: Plan, observer: Observer, stopped: threading.Event) -> Report:
    """Run a load test.

    Args:
        plan: What is to be done.
        observer: Is told what happens.
        stopped: Ends it when it is set; what has been measured is reported.

    Returns:
        The report. It lacks the steps that were not measured: those after the end of a test that was ended, and rates
        that are a share of a maximum where no closed loop had an answer.

    Raises:
        LoadTestError: Calls of the pool are refused, or a process of the generator ended.
    """
    arguments = plan.arguments
    mode, form = Mode(arguments.mode), Form(arguments.form)
    scores = arguments.check == "scores"
    started, machine = now(), this_machine()
    pool = rehearse(plan.target, plan.subject, plan.rows, mode, form, scores=scores)
    model = f"{plan.subject.name}/{plan.subject.version}"
    job = Job(
        plan.target, mode, model, pool, scores=scores, most=max(1, arguments.max_in_flight // arguments.processes)
    )
    reports: list[StepReport] = []
    maximum: list[float] = []
    with Processes(arguments.processes, job) as processes:
        for number, step in enumerate(plan.ladder.steps(maximum)):
            if stopped.is_set():
                break
            observer.begins(number, step)
            tallies = processes.run(
                step,
                seconds=arguments.duration,
                warm_up=arguments.warm_up,
                seed=arguments.seed + number,
                progress=observer.goes_on,
                stopped=stopped,
            )
            report = StepReport.of(step, tallies, arguments.rows)
            # One that was ended in its warm-up has measured nothing.
            if report.seconds:
                reports.append(report)
                observer.ended(report)
            if isinstance(step, Closed):
                maximum.append(report.calls_per_second)
    return Report(
        started=started,
        interrupted=stopped.is_set(),
        model=model,
        signature_digest=plan.subject.signature.digest,
        arguments=arguments,
        machine=machine,
        versions=these_versions(),
        steps=reports,
    )
