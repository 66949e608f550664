"""Single rows over HTTP: ours, `mlflow models serve`, and the least that answers HTTP, by turns: `make bench-http`.

The least is there three times: on asyncio and httptools alone, on our server, which is made of these two, and as an
application of uvicorn on the same two.

All servers run at once, with all of their processes on the first core, and are called in turn from another one: by 64
callers on as many connections, then by one. The model is the wine sample. A ratio is that of two servers in one round;
printed are the geometric mean of the rounds' ratios and its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import httpx

from benchmarks.peers.generator import Expectation, Generator
from benchmarks.peers.machine import describe_machine
from benchmarks.peers.processes import free_port, pinned
from benchmarks.security import MODEL, ROOT, ROW, mean_ratio
from benchmarks.serving import service
from prinz_enricher.registry import PrivateServer
from tests.support.deadline import wait_until

CALLERS = 64
MLFLOW = "mlflow models serve"
MLFLOW_SECONDS = 120.0
SCORE = f"/v1/models/{MODEL}:score"
INVOCATIONS = "/invocations"
JSON = {"Content-Type": "application/json"}


class Side(NamedTuple):
    """What is called: where, with what, and what an answer must have in it."""

    address: str
    path: str
    body: bytes
    expected: str


class Round(NamedTuple):
    """Calls a second of 64 callers, and milliseconds of one caller's median call."""

    rate: float
    p50: float


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill a process with all of its own at the end of the block."""
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def start(stack: ExitStack, *command: str, output: int = subprocess.DEVNULL, **variables: str) -> subprocess.Popen[str]:
    """Start a program that ends with the stack. What has a line for each request must not write to a pipe: it fills."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env=os.environ | variables, text=True,
        stdout=output, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    return stack.enter_context(ended(process))


def sides(stack: ExitStack, folder: Path, core: int) -> dict[str, Side]:
    """Start all servers, and return how each is called."""
    registry = stack.enter_context(PrivateServer(f"sqlite:///{folder}/mlflow.db"))
    subprocess.run(
        [sys.executable, "-m", "samples.train", "--registry", registry.url], check=True, cwd=ROOT, capture_output=True
    )
    invocation = json.dumps({"dataframe_records": [ROW]}).encode()
    with pinned({core}):
        bare = start(stack, "benchmarks.bare_http", output=subprocess.PIPE)
        own = start(stack, "benchmarks.bare_http", "ours", output=subprocess.PIPE)
        plain = free_port()
        flags = ("--http", "httptools", "--loop", "asyncio", "--log-level", "warning", "--no-access-log")
        start(stack, "uvicorn", "benchmarks.bare_http:app", "--port", str(plain), *flags)
        port = free_port()
        options = ("--env-manager", "local", "--port", str(port), "--workers", "1")
        # It starts uvicorn by its name.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"MLFLOW_TRACKING_URI": registry.url, "PATH": path}
        start(stack, "mlflow", "models", "serve", "-m", f"models:/{MODEL}/1", *options, **variables)
        config = folder / "prinz.toml"
        config.write_text(f'[scoring]\npreload = ["{MODEL}"]\n')
        running = stack.enter_context(service(registry.url, folder, "--config", str(config), "--api-port", "0"))
    ours = f"127.0.0.1:{running.events('http api listens')[0]['port']}"
    theirs = f"127.0.0.1:{port}"
    hello, least = (f"127.0.0.1:{one.stdout.readline().strip() if one.stdout else ''}" for one in (bare, own))

    waited = Side(theirs, INVOCATIONS, invocation, "")
    wait_until(partial(answers, waited), MLFLOW_SECONDS)
    score = httpx.post(f"http://{theirs}{INVOCATIONS}", content=invocation, headers=JSON).json()["predictions"][0]
    rows = json.dumps({"rows": [ROW]}).encode()
    found = {
        "bare": Side(hello, "/", rows, "5.0"),
        "bare, by our server": Side(least, "/", rows, "5.0"),
        "bare, by uvicorn": Side(f"127.0.0.1:{plain}", "/", rows, "5.0"),
        MLFLOW: Side(theirs, INVOCATIONS, invocation, json.dumps(score)),
        "ours, /v1": Side(ours, SCORE, rows, json.dumps(score)),
        "ours, /invocations": Side(ours, f"/model/{MODEL}/invocations", invocation, json.dumps(score)),
    }
    for side in found.values():
        wait_until(partial(answers, side), MLFLOW_SECONDS)
    return found


def answers(side: Side) -> bool:
    """Return whether a server answers."""
    try:
        url = f"http://{side.address}{side.path}"
        return httpx.post(url, content=side.body, headers=JSON, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    """Measure, and print a line for each server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run, after one second")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = sides(stack, folder, cores[0])
        generator = Generator({cores[-1]}, options.seconds, 1.0, 1, folder)
        # A call of 64 takes it seconds, and it goes on with those of the run before, though nobody waits for them.
        patient = Generator({cores[-1]}, max(10.0, options.seconds), 5.0, 1, folder)
        results: dict[str, list[Round]] = {name: [] for name in found}
        order = list(found)
        for _ in range(options.rounds):
            Random().shuffle(order)  # noqa: S311 - no secret
            for name in order:
                side = found[name]
                expected = Expectation(text=side.expected)
                many, one = (
                    (patient if name == MLFLOW else generator).http(
                        side.address, side.path, side.body, 1, callers=callers, expected=expected
                    )
                    for callers in (CALLERS, 1)
                )
                if not (many.sound and one.sound):
                    raise SystemExit(f"{name}: {json.dumps(many.to_json())} {json.dumps(one.to_json())}")
                results[name].append(Round(many.calls_per_second, one.p50_ms))
    machine = describe_machine()
    print(f"{machine['processor']}, {len(cores)} cores, commit {machine['commit']}, load {machine['load_average']}")
    print(f"servers on one core; {options.rounds} rounds of {options.seconds:g} s")
    for name, rounds in results.items():
        rate, p50 = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{name:24} {CALLERS} callers {rate:8,.0f}/s    one caller p50 {p50:6.2f} ms")
        for other in results if name.startswith("ours") else ():
            if other.startswith("ours"):
                continue
            pairs = list(zip(rounds, results[other], strict=True))
            rates, times = ([mine[place] / theirs[place] for mine, theirs in pairs] for place in (0, 1))
            print(f"    of {other}: calls/s {mean_ratio(rates)}, p50 {mean_ratio(times)}")


if __name__ == "__main__":
    main()
