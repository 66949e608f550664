"""What a change costs: this checkout against another one, by turns: `make bench-checkouts OTHER=folder` (ARGS=--help).

Each has an environment of its own in `.venv`. Both serve one wine model at the same time, and each is called in turn in
every round. A ratio is that of this one to the other within one round: of calls a second, of the median latency, and of
the front's CPU time for a call, which other programs on the machine disturb less. Printed are the geometric mean of the
rounds' ratios and its 95 % interval. With OTHER=. they show what the machine alone makes of two equal sides, with
ARGS="--traced 0.01" what it costs to trace a hundredth of the calls, and with ARGS="--fronts rust --other-front grpcio"
how one front is to another; with --rows a call has many rows, and with --stream they are messages of two streams.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers.generator import Expectation, Generator
from benchmarks.peers.machine import describe_machine
from benchmarks.peers.ours import STREAM, STREAMS, WINDOW
from benchmarks.security import METHOD, MODEL, ROW, cpu_seconds, mean_ratio
from benchmarks.serving import Service, sample_registry, service
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.support.span_receiver import SpanReceiver


def by_turns(
    sides: list[Service], rounds: int, generator: Generator, content: bytes, callers: int, expected: float, stream: bool
) -> list[list[tuple[float, float, float]]]:
    """Return the calls a second, median milliseconds, and seconds of CPU for a call of both sides in each round.

    With `stream` the content is a message of a stream, of which `callers` are open.
    """
    method = STREAM if stream else METHOD
    more = ["--stream", "--window", str(WINDOW), "--sequence-field", "1", "--error-field", "3"] if stream else []
    runs: list[list[tuple[float, float, float]]] = [[], []]
    for turn in range(rounds):
        # Who is first changes, so that what one leaves behind does not always meet the other.
        for number in ((0, 1), (1, 0))[turn % 2]:
            side = sides[number]
            before = cpu_seconds(side.pid)
            expectation = Expectation(number=expected)
            figure = generator.grpc(side.address, method, content, 1, callers=callers, expected=expectation, more=more)
            if not figure.sound:
                raise SystemExit(json.dumps(figure.to_json()))
            calls = figure.calls_per_second * (generator.seconds + generator.warm)
            runs[number].append((figure.calls_per_second, figure.p50_ms, (cpu_seconds(side.pid) - before) / calls))
    return runs


def main() -> None:
    """Measure, and print a line for each front and number of callers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--callers", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--fronts", nargs="+", default=["rust", "grpcio"])
    parser.add_argument("--other-front", help="of the other checkout, where it is not the same one")
    parser.add_argument("--rows", type=int, default=1, help="of each call or message")
    parser.add_argument("--stream", action="store_true", help="send messages on streams instead of unary calls")
    parser.add_argument("--traced", type=float, metavar="SHARE", help="of the calls of this checkout")
    options = parser.parse_args()
    request = pb.ScoreRequest()
    request.model.name, request.columns.num_rows = MODEL, options.rows
    for name, value in ROW.items():
        request.columns.columns.add(name=name).doubles.values.extend([value] * options.rows)
    content = request.SerializeToString()
    if options.stream:
        content = pb.ScoreStreamRequest(request=request).SerializeToString()
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']}")
    print(f"{options.rounds} rounds of {options.seconds:g} s; this checkout to {options.other}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        registry = stack.enter_context(sample_registry(folder))
        variables: dict[str, str] = {}
        if options.traced is not None:
            variables = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
            variables |= {"OTEL_TRACES_SAMPLER_ARG": str(options.traced)}
            variables |= {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": stack.enter_context(SpanReceiver()).endpoint}
        generator = Generator(os.sched_getaffinity(0), options.seconds, 0.5, 1, folder)
        pythons = [Path(sys.executable), options.other.resolve() / ".venv" / "bin" / "python"]
        for front in options.fronts:
            with ExitStack() as running:
                sides = []
                for number, python in enumerate(pythons):
                    cache = folder / f"{front}-{number}"
                    flags = ("--front", (options.other_front or front) if number else front, "--http-port", "0")
                    given = {} if number else variables
                    sides.append(running.enter_context(service(registry, cache, *flags, python=python, **given)))
                with Client(sides[0].address, timeout=60) as client:
                    expected = client.score(MODEL, ROW).batch.column(0)[0].as_py()
                with Client(sides[1].address, timeout=60) as client:
                    client.score(MODEL, ROW)
                for callers in [STREAMS] if options.stream else options.callers:
                    runs = by_turns(sides, options.rounds, generator, content, callers, expected, options.stream)
                    words = []
                    for place, what in enumerate(("calls/s", "p50", "CPU")):
                        ratios = [mine[place] / other[place] for mine, other in zip(*runs, strict=True)]
                        words.append(f"{what} {mean_ratio(ratios)}")
                    rates = [statistics.median(one[0] for one in run) for run in runs]
                    print(
                        f"{front:6} {callers:3} callers {rates[0]:8,.0f}/s and {rates[1]:8,.0f}/s; {', '.join(words)}"
                    )


if __name__ == "__main__":
    main()
