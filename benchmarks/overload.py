"""What callers see when more comes than can be carried: `make bench-overload`.

A model that takes a while for each row (a sleep, so that the model is the limit and not this machine's processors) is
called over gRPC by an open loop: calls begin at planned times (Poisson arrivals), whether earlier ones are answered or
not. First with as much as it can carry, then with three times that; each call has a deadline, as callers have. Printed:
the latency of accepted calls, from their planned times; how quickly refusals come, to a caller in a process of its own;
and the memory of the service. Times are milliseconds.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

import grpc
from serving import service

from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.registry import PrivateServer

ROW_SECONDS = 0.002
DEADLINE = 0.25
SECONDS = 10.0
METHOD = "/prinz.enricher.v1.EnricherService/Score"

REGISTER = f"""
import sys, time
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])


class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        time.sleep({ROW_SECONDS} * len(model_input))
        return model_input["x"] * 2


signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")]))
mlflow.pyfunc.log_model(
    name="slow", python_model=Slow(), signature=signature, registered_model_name="slow", pip_requirements=["mlflow"]
)
"""


class Load:
    """An open loop of calls, and what became of them."""

    def __init__(self, address: str, rate: float) -> None:
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.codes: Counter[str] = Counter()
        self._rate = rate
        self._channel = grpc.insecure_channel(address)
        self._method = self._channel.unary_unary(METHOD)
        self._lock = threading.Lock()
        self._left = 0
        self._done = threading.Condition(self._lock)
        request = pb.ScoreRequest()
        request.model.name = "slow"
        request.columns.num_rows = 1
        request.columns.columns.add(name="x").doubles.values.append(1.0)
        self._request = request.SerializeToString()

    def call(self) -> None:
        """Call once, and wait for the answer."""
        self._method(self._request, timeout=DEADLINE)

    def run(self, seconds: float) -> None:
        """Call for some time."""
        chance = random.Random(0)  # noqa: S311 - no secret
        planned = time.perf_counter()
        end = planned + seconds
        while planned < end:
            planned += chance.expovariate(self._rate)
            pause = planned - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            with self._lock:
                self._left += 1
            future = self._method.future(self._request, timeout=DEADLINE)
            future.add_done_callback(lambda one, at=planned: self._ended(one, at))
        with self._done:
            self._done.wait_for(lambda: not self._left, timeout=30)
        self._channel.close()

    def _ended(self, future: grpc.Future, planned: float) -> None:
        took = time.perf_counter() - planned
        code = future.code()
        with self._done:
            self.codes[code.name] += 1
            if code is grpc.StatusCode.OK:
                self.answered.append(took)
            self._left -= 1
            self._done.notify()


class Probe:
    """A caller in a process of its own, which calls now and then: it tells how quickly a refusal comes.

    In the process of the load a refusal waits for a thousand calls a second of Python's own.
    """

    def __init__(self, address: str) -> None:
        self.refused: list[float] = []
        self._command = [sys.executable, __file__, address]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        told, _ = self._process.communicate("")
        self.refused = json.loads(told)


def probe(address: str) -> None:
    """Call until standard input ends; print the seconds of each refusal."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    load = Load(address, 1.0)
    refused = []
    while not ended.wait(0.02):
        began = time.perf_counter()
        try:
            load.call()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                refused.append(time.perf_counter() - began)
    print(json.dumps(refused))


def p(values: list[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return statistics.quantiles(values, n=100)[percent - 1] * 1e3 if len(values) > 1 else float("nan")


def main() -> None:
    """Run the benchmark."""
    capacity = 1 / ROW_SECONDS
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}; a model of {capacity:.0f} rows/s at most, deadline {DEADLINE * 1e3:.0f} ms"
    )
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        subprocess.run([sys.executable, "-c", REGISTER, registry.url], check=True, capture_output=True, cwd=folder)
        with service(registry.url, Path(folder) / "cache") as running:
            with Client(running.address, timeout=120) as client:
                for _ in range(100):
                    client.score("slow", [{"x": 1.0}])
            print("  offered  accepted     p50     p99  refused    p50    p99   late   MB")
            for times in (0.5, 0.9, 1.0, 3.0, 3.0):
                load = Load(running.address, times * capacity)
                with Probe(running.address) as probe:
                    load.run(SECONDS)
                load.refused = probe.refused
                print(
                    f"{times:>7.1f} x {len(load.answered):>9} {p(load.answered, 50):>7.1f} {p(load.answered, 99):>7.1f}"
                    f" {load.codes['RESOURCE_EXHAUSTED']:>8} {p(load.refused, 50):>6.1f} {p(load.refused, 99):>6.1f}"
                    f" {load.codes['DEADLINE_EXCEEDED']:>6} {running.memory():>4.0f}   {dict(load.codes)}"
                )


if __name__ == "__main__":
    probe(sys.argv[1]) if len(sys.argv) > 1 else main()
