"""A short soak; `make soak` runs a long one."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from tests.soak import models
from tests.soak.campaign import differences_of, flatness, soak
from tests.soak.ledger import Answered, Failed, Ledger, Question
from tests.soak.service import Measures, Page, Service

MINUTES = 3.0


@pytest.mark.slow
@pytest.mark.skipif("PRINZ_TEST_SOAK" not in os.environ, reason="takes the whole machine; set PRINZ_TEST_SOAK=1")
@pytest.mark.timeout(900)
def test_three_minutes() -> None:
    """No answer is wrong, no error has an unexpected reason, the metrics agree, and nothing grows, with both fronts."""
    said: list[str] = []
    assert soak(MINUTES, say=said.append), "\n".join(said)


def _question(model: str = models.MOVING, **more: object) -> Question:
    chance = random.Random(0)  # noqa: S311 - no secret
    rows = models.typed(3, chance) if model == models.TEXTS else models.numbers(3, chance)
    return replace(Question("here", model, rows), **more)  # type: ignore[arg-type]


def _right(question: Question, version: str = "1") -> Answered:
    output = models.answer(question.model, version, question.rows)
    assert output is not None
    return Answered(version, output)


@pytest.mark.parametrize("model", [models.MOVING, models.TEXTS])
def test_a_wrong_answer_is_seen(model: str) -> None:
    """An answer of other rows, in another order or of another version is a fault; the right one is none."""
    ledger, question = Ledger("here"), _question(model)
    right = _right(question)
    ledger.judge(question, time.monotonic(), right)
    assert ledger.faults == []
    turned = right.output.take(pa.array([1, 0, 2]))
    for output in (turned, right.output.slice(1), models.answer(model, "1", _question(model).rows.slice(1))):
        ledger.judge(question, time.monotonic(), Answered("1", output))
    ledger.judge(question, time.monotonic(), Answered("2", right.output))
    assert ledger.wrong == len(ledger.faults) == 4


def test_a_version_that_the_alias_does_not_mean_is_seen() -> None:
    """While an alias moves either version may answer, afterwards the new one alone, with its own answer."""
    ledger, question = Ledger("here"), _question(alias=models.ALIAS)
    began = time.monotonic()
    ledger.judge(question, began, _right(question, "1"))
    ledger.targets.may_be("1", "2")
    ledger.judge(question, time.monotonic(), _right(question, "1"))
    ledger.judge(question, time.monotonic(), _right(question, "2"))
    ledger.targets.may_be("2")
    ledger.judge(question, began, _right(question, "1"))
    assert ledger.faults == []
    time.sleep(0.001)
    ledger.judge(question, time.monotonic(), _right(question, "1"))
    assert "version 1 answered, while the alias meant ['2']" in ledger.faults[0]


def test_a_reason_outside_of_its_time_is_seen() -> None:
    """An error is allowed for its models while they are disturbed, and where the question expects it; else a fault."""
    ledger, question = Ledger("here"), _question(models.REMOTE)
    away = Failed("UPSTREAM_UNAVAILABLE", "")
    with ledger.disturbed("absence", ["UPSTREAM_UNAVAILABLE"], [models.REMOTE], slack=0.0):
        ledger.judge(question, time.monotonic(), away)
        assert ledger.faults == []
        ledger.judge(_question(models.SLOW), time.monotonic(), away)
        ledger.judge(question, time.monotonic(), Failed("INTERNAL", ""))
    time.sleep(0.001)
    ledger.judge(question, time.monotonic(), away)
    ledger.judge(question, time.monotonic(), Failed("OVERLOADED", ""))
    ledger.judge(replace(question, hurried=True), time.monotonic(), Failed("OVERLOADED", ""))
    ledger.judge(replace(question, reason="INVALID_INPUT"), time.monotonic(), _right(question))
    assert len(ledger.faults) == 5


def test_what_is_counted_otherwise_is_seen() -> None:
    """The metrics must have each call that was heard, and no other but those that callers left."""
    service = Service("here", None, None, 0, Ledger("here"))  # type: ignore[arg-type]  # never asked
    question = _question(models.SLOW)
    service.ledger.judge(question, time.monotonic(), _right(question))

    def page(calls: float, rows: float) -> Page:
        labels = {"model": models.SLOW, "outcome": "ok"}
        return Page({"prinz_enricher_calls_total": [(labels, calls)], "prinz_enricher_rows_total": [(labels, rows)]})

    assert differences_of(service, page(1, 3)) == []
    assert differences_of(service, page(1, 4))
    assert differences_of(service, page(0, 3))
    assert differences_of(service, page(2, 3))
    service.ledger.left(question)
    assert differences_of(service, page(2, 6)) == []
    assert differences_of(service, page(3, 6))


@pytest.mark.parametrize(
    ("grows", "fault"),
    [
        (Measures(0.0, 0, 0), None),
        (Measures(2.0, 0, 0), "memory: MB a minute"),
        (Measures(0.0, 1, 0), "open files"),
        (Measures(0.0, 0, 1), "threads"),
    ],
)
def test_what_grows_is_seen(grows: Measures, fault: str | None) -> None:
    """Memory, open files and threads that grow with each minute are faults; series too, by one already."""
    measures = [
        (60.0 * n, Measures(100 + n * grows.memory, 50 + n * grows.files, 9 + n * grows.threads)) for n in range(24)
    ]
    assert [one.what for one in flatness(measures, [(0.0, 100)] * 9) if not one.holds] == ([fault] if fault else [])
    steady = [(at, measures[0][1]) for at, _ in measures]
    series = [(0.0, 100)] * 8 + [(0.0, 101)] * 2
    assert [one.what for one in flatness(steady, series) if not one.holds] == ["series"]
