"""grpc_server_*: each front counts every call that it serves, whatever method it is and however it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from prinz_enricher.errors import ModelNotFound
from prinz_enricher.fronts.grpc import SERVICE
from prinz_enricher.service.status import to_status
from prinz_enricher.telemetry.series import Series
from tests.support.front_core import KINDS, LIMIT, MAX_CALLS, WAIT, Running, eventually, refusal, running_front

OK, CANCELLED, LATE, NOT_FOUND, EXHAUSTED, UNAVAILABLE = 0, 1, 4, 5, 8, 14


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front."""
    return str(request.param)


@pytest.fixture
def series() -> Series:
    """What a front counts."""
    return Series()


@pytest.fixture
def running(kind: str, series: Series) -> Iterator[Running]:
    """A front that listens."""
    with running_front(kind, series=series) as running:
        yield running


def counts(series: Series, method: str = "Score", service: str = SERVICE.full_name) -> tuple[int, dict[int, int]]:
    """Return how many calls of a method came in, and how many are over by code."""
    found = series.methods[f"/{service}/{method}"]
    with found.lock:
        assert sum(found.seconds.counts) == sum(found.handled)
        return found.started, {code: count for code, count in enumerate(found.handled) if count}


def expect(
    series: Series, started: int, handled: dict[int, int], method: str = "Score", service: str = SERVICE.full_name
) -> None:
    """Wait until that is counted: a call is over a moment after its caller has heard so."""
    eventually(lambda: counts(series, method, service) == (started, handled))


def test_all_methods_begin_with_zero(kind: str, series: Series) -> None:
    """Before the first call each method of the service, of health and of reflection is there, by its type."""
    with running_front(kind, series=series):
        pass
    found = {(one.service.split(".")[-1], one.method, one.type) for one in series.methods.values()}
    assert found == {
        ("EnricherService", "ListModels", "unary"),
        ("EnricherService", "GetSignature", "unary"),
        ("EnricherService", "Score", "unary"),
        ("EnricherService", "ScoreStream", "bidi_stream"),
        ("EnricherService", "WatchModels", "server_stream"),
        ("Health", "Check", "unary"),
        ("Health", "List", "unary"),
        ("Health", "Watch", "server_stream"),
        ("ServerReflection", "ServerReflectionInfo", "bidi_stream"),
    }
    assert len(series.methods) == 10
    assert all(one.started == sum(one.handled) == 0 for one in series.methods.values())


def test_unary_calls_count_by_code(running: Running, series: Series) -> None:
    """Answers and errors count, of the service, of a handler that raises, of a message that is too large."""
    score = running.method("Score")
    heard: Counter[int] = Counter()
    for request in [b"a", b"b", b"refuse", b"much", bytes(LIMIT - 6), b"refuse"]:
        future = score.future(request, timeout=WAIT)
        heard[future.code().value[0]] += 1
    assert heard == {OK: 3, NOT_FOUND: 2, EXHAUSTED: 1}
    expect(series, 6, heard)
    running.method("ListModels")(b"x", timeout=WAIT)
    expect(series, 1, {OK: 1}, "ListModels")


def test_callers_that_leave_count_once(running: Running, series: Series) -> None:
    """A call that is cancelled, and one whose deadline passes, count as that, whatever answers them afterwards."""
    left = running.method("Score").future(b"keep", timeout=WAIT)
    kept = [running.core.next_kept()]
    late = running.method("Score").future(b"keep", timeout=0.3)
    kept.append(running.core.next_kept())
    assert counts(series) == (2, {})
    left.cancel()
    assert refusal(late.result)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    expect(series, 2, {CANCELLED: 1, LATE: 1})
    assert [call.respond(b"late") for call in kept] == [False, False]
    expect(series, 2, {CANCELLED: 1, LATE: 1})


def test_refused_calls_count(kind: str, series: Series) -> None:
    """Calls over the limit, and those that come while the front drains, count by the code of their refusal."""
    with running_front(kind, series=series) as running:
        score = running.method("Score")
        held = [score.future(b"keep", timeout=WAIT) for _ in range(MAX_CALLS)]
        for _ in held:
            running.core.next_kept()
        refusal(lambda: score(b"x", timeout=WAIT))
        expect(series, MAX_CALLS + 1, {EXHAUSTED: 1})
        for call in running.core.kept:
            assert call.respond(b"done")
        assert [one.result() for one in held] == [b"done"] * MAX_CALLS
        expect(series, MAX_CALLS + 1, {EXHAUSTED: 1, OK: MAX_CALLS})
        admission: Any = running.front
        admission._admission.draining = True
        assert refusal(lambda: score(b"x", timeout=WAIT))[0] == grpc.StatusCode.UNAVAILABLE
        expect(series, MAX_CALLS + 2, {EXHAUSTED: 1, OK: MAX_CALLS, UNAVAILABLE: 1})


def test_streams_count_as_one_call(running: Running, series: Series) -> None:
    """A watch and a stream of scorings are one call each, which is over when they end; messages are none."""
    watch = running.watch(b"all")
    assert running.core.came.acquire(timeout=WAIT)
    running.core.sources[0].put(b"1")
    assert next(watch) == b"1"
    expect(series, 1, {}, "WatchModels")
    running.core.sources[0].put(to_status(ModelNotFound("end")))
    refusal(lambda: next(watch))
    refusal(lambda: next(running.watch(b"refuse")))
    expect(series, 2, {NOT_FOUND: 2}, "WatchModels")

    caller = running.score_stream()
    for number in range(1, 4):
        caller.send(number, b"%d" % number)
        caller.receive()
    expect(series, 1, {}, "ScoreStream")
    caller.close()
    assert list(caller.call) == []
    gone = running.score_stream()
    # It owes an answer: one that owes none may also see the end of its caller's messages first, and end with OK.
    gone.send(1, b"keep")
    running.core.next_kept()
    gone.call.cancel()
    expect(series, 2, {OK: 1, CANCELLED: 1}, "ScoreStream")
    expect(series, 0, {})


def test_health_and_reflection_count(running: Running, series: Series) -> None:
    """Health and reflection count as the service's own methods do; a method that is not there makes no series."""
    running.front.set_health({"": True})
    health = health_pb2_grpc.HealthStub(running.channel)
    health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT)
    refusal(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=WAIT))
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    expect(series, 2, {OK: 1, NOT_FOUND: 1}, "Check", "grpc.health.v1.Health")
    expect(series, 1, {CANCELLED: 1}, "Watch", "grpc.health.v1.Health")
    for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
        ask: Any = running.channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        )
        list(ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=WAIT))
        expect(series, 1, {OK: 1}, "ServerReflectionInfo", f"{package}.ServerReflection")
    for path in (f"/{SERVICE.full_name}/Nothing", "/other.Service/Score"):
        unknown: Any = running.channel.unary_unary(path)
        refusal(partial(unknown, b"", timeout=WAIT))
    assert len(series.methods) == 10
