"""Our own service under the peers' loads, and under those that only it can be asked for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import grpc

from benchmarks.peers.call import NotThere, Refused, WrongScores, call, compare, wait_until_it_scores
from benchmarks.peers.figure import Figure
from benchmarks.peers.generator import Expectation, Generator, LoadFailed
from benchmarks.peers.loads import SINGLE, SINGLE_1, SINGLE_64, Load
from benchmarks.peers.measure import describe, failed, measure, one
from benchmarks.peers.models import NAMES
from benchmarks.peers.processes import NotStarted, Server, cpu_seconds, tree
from benchmarks.peers.protocols import Prinz
from benchmarks.peers.results import Results, Row
from benchmarks.peers.roster import Place, Running
from benchmarks.peers.service import service
from benchmarks.peers.turns import Echo, Take, by_turns, echo
from prinz_enricher.contract import enricher_service_pb2 as pb

STREAM = "/prinz.enricher.v1.EnricherService/ScoreStream"
STREAMS, WINDOW, STREAM_ROWS = 2, 16, 100
COALESCED_CALLERS = 256
OPEN_SHARE = 0.7
MILLION = 1_000_000
CHUNK_ROWS = 100_000
SETTLE_SECONDS = 2.0


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
            "ours": ("ours, Rust front", self._rust),
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

    def _rust(self, row: Row) -> None:
        place = self.place(False)
        with service(place, self.registry, "rust") as running:
            address, server = running.addresses["wine"], running.servers[0]
            for model in ("wine", "fraud"):
                wait_until_it_scores(server, Prinz("columns"), address, place.models, model)
            self._idle(server)
            measure(row, _form, running, place.models, self.generator, self.tell)
            dense = self._dense(place, running)
            self._stream(place, address, "stream_dense", dense)
            self._million(place, address)
            with echo(self.place(False)) as beside:
                for load in (SINGLE_1, SINGLE_64):
                    self._beside(beside, load, load.name, partial(self._single, place, address, load))
                self._beside(beside, SINGLE_64, "coalesced_256", partial(self._coalesced, place, address))
                self._beside(beside, SINGLE_64, "stream_columns", self._streamed(place, address, Prinz("columns")))
                self._open_loop(place, address, beside)
            self._front_cost(place, server, address, {"columns": Prinz("columns"), "dense": dense})

    def _grpcio(self, row: Row) -> None:
        place = self.place(False)
        with service(place, self.registry, "grpcio") as running:
            for model in ("wine", "fraud"):
                wait_until_it_scores(
                    running.servers[0], Prinz("columns"), running.addresses[model], place.models, model
                )
            measure(row, _form, running, place.models, self.generator, self.tell)
            with echo(self.place(False)) as beside:
                address = running.addresses["wine"]
                self._beside(beside, SINGLE_64, "grpcio_64", partial(self._single, place, address, SINGLE_64))

    def _beside(self, beside: Echo, load: Load, name: str, take: Take) -> None:
        """Measure ours and the echo, the latter under a load of single rows, by turns."""
        found = by_turns({"echo": beside.take(load), "ours": take}, self.generator)
        self.results.ours[name], self.results.echo[name] = found["ours"], found["echo"]
        if not found["ours"].sound:
            self.results.why_not[name] = found["ours"].error
        self.tell(f"  {name:<18} {describe(found['ours'])}; the echo: {describe(found['echo'])}")

    def _single(self, place: Place, address: str, load: Load, generator: Generator) -> Figure:
        return one(Prinz("columns"), address, place.models, load, generator)

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
        row = self.results.rows["ours-dense"] = Row("ours, Rust front, dense form", "ours", batching=True)
        self.tell(row.title)
        measure(row, lambda _: dense, running, place.models, self.generator, self.tell, SINGLE)
        row.memory_mb = None
        return dense

    def _streamed(self, place: Place, address: str, asks: Prinz) -> Take:
        """Give the load of messages of 100 rows on streams."""
        request = asks.request("wine", place.models.rows("wine", STREAM_ROWS))
        message = pb.ScoreStreamRequest(request=request).SerializeToString()
        flags = ["--stream", "--window", str(WINDOW), "--sequence-field", "1", "--error-field", "3"]
        return lambda generator: generator.grpc(
            address, STREAM, message, STREAM_ROWS, callers=STREAMS, expected=_first(place), more=flags
        )

    def _stream(self, place: Place, address: str, name: str, asks: Prinz) -> None:
        take = self._streamed(place, address, asks)
        self._keep(name, lambda: take(self.generator), STREAM_ROWS)

    def _coalesced(self, place: Place, address: str, generator: Generator) -> Figure:
        row = place.models.rows("wine", 1).iloc[0].to_dict()
        number = float(place.models.expected("wine", 1)[0])
        return generator.coalesced(address, NAMES["wine"], row, COALESCED_CALLERS, number)

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

    def _open_loop(self, place: Place, address: str, beside: Echo) -> None:
        """Measure an open loop at a share of the maximum, which each time is measured just before it."""
        rates: list[float] = []

        def closed(generator: Generator) -> Figure:
            figure = self._single(place, address, SINGLE_64, generator)
            rates.append(OPEN_SHARE * figure.calls_per_second)
            return figure

        def opened(generator: Generator) -> Figure:
            flags = ["--rate", f"{rates[-1]:.1f}", "--connections", "4"]
            return one(Prinz("columns"), address, place.models, SINGLE_64, generator, flags)

        takes = {"echo": beside.take(SINGLE_1), "closed": closed, "open": opened}
        found = by_turns(takes, self.generator)
        if not found["closed"].sound:
            self.results.why_not["open_loop"] = f"the maximum is not known: {found['closed'].error}"
            return
        self.results.ours["open_loop"], self.results.echo["open_loop"] = found["open"], found["echo"]
        if not found["open"].sound:
            self.results.why_not["open_loop"] = found["open"].error
        self.results.numbers["open_loop_rate"] = statistics.median_low(rates)
        self.tell(f"  {'open_loop':<18} {describe(found['open'])}; the echo: {describe(found['echo'])}")

    def _front_cost(self, place: Place, server: Server, address: str, forms: Mapping[str, Prinz]) -> None:
        """Measure the CPU time of front and workers for one call of each form, under 64 callers, by turns."""
        exact = replace(self.generator, runs=1, warm=0.0)
        spent: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
        for _ in range(self.generator.runs):
            for form, asks in forms.items():
                workers = tree(server.pid)
                before = cpu_seconds(server.pid), sum(map(cpu_seconds, workers))
                figure = one(asks, address, place.models, SINGLE_64, exact)
                if not figure.sound:
                    self.results.why_not[f"front_us_{form}"] = figure.error
                    return
                each = 1e6 / (figure.calls_per_second * exact.seconds)
                after = cpu_seconds(server.pid), sum(map(cpu_seconds, workers))
                spent[form].append(((after[0] - before[0]) * each, (after[1] - before[1]) * each))
        for form, found in spent.items():
            for name, values in zip(("front", "workers"), zip(*found, strict=True), strict=True):
                self.results.numbers[f"{name}_us_{form}"] = statistics.median(values)
            front, others = (self.results.numbers[f"{name}_us_{form}"] for name in ("front", "workers"))
            self.tell(f"  {form}: {front:.1f} us of the front and {others:.1f} us of workers for a call")

    def _idle(self, server: Server) -> None:
        time.sleep(SETTLE_SECONDS)
        everybody = server.family()
        before = sum(map(cpu_seconds, everybody))
        time.sleep(self.idle_seconds)
        share = (sum(map(cpu_seconds, everybody)) - before) / self.idle_seconds
        self.results.numbers["idle_share"] = share
        self.tell(f"  idle: {share:.2%} of a core over {self.idle_seconds:.0f} s")

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
