"""What every front does, whatever library speaks gRPC: one suite over all of them."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from prinz_enricher.errors import ModelNotFound
from prinz_enricher.fronts.grpc import SERVICE
from prinz_enricher.service.calls import FrontError
from prinz_enricher.service.status import to_status
from tests.support.front_core import (
    KINDS,
    LIMIT,
    MAX_CALLS,
    MAX_INFLIGHT,
    WAIT,
    Core,
    Running,
    eventually,
    make_front,
    refusal,
    running_front,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front."""
    return str(request.param)


@pytest.fixture
def running(kind: str) -> Iterator[Running]:
    """A front that listens."""
    with running_front(kind) as running:
        yield running


def test_unary_calls(running: Running) -> None:
    """Each unary method comes with its own name and bytes, and is answered from any thread."""
    for name in ("ListModels", "GetSignature", "Score"):
        assert running.method(name)(b"\x00\xff", timeout=WAIT) == name.encode() + b":\x00\xff"
        assert running.method(name)(b"threads", timeout=WAIT) == name.encode()
        assert running.method(name)(b"", timeout=WAIT) == name.encode() + b":"


def test_many_at_once(running: Running) -> None:
    """Calls from many threads each get their own answer."""
    score = running.method("Score")
    with ThreadPoolExecutor(MAX_CALLS // 2) as threads:
        answers = list(threads.map(lambda n: score(b"%d" % n, timeout=WAIT), range(2_000)))
    assert answers == [b"Score:%d" % number for number in range(2_000)]


def test_errors_carry_their_details(running: Running) -> None:
    """An error comes with its code, its text in any script, and its details."""
    code, reason, text = refusal(lambda: running.method("Score")(b"refuse", timeout=WAIT))

    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert '"wíne"' in text


def test_deadlines_come_with_calls(running: Running) -> None:
    """A call knows when its answer is of no more use, or that it never is."""
    score = running.method("Score")
    timed, untimed = score.future(b"keep", timeout=20.0), None
    call = running.core.next_kept()
    assert call.deadline is not None
    # gRPC writes a deadline with two or three digits, rounded up: 20.001 s travel as 20.1.
    assert 15 < call.deadline - call.arrived <= 20.11
    assert abs(time.monotonic() - call.arrived) < WAIT
    untimed = score.future(b"keep")
    second = running.core.next_kept()
    assert second.deadline is None
    for one in (call, second):
        one.respond(b"done")
    assert (timed.result(), untimed.result()) == (b"done", b"done")


def test_a_deadline_that_passes(running: Running) -> None:
    """A call whose deadline has passed is told as cancelled, and may still be answered in vain."""
    future = running.method("Score").future(b"keep", timeout=0.3)
    call = running.core.next_kept()

    assert refusal(future.result)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(call.cancelled)
    call.respond(b"late")
    call.fail(to_status(ModelNotFound("late")))
    assert running.method("Score")(b"x", timeout=WAIT) == b"Score:x"


def test_a_caller_that_goes_away(running: Running) -> None:
    """A call that its caller cancels is told as cancelled; one that is waited for is not."""
    future, other = running.method("Score").future(b"keep"), running.method("Score").future(b"keep")
    running.core.next_kept(), running.core.next_kept()
    calls = running.core.kept
    assert not any(call.cancelled() for call in calls)

    future.cancel()

    eventually(lambda: any(call.cancelled() for call in calls))
    assert sum(call.cancelled() for call in calls) == 1
    for call in calls:
        call.respond(b"done")
    assert other.result() == b"done"


def test_only_the_first_answer_counts(running: Running) -> None:
    """A second answer to a call does nothing."""
    future = running.method("Score").future(b"keep", timeout=WAIT)
    call = running.core.next_kept()
    call.respond(b"first")
    call.fail(to_status(ModelNotFound("second")))
    call.respond(b"third")
    assert future.result() == b"first"


def test_a_handler_that_raises(running: Running) -> None:
    """Its calls are answered as INTERNAL, with nothing of the exception, and the front goes on to receive."""
    score = running.method("Score")
    for _ in range(3):
        code, reason, text = refusal(lambda: score(b"raise", timeout=WAIT))
        assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "thread" not in text
    calls = [score.future(b"raise", timeout=WAIT) for _ in range(20)]
    assert {refusal(call.result)[0] for call in calls} == {grpc.StatusCode.INTERNAL}
    code, reason, text = refusal(lambda: next(running.watch(b"raise")))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "thread" not in text
    assert score(b"x", timeout=WAIT) == b"Score:x"


def test_messages_that_are_too_large(running: Running) -> None:
    """A request or an answer over the limit is RESOURCE_EXHAUSTED, one at the limit passes, and the server goes on."""
    score = running.method("Score")
    code, _, text = refusal(lambda: score(bytes(LIMIT + 1), timeout=WAIT))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in text
    assert score(bytes(LIMIT - 6), timeout=WAIT) == b"Score:" + bytes(LIMIT - 6)

    code, reason, text = refusal(lambda: score(b"much", timeout=WAIT))

    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert str(LIMIT + 1) in text
    assert score(b"x", timeout=WAIT) == b"Score:x"


def test_too_many_calls(running: Running) -> None:
    """Calls over the limit are refused as OVERLOADED, and let in again once others have ended."""
    score = running.method("Score")
    held = [score.future(b"keep", timeout=WAIT) for _ in range(MAX_CALLS)]
    for _ in held:
        running.core.next_kept()

    code, reason, _ = refusal(lambda: score(b"x", timeout=WAIT))

    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    for future in held[: MAX_CALLS // 2]:
        future.cancel()
    eventually(lambda: sum(call.cancelled() for call in running.core.kept) == MAX_CALLS // 2)
    assert score(b"x", timeout=WAIT) == b"Score:x"
    for call in running.core.kept:
        call.respond(b"done")
    assert [future.result() for future in held[MAX_CALLS // 2 :]] == [b"done"] * (MAX_CALLS // 2)


def test_too_many_bytes(running: Running) -> None:
    """Requests over a number of bytes are refused as OVERLOADED, small calls go on, and room comes with each end."""
    score = running.method("Score")
    large = b"keep".ljust(MAX_INFLIGHT // 2)
    first = score.future(large, timeout=WAIT)
    answered = running.core.next_kept()
    second = score.future(large, timeout=WAIT)
    left = running.core.next_kept()
    code, reason, text = refusal(lambda: score(bytes(10_000), timeout=WAIT))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert str(MAX_INFLIGHT) in text
    assert score(b"x", timeout=WAIT) == b"Score:x"
    # One ends by its answer, the other by its caller.
    answered.respond(b"done")
    assert first.result() == b"done"
    assert len(score(bytes(10_000), timeout=WAIT)) > 10_000
    second.cancel()
    eventually(left.cancelled)
    again = []
    for _ in range(2):
        again.append(score.future(large, timeout=WAIT))
        running.core.next_kept().respond(b"again")
    assert [one.result() for one in again] == [b"again"] * 2


def test_more_calls_than_a_connection_may_have(kind: str) -> None:
    """Thousands of calls at a time over one connection are all answered: those over its limit wait at the caller."""
    with running_front(kind, calls=10_000) as running:
        score = running.method("Score")
        for _ in range(3):
            futures = [score.future(b"%d" % number, timeout=WAIT) for number in range(2_000)]
            assert [future.result() for future in futures] == [b"Score:%d" % number for number in range(2_000)]


def test_a_lone_request_is_taken_whatever_its_size(kind: str) -> None:
    """A number of bytes below those of the largest message does not forbid that."""
    with running_front(kind, inflight_bytes=10_000) as running:
        for _ in range(3):
            assert len(running.method("Score")(bytes(LIMIT - 6), timeout=WAIT)) == LIMIT


def test_unknown_methods(running: Running) -> None:
    """A method or a service that is not there is UNIMPLEMENTED."""
    for path in (f"/{SERVICE.full_name}/Nothing", "/other.Service/Score"):
        unknown: Any = running.channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as raised:
            unknown(b"", timeout=WAIT)
        error: Any = raised.value
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_compressed_requests(running: Running) -> None:
    """A caller may compress its requests."""
    score = running.method("Score")
    assert score(bytes(10_000), timeout=WAIT, compression=grpc.Compression.Gzip) == b"Score:" + bytes(10_000)


def test_health(running: Running) -> None:
    """Health tells what it was told, NOT_FOUND of what it was not, and forgets what is left out."""
    stub = health_pb2_grpc.HealthStub(running.channel)

    def check(name: str) -> int:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT)
        return int(answer.status)

    running.front.set_health({"": True, "model/a": False})
    assert (check(""), check("model/a")) == (1, 2)
    assert refusal(lambda: check("model/b"))[0] == grpc.StatusCode.NOT_FOUND
    running.front.set_health({"": False})
    # SERVICE_UNKNOWN, which Watch tells, and Check tells of a service that has gone.
    assert (check(""), check("model/a")) == (2, 3)


def test_health_that_is_as_it_was_costs_the_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever one of a thousand models changes, the loop that serves calls is told of that one."""
    models = {f"model/{number}": True for number in range(1_000)}
    with running_front("grpcio") as running:
        front: Any = running.front
        running.front.set_health(models)
        told = []
        set_one = front._health.set

        async def count(name: str, status: Any) -> None:
            told.append(name)
            await set_one(name, status)

        monkeypatch.setattr(front._health, "set", count)
        running.front.set_health(models)
        assert told == []
        running.front.set_health(models | {"model/7": False})
        assert told == ["model/7"]
        del models["model/9"]
        running.front.set_health(models | {"model/7": False})
        assert told == ["model/7", "model/9"]
        stub = health_pb2_grpc.HealthStub(running.channel)
        asked = [health_pb2.HealthCheckRequest(service=f"model/{number}") for number in (7, 8, 9)]
        assert [stub.Check(one, timeout=WAIT).status for one in asked] == [2, 1, 3]


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_reflection(running: Running, package: str) -> None:
    """Reflection lists the service, in both versions."""
    ask = running.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answer = next(iter(ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=WAIT)))
    names = [service.name for service in answer.list_services_response.service]
    assert {SERVICE.full_name, "grpc.health.v1.Health"} <= set(names)


def test_server_streams(running: Running) -> None:
    """A stream gives what its source has, then what it gets later, and ends as the source says."""
    stream = running.watch(b"all")
    assert running.core.came.acquire(timeout=WAIT)
    source = running.core.sources[0]
    source.put(b"1", b"2")
    assert [next(stream), next(stream)] == [b"1", b"2"]
    source.put(b"3")
    assert next(stream) == b"3"

    source.put(to_status(ModelNotFound("end")))

    assert refusal(lambda: next(stream))[:2] == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert source.closed.wait(WAIT)


def test_a_stream_that_is_refused(running: Running) -> None:
    """A stream that can't be opened ends with the reason."""
    stream = running.watch(b"refuse")
    assert refusal(lambda: next(stream))[:2] == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


def test_a_stream_whose_caller_goes_away(running: Running) -> None:
    """The source of a stream is closed once its caller has gone."""
    stream = running.watch(b"all")
    assert running.core.came.acquire(timeout=WAIT)
    stream.cancel()
    assert running.core.sources[0].closed.wait(WAIT)


def test_a_stream_that_is_not_read(running: Running) -> None:
    """A caller that does not read is cut off with RESOURCE_EXHAUSTED, and others never wait for it."""
    slow, quick = running.watch(b"slow"), running.watch(b"quick")
    assert running.core.came.acquire(timeout=WAIT)
    assert running.core.came.acquire(timeout=WAIT)
    block = bytes(LIMIT)
    blocks = 2_000

    def read_all() -> int:
        return sum(1 for _ in zip(range(blocks), quick, strict=False))

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read_all)
        sources = list(running.core.sources)
        for source in sources:
            source.put(*[block] * blocks)
        # Which of the two is the slow one is not told by the order in which they came.
        eventually(lambda: any(source.closed.is_set() for source in sources))
        assert reading.result(WAIT) == blocks

    code, reason, _ = refusal(lambda: [None for _ in slow])
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    quick.cancel()
    eventually(lambda: all(source.closed.is_set() for source in sources))


def test_draining(running: Running) -> None:
    """While it drains, a front answers what it let in, and tells new calls, and streams, to go elsewhere."""
    score = running.method("Score")
    future = score.future(b"keep", timeout=WAIT)
    call = running.core.next_kept()
    stream = running.watch(b"all")
    assert running.core.came.acquire(timeout=WAIT)
    with ThreadPoolExecutor(1) as threads:
        drained = threads.submit(running.front.drain, WAIT)
        assert refusal(lambda: next(stream))[:2] == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert refusal(lambda: score(b"x", timeout=WAIT))[:2] == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert not drained.done()

        call.respond(b"done")

        assert future.result() == b"done"
        drained.result(WAIT)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", running.port)) != 0


def test_draining_ends_with_the_grace_period(running: Running) -> None:
    """A call that does not end holds a front no longer than the grace period, and is UNAVAILABLE or CANCELLED."""
    future = running.method("Score").future(b"keep", timeout=WAIT)
    call = running.core.next_kept()

    running.front.drain(0.2)

    assert refusal(future.result)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    call.respond(b"in vain")
    call.fail(to_status(ModelNotFound("in vain")))


def test_a_port_that_is_taken(running: Running, kind: str) -> None:
    """A second front on the same port is refused, and the first one goes on."""
    core = Core()
    with pytest.raises(FrontError, match=f"can't listen on 127.0.0.1:{running.port}"):
        make_front(kind, running.port).start(core.handle, core.open_source)
    assert running.method("Score")(b"x", timeout=WAIT) == b"Score:x"


def test_watchers_that_leave_while_they_are_sent_to(running: Running) -> None:
    """The source of each is closed, also where a message was just being written."""
    for _ in range(100):
        watching = running.watch(b"")
        assert running.core.came.acquire(timeout=WAIT)
        source = running.core.sources.pop()
        source.put(*[b"x"] * 5)
        next(watching)
        watching.cancel()
        assert source.closed.wait(WAIT)
