"""What a remote model gains by shared requests: `make bench-remote`.

A wine model is served by `mlflow models serve`. It is asked by as many callers as can be seen below, each of whom waits
for its one row's answer before it asks again: over gRPC at our service, which sends the rows of many callers in one
request to the model server; and without us, one HTTP request for each row, on connections that stay open. Both in
turn, in the same run; the callers are in a process of their own, and all share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import grpc
from serving import service

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.registry import PrivateServer

MODEL = "MLF-ElasticnetWineModel-1"
METHOD = "/prinz.enricher.v1.EnricherService/Score"
CALLERS = 256
SECONDS = 5.0
WARM_SECONDS = 1.5
ROUNDS = 3
START_SECONDS = 90.0
ROOT = Path(__file__).parent.parent


@contextmanager
def served(registry: str) -> Iterator[str]:
    """Serve the model until the end of the block; gives the server's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{MODEL}/1"),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", port),
    ]
    # It starts `uvicorn`, which is next to this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        command,
        env=os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": registry, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError("the model server did not start")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: str) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


class Count:
    """Answers within the time that counts."""

    def __init__(self) -> None:
        self._from = time.perf_counter() + WARM_SECONDS
        self.end = self._from + SECONDS
        self.latencies: list[float] = []

    def took(self, began: float) -> bool:
        """Take note of an answer; tells whether to go on."""
        now = time.perf_counter()
        if self._from <= now < self.end:
            self.latencies.append(now - began)
        return now < self.end

    def told(self) -> str:
        """Return rows a second and latencies as JSON."""
        cuts = statistics.quantiles(self.latencies, n=100)
        return json.dumps({"rate": len(self.latencies) / SECONDS, "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3})


def call_grpc(address: str) -> str:
    """Call our service: all callers in one event loop, with a request that is bytes already."""
    request = pb.ScoreRequest()
    request.model.name = MODEL
    request.columns.num_rows = 1
    for name in WINE_COLUMNS:
        request.columns.columns.add(name=name).doubles.values.append(0.235)
    content = request.SerializeToString()

    async def run() -> str:
        async with grpc.aio.insecure_channel(address) as channel:
            method = channel.unary_unary(METHOD)
            count = Count()

            async def caller() -> None:
                began = time.perf_counter()
                await method(content)
                while count.took(began):
                    began = time.perf_counter()
                    await method(content)

            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            return count.told()

    return asyncio.run(run())


def call_http(address: str) -> str:
    """Call the model server: a thread and a connection for each caller."""
    content = json.dumps({"inputs": {name: [0.235] for name in WINE_COLUMNS}}).encode()
    headers = {"Content-Type": "application/json"}
    host, port = address.split(":")
    count = Count()

    def caller() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        going = True
        while going:
            began = time.perf_counter()
            connection.request("POST", "/invocations", content, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the model server answered with {answer.status}")
            going = count.took(began)

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count.told()


def measure(kind: str, address: str) -> dict[str, float]:
    """Run callers in a process of their own."""
    done = subprocess.run(
        [sys.executable, __file__, "--callers", kind, address], check=True, capture_output=True, text=True
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", nargs=2, metavar=("KIND", "ADDRESS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.callers:
        kind, address = given.callers
        print((call_grpc if kind == "grpc" else call_http)(address))
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}; {CALLERS} callers, a row each"
    )
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        subprocess.run(
            [sys.executable, "-m", "samples.train", "--registry", registry.url],
            check=True, capture_output=True, cwd=ROOT,
        )  # fmt: skip
        with served(registry.url) as server:
            variables = {
                "PRINZ_ENDPOINTS__FARM__URLS": f"http://{server}",
                "PRINZ_ENDPOINTS__FARM__CONVENTION": "mlflow",
                "PRINZ_ENDPOINTS__FARM__MODELS": MODEL,
                "PRINZ_SCORING__MAX_WAIT": "60",
            }
            with service(registry.url, Path(folder) / "cache", **variables) as running:
                with Client(running.address, timeout=60) as client:
                    client.score(MODEL, [dict.fromkeys(WINE_COLUMNS, 0.235)])
                print("                          rows/s   p50 ms   p99 ms")
                ratios = []
                for _ in range(ROUNDS):
                    by_http = measure("http", server)
                    by_grpc = measure("grpc", running.address)
                    for name, one in (("HTTP, a request a row", by_http), ("gRPC, our service", by_grpc)):
                        print(f"{name:<24} {one['rate']:>7.0f} {one['p50']:>8.1f} {one['p99']:>8.1f}")
                    ratios.append(by_grpc["rate"] / by_http["rate"])
                print(f"ratio: {', '.join(f'{ratio:.1f}' for ratio in ratios)}; median {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
