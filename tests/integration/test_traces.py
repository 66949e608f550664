"""One trace from a caller through the queue and the model call to a remote model server, and callers that share one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet
import pytest

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from tests.support.deadline import wait_until
from tests.support.front_core import KINDS
from tests.support.model_server import ModelServer, Reply, Request
from tests.support.own_service import own_service
from tests.support.running_service import LONG, Service, refused
from tests.support.span_receiver import CLIENT, INTERNAL, SERVER, SpanReceiver

WINE = "MLF-ElasticnetWineModel-1"
ROW = dict.fromkeys(WINE_COLUMNS, 0.5)
SCORE = "prinz.enricher.v1.EnricherService/Score"
CALLERS = 8

CALLER = """
import asyncio
import sys
import threading
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prinz_enricher.client import AsyncClient, Client

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("caller")
address, model, names, callers = sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4])
row = dict.fromkeys(names, 0.5)

def score():
    with tracer.start_as_current_span("thread"):
        client.score(model, row)

async def score_in_task(client):
    with tracer.start_as_current_span("task"):
        await client.score(model, row)

async def tasks():
    async with AsyncClient(address) as client:
        await client.signature(model)
        await asyncio.gather(*(score_in_task(client) for _ in range(callers)))

with Client(address) as client:
    client.score(model, row)
    with tracer.start_as_current_span("alone"):
        client.score(model, [row, row])
    threads = [threading.Thread(target=score) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
asyncio.run(tasks())
provider.shutdown()
"""


def rows_in(request: Request) -> int:
    """Count the rows that a request has."""
    if request.headers["content-type"] != "application/json":
        return int(pyarrow.parquet.read_table(io.BytesIO(request.body)).num_rows)
    body = json.loads(request.body)
    return len(body["inputs"][WINE_COLUMNS[0]] if "inputs" in body else body["dataframe_split"]["data"])


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """A remote model server."""
    with ModelServer() as server:
        server.respond = lambda request: Reply(json.dumps({"predictions": [1.0] * rows_in(request)}).encode())
        yield server


@pytest.fixture(scope="module")
def receiver() -> Iterator[SpanReceiver]:
    """A receiver of spans."""
    with SpanReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module", params=KINDS)
def traced(
    request: pytest.FixtureRequest, sample_registry: Any, server: ModelServer, receiver: SpanReceiver
) -> Iterator[Service]:
    """A service on either front that traces its calls, and has its model at that server; one request at a time."""
    endpoint = {"urls": [server.url], "convention": ["mlflow"], "models": ["*"], "max_concurrent": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**receiver.variables, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}.items():
            patch.setenv(name, value)
        include, front = {"include": [WINE]}, {"front": request.param}
        with own_service(sample_registry.url, registry=include, server=front, endpoints={"far": endpoint}) as service:
            # Found and tried by then.
            with Client(service.address, timeout=LONG) as client:
                client.score(WINE, ROW)
            yield service


def parent(number: int, *, sampled: bool = True) -> tuple[str, str, tuple[str, str]]:
    """Return the ids of a trace and a caller's span, and the metadata that says so."""
    trace, span = f"{number:032x}", f"{number:016x}"
    return trace, span, ("traceparent", f"00-{trace}-{span}-{'01' if sampled else '00'}")


def request_of(rows: int = 1) -> pb.ScoreRequest:
    """Return a request."""
    batch = pyarrow.RecordBatch.from_pylist([ROW] * rows)
    model = model_pb2.ModelRef(name=WINE)
    request = pb.ScoreRequest(model=model)
    request.columns.num_rows = rows
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        request.columns.columns.add(name=name).doubles.values.extend(values.to_pylist())
    return request


def test_a_callers_trace_reaches_the_remote_server(
    traced: Service, receiver: SpanReceiver, server: ModelServer
) -> None:
    """A Python caller's span, the client's, the service's, the queue's, the model call and its request are one tree."""
    command = [sys.executable, "-c", CALLER, traced.address, WINE, ",".join(WINE_COLUMNS), str(CALLERS)]
    variables = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint}
    before = len(receiver.spans)
    subprocess.run(command, check=True, timeout=100, env={**_environment(), **variables})
    (alone,) = [span for span in receiver.spans[before:] if span.name == "alone"]
    tree = receiver.of_trace(alone.trace_id, [f"*{SCORE}", SCORE, "queue", "predict", "*POST"])

    sent, served, predict, post = (tree[name] for name in (f"*{SCORE}", SCORE, "predict", "*POST"))
    assert sent.parent == alone.id
    assert (served.parent, served.kind) == (sent.id, SERVER)
    assert tree["queue"].parent == predict.parent == served.id
    assert predict.kind == tree["queue"].kind == INTERNAL
    assert post.parent == predict.id
    received = [one.headers["traceparent"] for one in server.requests if "traceparent" in one.headers]
    assert f"00-{alone.trace_id}-{post.id}-01" in received
    # They follow each other, and each is within the one before.
    assert served.began <= tree["queue"].began <= tree["queue"].ended <= predict.began + 1e6
    assert predict.began <= post.began <= post.ended <= predict.ended
    known = {"prinz.model": WINE, "prinz.version": "1", "prinz.rows": 2, "prinz.batch_rows": 2}
    assert known.items() <= served.attributes.items()
    assert predict.attributes == {"prinz.batch_rows": 2}
    assert sent.attributes["rpc.response.status_code"] == "OK"
    assert sent.attributes["server.address"] == "127.0.0.1"
    assert post.attributes["url.full"].startswith(server.url)
    assert post.attributes["http.response.status_code"] == 200

    # Records of threads and tasks share messages, each of which is in the trace of one and linked to the others.
    for kind in ("thread", "task"):
        callers = {(one.trace_id, one.id) for one in receiver.spans[before:] if one.name == kind}
        assert len(callers) == CALLERS
        messages = [one for one in receiver.spans[before:] if one.name == SCORE and one.kind == CLIENT]
        told = [caller for one in messages for caller in ((one.trace_id, one.parent), *one.links)]
        assert sorted(caller for caller in told if caller in callers) == sorted(callers)
    # The latest traced call is an exemplar.
    series = traced.application._series.version(WINE, "1")
    assert any(len(one[0]) == 32 for one in series.total.exemplars.values())


def _environment() -> dict[str, str]:
    import os

    return {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}


def test_callers_of_a_shared_batch(traced: Service, receiver: SpanReceiver, server: ModelServer) -> None:
    """The one model call of several callers is a part of the first one's trace, linked to all, and they to it."""
    stub, answer, held = traced.stub(), server.respond, threading.Event()
    came = len(server.requests)

    def hold(request: Request) -> Any:
        assert held.wait(LONG)
        return answer(request)

    base = 1_000 + came
    server.respond = hold
    try:
        first = stub.Score.future(request_of(), timeout=LONG)
        wait_until(lambda: len(server.requests) > came)
        calls = []
        for number in range(base, base + 4):
            metadata = parent(number, sampled=number != base + 3)[2]
            calls.append(stub.Score.future(request_of(), timeout=LONG, metadata=[metadata]))
        # The worker has all of them but those that wait for it.
        wait_until(lambda: sum(one.queue_rows + one.inflight_rows for one in _usage(traced)) == 5)
    finally:
        held.set()
        server.respond = answer
    assert all(call.result().model.version == "1" for call in (first, *calls))

    traces = [parent(number)[0] for number in range(base, base + 3)]
    served = [receiver.of_trace(trace, [SCORE, "queue"])[SCORE] for trace in traces]
    predicts = {span.id: span for span in receiver.spans if span.name == "predict" and span.trace_id in traces}
    shared = [one for one in predicts.values() if one.links]
    assert sum(one.attributes["prinz.batch_rows"] for one in predicts.values()) == 4
    assert shared
    for one in shared:
        mates = {(span.trace_id, span.id): span for span in served if (span.trace_id, span.id) in one.links}
        assert mates.keys() == one.links
        assert all((one.trace_id, one.id) in span.links for span in mates.values())
        assert next(iter(mates.values())).attributes["prinz.batch_rows"] == one.attributes["prinz.batch_rows"]
    # Who did not want a span has none.
    assert not [span for span in receiver.spans if span.trace_id == parent(base + 3)[0]]


def _usage(service: Service) -> list[Any]:
    return [one for _, one in service.application._pool.usage()]


def test_a_caller_that_does_not_sample(traced: Service, receiver: SpanReceiver, server: ModelServer) -> None:
    """The remote server hears so too; nobody exports a span, and an error has the id of the trace."""
    number = 5_000 + len(server.requests)
    trace, _, metadata = parent(number, sampled=False)
    traced.stub().Score(request_of(), timeout=LONG, metadata=[metadata])
    assert server.requests[-1].headers["traceparent"] == metadata[1]
    wrong = request_of()
    wrong.columns.columns[0].name = "no such column"
    stub = traced.stub()
    refusal = refused(lambda request, timeout: stub.Score(request, timeout=timeout, metadata=[metadata]), wrong)
    assert (refusal.reason, refusal.metadata["trace_id"]) == ("INVALID_INPUT", trace)
    assert not [span for span in receiver.spans if span.trace_id == trace]


def test_a_remote_server_that_fails(traced: Service, receiver: SpanReceiver, server: ModelServer) -> None:
    """Each attempt has a span with its status; the model call and the call are errors, with the reason."""
    answer = server.respond
    trace, _, metadata = parent(7_000 + len(server.requests))
    stub = traced.stub()
    server.respond = lambda _: Reply(status=503)
    try:
        refusal = refused(
            lambda request, timeout: stub.Score(request, timeout=min(timeout, 2.0), metadata=[metadata]), request_of()
        )
    finally:
        server.respond = answer
    assert refusal.metadata["trace_id"] == trace
    tree = receiver.of_trace(trace, [SCORE, "predict", "*POST"])
    assert tree["*POST"].attributes["http.response.status_code"] == 503
    assert tree["*POST"].attributes["error.type"] == "503"
    assert {tree[name].status for name in tree if name != "queue"} == {2}
