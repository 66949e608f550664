"""Several pools behind one port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
import pytest

from prinz_enricher.scoring.ports import WorkerState
from prinz_enricher.scoring.routing import RoutingPool
from prinz_enricher.signature import output_schema
from tests.scoring.scripted import FAST, SIGNATURE, Call, rows, scripted, target_of, until
from tests.support.inline_pool import InlinePool


def negative(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
    """Score another way than `scripted`, whatever the factor."""
    assert params
    return pa.RecordBatch.from_arrays([pa.array(-batch.column(1).to_numpy())], schema=output_schema(SIGNATURE))


@pytest.fixture
def pool() -> Iterator[RoutingPool]:
    """A pool whose route `there` leads elsewhere."""
    made = RoutingPool({"": InlinePool(lambda _: scripted, FAST), "there": InlinePool(lambda _: negative, FAST)})
    try:
        yield made
    finally:
        made.close(2.0)


HERE = target_of()
THERE = replace(HERE, route="there")


def test_each_target_is_scored_where_its_route_leads(pool: RoutingPool) -> None:
    """The same version is scored here or there, as its target says."""
    assert Call(pool, HERE, rows(("", 1.0))).values() == [2.0]
    assert Call(pool, THERE, rows(("", 1.0))).values() == [-1.0]


def test_a_route_that_changes_leaves_nothing_behind(pool: RoutingPool) -> None:
    """The version is loaded there and unloaded here."""
    pool.load(HERE)
    until(lambda: pool.status(HERE).state is WorkerState.AVAILABLE)
    assert pool.status(THERE).state is WorkerState.DISCOVERED
    pool.retain([THERE])
    until(lambda: pool.status(HERE).state is WorkerState.DISCOVERED)
    assert Call(pool, THERE, rows(("", 1.0))).values() == [-1.0]


def test_close_answers_everywhere(pool: RoutingPool) -> None:
    """What was taken is answered by each pool, and later jobs are refused by all."""
    calls = [Call(pool, target, rows(("", 3.0))) for target in (HERE, THERE)]
    pool.close(5.0)
    assert [call.values() for call in calls] == [[6.0], [-3.0]]
    assert {Call(pool, target, rows(("", 1.0))).reason() for target in (HERE, THERE)} == {"SHUTTING_DOWN"}
