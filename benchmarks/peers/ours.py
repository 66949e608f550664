"""Our own service under the peers' loads, and under those that only it can be asked for."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import grpc
import numpy as np

from benchmarks.peers.call import NotThere, Refused, WrongScores, call, compare, wait_until_it_scores
from benchmarks.peers.figure import Figure
from benchmarks.peers.generator import Expectation, Generator, LoadFailed
from benchmarks.peers.loads import SINGLE, SINGLE_64, Load
from benchmarks.peers.measure import describe, failed, measure, one
from benchmarks.peers.models import NAMES
from benchmarks.peers.processes import NotStarted, Server, cpu_seconds, free_port, tree
from benchmarks.peers.protocols import Prinz
from benchmarks.peers.results import Results, Row
from benchmarks.peers.roster import Place, Running
from prinz_enricher.contract import enricher_service_pb2 as pb

STREAM = "/prinz.enricher.v1.EnricherService/ScoreStream"
STREAMS, WINDOW, STREAM_ROWS = 2, 16, 100
COALESCED_CALLERS = 256
OPEN_SHARE = 0.7
MILLION = 1_000_000
CHUNK_ROWS = 100_000
HEAVY = Load("heavy", "100 trees, 1,000 rows, 8 callers", "forest", 8, 1_000)
HEAVY_WARM_SECONDS = 4.0
SETTLE_SECONDS = 2.0


@contextlib.contextmanager
def service(place: Place, registry: str, front: Literal["native", "grpcio"], **variables: str) -> Iterator[Running]:
    """Run `prinz-enricher serve` until the end of the block, with settings as they are by default.

    Args:
        place: Where it runs.
        registry: URL of the MLflow server with the models.
        front: What speaks gRPC.
        variables: More environment variables.
    """
    port = free_port()
    # Its workers' environment is its own here; uv's cache stays where it is for whatever it has to build.
    uv_cache = os.environ.get("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser()))
    environment = {
        "XDG_CACHE_HOME": str(place.folder / "cache"),
        "UV_CACHE_DIR": uv_cache,
        "PRINZ_SERVER__FRONT": front,
    }
    command = [
        *(sys.executable, "-m", "prinz_enricher.cli", "serve", "--registry", registry),
        *("--port", str(port), "--log-format", "json"),
    ]
    with place.server(command, variables=environment | variables) as server:
        yield Running((server,), dict.fromkeys(NAMES, f"127.0.0.1:{port}"))


@dataclass(frozen=True)
class Ours:
    """Measures our service.

    Attributes:
        results: Take the figures.
        registry: URL of the MLflow server with the models.
        place: Gives a new place to run at, on the cores of the server or on all.
        generator: Makes the loads.
        idle_seconds: How long it is watched while it has nothing to do.
        tell: Takes a line of progress.
    """

    results: Results
    registry: str
    place: Callable[[bool], Place]
    generator: Generator
    idle_seconds: float
    tell: Callable[[str], None]

    def run(self) -> None:
        """Measure everything; what can't be had is told of, and the rest goes on."""
        steps = {
            "ours": ("ours, native front", self._native),
            "ours-grpcio": ("ours, grpcio front", self._grpcio),
        }
        for name, (title, step) in steps.items():
            row = self.results.rows[name] = Row(title, "ours", batching=True)
            self.tell(title)
            try:
                step(row)
            except (NotStarted, WrongScores, grpc.RpcError) as error:
                row.why_not = str(error)
                self.tell(f"  not run: {error}")
        for workers in (1, 2):
            self._heavy(workers)

    def _native(self, row: Row) -> None:
        place = self.place(False)
        with service(place, self.registry, "native") as running:
            address, server = running.addresses["wine"], running.servers[0]
            for model in ("wine", "fraud"):
                wait_until_it_scores(server, Prinz("columns"), address, place.models, model)
            self._idle(server)
            measure(row, _form, running, place.models, self.generator, self.tell)
            dense = self._dense(place, running)
            self._stream(place, address, "stream_columns", Prinz("columns"))
            self._stream(place, address, "stream_dense", dense)
            self._coalesced(place, address)
            self._million(place, address)
            self._open_loop(place, address, row)
            self._front_cost(place, server, address, "columns", Prinz("columns"))
            self._front_cost(place, server, address, "dense", dense)

    def _grpcio(self, row: Row) -> None:
        place = self.place(False)
        with service(place, self.registry, "grpcio") as running:
            for model in ("wine", "fraud"):
                wait_until_it_scores(
                    running.servers[0], Prinz("columns"), running.addresses[model], place.models, model
                )
            measure(row, _form, running, place.models, self.generator, self.tell)

    def _dense(self, place: Place, running: Running) -> Prinz:
        """Measure the dense form as a row of its own; return how it is asked for."""
        address = running.addresses["wine"]
        with grpc.insecure_channel(address) as channel:
            method = channel.unary_unary(
                "/prinz.enricher.v1.EnricherService/GetSignature",
                request_serializer=pb.GetSignatureRequest.SerializeToString,
                response_deserializer=pb.GetSignatureResponse.FromString,
            )
            digest = method(pb.GetSignatureRequest(model={"name": NAMES["wine"]}), timeout=60).signature.digest
        dense = Prinz("dense", digest)
        row = self.results.rows["ours-dense"] = Row("ours, native front, dense form", "ours", batching=True)
        self.tell(row.title)
        measure(row, lambda _: dense, running, place.models, self.generator, self.tell, SINGLE)
        row.memory_mb = None
        return dense

    def _stream(self, place: Place, address: str, name: str, asks: Prinz) -> None:
        """Measure messages of 100 rows on streams."""
        request = asks.request("wine", place.models.rows("wine", STREAM_ROWS))
        message = pb.ScoreStreamRequest(request=request).SerializeToString()
        flags = ["--stream", "--window", str(WINDOW), "--sequence-field", "1", "--error-field", "3"]
        self._keep(
            name,
            lambda: self.generator.grpc(
                address, STREAM, message, STREAM_ROWS, callers=STREAMS, expected=_first(place), more=flags
            ),
            STREAM_ROWS,
        )

    def _coalesced(self, place: Place, address: str) -> None:
        row = place.models.rows("wine", 1).iloc[0].to_dict()
        number = float(place.models.expected("wine", 1)[0])
        self._keep(
            "coalesced_256",
            lambda: self.generator.coalesced(address, NAMES["wine"], row, COALESCED_CALLERS, number),
            1,
        )

    def _million(self, place: Place, address: str) -> None:
        """Measure a million rows in one request of record batches; where that is refused, in ten requests."""
        asks = Prinz("arrow", chunk=CHUNK_ROWS)
        load = Load("arrow_1000000", "1,000,000 rows", "wine", 1, MILLION)
        self._keep(load.name, lambda: one(asks, address, place.models, load, self.generator), MILLION)
        if self.results.ours[load.name].sound:
            return
        self.tell("  1,000,000 rows in ten requests")
        request = asks.encode("wine", place.models.rows("wine", CHUNK_ROWS))
        began = time.perf_counter()
        try:
            for _ in range(MILLION // CHUNK_ROWS):
                compare(asks, call(asks, address, "wine", request), place.models, "wine", CHUNK_ROWS)
        except (NotThere, Refused, WrongScores) as error:
            self.results.why_not["million_seconds"] = str(error)
            return
        self.results.numbers["million_seconds"] = time.perf_counter() - began

    def _open_loop(self, place: Place, address: str, row: Row) -> None:
        most = row.figure(SINGLE_64.name)
        if most is None:
            self.results.why_not["open_loop"] = "the maximum is not known"
            return
        rate = OPEN_SHARE * most.calls_per_second
        flags = ["--rate", f"{rate:.1f}", "--connections", "4"]
        self._keep(
            "open_loop", lambda: one(Prinz("columns"), address, place.models, SINGLE_64, self.generator, flags), 1
        )
        self.results.numbers["open_loop_rate"] = rate

    def _front_cost(self, place: Place, server: Server, address: str, form: str, asks: Prinz) -> None:
        """Measure the CPU time of front and workers for one call, under 64 callers."""
        exact = replace(self.generator, runs=1, warm=0.0)
        workers = tree(server.pid)
        before = cpu_seconds(server.pid), sum(map(cpu_seconds, workers))
        figure = one(asks, address, place.models, SINGLE_64, exact)
        if not figure.sound:
            self.results.why_not[f"front_us_{form}"] = figure.error
            return
        calls = figure.calls_per_second * exact.seconds
        spent = np.subtract((cpu_seconds(server.pid), sum(map(cpu_seconds, workers))), before) / calls * 1e6
        self.results.numbers[f"front_us_{form}"], self.results.numbers[f"workers_us_{form}"] = map(float, spent)
        self.tell(f"  {form}: {spent[0]:.1f} us of the front and {spent[1]:.1f} us of workers for a call")

    def _idle(self, server: Server) -> None:
        time.sleep(SETTLE_SECONDS)
        everybody = server.family()
        before = sum(map(cpu_seconds, everybody))
        time.sleep(self.idle_seconds)
        share = (sum(map(cpu_seconds, everybody)) - before) / self.idle_seconds
        self.results.numbers["idle_share"] = share
        self.tell(f"  idle: {share:.2%} of a core over {self.idle_seconds:.0f} s")

    def _heavy(self, workers: int) -> None:
        """Measure the forest with so many workers, on all cores: two can't gain on one core."""
        name = f"heavy_{workers}"
        self.tell(f"ours, 100 trees, {workers} worker{'s' * (workers > 1)}, on all cores")
        place = self.place(True)
        generator = replace(self.generator, cores=place.cores, warm=max(self.generator.warm, HEAVY_WARM_SECONDS))
        try:
            with service(place, self.registry, "native", PRINZ_SCORING__REPLICAS=str(workers)) as running:
                address = running.addresses["forest"]
                wait_until_it_scores(running.servers[0], Prinz("arrow"), address, place.models, "forest")
                self._keep(name, lambda: one(Prinz("arrow"), address, place.models, HEAVY, generator), HEAVY.rows)
        except (NotStarted, WrongScores) as error:
            self.results.why_not[name] = str(error)
            self.tell(f"  not run: {error}")

    def _keep(self, name: str, take: Callable[[], Figure], rows: int) -> None:
        try:
            figure = take()
        except LoadFailed as error:
            figure = failed(error, rows)
        self.results.ours[name] = figure
        if not figure.sound:
            self.results.why_not[name] = figure.error
        self.tell(f"  {name:<18} {describe(figure)}")


def _form(load: Load) -> Prinz:
    """Return the form that is meant for so many rows."""
    return Prinz("columns" if load.rows == 1 else "arrow")


def _first(place: Place) -> Expectation:
    return Expectation(number=float(place.models.expected("wine", 1)[0]))
