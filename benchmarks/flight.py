"""What Arrow Flight costs beside bare Flight servers, and beside Score, by turns: `make bench-flight` (ARGS=--help).

Rows of eleven doubles are sent in batches, and read back, by pyarrow's own client: to a server of pyarrow that returns
each batch, to one that returns a single column of it, as a model does, and to a service with the sample wine model.
Each is called in turn in every round, by a caller that sends while it reads, and the service by `Score` calls of the
same Arrow streams too, two at a time. Printed are the millions of rows a second, and the ratios to the bare echo within
one round: geometric mean and 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from benchmarks.peers.machine import describe_machine
from benchmarks.security import METHOD, MODEL, ROW, mean_ratio
from benchmarks.serving import sample_registry, service
from prinz_enricher.batch import encode_stream
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb

ECHO = "bare echo"
COLUMN = "bare, one column back"


class _Echo(fl.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Returns each batch, or its first columns."""

    def __init__(self, columns: int) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._columns = columns

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer batches one by one."""
        for number, chunk in enumerate(reader):
            batch = chunk.data.select(range(self._columns))
            if not number:
                writer.begin(batch.schema)
            writer.write_batch(batch)


def _serve(ports: Any, columns: int) -> None:
    server = _Echo(columns)
    ports.put(server.port)
    server.serve()


def _bare(stack: ExitStack, columns: int) -> str:
    """Run a bare server until the stack ends; returns its address."""
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    process = context.Process(target=_serve, args=(ports, columns), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    return f"127.0.0.1:{ports.get(timeout=30)}"


def exchange(address: str, batch: pa.RecordBatch, seconds: float, expected: int) -> float:
    """Return the rows a second of a caller that sends for so long, and reads at the same time."""
    command = json.dumps({"model": {"name": MODEL}}).encode()
    with fl.connect(f"grpc://{address}") as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(command))
        began = time.monotonic()

        def send() -> None:
            writer.begin(batch.schema)
            while time.monotonic() - began < seconds:
                writer.write_batch(batch)
            writer.done_writing()

        sender = threading.Thread(target=send)
        sender.start()
        rows = 0
        for chunk in reader:
            if (chunk.data.num_rows, chunk.data.num_columns) != (batch.num_rows, expected):
                raise SystemExit(f"{address} answered {chunk.data.num_rows} rows of {chunk.data.num_columns} columns")
            rows += chunk.data.num_rows
        sender.join()
        return float(rows / (time.monotonic() - began))


def score(address: str, batch: pa.RecordBatch, seconds: float, callers: int = 2) -> float:
    """Return the rows a second of so many callers of `Score`."""
    request = pb.ScoreRequest(arrow_stream=encode_stream(batch).to_pybytes())
    request.model.name = MODEL
    content = request.SerializeToString()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel, ThreadPoolExecutor(callers) as threads:
        call: Any = channel.unary_unary(METHOD)
        began = time.monotonic()

        def ask(_: int) -> int:
            calls = 0
            while time.monotonic() - began < seconds:
                call(content, timeout=60)
                calls += 1
            return calls

        calls: int = sum(threads.map(ask, range(callers)))
        rows: float = calls * batch.num_rows
        return rows / (time.monotonic() - began)


def main() -> None:
    """Measure, and print a line for each server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of a batch")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--fronts", nargs="+", default=["rust", "grpcio"])
    options = parser.parse_args()
    values = np.random.default_rng(1)
    batch = pa.record_batch({name: values.random(options.rows) for name in ROW})
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']}")
    print(f"{options.rounds} rounds of {options.seconds:g} s, batches of {options.rows:,} rows of {len(ROW)} doubles")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        registry = stack.enter_context(sample_registry(folder))
        sides: dict[str, Callable[..., float]] = {}
        for name, columns in ((ECHO, len(ROW)), (COLUMN, 1)):
            address = _bare(stack, columns)
            sides[name] = partial(exchange, address, batch, expected=columns)
        for front in options.fronts:
            flags = ("--front", front, "--flight-port", "0")
            address = stack.enter_context(service(registry, folder / front, *flags)).address
            with Client(address, timeout=60) as client:
                client.score(MODEL, ROW)
            sides[f"{front}, Flight"] = partial(exchange, address, batch, expected=1)
            sides[f"{front}, Score"] = partial(score, address, batch)
        for run in sides.values():
            run(seconds=0.5)
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.rounds):
            # Who is first changes, so that what one leaves behind does not always meet the same other.
            names = list(sides)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found[name].append(sides[name](seconds=options.seconds))
    for name, rates in found.items():
        echo = mean_ratio([rate / bare for rate, bare in zip(rates, found[ECHO], strict=True)])
        print(f"{name:24} {statistics.median(rates) / 1e6:6.2f} M rows/s   to the {ECHO} {echo}")


if __name__ == "__main__":
    main()
