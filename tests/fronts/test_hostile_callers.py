"""What one caller leaves unread, or sends only the begin of, counts against that caller alone."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import grpc
import pytest

from prinz_enricher.config import ConnectionSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import ModelNotFound
from prinz_enricher.fronts.grpc.admission import Admission, FairLimit, FrontLimits
from prinz_enricher.fronts.grpc.score_stream import FIRST_ANSWERS, MAX_MESSAGES
from prinz_enricher.service.calls import Call
from prinz_enricher.service.status import to_status
from tests.hostile.frames import DATA, Connection, frame, header_block, message
from tests.support.front_core import KINDS, LIMIT, WAIT, Running, eventually, running_front


def test_whoever_has_little_gets_in_though_another_has_all() -> None:
    """One caller may take all; then a second gets half of the reserve, a third a third of it, and never more."""
    limit = FairLimit(100, 30)
    assert limit.take("greedy", 100)
    assert not limit.take("greedy")

    assert [limit.take("second") for _ in range(16)] == [True] * 15 + [False]
    assert [limit.take("third") for _ in range(11)] == [True] * 10 + [False]

    limit.release("greedy", 50)
    assert limit.take("greedy", 20)
    assert limit.total == 95


def test_a_lone_caller_may_take_more_than_there_is() -> None:
    """A request over the limit is let in where nothing else is in flight."""
    limit = FairLimit(10, 2)
    assert limit.take("one", 50)
    assert not limit.take("one", 1)
    limit.release("one", 50)
    assert limit.total == 0


def test_what_a_call_has_is_given_back_once() -> None:
    """The bytes of a request, of the answer in its place, and of one that came too late are all given back."""
    admission = Admission(FrontLimits(LIMIT, 2, 2 * LIMIT))
    for _ in range(3):
        assert admission.enter("call", "caller", LIMIT) is None
        assert admission.resize("call", 2 * LIMIT) is None
        assert admission.leave("call")
        assert not admission.leave("call")
        assert admission.resize("call", 2 * LIMIT) is None
    assert admission.enter("one", "caller", LIMIT) is None
    assert admission.enter("two", "caller", LIMIT) is None
    assert admission.resize("two", 2 * LIMIT) is not None
    admission.leave("one")
    admission.leave("two")
    assert admission.in_flight == 0


@pytest.fixture
def grpcio() -> Iterator[Running]:
    """A grpcio front with room for 16 requests of the largest size."""
    with running_front("grpcio", calls=1_000, inflight_bytes=16 * LIMIT) as running:
        yield running


def until_ended(connection: Connection, count: int) -> None:
    """Read until so many calls of a connection have ended."""
    ended: set[int] = set()
    limit = time.monotonic() + WAIT
    while len(ended) < count:
        assert time.monotonic() < limit, f"only {len(ended)} of {count} calls have ended"
        ended.update(connection.receive(0.1))


def exchange_large(running: Running, count: int) -> None:
    """Have so many large requests in flight at once, and get a large answer to each."""
    futures = [running.method("Score").future(b"keep".ljust(LIMIT), timeout=WAIT) for _ in range(count)]
    calls = [running.core.next_kept() for _ in range(count)]
    for call in calls:
        call.respond(bytes(LIMIT))
    assert [future.result() for future in futures] == [bytes(LIMIT)] * count


def test_answers_that_nobody_reads(grpcio: Running) -> None:
    """Answers that one caller does not read take what requests may, and no more; a large call of another goes through.

    gRPC copies an answer, so 8 of 64 KiB take the MiB.
    """
    with Connection(grpcio.port, window=0) as greedy:
        block = header_block("Score")
        greedy.send(*(greedy.call(block, message(b"keep"))[1] for _ in range(40)))
        for _ in range(40):
            grpcio.core.next_kept()
        for call in grpcio.core.kept:
            call.respond(bytes(LIMIT))
        until_ended(greedy, 32)

        exchange_large(grpcio, 1)
    eventually(lambda: not refused(grpcio, 8))


def test_requests_that_do_not_end(grpcio: Running) -> None:
    """Requests whose last bytes do not come count for what came; a large one of another goes through."""
    with Connection(grpcio.port) as slow:
        block, begin = header_block("Score"), message(bytes(LIMIT))[:-100]
        slow.send(*(slow.call(block, begin, ends=False)[1] for _ in range(10)))

        exchange_large(grpcio, 1)
    eventually(lambda: not refused(grpcio, 8))


def test_a_request_that_does_not_come() -> None:
    """A request that is not whole within the patience is OVERLOADED, those that waited for their turn likewise."""
    with running_front("grpcio", calls=1_000, inflight_bytes=16 * LIMIT, patience=0.2) as running:
        with Connection(running.port) as slow:
            block, begin = header_block("Score"), message(bytes(LIMIT))[:100]
            slow.send(*(slow.call(block, begin, ends=False)[1] for _ in range(12)))
            # But the few that gRPC receives without a word.
            until_ended(slow, 10)
        eventually(lambda: not refused(running, 8))


def test_requests_of_failed_calls_are_freed() -> None:
    """Large requests that were answered with an error are not in memory until garbage is collected."""
    # Of 32 at once, gRPC's own handler receives 25.
    with running_front("grpcio", calls=1_000, inflight_bytes=200 * LIMIT) as running:
        gc.collect()
        gc.disable()
        try:
            futures = [running.method("Score").future(b"keep".ljust(LIMIT), timeout=WAIT) for _ in range(32)]
            for _ in futures:
                running.core.next_kept()
            while running.core.kept:
                running.core.kept.pop().fail(to_status(ModelNotFound("wine")))
            assert {future.code() for future in futures} == {grpc.StatusCode.NOT_FOUND}
            eventually(lambda: not [one for one in gc.get_objects() if isinstance(one, Call) and one.request])
        finally:
            gc.enable()


def refused(running: Running, count: int) -> bool:
    """Return whether any of so many large requests at once is refused."""
    futures = [running.method("Score").future(b"large".ljust(LIMIT - 10), timeout=WAIT) for _ in range(count)]
    return any(future.exception() is not None for future in futures)


def test_a_stream_whose_answers_nobody_reads(grpcio: Running) -> None:
    """A ScoreStream is not read from once a few answers wait, while others' streams go on."""
    with Connection(grpcio.port, window=0) as greedy:
        stream, call = greedy.call(header_block("ScoreStream"))
        row = message(pb.ScoreStreamRequest(sequence=1).SerializeToString() + b"\x12\x01x")
        greedy.send(call, *(frame(DATA, 0, stream, row * 500) for _ in range(4)))
        eventually(lambda: grpcio.core.handled > FIRST_ANSWERS)
        good, count = grpcio.score_stream(), 100
        for sequence in range(count):
            good.send(sequence, b"%d" % sequence)
            assert good.receive() == (sequence, b"Score:%d" % sequence)

        assert grpcio.core.handled - count < MAX_MESSAGES // 2


def test_streams_of_one_caller_keep_no_other_out() -> None:
    """When one caller has all the streams that may be open, another still gets one."""
    with running_front("grpcio", calls=100) as running, Connection(running.port) as greedy:
        body, block = message(b""), header_block("WatchModels")
        greedy.send(*(greedy.call(block, body)[1] for _ in range(101)))
        until_ended(greedy, 1)

        watching = running.watch(b"")
        eventually(lambda: len(running.core.sources) == 101)
        watching.cancel()


MAX_STREAMS = ConnectionSettings().streams


@pytest.mark.parametrize("front", KINDS)
def test_open_calls_of_a_connection(front: str) -> None:
    """A connection has so many open calls, and is refused more."""
    with running_front(front, calls=1_000) as running, Connection(running.port) as greedy:
        body, block = message(b""), header_block("WatchModels")
        greedy.receive(WAIT)
        greedy.send(*(greedy.call(block, body)[1] for _ in range(MAX_STREAMS + 100)))
        eventually(lambda: len(running.core.sources) == MAX_STREAMS)
        until_ended(greedy, 100)
