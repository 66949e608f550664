"""Whole tests against a server that answers as it is told to."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from prinz_enricher.client import Tls
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.loadtest.callers import LoadTestError, ServerUnderTest
from prinz_enricher.loadtest.generator import Progress, Step
from prinz_enricher.loadtest.report import Arguments, Report
from prinz_enricher.loadtest.request_pool import find_model, generated_pool, pool_size
from prinz_enricher.loadtest.run import Rate, Schedule, run
from tests.loadtest.scoring_server import ScoringServer, doubled, refusal
from tests.support.deadline import wait_until

BEFORE = pool_size(1) + 2
"""Calls that are made before the generator's first one: each of the pool, and two of them once more."""


class Watch:
    """Sees what happens, and does something when a step begins to be measured."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.measured = threading.Event()

    def on_step(self, number: int, step: Step) -> None:
        """Note the step."""
        self.steps.append(step)

    def on_progress(self, progress: Progress) -> None:
        """Note that it is measured, and has answers."""
        if progress.seconds > 0 and progress.answered > 0:
            self.measured.set()


@pytest.fixture
def server() -> Iterator[ScoringServer]:
    """The server."""
    with ScoringServer() as server:
        yield server


def load(
    server: ScoringServer,
    schedule: Schedule,
    *,
    stopped: threading.Event | None = None,
    watch: Watch | None = None,
    addresses: tuple[str, ...] = (),
    token: str | None = None,
    **changed: Any,
) -> Report:
    """Run a short test."""
    asked: dict[str, Any] = {
        "addresses": list(addresses or (server.address,)), "tls": False, "mode": "unary", "form": "columns",
        "rows": 1, "input": None, "seed": 0, "processes": 1, "connections": 1, "duration": 0.25, "warm_up": 0.05,
        "timeout": 10.0, "max_in_flight": 1000, "check": "scores",
    }  # fmt: skip
    arguments = Arguments(**{**asked, **changed})
    target = ServerUnderTest(
        tuple(arguments.addresses), connections=arguments.connections, token=token, timeout=arguments.timeout
    )
    model = find_model(target, model_pb2.ModelRef(name="double"))
    rows = generated_pool(model.signature, arguments.rows, 0)
    stopped, watch = stopped or threading.Event(), watch or Watch()
    return run(target, model, rows, schedule, arguments, stopped, watch.on_step, watch.on_progress)


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_closed_and_open_loops(server: ScoringServer, mode: str) -> None:
    """Every answer is right, counted and timed, over several processes, connections and addresses."""
    with ScoringServer() as other:
        report = load(
            server,
            Schedule((4,), (Rate(200.0), Rate(0.1, relative=True))),
            mode=mode,
            processes=2,
            connections=2,
            addresses=(server.address, other.address),
        )

    assert [(step.loop, step.errors, step.unsent, step.cut) for step in report.steps] == [
        ("closed", {}, 0, 0),
        ("open", {}, 0, 0),
        ("open", {}, 0, 0),
    ]
    for step in report.steps:
        assert step.latency is not None
        assert 0 < step.latency.min <= step.latency.p50 <= step.latency.p99_9 <= step.latency.max
        assert step.answers == step.calls == sum(bucket.calls for bucket in step.histogram) > 0
        assert len(step.processor_shares) == 2
        assert step.seconds == pytest.approx(0.25)
    assert report.steps[2].load == pytest.approx(0.1 * report.steps[0].calls_per_second)
    assert report.steps[1].lag is not None
    assert report.steps[0].lag is None
    assert Report.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_wrong_answers_are_errors(server: ScoringServer, mode: str) -> None:
    """An answer with other scores than the same rows had before is an error, however well it looks."""

    def answer(number: int, request: pb.ScoreRequest) -> pb.ScoreResponse:
        response = doubled(number, request)
        if number > BEFORE and number % 3 == 0:
            response.columns.columns[0].doubles.values[0] += 0.5
        return response

    server.answer = answer
    (step,) = load(server, Schedule((2,), ()), mode=mode).steps

    assert set(step.errors) == {"WRONG_ANSWER"}
    assert 0 < step.answers < step.calls == step.answers + step.errors["WRONG_ANSWER"]


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_errors_are_counted_by_reason(server: ScoringServer, mode: str) -> None:
    """A refusal is counted by the reason that the service gives, and the others go on."""
    server.answer = lambda number, request: (
        refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        if number > BEFORE and number % 2
        else doubled(number, request)
    )
    (step,) = load(server, Schedule((2,), ()), mode=mode).steps

    assert set(step.errors) == {"OVERLOADED"}
    assert step.answers > 0


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_no_answer_is_an_error(server: ScoringServer, mode: str) -> None:
    """A call that is never answered is counted once its time is over, also one of the warm-up."""
    server.answer = lambda number, request: doubled(number, request) if number <= BEFORE else None
    (step,) = load(server, Schedule((3,), ()), mode=mode, timeout=0.3).steps

    assert set(step.errors) == {"DEADLINE_EXCEEDED"}
    assert (step.answers, step.latency, step.calls_per_second) == (0, None, 0.0)


def test_an_open_loop_counts_what_it_could_not_send(server: ScoringServer) -> None:
    """Calls beyond the limit of those on their way are counted as unsent, and a warning says so."""
    held = threading.Semaphore(0)

    def answer(number: int, request: pb.ScoreRequest) -> pb.ScoreResponse:
        if number > BEFORE:
            held.acquire(timeout=0.2)
        return doubled(number, request)

    server.answer = answer
    (step,) = load(server, Schedule((), (Rate(300.0),)), max_in_flight=3).steps

    assert step.unsent > 0
    assert step.calls + step.unsent == pytest.approx(300 * step.seconds, abs=5 * (300 * step.seconds) ** 0.5)
    assert any("never sent" in warning for warning in step.warnings)


def test_a_test_can_be_ended(server: ScoringServer) -> None:
    """One that is ended reports what was measured until then, and begins no further step."""
    watch, stopped = Watch(), threading.Event()
    reports: list[Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(
            load(server, Schedule((2, 4), ()), duration=60.0, stopped=stopped, watch=watch, processes=2)
        )
    )
    thread.start()
    try:
        assert watch.measured.wait(30)
    finally:
        stopped.set()
        thread.join(30)

    (report,) = reports
    assert report.interrupted
    assert len(report.steps) == len(watch.steps) == 1
    assert 0 < report.steps[0].seconds < 30
    assert report.steps[0].answers > 0


def test_calls_without_an_answer_are_cut(server: ScoringServer) -> None:
    """What has no answer soon after a test was ended is counted as cut."""
    stopped, hung = threading.Event(), threading.Event()

    def answer(number: int, request: pb.ScoreRequest) -> pb.ScoreResponse | None:
        if number <= BEFORE:
            return doubled(number, request)
        hung.set()
        return None

    server.answer = answer
    reports: list[Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(load(server, Schedule((2,), ()), duration=60.0, warm_up=0.0, stopped=stopped))
    )
    thread.start()
    try:
        wait_until(hung.is_set)
    finally:
        stopped.set()
        thread.join(30)

    (report,) = reports
    (step,) = report.steps
    assert (step.cut, step.errors) == (2, {})
    assert any("given up" in warning for warning in step.warnings)


def test_a_model_that_answers_by_chance(server: ScoringServer) -> None:
    """A model whose scores change is refused, unless the number of rows alone is to be checked."""

    def answer(number: int, request: pb.ScoreRequest) -> pb.ScoreResponse:
        response = doubled(number, request)
        response.columns.columns[0].doubles.values[0] += number
        return response

    server.answer = answer
    with pytest.raises(LoadTestError, match="--check rows"):
        load(server, Schedule((1,), ()))
    (step,) = load(server, Schedule((1,), ()), check="rows").steps

    assert step.errors == {}
    assert step.answers > 0


def test_a_model_that_fails_is_told_before_the_test(server: ScoringServer) -> None:
    """An error to the first call ends the test, with its reason and what may help."""
    server.answer = lambda _, __: refusal(grpc.StatusCode.INTERNAL, "MODEL_ERROR")

    with pytest.raises(LoadTestError, match=r"MODEL_ERROR: so it is\n.*--input"):
        load(server, Schedule((1,), ()))


def test_a_mode_that_the_server_lacks_is_told(server: ScoringServer) -> None:
    """An error to the generator's own first call ends the test too."""
    server.answer = lambda number, request: (
        doubled(number, request) if number < BEFORE else refusal(grpc.StatusCode.UNIMPLEMENTED, "")
    )

    with pytest.raises(LoadTestError, match="mode stream failed: UNIMPLEMENTED: so it is"):
        load(server, Schedule((1,), ()), mode="stream")


def test_a_token_is_not_sent_in_the_clear() -> None:
    """A token goes to another machine over TLS only."""
    far = ServerUnderTest(("example.org:1",), token="secret")  # noqa: S106 - of a test

    with pytest.raises(LoadTestError, match=r"sent to example\.org:1 unencrypted"):
        far.check()
    assert "secret" not in repr(far)
    replace(far, addresses=("localhost:1", "127.0.0.1:2")).check()
    replace(far, tls=Tls()).check()
