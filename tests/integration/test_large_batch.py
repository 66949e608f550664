"""One batch of a million rows: what it costs the front in memory."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from prinz_enricher.batch import encode_columns, encode_dense, encode_stream
from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from tests.support.front_core import NEEDS_RUST
from tests.support.running_service import LONG, Service
from tests.support.serve_process import serve

pytestmark = pytest.mark.slow

ROWS = 1_000_000
PAYLOAD = ROWS * len(WINE_COLUMNS) * 8
MODEL = "MLF-ElasticnetWineModel-1"
OPTIONS = [("grpc.max_send_message_length", 2**31 - 1), ("grpc.max_receive_message_length", 2**31 - 1)]
METHOD = "/prinz.enricher.v1.EnricherService/Score"

RECEIVE_ALONE = """
import asyncio, sys
import grpc.aio

async def answer(request, context):
    return b"x"

async def main():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**31 - 1)])
    handlers = {"Score": grpc.unary_unary_rpc_method_handler(answer)}
    service = grpc.method_handlers_generic_handler("prinz.enricher.v1.EnricherService", handlers)
    server.add_generic_rpc_handlers([service])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


@contextmanager
def receiver() -> Iterator[tuple[int, str]]:
    """Run a grpcio server that only receives; gives its process and its address."""
    with subprocess.Popen([sys.executable, "-c", RECEIVE_ALONE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def memory(pid: int, what: str) -> int:
    """Return VmRSS or VmHWM of a process in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def payloads_of_peak(pid: int, call: Callable[[], object]) -> float:
    """Return how far the memory of a process rises during a call, in payloads."""
    before = memory(pid, "VmRSS")
    # Sets the peak back to what is there now, proc_pid_clear_refs(5).
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    call()
    return (memory(pid, "VmHWM") - before) / PAYLOAD


def request(batch: pa.RecordBatch, form: str = "arrow_stream", digest: str = "") -> bytes:
    """Return a serialised request."""
    made = pb.ScoreRequest(model=model_pb2.ModelRef(name=MODEL), signature_digest=digest)
    match form:
        case "columns":
            made.columns.CopyFrom(encode_columns(batch))
        case "dense":
            dense = encode_dense(batch)
            assert dense is not None
            made.dense.CopyFrom(dense)
        case _:
            made.arrow_stream = encode_stream(batch).to_pybytes()
    return made.SerializeToString()


def scores(answer: bytes) -> list[float]:
    """Return the scores of an answer."""
    response = pb.ScoreResponse.FromString(answer)
    match response.WhichOneof("output"):
        case "columns":
            return list(response.columns.columns[0].doubles.values)
        case "dense":
            read: list[float] = np.frombuffer(response.dense.values, "<f8").tolist()
        case _:
            read = pa.ipc.open_stream(response.arrow_stream).read_all().column("output_0").to_pylist()
    return read


def sent_batch() -> pa.RecordBatch:
    """Return a million random rows."""
    random = np.random.default_rng(3)
    columns = [pa.array(random.random(ROWS)) for _ in WINE_COLUMNS]
    return pa.RecordBatch.from_arrays(columns, names=list(WINE_COLUMNS))


def peaks_of(service: Service, front_kind: str) -> dict[str, float]:
    """Score a million rows in each form, hold the scores to those of their parts; give the peaks in payloads."""
    batch = sent_batch()
    with Client(service.address) as client:
        digest = client.signature(MODEL)[1].digest
    first, last = request(batch.slice(0, 300)), request(batch.slice(ROWS - 300))
    answers: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    with (
        serve("--registry", service.registry, "--front", front_kind) as front,
        grpc.insecure_channel(front.address, options=OPTIONS) as channel,
    ):
        score: Any = channel.unary_unary(METHOD)
        ends = [scores(score(one, timeout=LONG)) for one in (first, last)]
        for form in ("arrow_stream", "columns", "dense"):
            sent = request(batch, form, digest)

            def call(form: str = form, sent: bytes = sent) -> None:
                answers[form] = scores(score(sent, timeout=LONG))

            peaks[form] = payloads_of_peak(front.process.pid, call)
    assert len(answers["arrow_stream"]) == ROWS
    assert [answers["arrow_stream"][:300], answers["arrow_stream"][-300:]] == ends
    assert answers["columns"] == answers["arrow_stream"]
    assert answers["dense"] == answers["arrow_stream"]
    return peaks


@NEEDS_RUST
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is told by /proc")
def test_a_large_batch_takes_the_rust_front_little_memory(service: Service) -> None:
    """A million rows take the Rust front at most 2.1 times their size, and score alike in any form."""
    peaks = peaks_of(service, "rust")

    assert peaks["arrow_stream"] < 2.1
    assert peaks["columns"] < 2.1
    # Rows are turned into columns once.
    assert peaks["dense"] < 3.2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is told by /proc")
def test_a_large_batch_costs_the_grpcio_front_what_receiving_it_costs(service: Service) -> None:
    """A million rows take the grpcio front no more memory than grpcio takes to receive them, and score alike."""
    first = sent_batch().slice(0, 300)
    with receiver() as (pid, address), grpc.insecure_channel(address, options=OPTIONS) as channel:
        score: Any = channel.unary_unary(METHOD)
        score(request(first), timeout=LONG, wait_for_ready=True)
        sent = request(sent_batch())
        floor = payloads_of_peak(pid, lambda: score(sent, timeout=LONG))

    peaks = peaks_of(service, "grpcio")

    assert peaks["arrow_stream"] < floor + 0.2
    assert peaks["columns"] < floor + 0.2
    assert peaks["dense"] < floor + 1.2


def test_large_requests_are_refused_where_no_thread_can_be_started(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on processes may be reached; the caller is told, small calls and later large ones are answered."""
    wide = {name: np.zeros(5_000) for name in WINE_COLUMNS}

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(service.application._service._readers, "submit", refuse)
        with pytest.raises(ServiceError) as refused:
            client.score(MODEL, wide)
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert len(client.score(MODEL, {name: [0.5] for name in WINE_COLUMNS}).to_rows()) == 1
    assert client.score(MODEL, wide).held.num_rows == 5_000
