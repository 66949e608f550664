"""Which calls are traced, what their callers may send, and that no trouble with spans is one of the calls."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from structlog.testing import capture_logs

from prinz_enricher.application import open_tracing
from prinz_enricher.telemetry.span_export import SpanExport
from prinz_enricher.telemetry.tracing import CallTrace, Tracing, UnsampledTrace
from tests.support.call_log import Log
from tests.support.front_core import KINDS, WAIT, Running, eventually, running_front
from tests.support.guarded_service import GuardedService
from tests.support.http_api import running_api
from tests.support.span_receiver import ERROR, SERVER, SpanReceiver

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
METHOD = "prinz.enricher.v1.EnricherService/Score"
HOSTILE = {
    "garbage": "garbage",
    "long": "00-" + "a" * 10_000,
    "later, long": f"01-{TRACE}-{SPAN}-01" + "a" * 10_000,
    "version ff": f"ff-{TRACE}-{SPAN}-01",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "uppercase": SAMPLED.upper(),
    "more than version 0 has": f"{SAMPLED}-more",
    "flags": f"00-{TRACE}-{SPAN}-0g",
    "digits of another script": SAMPLED.replace("0", "%D9%A0"),
    "empty": "",
}


@pytest.fixture
def receiver() -> Iterator[SpanReceiver]:
    """A receiver of spans."""
    with SpanReceiver() as receiver:
        yield receiver


@pytest.fixture
def tracing(receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    """What continues the traces of callers, and begins none."""
    with traced(receiver, monkeypatch, OTEL_TRACES_SAMPLER="parentbased_always_off") as tracing:
        yield tracing


class traced:  # noqa: N801 - a context
    """What traces calls by these variables."""

    def __init__(self, receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
        for name, value in {**receiver.variables, **variables}.items():
            monkeypatch.setenv(name, value)
        tracing = open_tracing()
        assert tracing is not None
        self.tracing = tracing

    def __enter__(self) -> Tracing:
        return self.tracing

    def __exit__(self, *_: object) -> None:
        self.tracing.close(5.0)


@pytest.fixture(params=KINDS)
def running(request: pytest.FixtureRequest, tracing: Tracing) -> Iterator[Running]:
    """A front of each kind that traces its calls."""
    with running_front(request.param, tracing=tracing) as running:
        yield running


def call(running: Running, request: bytes, *metadata: tuple[str, str]) -> Any:
    """Call, and return the response, or the metadata of the error."""
    try:
        return running.method("Score")(request, timeout=WAIT, metadata=metadata)
    except grpc.RpcError as error:
        trailers: Any = error.trailing_metadata()
        details = next(value for key, value in trailers if key == "grpc-status-details-bin")
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(info)
        return dict(info.metadata)


def test_a_traced_call(running: Running, receiver: SpanReceiver) -> None:
    """Its span continues the caller's trace and state, with OpenTelemetry's attributes, and times of now."""
    before = time.time_ns()
    assert call(running, b"x", ("traceparent", SAMPLED), ("tracestate", "a=1"), ("tracestate", "b=2")) == b"Score:x"
    (span,) = receiver.wait(lambda spans: len(spans) == 1)

    assert (span.name, span.kind, span.trace_id, span.parent) == (METHOD, SERVER, TRACE, SPAN)
    assert span.state == "a=1,b=2"
    assert span.attributes == {"rpc.system.name": "grpc", "rpc.method": METHOD, "rpc.response.status_code": "OK"}
    assert before - 1e6 < span.began <= span.ended < time.time_ns() + 1e6
    assert span.resource["service.name"] == "prinz-enricher"


def test_errors_of_traced_calls(running: Running, receiver: SpanReceiver) -> None:
    """The error has the id of the trace; only what the service is at fault for is an error of its span."""
    assert call(running, b"refuse", ("traceparent", SAMPLED))["trace_id"] == TRACE
    (span,) = receiver.wait(lambda spans: len(spans) == 1)
    assert (span.attributes["rpc.response.status_code"], span.status) == ("NOT_FOUND", 0)
    assert span.attributes["error.type"] == "NOT_FOUND"
    assert call(running, b"raise", ("traceparent", SAMPLED))["trace_id"] == TRACE
    span = receiver.wait(lambda spans: len(spans) == 2)[1]
    assert (span.attributes["rpc.response.status_code"], span.status) == ("INTERNAL", ERROR)


def test_a_caller_that_does_not_sample(running: Running, receiver: SpanReceiver) -> None:
    """Its call has no span; the error has the id of its trace."""
    assert call(running, b"x", ("traceparent", UNSAMPLED)) == b"Score:x"
    assert call(running, b"refuse", ("traceparent", UNSAMPLED))["trace_id"] == TRACE
    assert "trace_id" not in call(running, b"refuse")
    assert call(running, b"x", ("traceparent", SAMPLED)) == b"Score:x"
    assert len(receiver.wait(lambda spans: len(spans) > 0)) == 1


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_hostile_traceparents(running: Running, receiver: SpanReceiver, value: str) -> None:
    """What is no traceparent is none: the call is answered, and in no trace."""
    assert call(running, b"x", ("traceparent", value)) == b"Score:x"
    assert "trace_id" not in call(running, b"refuse", ("traceparent", value))
    if value:
        # Nor are several.
        assert call(running, b"x", ("traceparent", SAMPLED), ("traceparent", value)) == b"Score:x"
    assert call(running, b"x", ("traceparent", SAMPLED), ("tracestate", value)) == b"Score:x"
    assert len(receiver.wait(lambda spans: len(spans) > 0)) == 1


def test_a_later_version(running: Running, receiver: SpanReceiver) -> None:
    """A traceparent of a later version may have more at its end."""
    assert call(running, b"x", ("traceparent", f"cc-{TRACE}-{SPAN}-03-what-comes")) == b"Score:x"
    assert receiver.wait(lambda spans: len(spans) == 1)[0].parent == SPAN


def test_messages_of_streams(running: Running, receiver: SpanReceiver) -> None:
    """Each message of a ScoreStream has a span in the trace of the stream."""
    path = "/prinz.enricher.v1.EnricherService/ScoreStream"
    stream: Any = running.channel.stream_stream(path)
    # Messages 1 and 2 with the requests "a" and "b".
    messages = [bytes((8, number, 18, 1, 96 + number)) for number in (1, 2)]
    assert len(list(stream(iter(messages), timeout=WAIT, metadata=[("traceparent", SAMPLED)]))) == 2
    spans = receiver.wait(lambda spans: len(spans) == 2)
    assert {(span.trace_id, span.parent) for span in spans} == {(TRACE, SPAN)}


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_are_noted(kind: str, tracing: Tracing) -> None:
    """What notes calls gets the id of the trace, sampled or not."""
    log = Log()
    with running_front(kind, log=log, tracing=tracing) as running:
        call(running, b"x", ("traceparent", UNSAMPLED))
        call(running, b"x")
    assert [record.trace_id for record in log.records] == [TRACE, ""]


def test_one_in_a_hundred(receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio is that of calls without a parent, and agrees with OpenTelemetry's sampler on each trace."""
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    with traced(receiver, monkeypatch, **ratio) as tracing:
        begun = [trace for _ in range(100_000) if (trace := tracing.begin(())) is not None]
        assert 800 < len(begun) < 1200
        sampler = TraceIdRatioBased(0.01)
        decisions = {sampler.should_sample(None, int(one.id, 16), "").decision for one in begun}
        assert decisions == {Decision.RECORD_AND_SAMPLE}
        assert len({one.id for one in begun}) == len(begun)
        assert isinstance(tracing.begin([("traceparent", SAMPLED)]), CallTrace)
        assert isinstance(tracing.begin([("traceparent", UNSAMPLED)]), UnsampledTrace)


@pytest.mark.parametrize(
    ("sampler", "root", "sampled", "unsampled"),
    [
        ("", True, True, False),
        ("parentbased_always_off", False, True, False),
        ("always_on", True, True, True),
        ("always_off", False, False, False),
        ("no such sampler", True, True, False),
    ],
)
def test_samplers(
    receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch, sampler: str, root: bool, sampled: bool, unsampled: bool
) -> None:
    """Each of OpenTelemetry's samplers decides as its specification says, without a parent and with one."""
    variables = {"OTEL_TRACES_SAMPLER": sampler} if sampler else {}
    with traced(receiver, monkeypatch, **variables) as tracing:
        parents = ((), [("traceparent", SAMPLED)], [("traceparent", UNSAMPLED)])
        traces = [tracing.begin(parent) for parent in parents]
    assert [isinstance(one, CallTrace) for one in traces] == [root, sampled, unsampled]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
        {"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
    ],
)
def test_off(variables: dict[str, str]) -> None:
    """Where the variables do not ask for traces there are none."""
    assert open_tracing(variables) is None


def test_off_imports_nothing() -> None:
    """A service and a client without tracing do not import OpenTelemetry."""
    program = """
import sys
import prinz_enricher.application, prinz_enricher.cli.serve, prinz_enricher.client
import prinz_enricher.fronts.grpc.grpcio_front, prinz_enricher.scoring.remote.remote_pool
from prinz_enricher.application import open_tracing
assert open_tracing({}) is None
client = prinz_enricher.client.Client("localhost:1", timeout=0.1, retry=False)
try:
    client.score("model", {"x": 1.0})
except prinz_enricher.client.ServiceError:
    pass
found = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
sys.exit(f"imported: {found}" if found else 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where traces are asked for and the extra is not installed, one warning says so, and calls are not traced."""
    monkeypatch.delitem(sys.modules, "prinz_enricher.telemetry.span_export")
    monkeypatch.setitem(sys.modules, missing, None)
    with capture_logs() as logs:
        assert open_tracing({"OTEL_TRACES_EXPORTER": "otlp"}) is None
    assert [(line["log_level"], "prinz-enricher[otel]" in line["event"]) for line in logs] == [("warning", True)]


def test_variables_that_are_wrong(receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are warned of, and nothing of a secret in them is logged; the service starts all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key hunter2")
    with capture_logs() as logs, traced(receiver, monkeypatch):
        pass
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(logs)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with capture_logs() as more:
        assert open_tracing() is None
    assert [line["log_level"] for line in more if "not traced" in line["event"]] == ["warning"]
    assert "hunter2" not in f"{logs}{more}"


def test_a_receiver_that_is_away(receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """No call fails or waits for it; that spans are lost is logged once, and the end is bounded in time."""
    endpoint = f"http://127.0.0.1:{unused_tcp_port}/v1/traces?key=hunter2"
    queue = {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    with capture_logs() as logs:
        tracing = traced(receiver, monkeypatch, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint, **queue).tracing
        with running_front("grpcio", tracing=tracing) as running:
            for number in range(200):
                request = b"%d" % number
                assert call(running, request, ("traceparent", SAMPLED)) == b"Score:" + request
            eventually(lambda: any("spans are not exported" in line["event"] for line in logs))
        began = time.monotonic()
        tracing.close(0.5)
        assert time.monotonic() - began < 5
        # What it says when it ends must not meet another test.
        eventually(lambda: not [thread for thread in threading.enumerate() if "OtelBatch" in thread.name])
    ours = [line["why"] for line in logs if "spans" in line["event"]]
    assert len(ours) == 1, ours
    assert "hunter2" not in str(ours)


def test_a_receiver_that_refuses(receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is logged, once for many batches."""
    receiver.status = 401
    with capture_logs() as logs, traced(receiver, monkeypatch) as tracing:
        for number in range(3):
            trace = tracing.begin([("traceparent", SAMPLED)])
            assert isinstance(trace, CallTrace)
            trace.end(METHOD, time.monotonic(), "OK", "", {})
            eventually(lambda number=number: receiver.requests > number)  # type: ignore[misc]
    assert ["401" in line["why"] for line in logs if "spans" in line["event"]] == [True]


def test_what_is_left_is_exported(receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits for the spans of the last calls."""
    with traced(receiver, monkeypatch, OTEL_BSP_SCHEDULE_DELAY="60000") as tracing:
        trace = tracing.begin([("traceparent", SAMPLED)])
        assert isinstance(trace, CallTrace)
        trace.end(METHOD, time.monotonic(), "OK", "", {})
    assert [span.trace_id for span in receiver.spans] == [TRACE]


def test_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTLP over gRPC is chosen by its variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    spans = SpanExport("otlp")
    (processor,) = spans._processors
    assert "grpc" in type(processor.span_exporter).__module__
    spans.close(5.0)


def test_requests_of_http(receiver: SpanReceiver, tracing: Tracing) -> None:
    """They continue the trace of their headers; an error names it."""
    with GuardedService("wine") as service, running_api(service, tracing=tracing) as api:
        assert api.score([{"x": 1}], headers={"traceparent": SAMPLED, "tracestate": "a=b"}).status_code == 200
        found = receiver.of_trace(TRACE, [METHOD, "queue", "predict"])
        assert (found[METHOD].parent, found[METHOD].state, found[METHOD].attributes["prinz.model"]) == (
            SPAN,
            "a=b",
            "wine",
        )
        refused = api.score([{"x": "text"}], headers={"traceparent": UNSAMPLED})
        assert (refused.status_code, refused.json()["trace_id"]) == (422, TRACE)
        for value in HOSTILE.values():
            headers = {"traceparent": value} if value and len(value) < 9_000 else {}
            assert api.score([{"x": 1}], headers=headers).status_code == 200
