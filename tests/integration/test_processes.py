"""`prinz-enricher serve --processes 3`: three processes are one service, however they, or the service, end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2, value_pb2
from tests.support.deadline import wait_until
from tests.support.processes import is_there, resident_mb
from tests.support.running_service import LONG
from tests.support.serve_process import Serve, serve
from tests.support.worker_processes import runs, workers_of

FRAUD = "MLF-FraudDetection-3"
CONNECTIONS = 30

STOPPED = 5.0
"""Seconds after which a process that does not answer is the one that was stopped."""

pytestmark = pytest.mark.timeout(240)


class Connection:
    """One connection to the service, and the generated stub on it."""

    def __init__(self, address: str) -> None:
        # Without a pool of its own each channel would share the connection of the first.
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def answers(self) -> bool:
        """Tell whether a call that needs no other process is answered."""
        try:
            self.stub.GetSignature(pb.GetSignatureRequest(model=model_pb2.ModelRef(name=FRAUD)), timeout=STOPPED)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return False
        return True


def started(front: Serve) -> dict[int, int]:
    """Return the ids of the front processes by their numbers, the last ones that the log tells of."""
    events = [json.loads(line) for line in list(front.lines)]
    return {event["process"]: event["pid"] for event in events if event["event"] == "front process started"}


def owners(front: Serve, connections: list[Connection]) -> dict[int, list[Connection]]:
    """Tell which process has which connections: those of one that is stopped are not answered."""
    left = connections
    wait_until(lambda: all(one.answers() for one in connections))
    found: dict[int, list[Connection]] = {}
    with ThreadPoolExecutor(len(connections)) as threads:
        for pid in started(front).values():
            os.kill(pid, signal.SIGSTOP)
            try:
                answered = list(threads.map(Connection.answers, left))
            finally:
                os.kill(pid, signal.SIGCONT)
            found[pid] = [one for one, did in zip(left, answered, strict=True) if not did]
            left = [one for one, did in zip(left, answered, strict=True) if did]
    return {**found, front.process.pid: left}


def spread(front: Serve, stack: ExitStack) -> dict[int, list[Connection]]:
    """Connect until each process has connections, whose owners are told; the stack closes them.

    A process takes those that come once it listens, which on a busy machine may be a little after it says so.
    """
    connections: list[Connection] = []
    for _ in range(4):
        more = [Connection(front.address) for _ in range(CONNECTIONS)]
        for one in more:
            stack.enter_context(one.channel)
        connections += more
        found = owners(front, connections)
        if all(found.values()):
            return found
    raise AssertionError({pid: len(some) for pid, some in found.items()})


@pytest.fixture(scope="module")
def front(sample_registry: Any) -> Iterator[Serve]:
    """A service of three processes, all of which listen."""
    flags = ["--registry", sample_registry.url, "--processes", "3", "--preload", FRAUD]
    with serve(*flags, variables={"PRINZ_REGISTRY__REFRESH_INTERVAL": "0.5"}) as running:
        wait_until(lambda: len(started(running)) == 2)
        yield running
        assert running.end() == 0


@pytest.fixture(scope="module")
def each(front: Serve) -> Iterator[list[Connection]]:
    """One connection to each process."""
    with ExitStack() as stack:
        found = spread(front, stack)
        assert len(found) == 3
        yield [some[0] for some in found.values()]


def columns(rows: int) -> value_pb2.ColumnBatch:
    """Return rows of the fraud model."""
    (example,) = EXAMPLES[FRAUD]
    found = []
    for name, value in example.items():
        if isinstance(value, str):
            found.append(value_pb2.Column(name=name, strings=value_pb2.StringValues(values=[value] * rows)))
        elif isinstance(value, float):
            found.append(value_pb2.Column(name=name, doubles=value_pb2.DoubleValues(values=[value] * rows)))
    return value_pb2.ColumnBatch(num_rows=rows, columns=found)


def request(rows: int = 1, **changes: Any) -> pb.ScoreRequest:
    """Return a request to score rows of the fraud model."""
    return pb.ScoreRequest(**{"model": model_pb2.ModelRef(name=FRAUD), "columns": columns(rows), **changes})


def plain(status: Any) -> bytes:
    """Return a status with the entries of its maps in one order: protobuf's own differs from process to process."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            detail.value = info.SerializeToString(deterministic=True)
    return bytes(status.SerializeToString())


def told(method: Any, message: Message) -> bytes:
    """Call; return the answer, without what is of this call alone, or all that the error says."""
    try:
        answer = method(message, timeout=LONG)
    except grpc.RpcError as error:
        details: list[bytes] = [one.value for one in error.trailing_metadata() if one.key == "grpc-status-details-bin"]
        return plain(status_pb2.Status.FromString(details[0]))
    for field in ("timing", "catalog_age"):
        if field in answer.DESCRIPTOR.fields_by_name:
            answer.ClearField(field)
    return bytes(answer.SerializeToString(deterministic=True))


@pytest.mark.parametrize(
    "message",
    [
        request(),
        request(1000),
        request(50, independent_rows=True),
        request(outputs=["nothing"]),
        request(columns=value_pb2.ColumnBatch(num_rows=1)),
        request(model=model_pb2.ModelRef(name="nobody")),
        request(model=model_pb2.ModelRef(name=FRAUD, version="99")),
        request(signature_digest="0" * 32),
        request(request_id="x" * 300),
    ],
    ids=lambda message: str(message.ByteSize()),
)
def test_each_process_scores_alike(each: list[Connection], message: pb.ScoreRequest) -> None:
    """A request has the same scores, or the same error, in every process, byte for byte."""
    answers = {told(one.stub.Score, message) for one in each}

    assert len(answers) == 1
    assert all(answers)


def test_each_process_tells_the_same(each: list[Connection]) -> None:
    """Every process lists the same models, in the same states, with the same signatures and the same health."""
    for one in each:
        assert told(one.stub.Score, request())
    lists = [pb.ListModelsRequest(view=view) for view in (pb.MODEL_VIEW_BASIC, pb.MODEL_VIEW_FULL)]

    def seen(one: Connection) -> tuple[object, ...]:
        health = health_pb2_grpc.HealthStub(one.channel)
        services = ("", "registry", f"model/{FRAUD}", "nobody")
        checks = []
        for service in services:
            try:
                checks.append(health.Check(health_pb2.HealthCheckRequest(service=service), timeout=LONG).status)
            except grpc.RpcError as error:
                checks.append(error.code())
        return (
            *checks,
            *(told(one.stub.ListModels, ask) for ask in lists),
            told(one.stub.GetSignature, pb.GetSignatureRequest(model=model_pb2.ModelRef(name=FRAUD))),
            told(one.stub.ListModels, pb.ListModelsRequest(filter="?")),
            told(one.stub.ListModels, pb.ListModelsRequest(page_token="none")),  # noqa: S106 - no secret
        )

    # A state is told to the other processes a moment later.
    wait_until(lambda: len({seen(one) for one in each}) == 1)
    assert health_pb2.HealthCheckResponse.SERVING in seen(each[0])
    ages = [one.stub.ListModels(pb.ListModelsRequest()).catalog_age.ToSeconds() for one in each]
    assert max(ages) < 60


def test_pages_go_on_in_other_processes(each: list[Connection]) -> None:
    """A page's token is good in every process, and so is that of a watch."""
    whole = [model.name for model in each[0].stub.ListModels(pb.ListModelsRequest()).models]
    names: list[str] = []
    token = ""
    for turn in range(len(whole)):
        page = each[turn % 3].stub.ListModels(pb.ListModelsRequest(page_size=1, page_token=token))
        names += [model.name for model in page.models]
        token = page.next_page_token
    assert names == whole
    assert token == ""

    tokens = set()
    for one in each:
        for event in one.stub.WatchModels(pb.WatchModelsRequest()):
            if event.WhichOneof("event") == "bookmark":
                tokens.add(event.resume_token)
                break
    assert len(tokens) == 1
    for one in each:
        first = next(iter(one.stub.WatchModels(pb.WatchModelsRequest(resume_token=min(tokens)), timeout=LONG)))
        assert first.WhichOneof("event") == "bookmark"


def test_workers_are_shared(front: Serve, each: list[Connection]) -> None:
    """One worker scores for all processes, and no process but the main one has any."""
    for one in each:
        assert told(one.stub.Score, request())

    assert len(workers_of(front.process.pid)) == 1
    assert not any(workers_of(pid) for pid in started(front).values())


def test_stream(each: list[Connection]) -> None:
    """A stream of scorings is served by every process."""
    for one in each:
        messages = [pb.ScoreStreamRequest(sequence=number, request=request()) for number in range(1, 51)]
        answers = list(one.stub.ScoreStream(iter(messages), timeout=LONG))
        assert sorted(answer.sequence for answer in answers) == list(range(1, 51))
        assert {answer.WhichOneof("result") for answer in answers} == {"response"}


def test_size_and_purity(front: Serve, each: list[Connection]) -> None:
    """A front process is no larger than a service, maps no ML library, and logs its number."""
    assert all(told(one.stub.Score, request(200)) for one in each)
    for pid in started(front).values():
        assert resident_mb(pid) < 120
        assert not re.search("/(mlflow|pandas|sklearn|scipy)/", Path(f"/proc/{pid}/maps").read_text())
    chosen = [event for event in map(json.loads, list(front.lines)) if event["event"] == "front chosen"]
    assert {event.get("process") for event in chosen} == {None, 1, 2}


def test_a_killed_process_comes_back(front: Serve, each: list[Connection]) -> None:
    """A process that is killed is started again; callers of others notice nothing, its own connect anew."""
    before = started(front)
    for number, pid in before.items():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda number=number, pid=pid: started(front)[number] != pid)  # type: ignore[misc]
        assert not is_there(pid)

    main = each[-1]
    assert told(main.stub.Score, request())
    with ExitStack() as stack:
        found = spread(front, stack)
        assert set(found) == {front.process.pid, *started(front).values()}
        assert len({told(some[0].stub.Score, request()) for some in found.values()}) == 1


def test_nothing_is_left_of_a_killed_service(sample_registry: Any) -> None:
    """When the main process is killed, all others end."""
    with serve("--registry", sample_registry.url, "--processes", "3", "--preload", FRAUD) as running:
        wait_until(lambda: len(started(running)) == 2 and len(workers_of(running.process.pid)) == 1)
        pids = [*started(running).values(), *workers_of(running.process.pid)]
        running.process.kill()
        running.process.wait()

        wait_until(lambda: not any(map(runs, pids)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(sample_registry: Any, number: signal.Signals) -> None:
    """Told to end, even all at once, the processes answer what was accepted, refuse the rest, and leave nothing."""
    flags = ["--registry", sample_registry.url, "--processes", "3", "--preload", FRAUD]
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(*flags, variables={"TMPDIR": folder}) as running,
    ):
        wait_until(lambda: len(started(running)) == 2)
        pids = list(started(running).values())
        assert len(list(Path(folder).glob("prinz-process-*"))) == 2
        outcomes: list[str] = []
        first = Connection(running.address)
        with first.channel:
            expected = told(first.stub.Score, request())
        asked = threading.Barrier(17)

        def score_on() -> None:
            one = Connection(running.address)
            with one.channel:
                wait_until(lambda: told(one.stub.Score, request()) == expected)
                asked.wait()
                try:
                    while True:
                        one.stub.Score(request(50), timeout=LONG)
                        outcomes.append("scored")
                except grpc.RpcError as error:
                    reason = re.search(rb"SHUTTING_DOWN", str(error.trailing_metadata()).encode())
                    outcomes.append("SHUTTING_DOWN" if reason else error.code().name)

        threads = [threading.Thread(target=score_on) for _ in range(16)]
        for thread in threads:
            thread.start()
        asked.wait()
        pids += workers_of(running.process.pid)
        if number is signal.SIGINT:
            os.killpg(running.process.pid, number)
        else:
            running.process.send_signal(number)
        assert running.process.wait(60) == 0
        for thread in threads:
            thread.join(30)

        assert not any(map(is_there, pids))
        assert not list(Path(folder).glob("prinz-*"))
        # A call is answered, or it was never accepted; none is lost half-way.
        assert set(outcomes) <= {"scored", "SHUTTING_DOWN", "UNAVAILABLE"}
        assert "SHUTTING_DOWN" in outcomes


def test_port_that_is_taken(sample_registry: Any) -> None:
    """A service of several processes does not share the port of another program, nor of another such service."""
    with (
        socket.create_server(("127.0.0.1", 0)) as foreign,
        serve("--registry", sample_registry.url, "--processes", "2") as running,
    ):
        for number in (running.port, foreign.getsockname()[1]):
            command = ["serve", "--registry", sample_registry.url, "--port", str(number), "--processes", "2"]
            result = subprocess.run(
                [sys.executable, "-m", "prinz_enricher.cli", *command],
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert result.returncode == 1
            assert f"can't listen on 127.0.0.1:{number}" in result.stderr
            assert "Traceback" not in result.stderr
