"""Where requests are read: small ones at once, others by threads that take callers in turns and stop for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2
from prinz_enricher.errors import DeadlineExceeded, Overloaded
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits
from prinz_enricher.scoring.ports import Job, ScoreResult
from prinz_enricher.service.enricher import LARGE_REQUEST
from prinz_enricher.service.fair_threads import FairThreads
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.signature import AnyValue, Field, Scalar, ScalarKind, Signature, to_value
from tests.support.deadline import wait_until
from tests.support.gathering import Asked, HandPool, Service, ask, columns_request, target_of

NO_SIGNATURE = target_of(Signature((), (Field("y", AnyValue()),)))
MANY = 1_000_000
MIB = 1 << 20


class NotingPool(HandPool):
    """A pool that keeps its jobs, and the names of the threads that submitted them."""

    def __init__(self) -> None:
        super().__init__(answers=False)
        self.threads: list[str] = []

    def submit(self, job: Job) -> None:
        """Take a job."""
        self.threads.append(threading.current_thread().name)
        super().submit(job)


@pytest.fixture
def pool() -> NotingPool:
    """Return a pool."""
    return NotingPool()


@pytest.fixture
def service(pool: NotingPool) -> Iterator[Service]:
    """Return a service of a model without a signature."""
    service = Service(pool, NO_SIGNATURE, limits=Limits(MANY, 128 * MIB, decoded=64 * MIB))
    yield service
    service._readers.shutdown()


def stream(array: pa.Array) -> pb.ScoreRequest:
    """Write a request of one column as an Arrow stream."""
    batch = pa.record_batch([array], ["x"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    return pb.ScoreRequest(model=model_pb2.ModelRef(name="m"), arrow_stream=sink.getvalue().to_pybytes())


def columns(rows: int, *some: value_pb2.Column, **params: value_pb2.Value) -> pb.ScoreRequest:
    """Write a request of columns."""
    batch = value_pb2.ColumnBatch(num_rows=rows, columns=some)
    return pb.ScoreRequest(model=model_pb2.ModelRef(name="m"), columns=batch, params=params)


def dictionary(rows: int) -> pa.Array:
    """Return a dictionary of one JSON text of 2,000 bytes."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), ['"' + "a" * 1998 + '"'])


HEAVY: dict[str, Callable[[], pb.ScoreRequest]] = {
    "a million empty records": lambda: stream(pa.StructArray.from_buffers(pa.struct([]), MANY, [None])),
    "a million empty texts": lambda: stream(pa.array([""] * MANY)),
    "a million zeros": lambda: stream(pa.array(np.zeros(MANY))),
    "a dictionary of a million long texts": lambda: stream(dictionary(MANY)),
    "thirty thousand columns": lambda: columns(0, *[value_pb2.Column()] * 30_000),
    "four thousand parameters": lambda: columns(0, **{f"p{place}": value_pb2.Value() for place in range(4_000)}),
    "a nested value": lambda: columns(1, value_pb2.Column(name="x", nested={"values": [to_value([None] * 5_000)]})),
}


@pytest.mark.parametrize("what", HEAVY)
def test_work_beyond_the_bytes_of_a_request_is_done_elsewhere(what: str, service: Service, pool: NotingPool) -> None:
    """Whatever is not quickly read is read, or refused, by other threads than the one that receives calls."""
    one = ask(HEAVY[what]())
    assert len(one.call.request) < LARGE_REQUEST
    threads: list[str] = []
    one.call.on_failure = lambda _: threads.append(threading.current_thread().name)  # type: ignore[attr-defined]

    service.handle([one.call])

    wait_until(lambda: bool(threads + pool.threads))
    [thread] = threads + pool.threads
    assert thread.startswith("read-request")


@pytest.mark.parametrize(
    "request_", [stream(pa.array([1.5, 2.5])), columns(2, value_pb2.Column(name="x", doubles={"values": [1.5, 2.5]}))]
)
def test_small_requests_are_read_at_once(request_: pb.ScoreRequest, service: Service, pool: NotingPool) -> None:
    """A small request takes no other thread's time."""
    service.handle([ask(request_).call])
    assert pool.threads == [threading.current_thread().name]


def test_a_request_that_becomes_too_large_is_refused(service: Service, pool: NotingPool) -> None:
    """A dictionary of a million long texts is named as what it would take, and nothing reaches the model."""
    one = ask(stream(dictionary(MANY)))
    service.handle([one.call])
    wait_until(lambda: bool(one.answers))
    assert (one.reason, pool.jobs) == ("DECODED_TOO_LARGE", [])


@pytest.mark.parametrize("gone", [True, False])
def test_nothing_is_read_for_nobody(gone: bool, service: Service, pool: NotingPool) -> None:
    """A request whose caller has gone, or whose deadline has passed before its turn, is not read."""
    one = ask(HEAVY["a million zeros"](), time.monotonic() + (60 if gone else -1))
    one.gone = gone
    service.handle([one.call])
    wait_until(lambda: bool(one.answers))
    assert (one.reason, pool.jobs) == ("DEADLINE_EXCEEDED", [])


def holding(one: Asked, hold: Callable[[int], None]) -> Any:
    """Return a call that counts what it becomes by a function."""

    class Holding(type(one.call)):  # type: ignore[misc]
        __slots__ = ()

        def hold(self, size: int) -> None:
            hold(size)

    one.call.__class__ = Holding
    return one.call


def test_what_a_request_becomes_counts_among_those_in_flight(service: Service, pool: NotingPool) -> None:
    """Decoded bytes are counted before they are made; where there is no room, the call is OVERLOADED."""
    held: list[int] = []
    one = ask(stream(dictionary(10_000)))
    service.handle([holding(one, held.append)])
    wait_until(lambda: bool(pool.jobs))
    assert 20_000_000 <= sum(held) < 21_000_000

    def refuse(size: int) -> None:
        if size > MIB:
            raise Overloaded("full")

    other = ask(stream(dictionary(10_000)))
    service.handle([holding(other, refuse)])
    wait_until(lambda: bool(other.answers))
    assert other.reason == "OVERLOADED"


def test_an_answer_counts_before_it_is_written() -> None:
    """A large answer counts first, and where there is no room, it is refused as OVERLOADED instead."""
    target = target_of(Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), (Field("text", Scalar(ScalarKind.STRING)),)))
    pool = HandPool(answers=False)
    service = Service(pool, target)
    held: list[int] = []

    def refuse(_: int) -> None:
        raise Overloaded("full")

    for hold, reason in ((held.append, None), (refuse, "OVERLOADED")):
        one = ask(columns_request({"x": 1.0}))
        service.handle([holding(one, hold)])
        batch = pa.RecordBatch.from_arrays([pa.array(["t" * MIB], pa.utf8())], ["text"])
        pool.jobs.pop().done(ScoreResult(batch, 0.0, 0.0, 1))
        assert (one.reason if reason else None) == reason
        assert len(one.answers) == 1
    assert MIB <= sum(held) < MIB + 100


def test_bytes_of_a_call_are_released_with_it() -> None:
    """What calls become is bounded together with their requests, but for a lone call, and ends with each."""
    admission = Admission(FrontLimits(message_bytes=MIB, calls=10, inflight_bytes=100_000))
    assert admission.enter("a", "one", 50_000) is None
    admission.grow("a", 500_000)
    assert admission.enter("b", "two", 1) is None
    with pytest.raises(Overloaded):
        admission.grow("b", 1)
    assert admission.leave("a")
    admission.grow("b", 60_000)
    assert admission.enter("c", "three", 50_000) is not None
    assert admission.leave("b")
    # It has ended: nobody would release them.
    admission.grow("b", 90_000)
    assert admission.enter("c", "three", 50_000) is None


def test_callers_take_turns() -> None:
    """A caller's heap of work leaves a thread to others, and is done in its order."""
    threads = FairThreads(2, "turns")
    release, others, done = threading.Event(), threading.Event(), list[int]()

    def work(number: int) -> None:
        release.wait(30)
        done.append(number)

    for number in range(20):
        threads.submit("greedy", partial(work, number))
    threads.submit("modest", others.set)
    assert others.wait(30)
    assert done == []
    release.set()
    threads.shutdown()
    assert done == list(range(20))


def test_each_caller_gets_the_next_turn_once() -> None:
    """Where several wait, each of them gets a turn before any gets another."""
    threads = FairThreads(2, "turns")
    release, started, order = threading.Event(), threading.Semaphore(0), list[str]()

    def block(until: threading.Event) -> None:
        started.release()
        until.wait(30)

    # One thread is busy until the end, and the other until all have come.
    all_there = threading.Event()
    for caller, until in (("x", release), ("y", all_there)):
        threads.submit(caller, partial(block, until))
        assert started.acquire(timeout=30)
    for caller in ("a", "a", "a", "b", "b", "c"):
        threads.submit(caller, partial(order.append, caller))
    all_there.set()
    wait_until(lambda: len(order) == 6)
    release.set()
    threads.shutdown()
    assert order == ["a", "b", "c", "a", "b", "a"]


def test_reading_ends_when_the_caller_goes(service: Service, pool: NotingPool) -> None:
    """A request that is being read is read no further once its caller has gone."""
    one = ask(stream(pa.array([f'"\\u0041{row}"' for row in range(8_000)])))
    looks = 0

    def is_gone() -> bool:
        nonlocal looks
        looks += 1
        return looks > 5

    one.call.has_gone = is_gone  # type: ignore[attr-defined]
    service.handle([one.call])
    wait_until(lambda: bool(one.answers))
    assert (one.reason, looks, pool.jobs) == (DeadlineExceeded.reason, 6, [])
