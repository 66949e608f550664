"""Measure our service and its peers: `make bench-peers`, or `python -m benchmarks.peers` in the project's folder."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.call import WrongScores, wait_until_it_scores
from benchmarks.peers.environments import NotInstalled, versions
from benchmarks.peers.generator import Generator, LoadFailed, NotCompiled
from benchmarks.peers.loads import SINGLE
from benchmarks.peers.machine import describe_machine
from benchmarks.peers.measure import describe, failed, measure
from benchmarks.peers.models import make
from benchmarks.peers.nginx import nginx
from benchmarks.peers.ours import STREAM_ROWS, STREAMS, WINDOW, Ours
from benchmarks.peers.pages import PAGE, RESULTS, fill, write
from benchmarks.peers.processes import NotStarted, pinned
from benchmarks.peers.protocols import Prinz, mlflow_json
from benchmarks.peers.results import Results, Row
from benchmarks.peers.roster import PEERS, Peer, Place
from benchmarks.peers.scaling import scale
from benchmarks.peers.tables import report
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.registry import PrivateServer

NAMES = ("ours", *(peer.name for peer in PEERS))


class Bench:
    """One run.

    Args:
        options: The command line's.
        folder: For everything that is written on the way.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        every = sorted(os.sched_getaffinity(0))
        if len(every) < 2 and not options.unpinned:
            tell("There is one core: servers and load generator share it.")
        shared = options.unpinned or len(every) < 2
        self._all = set(every)
        self._server_cores = self._all if shared else {every[0]}
        requests = folder / "requests"
        requests.mkdir()
        self._generator = Generator(
            self._all if shared else {every[1]}, options.seconds, options.warm, options.runs, requests
        )
        told = {
            name: getattr(options, name) for name in ("seconds", "warm", "runs", "idle", "unpinned", "quick", "only")
        }
        self.results = Results(describe_machine(), told)

    def run(self) -> None:
        """Measure all that is asked for."""
        # The registry is elsewhere: it shares the generator's core, and has next to nothing to do.
        with pinned(self._generator.cores), PrivateServer(f"sqlite:///{self._folder}/mlflow.db") as registry:
            tell("Training the models.")
            with pinned(self._all):
                self._models = make(registry.url, self._folder / "models")
            if "ours" in self._options.only:
                Ours(self.results, registry.url, self._place, self._generator, self._options.idle, tell).run()
                scale(self.results, registry.url, self._place, self._generator, tell)
            for peer in PEERS:
                if peer.name in self._options.only:
                    self._peer(peer)
            self._limits()

    def _place(self, all_cores: bool = False) -> Place:  # noqa: FBT002 - a port of `Ours` that calls it so
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        return Place(self._all if all_cores else self._server_cores, folder, self._models, tell)

    def _peer(self, peer: Peer) -> None:
        packages = versions(peer.environment, peer.packages) if peer.environment else {}
        row = self.results.rows[peer.name] = Row(peer.title, peer.kind, peer.batching, packages)
        tell(peer.title)
        try:
            with peer.start(self._place()) as running:
                for model in ("wine", "fraud"):
                    server = running.servers[min(len(running.servers) - 1, int(model == "fraud"))]
                    wait_until_it_scores(server, peer.asks, running.addresses[model], self._models, model)
                measure(row, peer.asks_for, running, self._models, self._generator, tell)
        except (NotInstalled, NotCompiled, NotStarted, WrongScores) as error:
            row.why_not = str(error)
            tell(f"  not run: {error}")

    def _limits(self) -> None:
        """Measure what the generators can do, by servers that cost as little as can be."""
        tell("The generators' limits")
        echo = self.results.rows.get("echo-cpp")
        if echo is not None and not echo.why_not:
            self.results.limits |= echo.loads
            self._stream_limit()
        if shutil.which("wrk") and shutil.which("nginx"):
            self._http_limit()

    def _stream_limit(self) -> None:
        peer = next(peer for peer in PEERS if peer.name == "echo-cpp")
        request = Prinz("columns").request("wine", self._models.rows("wine", STREAM_ROWS))
        message = pb.ScoreStreamRequest(request=request).SerializeToString()
        flags = ["--stream", "--window", str(WINDOW), "--sequence-field", "1"]
        with peer.start(self._place()) as running:
            wait_until_it_scores(running.servers[0], peer.asks, running.addresses["wine"], self._models, "wine")
            try:
                figure = self._generator.grpc(
                    running.addresses["wine"], peer.asks.path("wine"), message, STREAM_ROWS, callers=STREAMS, more=flags
                )
                rate = self.results.numbers.get("open_loop_rate")
                if rate:
                    single = peer.asks.encode("wine", self._models.rows("wine", 1))
                    more = ["--rate", f"{rate:.1f}", "--connections", "4"]
                    same = self._generator.grpc(running.addresses["wine"], peer.asks.path("wine"), single, 1, more=more)
                    self.results.numbers["open_loop_echo_p99_ms"] = same.p99_ms
                    tell(f"  the open loop against the C++ echo: {describe(same)}")
            except LoadFailed as error:
                figure = failed(error, STREAM_ROWS)
        self.results.limits["stream_columns"] = figure
        tell(f"  stream_columns {describe(figure)}")

    def _http_limit(self) -> None:
        place = self._place()
        request = mlflow_json().encode("wine", self._models.rows("wine", 1))
        with nginx(place.folder, place.cores, {}) as running:
            for load in SINGLE:
                try:
                    figure = replace(self._generator, runs=1).http(
                        running.addresses["itself"], "/", request, 1, callers=load.callers
                    )
                except LoadFailed as error:
                    figure = failed(error, 1)
                self.results.limits[f"{load.name}_http"] = figure
                tell(f"  {load.title:<18} {describe(figure)}")


def tell(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, and print its tables."""
    options = parse(arguments)
    if options.from_results:
        if not (RESULTS / "peers.json").exists():
            tell(f"There are no results yet in {RESULTS}.")
            return 1
        results = Results.read(RESULTS / "peers.json")
        publish(results)
        print(report(results))
        return 0
    # SIGTERM ends servers as Ctrl-C does: by the end of their blocks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="prinz-bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(options, Path(folder))
        whole = False
        try:
            bench.run()
            whole = set(options.only) == set(NAMES) and not options.quick
        finally:
            # A run that was broken off, or is but a part, must not take the place of a whole one.
            if whole and options.results is None:
                publish(bench.results)
                target = RESULTS
            else:
                target = options.results or Path(tempfile.mkdtemp(prefix="prinz-peers-"))
                write(bench.results, target)
            tell(f"Written to {target}.")
    print(report(bench.results))
    return 0


def publish(results: Results) -> None:
    """Write results where the documentation looks for them, and into it."""
    write(results, RESULTS)
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; `--quick` changes the defaults of the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", default=",".join(NAMES), help=f"which, by commas, of: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="one short run of each: to see that all work")
    parser.add_argument("--seconds", type=float, help="of each run; 3, or 1 with --quick")
    parser.add_argument("--warm", type=float, help="seconds before each run; 1, or 0.5 with --quick")
    parser.add_argument("--runs", type=int, help="of which the median counts; 3, or 1 with --quick")
    parser.add_argument("--idle", type=float, help="seconds without calls; 30, or 3 with --quick")
    parser.add_argument("--unpinned", action="store_true", help="let server and generator share all cores")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where to write; by default benchmarks/results "
                        "for a whole run, and a temporary folder for any other")  # fmt: skip
    parser.add_argument("--from-results", action="store_true", help="run nothing: write tables and plots anew")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    unknown = set(options.only) - set(NAMES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name, usual, quick in (("seconds", 3.0, 1.0), ("warm", 1.0, 0.5), ("runs", 3, 1), ("idle", 30.0, 3.0)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    return options


if __name__ == "__main__":
    sys.exit(main())
