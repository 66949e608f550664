"""What callers see when more comes than can be carried: `make bench-overload`.

A model that takes a while for each row (a sleep, so that the model is the limit and not this machine's processors) is
called over gRPC by an open loop: calls begin at planned times (Poisson arrivals), whether earlier ones are answered or
not. First with as much as it can carry, then with three times that; each call has a deadline, as callers have. Printed:
the latency of accepted calls, from their planned times; how quickly refusals come, to a caller in a process of its own;
what the same caller meets at a server beside it that has nothing to do and answers at once (`beside`: the share of this
machine, and of a caller in Python, in the column before it); and the memory of the service. Times are milliseconds.
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
from concurrent.futures import ThreadPoolExecutor
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


class Generator:
    """A load in a process of its own, which gives way to others: its callers would have machines of their own.

    It is late by that now and then, and says so, since latencies count from planned times.
    """

    def __init__(self, address: str, rate: float) -> None:
        command = ["nice", "-n", "10", sys.executable, __file__, address, str(rate)]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        self.answered: list[float] = told["answered"]
        self.codes: Counter[str] = Counter(told["codes"])


def generate(address: str, rate: float) -> None:
    """Call for some time; print what became of the calls."""
    load = Load(address, rate)
    load.run(SECONDS)
    print(json.dumps({"answered": load.answered, "codes": load.codes}))


class Probe:
    """A caller in a process of its own, which calls now and then: it tells how quickly a refusal comes.

    In the process of the load a refusal waits for a thousand calls a second of Python's own.
    """

    def __init__(self, address: str) -> None:
        self.refused: list[float] = []
        self.beside: list[float] = []
        self._command = [sys.executable, __file__, address]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        told, _ = self._process.communicate("")
        self.refused, self.beside = json.loads(told)


def probe(address: str) -> None:
    """Call until standard input ends; print the seconds of each refusal, and of each call to an idle server."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with Idle() as idle:
        load, bare = Load(address, 1.0), Load(idle.address, 1.0)
        refused, beside = [], []
        while not ended.wait(0.005):
            began = time.perf_counter()
            try:
                load.call()
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    refused.append(time.perf_counter() - began)
            time.sleep(0.005)
            began = time.perf_counter()
            bare.call()
            beside.append(time.perf_counter() - began)
    print(json.dumps([refused, beside]))


class Idle:
    """A server in a process of its own that answers any call at once."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, "idle"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        port = self._process.stdout.readline().strip() if self._process.stdout is not None else ""
        self.address = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("")


def serve_idle() -> None:
    """Answer calls with nothing until standard input ends; print the port."""
    server = grpc.server(ThreadPoolExecutor(1))
    answer = {"Score": grpc.unary_unary_rpc_method_handler(lambda *_: b"")}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(METHOD.split("/")[1], answer)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


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
            print("  offered  accepted     p50     p99  refused    p50    p99  beside p50    p99   late   MB")
            for times in (0.5, 0.9, 1.0, 3.0, 3.0):
                with Probe(running.address) as probe:
                    load = Generator(running.address, times * capacity)
                print(
                    f"{times:>7.1f} x {len(load.answered):>9} {p(load.answered, 50):>7.1f} {p(load.answered, 99):>7.1f}"
                    f" {load.codes['RESOURCE_EXHAUSTED']:>8} {p(probe.refused, 50):>6.1f} {p(probe.refused, 99):>6.1f}"
                    f" {p(probe.beside, 50):>11.1f} {p(probe.beside, 99):>6.1f}"
                    f" {load.codes['DEADLINE_EXCEEDED']:>6} {running.memory():>4.0f}   {dict(load.codes)}"
                )


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["idle"]:
            serve_idle()
        case [address]:
            probe(address)
        case [address, rate]:
            generate(address, float(rate))
