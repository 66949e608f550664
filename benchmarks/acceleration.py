"""What acceleration gains: one service with it and one without, by turns: `make bench-acceleration` (ARGS=--help).

Both serve the sample fraud pipeline (a scaled amount, three columns of categories, a logistic regression). They score
100,000 payments, whose labels are compared, and are called in turn in every round, with one payment a call. Printed are
calls a second, the median latency, and the ratios within one round: geometric mean and 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers.generator import Expectation, Generator
from benchmarks.peers.machine import describe_machine
from benchmarks.security import METHOD, mean_ratio
from benchmarks.serving import sample_registry, service
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from samples import fraud

MODEL = "MLF-FraudDetection-3"
ROWS = 100_000


def main() -> None:
    """Measure, and print a line for each number of callers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--callers", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--front", default="auto")
    options = parser.parse_args()
    payment = {"age": "4", "gender": "F", "category": "es_transportation"}
    request = pb.ScoreRequest()
    request.model.name, request.columns.num_rows = MODEL, 1
    for name, text in payment.items():
        request.columns.columns.add(name=name).strings.values.append(text)
    request.columns.columns.add(name="amount").doubles.values.append(800.0)
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        registry = stack.enter_context(sample_registry(folder))
        generator = Generator(os.sched_getaffinity(0), options.seconds, 0.5, 1, folder)
        sides = []
        for name, models in (("own", []), ("accelerated", [MODEL])):
            variables = {"PRINZ_SCORING__ACCELERATE": json.dumps(models)}
            side = stack.enter_context(service(registry, folder / name, "--front", options.front, **variables))
            sides.append(side)
        payments = fraud.make_fraud(ROWS, seed=5)[list(fraud.COLUMNS)]
        found = []
        for side in sides:
            with Client(side.address, timeout=60) as client:
                found.append(client.score(MODEL, payments).batch)
            print(f"{side.address}: {side.events('a version is loaded')[-1]['path']}")
        different = sum(one != other for one, other in zip(*(one.column(0).to_pylist() for one in found), strict=True))
        print(f"{ROWS:,} payments: {different} labels differ")
        for callers in options.callers:
            runs: list[list[tuple[float, float]]] = [[], []]
            for turn in range(options.rounds):
                for number in ((0, 1), (1, 0))[turn % 2]:
                    at = sides[number].address
                    content = request.SerializeToString()
                    figure = generator.grpc(at, METHOD, content, 1, callers=callers, expected=Expectation(text=MODEL))
                    if not figure.sound:
                        raise SystemExit(json.dumps(figure.to_json()))
                    runs[number].append((figure.calls_per_second, figure.p50_ms))
            own, fast = runs
            for what, place in (("calls/s", 0), ("p50 ms", 1)):
                medians = [statistics.median(run[place] for run in side) for side in runs]
                ratios = [after[place] / before[place] for before, after in zip(own, fast, strict=True)]
                print(f"{callers:3} callers, {what}: {medians[0]:,.2f} -> {medians[1]:,.2f}, {mean_ratio(ratios)}")


if __name__ == "__main__":
    main()
