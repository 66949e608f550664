"""What a scrape costs with 1,000 models of 3 versions in use: `make bench-scrape`.

The registry is in memory, and every version is scored at a model server of this benchmark's, as that many worker
processes have no room on one machine. Each version is called once, which takes minutes: it first proves which rows may
share a request. Then one caller goes on, alone and while the metrics are scraped: as OpenMetrics, whole, on a new
connection each time. At last all versions are called before each scrape.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc

from benchmarks.catalog import registry
from benchmarks.peers.machine import describe_machine
from benchmarks.serving import service
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.support.model_server import ModelServer, Reply, Request

MODELS, VERSIONS = 1_000, 3
SCRAPES, BUSY_SCRAPES = 30, 5
METHOD = "/prinz.enricher.v1.EnricherService/Score"


def respond(request: Request) -> Reply:
    """Answer the sums of rows; like most servers, this one takes no Parquet."""
    if "json" not in request.headers["content-type"]:
        return Reply(b"unknown content type", 415)
    body = json.loads(request.body)
    rows = body["dataframe_split"]["data"] if "dataframe_split" in body else zip(*body["inputs"].values(), strict=True)
    return Reply(json.dumps({"predictions": [sum(value or 0.0 for value in row) for row in rows]}).encode())


def score_request(model: int, version: int) -> bytes:
    """Return a request of one row."""
    request = pb.ScoreRequest()
    request.model.name, request.model.version = f"model-{model:05}", str(version)
    request.columns.num_rows = 1
    for place in range(5):
        request.columns.columns.add(name=f"x{place}-{model}").doubles.values.append(place)
    return request.SerializeToString()


def scrape(port: int) -> tuple[float, bytes]:
    """Return the seconds of a scrape, and the page."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    page = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - began, page


def first_score(score: grpc.UnaryUnaryMultiCallable, request: bytes) -> None:
    """Score a version for the first time: its signature may not be read yet."""
    end = time.monotonic() + 60
    while True:
        try:
            score(request, timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def report(what: str, seconds: list[float]) -> None:
    """Print how long something took."""
    seconds = sorted(seconds)
    found = (statistics.median(seconds), seconds[len(seconds) * 99 // 100], seconds[-1])
    print(f"{what:<36} p50 {found[0] * 1e3:7.2f} ms, p99 {found[1] * 1e3:7.2f} ms, most {found[2] * 1e3:7.2f} ms")


def main() -> None:
    """Run the benchmark."""
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {os.getloadavg()[0]:.2f}")
    models = int(sys.argv[1]) if len(sys.argv) > 1 else MODELS
    with ModelServer() as server, registry(models, VERSIONS) as url, tempfile.TemporaryDirectory() as folder:
        server.respond = respond
        variables = {
            "PRINZ_ENDPOINTS__FARM__URLS": server.url,
            "PRINZ_ENDPOINTS__FARM__CONVENTION": "prinz",
            "PRINZ_ENDPOINTS__FARM__MODELS": "*",
            "PRINZ_REGISTRY__SNAPSHOT_FOLDER": "",
            "PRINZ_SCORING__MAX_WAIT": "60",
            "PRINZ_SCORING__IDLE_UNLOAD": "0",
        }
        with (
            service(url, Path(folder), "--http-port", "0", **variables) as running,
            grpc.insecure_channel(running.address) as channel,
        ):
            score = channel.unary_unary(METHOD)
            began = time.perf_counter()
            requests = [score_request(model, version + 1) for model in range(models) for version in range(VERSIONS)]
            with ThreadPoolExecutor(16) as threads:
                list(threads.map(partial(first_score, score), requests))
            port = int(str(running.events("admin http server started")[0]["port"]))
            print(f"{models * VERSIONS:,} versions were called within {time.perf_counter() - began:.0f} s")

            def call() -> float:
                began = time.perf_counter()
                score(requests[0], timeout=60)
                return time.perf_counter() - began

            report("calls of one caller", [call() for _ in range(500)])
            pages = [scrape(port) for _ in range(SCRAPES)]
            report("scrapes", [seconds for seconds, _ in pages])
            done, calls = threading.Event(), list[float]()

            def caller() -> None:
                while not done.is_set():
                    calls.append(call())

            thread = threading.Thread(target=caller)
            thread.start()
            report("scrapes beside a caller", [scrape(port)[0] for _ in range(SCRAPES)])
            done.set()
            thread.join()
            report("calls while it is scraped", calls)
            busy = []
            for _ in range(BUSY_SCRAPES):
                with ThreadPoolExecutor(16) as threads:
                    list(threads.map(partial(first_score, score), requests))
                busy.append(scrape(port)[0])
            report("scrapes, all versions called before", busy)
            page = pages[-1][1]
            found = len(re.findall(b"^prinz_enricher_calls_total{", page, flags=re.MULTILINE))
            print(f"page: {len(page) / 1e6:.2f} MB, {page.count(bytes((10,))):,} lines, {found:,} versions")
            print(f"memory of the front: {running.memory():.0f} MB")


if __name__ == "__main__":
    main()
