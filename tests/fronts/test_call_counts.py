"""prinz_enricher_calls_total and its like: what is counted of each version is what its callers have heard."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import ModelError
from prinz_enricher.fronts.grpc import SERVICE
from prinz_enricher.scoring.ports import Target, WorkerDied
from prinz_enricher.service.calls import Front
from prinz_enricher.telemetry.series import VersionSeries
from tests.support.front_core import KINDS, OPTIONS, WAIT, eventually, make_front
from tests.support.guarded_service import GuardedService, halve, score_request

THIRTEEN = 13.0


class CountedService(GuardedService):
    """A service of models that answer, that raise on some rows, that die once, and that answer when the test says."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self.died = False
        super().__init__("good", "picky", "slow", "dying")

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
            if target.name == "picky" and THIRTEEN in batch.column(0).to_pylist():
                # As what a worker's process tells of its model.
                raise ModelError(target.name, target.version, "ValueError", "")
            if target.name == "slow":
                self.begun.release()
                assert self.go_on.wait(WAIT)
            if target.name == "dying" and not self.died:
                self.died = True
                raise WorkerDied("as the test says")
            return halve(batch, params)

        return score


@dataclass
class Open:
    """A service that listens."""

    service: CountedService
    front: Front
    channel: grpc.Channel

    def call(self, request: pb.ScoreRequest, timeout: float = WAIT) -> Any:
        """Begin a call."""
        method: Any = self.channel.unary_unary(f"/{SERVICE.full_name}/Score")
        return method.future(request.SerializeToString(), timeout=timeout)

    def stream(self, *requests: pb.ScoreRequest, timeout: float = WAIT) -> Any:
        """Send requests by a stream, which is closed then."""
        method: Any = self.channel.stream_stream(f"/{SERVICE.full_name}/ScoreStream")
        messages = [
            pb.ScoreStreamRequest(sequence=number + 1, request=one).SerializeToString()
            for number, one in enumerate(requests)
        ]
        return method(iter(messages), timeout=timeout)

    def counted(self, model: str) -> VersionSeries:
        """Return what is counted of a model's only version."""
        return self.service.series.version(model, "1")

    def rows_of(self, model: str) -> tuple[int, int]:
        """Return the rows of a model that workers have, and those that wait."""
        usage = dict(self.service.pool.usage())[model, "1"]
        return usage.inflight_rows, usage.queue_rows

    def expect(self, model: str, **calls: int) -> None:
        """Wait until these outcomes are counted, and no others; an answer is counted a moment after it is sent."""
        expected = {"ok": 0, **calls}
        found = self.counted(model)
        eventually(lambda: found.calls == expected)
        with found.lock:
            for phase in (found.queue, found.compute, found.total):
                assert sum(phase.counts) == expected["ok"]


@pytest.fixture(params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Open]:
    """A service behind each kind of front."""
    with opened(str(request.param)) as running:
        yield running


@contextmanager
def opened(kind: str) -> Iterator[Open]:
    """Run a service behind a front."""
    with CountedService() as service:
        front = make_front(kind, series=service.series, calls=1_000)
        port = front.start(service.service.handle, service.service.open_source)
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            try:
                yield Open(service, front, channel)
            finally:
                service.go_on.set()
                front.drain(1.0)


def reason_in(status: bytes) -> str:
    """Return the reason of a serialised error."""
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(status).details[0].Unpack(info)
    return str(info.reason)


def outcome(future: Any) -> str:
    """Return what a caller has heard."""
    if future.exception() is None:
        return "ok"
    details = [entry.value for entry in future.trailing_metadata() if entry.key == "grpc-status-details-bin"]
    return reason_in(details[0])


def test_sums_are_what_callers_count(running: Open) -> None:
    """Of calls at once, of one row and of many, some invalid, some that fail in a shared batch, each counts once."""
    heard: Counter[tuple[str, str]] = Counter()
    rows: Counter[str] = Counter()
    lock = threading.Lock()

    def caller(number: int) -> None:
        requests = []
        for place in range(20):
            one = THIRTEEN if (number + place) % 7 == 0 else float(place)
            requests.append(score_request("picky", one))
            requests.append(score_request("good", *map(float, range(1 + place % 3))))
            invalid = score_request("good", 1.0)
            invalid.columns.columns[0].name = "other"
            requests.append(invalid)
            several = score_request("picky", 1.0, one, 3.0)
            several.independent_rows = True
            requests.append(several)
            requests.append(score_request("nobody", 1.0))
            requests.append(score_request("good", 1.0, alias="nothing"))
        futures = [(request, running.call(request)) for request in requests]
        for request, future in futures:
            found = outcome(future)
            with lock:
                heard[request.model.name, found] += 1
                rows[request.model.name] += request.columns.num_rows * (found == "ok")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(caller, range(4)))

    assert heard["nobody", "MODEL_NOT_FOUND"] == heard["good", "ALIAS_NOT_FOUND"] == 80
    assert heard["picky", "MODEL_ERROR"] > 20
    running.expect("good", ok=80, INVALID_INPUT=80)
    running.expect("picky", ok=heard["picky", "ok"], MODEL_ERROR=heard["picky", "MODEL_ERROR"])
    assert sum(heard.values()) == 480
    assert {key for key, _ in running.service.series.versions} <= {"good", "picky"}
    assert {model: running.counted(model).rows for model in ("good", "picky")} == {
        "good": rows["good"],
        "picky": rows["picky"],
    }
    # No batch of it failed.
    assert running.counted("good").batch_rows.total == rows["good"]
    methods = running.service.series.methods[f"/{SERVICE.full_name}/Score"]
    eventually(lambda: methods.started == sum(methods.handled) == 480)


def test_messages_of_a_stream_count(running: Open) -> None:
    """Each message of a stream is a call of its version."""
    requests = [
        score_request(model, x) for x in (1.0, THIRTEEN) for model in ("good", "picky", "nobody") for _ in "abc"
    ]
    answers = list(running.stream(*requests))
    assert len(answers) == len(requests)
    running.expect("good", ok=6)
    running.expect("picky", ok=3, MODEL_ERROR=3)


def test_callers_that_leave(running: Open) -> None:
    """A call that is cancelled, and one whose deadline passes, count as that, though the model answers at last."""
    left = running.call(score_request("slow", 1.0))
    assert running.service.begun.acquire(timeout=WAIT)
    late = running.call(score_request("slow", 2.0), timeout=0.4)
    left.cancel()
    assert late.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
    running.expect("slow", CANCELLED=1, DEADLINE_EXCEEDED=1)
    running.service.go_on.set()
    assert outcome(running.call(score_request("slow", 3.0))) == "ok"
    running.expect("slow", CANCELLED=1, DEADLINE_EXCEEDED=1, ok=1)
    assert running.counted("slow").rows == 1


def test_streams_that_end_early(running: Open) -> None:
    """Messages without an answer count when the caller of their stream leaves."""
    stream = running.stream(score_request("slow", 1.0), score_request("slow", 2.0))
    assert running.service.begun.acquire(timeout=WAIT)
    eventually(lambda: sum(running.rows_of("slow")) == 2)
    stream.cancel()
    running.expect("slow", CANCELLED=2)


def test_draining(running: Open) -> None:
    """Calls that a front does not wait for any longer count once, and so do those that it refuses."""
    call = running.call(score_request("slow", 1.0))
    assert running.service.begun.acquire(timeout=WAIT)
    running.front.drain(0.05)
    assert call.exception() is not None
    running.service.go_on.set()
    found = running.counted("slow")
    eventually(lambda: sum(found.calls.values()) == 1)
    assert running.service.series.methods[f"/{SERVICE.full_name}/Score"].started == 1


def test_a_worker_that_dies(running: Open) -> None:
    """A call that another worker scores, after one has died, counts once, and the new worker as a restart."""
    assert outcome(running.call(score_request("dying", 1.0))) == "ok"
    running.expect("dying", ok=1)
    assert running.counted("dying").restarts == 1
    assert running.counted("dying").batch_rows.total == 1


def test_what_a_pool_has_now(running: Open) -> None:
    """Rows that wait, rows at workers, and workers by state are those of now."""
    calls = [running.call(score_request("slow", 1.0, 2.0))]
    assert running.service.begun.acquire(timeout=WAIT)
    large = [1.0] * 1_500
    calls += [running.call(score_request("slow", *large)) for _ in range(2)]
    eventually(lambda: running.rows_of("slow") == (2, 3_000))
    assert dict(running.service.pool.usage())["slow", "1"].available == 1
    running.service.go_on.set()
    assert [outcome(call) for call in calls] == ["ok"] * 3
    eventually(lambda: running.rows_of("slow") == (0, 0))
