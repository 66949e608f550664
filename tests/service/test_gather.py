"""Calls that come together: what can be is read, scored and answered together, and nobody sees a difference."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from prinz_enricher.batch.layout import input_layout
from prinz_enricher.errors import DeadlineExceeded, ModelError, Overloaded
from prinz_enricher.scoring.ports import ScoreResult, Target
from prinz_enricher.service.score import request_grouping
from prinz_enricher.signature import Field, Scalar, ScalarKind, Tensor
from tests.support.gathering import (
    DOUBLES,
    NAMES,
    Asked,
    HandPool,
    Service,
    answer,
    ask,
    columns_request,
    dense_request,
    fields_of,
    handled,
    outcomes_alone,
    row,
    rows,
    score,
    target_of,
)


def batch_of(target: Target, *numbers: float) -> pa.RecordBatch:
    """Make the batch of some rows."""
    columns = [[row(number)[name] for number in numbers] for name in NAMES]
    return pa.RecordBatch.from_arrays([pa.array(one) for one in columns], schema=input_layout(target.signature).schema)


def scores_of(asked: Asked) -> dict[str, float]:
    """Give the outputs of a response with one row in columns."""
    return {column.name: column.doubles.values[0] for column in asked.response.columns.columns}


# One job, and each its own.


@pytest.mark.parametrize("form", ["columns", "turned columns", "dense"])
@pytest.mark.parametrize("ids", ["none", "same length", "other lengths", "not ASCII"])
def test_calls_alike_are_few_jobs_and_each_gets_its_own_row_and_id(form: str, ids: str) -> None:
    """The first time by their messages, and after that by their bytes."""
    pool = HandPool()
    service = Service(pool, DOUBLES)
    for _ in range(3):
        pool.jobs.clear()
        requests = []
        for number in range(20):
            values = row(number + 0.5)
            request_id = {
                "none": "",
                "same length": f"id {number:04}",
                "other lengths": "i" * number,
                "not ASCII": f"né {number:04}",
            }[ids]
            if form == "dense":
                requests.append(dense_request(list(values.values()), request_id=request_id))
            else:
                turned = dict(reversed(values.items())) if form == "turned columns" else values
                requests.append(columns_request(turned, request_id=request_id))
        asked = handled(service, *requests)
        for number, (one, request) in enumerate(zip(asked, requests, strict=True)):
            assert one.response.request_id == request.request_id
            wanted = score(DOUBLES, batch_of(DOUBLES, number + 0.5)).to_pylist()[0]
            if form == "dense":
                assert one.response.dense.values == struct.pack("<2d", *wanted.values())
            else:
                assert repr(scores_of(one)) == repr(wanted)
            assert (one.response.model.name, one.response.model.version) == ("m", "1")
            assert one.response.timing.batch_rows in range(1, 21)
        # Ids of several lengths make requests of several lengths, which are read apart.
        assert len(pool.jobs) <= (20 if ids == "other lengths" else 1)
        assert sum(job.calls for job in pool.jobs) == sum(job.batch.num_rows for job in pool.jobs) == 20


def test_calls_of_several_kinds_are_a_job_each() -> None:
    """Of other models, outputs or forms; and one that is not alike goes its own way beside them."""
    pool = HandPool()
    other = replace(DOUBLES, name="n", version="7")
    service = Service(pool, DOUBLES, other)
    apart = columns_request(rows(4.0, 5.0))
    apart.independent_rows = True
    kinds = [
        columns_request(row(1.0)),
        columns_request(row(1.0), model="n"),
        columns_request(row(1.0), outputs=["z"]),
        columns_request(row(1.0), outputs=["z", "y"]),
        columns_request(row(1.0), digest=DOUBLES.signature.digest),
        dense_request(list(row(1.0).values())),
        columns_request(rows(1.0, 2.0)),
        dense_request([*row(1.0).values(), *row(2.0).values()]),
        columns_request(rows(1.0, 2.0, 3.0)),
        apart,
    ]
    for _ in range(2):
        pool.jobs.clear()
        asked = handled(service, *kinds, *kinds)
        assert sorted(job.batch.num_rows for job in pool.jobs) == [*[2] * 8, 4, 4, 6]
        assert [job.calls for job in pool.jobs] == [2] * 11
        assert [one.outcome for one in asked] == outcomes_alone([one.call.request for one in asked], DOUBLES, other)


def test_more_calls_than_share_a_model_call_are_several_jobs() -> None:
    """Of 256 at most."""
    pool = HandPool()
    service = Service(pool, DOUBLES)
    for _ in range(2):
        pool.jobs.clear()
        asked = handled(service, *[columns_request(row(float(number))) for number in range(600)])
        assert [job.calls for job in pool.jobs] == [256, 256, 88]
        for number, one in enumerate(asked):
            assert repr(scores_of(one)) == repr(score(DOUBLES, batch_of(DOUBLES, float(number))).to_pylist()[0])


def test_a_job_has_no_more_calls_than_may_share() -> None:
    """A smaller limit of the settings is kept to."""
    pool = HandPool()
    service = Service(pool, DOUBLES, shared=16)
    handled(service, *[columns_request(row(float(number))) for number in range(40)])
    assert [job.calls for job in pool.jobs] == [16, 16, 8]


def test_calls_of_several_rows_share_a_job_as_far_as_they_may() -> None:
    """No job has more rows than may share a model call, and calls of which no two could share one are not grouped."""
    pool = HandPool()
    service = Service(pool, DOUBLES, shared=16)
    for _ in range(2):
        pool.jobs.clear()
        asked = handled(service, *[columns_request(rows(*map(float, range(place, place + 5)))) for place in range(7)])
        assert [(job.calls, job.batch.num_rows) for job in pool.jobs] == [(3, 15), (3, 15), (1, 5)]
        for place, one in enumerate(asked):
            wanted = score(DOUBLES, batch_of(DOUBLES, *map(float, range(place, place + 5)))).to_pydict()
            assert {column.name: list(column.doubles.values) for column in one.response.columns.columns} == wanted
    pool.jobs.clear()
    handled(service, *[columns_request(rows(*map(float, range(9))))] * 2)
    service._grouper.limit(8)
    handled(service, *[columns_request(rows(*map(float, range(5))))] * 2)
    assert [(job.calls, job.batch.num_rows) for job in pool.jobs] == [(1, 9), (1, 9), (1, 5), (1, 5)]


def test_rows_of_another_length_than_was_learnt_are_scored_too() -> None:
    """Of alike calls with longer ids each kind is learnt in its turn, and all are answered."""
    service = Service(HandPool(), DOUBLES)
    requests = [columns_request(rows(1.0, 2.0), request_id="i" * size) for size in (1, 2, 1, 2, 2)]
    for _ in range(3):
        asked = handled(service, *requests)
        assert [len(one.response.request_id) for one in asked] == [1, 2, 1, 2, 2]
    assert len(service._grouper._templates) == 2


def test_each_call_of_a_job_as_a_job_of_its_own_answers_its_call() -> None:
    """And no other; it has the deadline of that call, and asks whether its caller has gone."""
    pool = HandPool(answers=False)
    service = Service(pool, DOUBLES)
    now = time.monotonic()
    # In one span of deadlines.
    start = (int(now / request_grouping.DEADLINE_SPAN) + 2000.1) * request_grouping.DEADLINE_SPAN
    asked = [
        ask(columns_request(row(float(number)), request_id=f"{number}"), start + number / 1e4) for number in range(9)
    ]
    service.handle([one.call for one in asked])
    [job] = pool.jobs
    parts = job.split_calls()
    assert [part.deadline for part in parts] == [one.call.deadline for one in asked]
    assert [part.calls for part in parts] == [1] * 9
    asked[4].gone = True
    assert [part.cancelled() for part in parts] == [number == 4 for number in range(9)]
    for number in (3, 8, 0, 4, 5, 1, 2, 7, 6):
        if number == 5:
            parts[number].done(ModelError("m", "1", "ValueError", "id"))
        else:
            answer(parts[number])
        assert len(asked[number].answers) == 1
    assert [one.reason for one in asked if one is asked[5]] == ["MODEL_ERROR"]
    for number, one in enumerate(asked):
        if number != 5:
            assert one.response.request_id == f"{number}"
            assert repr(scores_of(one)) == repr(score(DOUBLES, batch_of(DOUBLES, float(number))).to_pylist()[0])


# Models change.


@pytest.mark.parametrize("how", ["version", "order", "types", "more", "outputs", "names"])
def test_a_model_that_changes_is_read_by_what_it_is_now(how: str) -> None:
    """No row is read by the layout of the version before; what is read by it again is learnt anew."""
    signature = DOUBLES.signature
    inputs = signature.inputs
    changed = {
        "version": signature,
        "order": replace(signature, inputs=inputs[::-1]),
        "types": replace(signature, inputs=(replace(inputs[0], type=Scalar(ScalarKind.LONG)), *inputs[1:])),
        "more": replace(signature, inputs=(*inputs, *fields_of(ScalarKind.DOUBLE, "d"))),
        "outputs": replace(signature, outputs=fields_of(ScalarKind.DOUBLE, "other")),
        "names": replace(signature, inputs=(replace(inputs[0], name="x"), *inputs[1:])),
    }[how]
    after = target_of(changed, version="2")
    pool = HandPool()
    service = Service(pool, DOUBLES)
    requests = [
        columns_request(row(number), request_id="abc", outputs=outputs, digest=digest).SerializeToString()
        for number in (1.0, 2.0)
        for outputs in ([], ["z"])
        for digest in ("", signature.digest)
    ] + [dense_request(list(row(number).values())).SerializeToString() for number in (1.0, 2.0)]
    for _ in range(2):
        for target in (DOUBLES, after):
            service.models["m"] = target
            for _ in range(2):
                pool.jobs.clear()
                asked = handled(service, *requests)
                assert [one.outcome for one in asked] == outcomes_alone(requests, target)
                assert {job.target.version for job in pool.jobs} <= {target.version}
                assert [handled(service, one)[0].outcome for one in requests] == outcomes_alone(requests, target)


def test_what_a_changed_model_is_asked_is_read_together_again() -> None:
    """A template of a version that is gone stands in nobody's way."""
    turned = target_of(replace(DOUBLES.signature, inputs=DOUBLES.signature.inputs[::-1]), version="2")
    pool = HandPool()
    service = Service(pool, DOUBLES)
    for target in (DOUBLES, turned, DOUBLES):
        service.models["m"] = target
        for _ in range(2):
            pool.jobs.clear()
            handled(service, *[columns_request(row(float(number))) for number in range(5)])
            assert [job.calls for job in pool.jobs] == [5]


# Refusals.


@pytest.mark.parametrize("times", [1, 2])
def test_each_call_is_told_why_it_is_refused(times: int) -> None:
    """An unknown model, another signature, an output that there is not: each with its own reason."""
    service = Service(HandPool(), DOUBLES)
    good = columns_request(row(1.0))
    for _ in range(times):
        asked = handled(
            service,
            good,
            columns_request(row(1.0), model="nobody"),
            columns_request(row(1.0), digest="0" * 32),
            columns_request(row(1.0), outputs=["other"]),
            dense_request([1.0, 2.0, 3.0], digest="0" * 32),
            dense_request([1.0, 2.0, 3.0], digest=""),
            columns_request({"a": 1.0, "b": 2.0}),
            b"\xff",
            good,
        )
        assert [one.outcome[0] for one in asked] == ["response", *["status"] * 7, "response"]
        assert [one.reason for one in asked[1:-1]] == [
            "MODEL_NOT_FOUND",
            "SIGNATURE_CHANGED",
            "INVALID_INPUT",
            "SIGNATURE_CHANGED",
            "INVALID_REQUEST",
            "INVALID_INPUT",
            "INVALID_REQUEST",
        ]
        assert [one.outcome for one in asked] == outcomes_alone([one.call.request for one in asked], DOUBLES)


@pytest.mark.parametrize("learnt", [False, True])
def test_overload_is_told_before_rows_are_read(learnt: bool) -> None:
    """To every call, and the pool is given nothing."""
    pool = HandPool()
    service = Service(pool, DOUBLES)
    requests = [columns_request(row(float(number))) for number in range(7)]
    if learnt:
        handled(service, *requests)
    pool.jobs.clear()
    pool.told = Overloaded("too much")
    assert [one.reason for one in handled(service, *requests)] == ["OVERLOADED"] * 7
    assert pool.jobs == []
    assert pool.asked[-1] == 7


@pytest.mark.parametrize("learnt", [False, True])
def test_calls_whose_time_is_up_are_told_so(learnt: bool) -> None:
    """And no other with them."""
    pool = HandPool()
    service = Service(pool, DOUBLES)
    request = columns_request(row(1.0))
    if learnt:
        handled(service, request)
    pool.jobs.clear()
    late, good = ask(request, time.monotonic() - 1.0), ask(request, time.monotonic() + 60.0)
    service.handle([late.call, good.call])
    assert late.reason == "DEADLINE_EXCEEDED"
    assert good.outcome[0] == "response"
    assert [job.calls for job in pool.jobs] == [1]


def test_calls_with_other_deadlines_are_other_jobs() -> None:
    """A job's deadline is the first of those of its calls, which are about the same; or none."""
    pool = HandPool(answers=False)
    service = Service(pool, DOUBLES)
    request = columns_request(row(1.0))
    # The middle of a span.
    start = (int(time.monotonic() / request_grouping.DEADLINE_SPAN) + 20_000.5) * request_grouping.DEADLINE_SPAN
    deadlines = [start + 1e-3, start, start - 1e-3, None, start + 10.0, None, start + 10.001]
    asked = [ask(request, deadline) for deadline in deadlines]
    service.handle([one.call for one in asked])
    assert [(job.calls, job.deadline) for job in pool.jobs] == [
        (3, start - 1e-3),
        (2, None),
        (2, start + 10.0),
    ]


def test_a_job_is_unwanted_once_all_of_its_callers_have_gone() -> None:
    """And not before."""
    pool = HandPool(answers=False)
    asked = handled(Service(pool, DOUBLES), *[columns_request(row(1.0))] * 4)
    [job] = pool.jobs
    for one in asked:
        assert not job.cancelled()
        one.gone = True
    assert job.cancelled()


# Failures.


def test_a_failure_of_a_job_is_told_to_each_of_its_calls() -> None:
    """Once."""
    pool = HandPool(answers=False)
    asked = handled(Service(pool, DOUBLES), *[columns_request(row(1.0), request_id="é")] * 4)
    pool.jobs[0].done(DeadlineExceeded("queue"))
    assert [one.reason for one in asked] == ["DEADLINE_EXCEEDED"] * 4


def test_a_pool_that_raises_is_an_internal_error_of_every_call() -> None:
    """Told once, to those too that would have gone their own way."""
    service = Service(HandPool(raises=RuntimeError("no thread")), DOUBLES)
    two_rows = columns_request(row(1.0))
    two_rows.columns.num_rows = 2
    asked = handled(service, *[columns_request(row(1.0))] * 4, two_rows)
    assert [one.reason for one in asked] == ["INTERNAL"] * 5


@pytest.mark.parametrize("rows_of_each", [1, 2])
@pytest.mark.parametrize("more", [-4, -1, 1, 4])
def test_answers_that_can_not_be_written_are_an_internal_error_of_every_call(rows_of_each: int, more: int) -> None:
    """A pool that gives more or fewer rows than it was given leaves nobody without an answer."""
    pool = HandPool(answers=False)
    asked = handled(Service(pool, DOUBLES), *[columns_request(rows(*[1.0] * rows_of_each))] * 4)
    answers = score(DOUBLES, batch_of(DOUBLES, *[1.0] * (4 * rows_of_each + more)))
    pool.jobs[0].done(ScoreResult(answers, 0.0, 0.0, 4))
    assert [one.reason for one in asked] == ["INTERNAL"] * 4


@pytest.mark.parametrize("form", ["columns", "dense"])
def test_an_answer_that_the_wire_can_not_tell_fails_its_own_call(form: str) -> None:
    """The others have theirs."""
    target = target_of(replace(DOUBLES.signature, outputs=(Field("y", Tensor("uint64", (-1,))),)))
    pool = HandPool(answers=False)
    request = columns_request(row(1.0)) if form == "columns" else dense_request([1.0, 2.0, 3.0], target)
    asked = handled(Service(pool, target), *[request] * 4)
    values = [1, 2**64 - 1, 3, 2**53 + 1]
    scores = pa.RecordBatch.from_arrays(
        [pa.array(values, pa.uint64())], schema=pa.schema([pa.field("y", pa.uint64(), nullable=False)])
    )
    pool.jobs[0].done(ScoreResult(scores, 0.0, 0.0, 4))
    assert [one.outcome[0] for one in asked] == ["response", "status", "response", "response"]
    assert asked[1].reason == "OUTPUT_MISMATCH"
    if form == "columns":
        assert [list(asked[one].response.columns.columns[0].int64s.values) for one in (0, 2, 3)] == [
            [1],
            [3],
            [2**53 + 1],
        ]
    else:
        # A whole number that a double can't tell is told in columns.
        assert [asked[one].response.WhichOneof("output") for one in (0, 2, 3)] == ["dense", "dense", "columns"]
