"""What crosses between processes is what was sent, whatever it is."""

from __future__ import annotations

import json
import math
from datetime import date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.errors import EnricherError, ModelError, ModelLoading, Overloaded, ShuttingDown, Violation
from prinz_enricher.scoring import Job, Scores, Target
from prinz_enricher.service.processes.codec import (
    read_error,
    read_job,
    read_row,
    read_scores,
    write_error,
    write_job,
    write_scores,
)
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import Signature
from prinz_enricher.worker.frames import FrameError

texts = st.text(max_size=20)
# No wire form tells the second of two equal hours.
moments = st.datetimes().map(lambda moment: moment.replace(fold=0))
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=9) | moments
values = plain | st.dates() | st.lists(plain, max_size=3) | st.dictionaries(texts, plain, max_size=3)


def kinds(kind: type[EnricherError]) -> list[type[EnricherError]]:
    """Return an error and all that are derived from it."""
    return [kind, *(one for sub in kind.__subclasses__() for one in kinds(sub))]


@st.composite
def errors(draw: st.DrawFn) -> EnricherError:
    """Any error, as its class makes it but for the sentence."""
    kind = draw(st.sampled_from(kinds(EnricherError)))
    error = kind.__new__(kind)
    violations = [Violation(*draw(st.tuples(texts, texts))) for _ in range(draw(st.integers(0, 110)))]
    EnricherError.__init__(
        error,
        draw(texts),
        metadata=draw(st.dictionaries(texts, texts, max_size=3)),
        violations=violations,
        omitted=draw(st.integers(0, 2**40)),
        resource=draw(st.none() | st.tuples(texts, texts)),
        retry_after=draw(st.none() | st.floats(0, 1e6)),
    )
    return error


@given(errors(), st.none() | st.integers(0, 1000))
def test_errors(error: EnricherError, row: int | None) -> None:
    """An error is told to callers byte for byte as in the process that it comes from."""
    meta = json.loads(json.dumps(write_error(error, row)))
    read = read_error(meta)

    # A text that is no UTF-8 can't be told by either.
    try:
        told = to_status(error).SerializeToString(deterministic=True)
    except ValueError:
        return
    assert to_status(read).SerializeToString(deterministic=True) == told
    assert (read.code, read.reason, read.omitted, read.violations) == (
        error.code, error.reason, error.omitted, error.violations
    )  # fmt: skip
    assert read_row(meta) == row


@pytest.mark.parametrize(
    "error",
    [Overloaded("no room"), ShuttingDown(), ModelLoading("m", "1", 0.25), ModelError("m", "1", "ValueError", "id")],
)
def test_errors_keep_their_class(error: EnricherError) -> None:
    """An error is of the same class on the other side."""
    assert type(read_error(json.loads(json.dumps(write_error(error, None))))) is type(error)


@given(st.dictionaries(texts, values, max_size=4), st.none() | st.floats(0, 1e9), st.integers(1, 300))
def test_jobs(params: dict[str, object], deadline: float | None, calls: int) -> None:
    """A job has the same target, parameters, deadline and number of calls on the other side."""
    target = Target("m", "1", "http://r", Signature((), ()), fingerprint="5 x")
    job = Job(target, None, params, deadline, lambda _: None, calls=calls)
    asked = read_job(json.loads(json.dumps(write_job(job))))

    assert asked.key == target.key
    # By their text: it tells 1 from 1.0 and True, and NaN is equal to itself.
    assert repr(asked.params) == repr(params)
    assert (asked.deadline, asked.calls) == (deadline, calls)


def test_the_main_process_decides_what_is_observed() -> None:
    """A target is named by its key, which tells nothing of observed outputs: a front process need not know of them."""
    there, here = (Target("m", "1", "http://r", Signature((), ()), observe=observe) for observe in (True, False))
    assert there.key == here.key
    jobs = [write_job(Job(one, None, {}, None, lambda _: None)) for one in (there, here)]
    assert jobs[0] == jobs[1]


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 2**40))
def test_scores(queue: float, compute: float, rows: int) -> None:
    """Scores have the same times on the other side."""
    batch = pa.record_batch({"y": [math.pi]})
    read = read_scores(json.loads(json.dumps(write_scores(Scores(batch, queue, compute, rows), 3))), batch)

    assert read == Scores(batch, queue, compute, rows)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)
fields = ["target", "params", "deadline", "calls", "row", "code", "reason", "message", "metadata", "violations"]
damaged = st.dictionaries(st.sampled_from([*fields, "omitted", "resource", "retry_after", "queue"]), junk)


@given(damaged)
def test_damage_is_seen(meta: dict[str, object]) -> None:
    """What is no job, no error and no scores is told as that, and as nothing else."""
    for read in (read_job, read_error, read_row, lambda one: read_scores(one, None)):
        try:
            read(meta)
        except FrameError:
            continue


def test_values_of_params() -> None:
    """Dates, bytes and nested values come back as what they are."""
    params = {"d": date(2026, 1, 2), "t": datetime(2026, 1, 2, 3, 4, 5, 6), "b": b"\0\xff", "l": [1, 1.0, True, None]}
    target = Target("m", "1", "http://r", Signature((), ()))
    job = Job(target, None, params, None, lambda _: None)

    assert repr(read_job(json.loads(json.dumps(write_job(job)))).params) == repr(params)
