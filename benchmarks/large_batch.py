"""What one batch of 1,000,000 rows of 11 doubles costs the front in memory and time: `make bench-large`.

A private MLflow server with the sample models is started first. Then `prinz-enricher serve` scores the batch, sent as
one Arrow stream in one unary call from a process of its own, a few times; the front's peak is what the kernel counts
(VmHWM, reset before each call). Beside it stands the floor: a bare grpcio server that
receives the same bytes and answers with as many as the scores have.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa
from start import free_port, serving_after

from prinz_enricher.batch import encode_stream
from prinz_enricher.cli.demo import EXAMPLES, WINE_COLUMNS
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.fronts.grpc import PACKAGE
from prinz_enricher.registry import PrivateServer

RUNS = 3
ROWS = 1_000_000
MODEL = "MLF-ElasticnetWineModel-1"
PAYLOAD = ROWS * len(WINE_COLUMNS) * 8
ANSWER = ROWS * 8
METHOD = "/prinz.enricher.v1.EnricherService/Score"
MIB = 1 << 20


def memory(pid: int, what: str) -> int:
    """Return VmRSS or VmHWM of a process in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/{pid}/status has no {what}")
    return int(found[1]) * 1024


def score_request(rows: int) -> bytes:
    """Return a serialised request with random rows."""
    random = np.random.default_rng(7)
    columns = [pa.array(random.random(rows)) for _ in WINE_COLUMNS]
    batch = pa.RecordBatch.from_arrays(columns, names=list(WINE_COLUMNS))
    return pb.ScoreRequest(
        model=model_pb2.ModelRef(name=MODEL), arrow_stream=encode_stream(batch).to_pybytes()
    ).SerializeToString()


def send(address: str) -> None:
    """Be the caller: score a few rows, then the whole batch each time a line comes in, and print how long it took."""
    with grpc.insecure_channel(
        address, options=[("grpc.max_send_message_length", 2**31 - 1), ("grpc.max_receive_message_length", 2**31 - 1)]
    ) as channel:
        score = channel.unary_unary(METHOD)
        score(score_request(len(EXAMPLES[MODEL])), timeout=120, wait_for_ready=True)
        request = score_request(ROWS)
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            answer = score(request, timeout=120)
            print(time.perf_counter() - began, len(answer), flush=True)


def grpcio_floor() -> None:
    """Be a grpcio server that only receives and answers."""

    async def answer(request: bytes, _: Any) -> bytes:
        return bytes(ANSWER if len(request) > PAYLOAD else 1)

    async def serve() -> None:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**31 - 1)])
        service, method = METHOD.removeprefix("/").split("/")
        handler = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


def floor_port() -> tuple[subprocess.Popen[str], int]:
    """Start the floor; return it and its port."""
    process = subprocess.Popen([sys.executable, __file__, "--grpcio-floor"], stdout=subprocess.PIPE, text=True)
    if process.stdout is None:
        raise RuntimeError("no pipe")
    return process, int(process.stdout.readline())


def measure(name: str, pid: int, port: int) -> None:
    """Have a server score the batch, and print what it took."""
    command = [sys.executable, __file__, "--send", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        if sender.stdin is None or sender.stdout is None:
            raise RuntimeError("no pipe")
        if sender.stdout.readline() != "ready\n":
            raise RuntimeError("the batch could not be sent")
        first = memory(pid, "VmRSS")
        for run in range(RUNS):
            before = memory(pid, "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            print(run, file=sender.stdin, flush=True)
            seconds = float(sender.stdout.readline().split()[0])
            peak = memory(pid, "VmHWM")
            print(
                f"{name:<18}{before / MIB:>10.0f}{peak / MIB:>10.0f}{memory(pid, 'VmRSS') / MIB:>10.0f}"
                f"{(peak - first) / PAYLOAD:>14.2f}{(peak - before) / PAYLOAD:>14.2f}"
                f"{seconds:>10.2f}{ROWS / seconds / 1e6:>10.2f}",
                flush=True,
            )
        sender.stdin.close()


def stopped(process: subprocess.Popen[Any], end: Callable[[], None]) -> None:
    """End a process and wait for it."""
    end()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)


def main() -> None:
    """Run the benchmark."""
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"grpcio {grpc.__version__}, pyarrow {pa.__version__}, load {os.getloadavg()[0]:.2f}\n"
        f"{ROWS:,} rows of {len(WINE_COLUMNS)} doubles: a payload of {PAYLOAD / 1e6:.0f} MB; memory in MiB, "
        "and how many payloads the peak is over the memory at first, and over that before the call"
    )
    print(
        f"{'server':<18}{'before':>10}{'peak':>10}{'after':>10}{'over first':>14}{'over before':>14}"
        f"{'seconds':>10}{'M rows/s':>10}"
    )
    process, port = floor_port()
    measure("grpcio alone", process.pid, port)
    stopped(process, process.kill)
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        subprocess.run(
            [sys.executable, "-m", "samples.train", "--registry", registry.url],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for kind in ["grpcio", *(["rust"] if importlib.util.find_spec(PACKAGE) else [])]:
            port = free_port()
            command = [str(Path(sys.executable).parent / "prinz-enricher"), "serve", "--front", kind]
            front, _ = serving_after([*command, "--registry", registry.url, "--port", str(port)], port)
            measure(f"service, {kind}", front.pid, port)
            stopped(front, lambda front=front: front.send_signal(signal.SIGTERM))  # type: ignore[misc]  # bound for the loop


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the memory of the front for one large batch.")
    parser.add_argument("--send", help=argparse.SUPPRESS)
    parser.add_argument("--grpcio-floor", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        send(arguments.send)
    elif arguments.grpcio_floor:
        grpcio_floor()
    else:
        main()
