"""/metrics of a `prinz-enricher serve`: what a scrape says is what callers heard, and what a model server was asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.conftest import RunningRegistry
from tests.support.deadline import wait_until
from tests.support.front_core import KINDS
from tests.support.guarded_service import score_request
from tests.support.hostile_server import HostileServer
from tests.support.model_server import ModelServer, Reply, Request, Script
from tests.support.registry_writer import mlmodel_text
from tests.support.running_service import LONG
from tests.support.serve_process import Serve, serve
from tests.support.synthetic_registry import SyntheticRegistry
from tests.support.worker_processes import workers_of

pytestmark = pytest.mark.slow

read_openmetrics: Any = openmetrics.text_string_to_metric_families

WINE = next(iter(EXAMPLES))
THIRTEEN = 13.0
SERVICE = "prinz.enricher.v1.EnricherService"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FAST = {"PRINZ_REGISTRY__REFRESH_INTERVAL": "0.1", "PRINZ_REGISTRY__SNAPSHOT_FOLDER": ""}


@dataclass
class Page:
    """The samples of a scrape: by name, their labels and values."""

    samples: dict[str, list[tuple[dict[str, str], float]]]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels; 0 where there is none."""
        return sum(value for found, value in self.samples.get(name, []) if labels.items() <= found.items())

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the values that are not 0, by a label."""
        found = Counter[str]()
        for one, value in self.samples.get(name, []):
            if labels.items() <= one.items() and value:
                found[one[label]] += value  # type: ignore[assignment]
        return dict(found)


@dataclass
class Caller:
    """Calls a service, and counts what it hears.

    Attributes:
        heard: By model and outcome.
        codes: Of unary calls.
        rows: Answered, by model.
    """

    front: Serve
    channel: grpc.Channel
    admin: httpx.Client
    heard: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self, accept: str = "") -> Page:
        """Scrape."""
        answer = self.admin.get("/metrics", headers={"Accept": accept})
        assert answer.status_code == 200
        families = read_openmetrics(answer.text) if accept else read_text(answer.text)
        samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in families:
            for one in family.samples:
                samples.setdefault(one.name, []).append((one.labels, one.value))
        return Page(samples)

    def begin(self, request: pb.ScoreRequest, timeout: float = LONG) -> Any:
        """Begin a call."""
        method: Any = self.channel.unary_unary(
            f"/{SERVICE}/Score", pb.ScoreRequest.SerializeToString, pb.ScoreResponse.FromString
        )
        return method.future(request, timeout=timeout)

    def end(self, request: pb.ScoreRequest, call: Any) -> str:
        """Wait for a call's outcome, and count it."""
        if call.cancelled():
            return self._count(request.model.name, "CANCELLED", 0, "Canceled")
        if call.exception() is None:
            return self._count(request.model.name, "ok", request.columns.num_rows, "OK")
        code = "".join(part.capitalize() for part in call.code().name.split("_"))
        details = [entry.value for entry in call.trailing_metadata() if entry.key == "grpc-status-details-bin"]
        reason = reason_in(status_pb2.Status.FromString(details[0])) if details else call.code().name
        return self._count(request.model.name, reason, 0, code)

    def score(self, request: pb.ScoreRequest) -> str:
        """Call, and count the outcome."""
        return self.end(request, self.begin(request))

    def stream(self, *requests: pb.ScoreRequest) -> None:
        """Call by the messages of a stream."""
        method: Any = self.channel.stream_stream(
            f"/{SERVICE}/ScoreStream", pb.ScoreStreamRequest.SerializeToString, pb.ScoreStreamResponse.FromString
        )
        messages = [pb.ScoreStreamRequest(sequence=n + 1, request=request) for n, request in enumerate(requests)]
        for answer in method(iter(messages), timeout=LONG):
            request = requests[answer.sequence - 1]
            if answer.HasField("status"):
                self._count(request.model.name, reason_in(answer.status), 0)
            else:
                self._count(request.model.name, "ok", request.columns.num_rows)

    def _count(self, model: str, outcome: str, rows: int, code: str = "") -> str:
        with self.lock:
            self.heard[model, outcome] += 1
            self.rows[model] += rows
            if code:
                self.codes[code] += 1
        return outcome

    def expect(self, *models: str) -> None:
        """Wait until the page says of these models what was heard; an answer is counted a moment after it is sent."""
        expected = {model: {out: n for (name, out), n in self.heard.items() if name == model} for model in models}
        expected["Score"] = dict(self.codes)

        def counted(page: Page) -> dict[str, dict[str, float]]:
            found = {model: page.by("outcome", "prinz_enricher_calls_total", model=model) for model in models}
            return found | {"Score": page.by("grpc_code", "grpc_server_handled_total", grpc_method="Score")}

        def as_heard() -> bool:
            return counted(self.page()) == expected

        with contextlib.suppress(AssertionError):
            wait_until(as_heard)
        for page in (self.page(), self.page(OPENMETRICS)):
            assert counted(page) == expected
            for model in models:
                assert page.sum("prinz_enricher_rows_total", model=model) == self.rows[model]
                for phase in ("queue", "compute", "total"):
                    labels = {"model": model, "version": "1", "phase": phase}
                    count = self.heard[model, "ok"]
                    assert page.sum("prinz_enricher_duration_seconds_count", **labels) == count
                    assert page.sum("prinz_enricher_duration_seconds_bucket", le="+Inf", **labels) == count
                total = page.sum("prinz_enricher_duration_seconds_sum", model=model, phase="total")
                assert total > page.sum("prinz_enricher_duration_seconds_sum", model=model, phase="compute") > 0
                assert page.sum("prinz_enricher_queue_rows", model=model) == 0
                assert page.sum("prinz_enricher_inflight_rows", model=model) == 0
            for name in ("grpc_server_started_total", "grpc_server_handling_seconds_count"):
                assert page.sum(name, grpc_method="Score") == self.codes.total()


def reason_in(status: status_pb2.Status) -> str:
    """Return the reason of an error."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


@contextmanager
def served(registry: str, **variables: str) -> Iterator[Caller]:
    """Run a service, with metrics."""
    with serve("--registry", registry, "--http-port", "0", variables=FAST | variables) as front:
        events = map(json.loads, list(front.lines))
        port = next(event["port"] for event in events if event["event"] == "admin http server started")
        with (
            grpc.insecure_channel(front.address) as channel,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LONG) as admin,
        ):
            yield Caller(front, channel, admin)


class Upstream:
    """What a model server does: good models answer half of `x`; one raises at 13; one waits; all may be away.

    `replies` counts what it said, by status.
    """

    def __init__(self) -> None:
        self.replies: Counter[str] = Counter()
        self.waiting, self.go_on = threading.Semaphore(0), threading.Event()
        self.away = False
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply | Script:
        """Answer a request."""
        reply, counts_as = self._reply(request)
        with self._lock:
            self.replies[counts_as] += 1
        return reply

    def _reply(self, request: Request) -> tuple[Reply, str]:
        if self.away:
            return Reply(b"{}", 503), "503"
        if "json" not in request.headers["content-type"]:
            return Reply(b"{}", 415), "415"
        body = json.loads(request.body)
        xs = body["inputs"]["x"] if "inputs" in body else [row[0] for row in body["dataframe_split"]["data"]]
        if "picky" in request.target and THIRTEEN in xs:
            trace = 'Traceback (most recent call last):\n  File "m.py", line 1\nValueError: no\n'
            error = {"error_code": "BAD_REQUEST", "message": RAISED, "stack_trace": trace}
            return Reply(json.dumps(error).encode(), 400), "400"
        counts_as = "200"
        if "slow" in request.target and 99.0 in xs:
            # Its caller's time is over before.
            counts_as = "none"
        if "slow" in request.target and {98.0, 99.0} & {*xs}:
            self.waiting.release()
            assert self.go_on.wait(LONG)
        return Reply(json.dumps({"predictions": [(x or 0.0) / 2 for x in xs]}).encode()), counts_as


RAISED = "Encountered an unexpected error while evaluating the model. Verify that the input is compatible"


@pytest.mark.parametrize("front", KINDS)
def test_models_elsewhere(front: str) -> None:
    """Of a model server's models: errors, halving, retries, cancels and deadlines; requests, breakers; what is gone."""
    registry = SyntheticRegistry()
    for name in ("good", "picky", "slow"):
        registry.add(name, mlmodel=mlmodel_text([{"type": "double", "name": "x"}]))
    upstream = Upstream()
    endpoint = {
        "URLS": "", "CONVENTION": "prinz", "MODELS": "*", "MAX_RETRIES": "1", "RETRY_SHARE": "1", "TIMEOUT": "60",
        "BREAKER_FAILURES": "3", "BREAKER_PAUSE": "0.1",
    }  # fmt: skip
    with HostileServer() as catalog, ModelServer() as server:
        catalog.respond, server.respond = registry, upstream
        endpoint["URLS"] = server.url
        variables = {f"PRINZ_ENDPOINTS__FARM__{key}": value for key, value in endpoint.items()}
        with served(catalog.url, PRINZ_SERVER__FRONT=front, **variables) as caller:

            def expect_requests() -> None:
                name = "prinz_enricher_upstream_requests_total"
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: caller.page().by("status", name, endpoint="farm") == upstream.replies)
                assert caller.page().by("status", name, endpoint="farm") == upstream.replies

            assert caller.page().sum("prinz_enricher_upstream_requests_total", status="200") == 0
            for model in ("good", "picky", "slow"):
                assert caller.score(score_request(model, 1.0)) == "ok"
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda number: score_some(caller, number), range(8)))
            xs = (1.0, THIRTEEN, 2.0)
            caller.stream(*(score_request(model, x) for x in xs for model in ("good", "picky", "nobody")))
            assert caller.heard["picky", "MODEL_ERROR"] > 8
            caller.expect("good", "picky", "slow")
            batches = caller.page().sum("prinz_enricher_batch_rows_sum", model="good")
            assert batches == caller.rows["good"]

            leave_early(caller, upstream)
            caller.expect("good", "picky", "slow")
            assert caller.page().sum("prinz_enricher_worker_restarts_total") == 0
            expect_requests()

            assert caller.page().sum("prinz_enricher_upstream_open_breakers", endpoint="farm") == 0
            upstream.away = True
            while not caller.page().sum("prinz_enricher_upstream_open_breakers", endpoint="farm"):
                assert caller.score(score_request("good", 1.0)) == "UPSTREAM_UNAVAILABLE"
            upstream.away = False
            wait_until(lambda: caller.score(score_request("good", 1.0)) == "ok")
            assert caller.page().sum("prinz_enricher_upstream_open_breakers", endpoint="farm") == 0
            caller.expect("good", "picky", "slow")
            expect_requests()
            assert upstream.replies["503"] >= 3

            registry.remove("picky")
            wait_until(lambda: "picky" not in caller.admin.get("/metrics").text)
            caller.expect("good", "slow")
            assert caller.score(score_request("picky", 1.0)) == "MODEL_NOT_FOUND"
            registry.add("picky", mlmodel=mlmodel_text([{"type": "double", "name": "x"}]))
            wait_until(lambda: caller.score(score_request("picky", 1.0)) == "ok")
            # A call counts a moment after its caller has heard.
            wait_until(lambda: caller.page().by("outcome", "prinz_enricher_calls_total", model="picky") == {"ok": 1})


def score_some(caller: Caller, number: int) -> None:
    """Make calls, several at once, of which some are invalid, and some fail in a batch that they share with others."""
    for place in range(20):
        one = THIRTEEN if (number + place) % 7 == 0 else float(place)
        invalid, several = score_request("good", 1.0), score_request("picky", 1.0, one, 3.0)
        invalid.columns.columns[0].name = "other"
        several.independent_rows = True
        requests = [score_request("picky", one), invalid, several, score_request("nobody", 1.0)]
        requests.append(score_request("good", *map(float, range(1 + place % 3))))
        calls = [caller.begin(request) for request in requests]
        for request, call in zip(requests, calls, strict=True):
            caller.end(request, call)


def leave_early(caller: Caller, upstream: Upstream) -> None:
    """Make two calls that the model server answers late: one is cancelled, and the other one's deadline passes."""
    left, late = score_request("slow", 98.0), score_request("slow", 99.0)
    calls = [caller.begin(left)]
    assert upstream.waiting.acquire(timeout=LONG)
    assert caller.page().sum("prinz_enricher_inflight_rows", model="slow") == 1
    calls.append(caller.begin(late, timeout=2.0))
    assert upstream.waiting.acquire(timeout=LONG)
    calls[0].cancel()
    assert caller.end(left, calls[0]) == "CANCELLED"
    assert caller.end(late, calls[1]) == "DEADLINE_EXCEEDED"
    # The service gives up somewhat later: gRPC rounds deadlines.
    wait_until(lambda: caller.page().sum("prinz_enricher_upstream_requests_total", status="none") == 1)
    upstream.go_on.set()


@pytest.mark.parametrize("front", KINDS)
def test_models_here(front: str, sample_registry: RunningRegistry) -> None:
    """Of worker processes: calls and rows, the steps of a load, memory, and the restart of one that was killed."""
    request = pb.ScoreRequest()
    request.model.name = WINE
    request.columns.num_rows = 2
    for name, value in EXAMPLES[WINE][0].items():
        request.columns.columns.add(name=name).doubles.values.extend([float(str(value))] * 2)
    with served(sample_registry.url, PRINZ_SERVER__FRONT=front, PRINZ_SCORING__SPARE_WORKERS="0") as caller:
        page = caller.page()
        assert page.sum("prinz_enricher_load_seconds_count") == 0
        assert {one["grpc_method"] for one, _ in page.samples["grpc_server_handled_total"]} > {"Score", "Check"}
        assert caller.score(request) == "ok"
        calls = [caller.begin(request) for _ in range(50)]
        assert {caller.end(request, call) for call in calls} == {"ok"}
        caller.stream(request, request)
        caller.expect(WINE)
        page = caller.page()
        assert page.sum("prinz_enricher_batch_rows_sum", model=WINE) == 106
        assert page.by("state", "prinz_enricher_workers", model=WINE) == {"available": 1}
        assert page.sum("prinz_enricher_worker_memory_bytes", model=WINE) > 1 << 20
        loads = page.by("step", "prinz_enricher_load_seconds_count")
        assert loads == dict.fromkeys(("fetch", "environment", "start", "load", "warm_up"), 1)
        [worker] = workers_of(caller.front.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert caller.score(request) == "ok"
        assert caller.page().sum("prinz_enricher_worker_restarts_total", model=WINE) == 1
        caller.expect(WINE)
        asked = caller.page().by("status", "http_server_requests_total", method="GET", route="/metrics")
        assert caller.page().by("status", "http_server_requests_total", method="GET", route="/metrics") == {
            "200": asked["200"] + 1
        }
