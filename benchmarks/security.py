"""What TLS, tokens and access rules cost: `make bench-security` (ARGS=--help).

One wine model, a service for each set of settings, all of them running at once; each is called in turn, in every round.
A ratio is that of two sides within one round: of calls a second, and of the front's CPU time for a call, which other
programs on the machine disturb less. Printed are the geometric mean of the rounds' ratios and its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks.peers.generator import Expectation, Generator
from benchmarks.peers.machine import describe_machine
from benchmarks.serving import Service, service
from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client, Tls
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.registry import PrivateServer
from tests.support.certificates import Authority

MODEL = "MLF-ElasticnetWineModel-1"
ROW = {name: float(str(value)) for name, value in EXAMPLES[MODEL][0].items()}
METHOD = "/prinz.enricher.v1.EnricherService/Score"
ROOT = Path(__file__).parent.parent
PRINCIPALS = 1_000
RULES = 10_000


@dataclass(frozen=True)
class Side:
    """One of the services that are compared.

    Attributes:
        front: What speaks gRPC.
        tokens: Of how many principals tokens are sent in turn; calls need none where it is 0.
        rules: Whether there are access rules.
        tls: Whether it has TLS.
        checked: Whether the service asks for the tokens; otherwise they are sent in vain.
        baselines: The sides without what is measured.
        coalesced: Whether our client calls, which sends the rows of its callers together.
    """

    front: str
    tokens: int = 0
    rules: bool = False
    tls: bool = False
    checked: bool = True
    baselines: tuple[str, ...] = ()
    coalesced: bool = False


class Run(NamedTuple):
    """Calls a second, and seconds of the front's CPU time for each."""

    rate: float
    cpu: float


SIDES = {
    **{
        name: side
        for front in ("rust", "grpcio")
        for name, side in {
            front: Side(front),
            # Its ratio to itself shows what the machine alone makes of two sides.
            f"{front}, again": Side(front, baselines=(front,)),
            f"{front}, unchecked tokens": Side(front, tokens=PRINCIPALS, checked=False, baselines=(front,)),
            f"{front}, a token": Side(front, tokens=1, baselines=(front, f"{front}, unchecked tokens")),
            f"{front}, many tokens": Side(front, tokens=PRINCIPALS, baselines=(front, f"{front}, unchecked tokens")),
            f"{front}, many tokens, rules": Side(
                front, tokens=PRINCIPALS, rules=True, baselines=(f"{front}, many tokens",)
            ),
            f"{front}, TLS": Side(front, tls=True, baselines=(front,)),
            f"rows of our client, {front}": Side(front, coalesced=True),
            f"rows of our client, {front}, TLS": Side(
                front, tls=True, coalesced=True, baselines=(f"rows of our client, {front}",)
            ),
        }.items()
    },
}


def settings(side: Side, folder: Path, tokens: list[str], authority: Authority) -> str:
    """Return the settings of a side, in TOML."""
    lines = ["[scoring]", f'preload = ["{MODEL}"]', "[server]", f'front = "{side.front}"']
    if side.tls:
        pair = authority.server()
        lines += ["[server.tls]", f'certificate = "{pair.certificate}"', f'key = "{pair.key}"']
    if side.tokens and side.checked:
        file = folder / "tokens.toml"
        entries = enumerate(sha256(token.encode()).hexdigest() for token in tokens)
        file.write_text("".join(f'[[token]]\nname = "caller-{number}"\nsha256 = "{one}"\n' for number, one in entries))
        lines += ["[auth]", f'tokens_file = "{file}"']
    for number in range(RULES if side.rules else 0):
        models = "MLF-*" if number >= RULES - PRINCIPALS else f"team-{number}-*"
        lines += ["[[access]]", f'principals = ["caller-{number % PRINCIPALS}"]', f'models = ["{models}"]']
        lines += ['methods = ["describe", "score"]']
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.6, help="of each run, after a third as many")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--only", default="", help="sides whose name begins so, and their baselines")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds is less than 2")
    chosen = {name for name, side in SIDES.items() if name.startswith(options.only)}
    chosen |= {baseline for name in chosen for baseline in SIDES[name].baselines}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        registry = stack.enter_context(PrivateServer(f"sqlite:///{folder}/mlflow.db"))
        command = [sys.executable, "-m", "samples.train", "--registry", registry.url]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        tokens = [os.urandom(16).hex() for _ in range(PRINCIPALS)]
        authority = Authority(folder)
        generator = Generator(os.sched_getaffinity(0), options.seconds, options.seconds / 3, 1, folder)
        runs: dict[str, Callable[[], Run]] = {}
        for name in (name for name in SIDES if name in chosen):
            side = SIDES[name]
            home = folder / str(len(runs))
            home.mkdir()
            config = home / "prinz.toml"
            config.write_text(settings(side, home, tokens, authority))
            running = stack.enter_context(service(registry.url, home, "--config", str(config)))
            address = running.address
            with Client(
                address, timeout=60, tls=Tls(ca=authority.file) if side.tls else None, token=tokens[0]
            ) as client:
                expected = client.score(MODEL, ROW).batch.column(0)[0].as_py()
            runs[name] = run_of(side, running, generator, expected, options.callers, authority, tokens)
        results: dict[str, list[Run]] = {name: [] for name in runs}
        order = list(runs)
        for _ in range(options.rounds):
            # Each side comes after each other.
            Random().shuffle(order)  # noqa: S311 - no secret
            for name in order:
                results[name].append(runs[name]())
    machine = describe_machine()
    about = f"{machine['cores']} cores, commit {machine['commit']}, load {machine['load_average']}"
    print(f"{machine['processor']}, {about}; {PRINCIPALS:,} principals, {RULES:,} rules")
    print(f"{options.callers} callers, {options.rounds} rounds of {options.seconds:g} s")
    for name, found in results.items():
        rate, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        line = f"{name:32} {rate:8,.0f}/s {cpu * 1e6:7,.0f} µs"
        for baseline in SIDES[name].baselines:
            pairs = list(zip(found, results[baseline], strict=True))
            line += f"\n    of {baseline}: calls/s {mean_ratio([mine.rate / other.rate for mine, other in pairs])}"
            line += f", CPU {mean_ratio([mine.cpu / other.cpu for mine, other in pairs])}"
        print(line)


def mean_ratio(ratios: list[float]) -> str:
    """Return the geometric mean of ratios, and its 95 % interval: normal, so meant for some thirty rounds and more."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.fmean(logs), 1.96 * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.3f} ({math.exp(mean - error):.3f} to {math.exp(mean + error):.3f})"


def run_of(
    side: Side,
    running: Service,
    generator: Generator,
    expected: float,
    callers: int,
    authority: Authority,
    tokens: list[str],
) -> Callable[[], Run]:
    """Return what measures a side; each answer must be right."""
    more = ["--ca", str(authority.file)] if side.tls else []
    token_file = generator.folder / f"{side.tokens}.tokens"
    token_file.write_text("".join(f"{token}\n" for token in tokens[: side.tokens]))
    request = pb.ScoreRequest()
    request.model.name = MODEL
    request.columns.num_rows = 1
    for name, value in ROW.items():
        request.columns.columns.add(name=name).doubles.values.append(value)
    content = request.SerializeToString()

    def run() -> Run:
        before = cpu_seconds(running.pid)
        if side.coalesced:
            figure = generator.coalesced(running.address, MODEL, ROW, callers, expected, more)
        else:
            # Each principal has a connection, as callers in different processes have.
            sent = ["--connections", str(callers), *(["--tokens", str(token_file)] if side.tokens else [])]
            figure = generator.grpc(
                running.address,
                METHOD,
                content,
                1,
                callers=callers,
                expected=Expectation(number=expected),
                more=[*more, *sent],
            )
        if not figure.sound:
            raise SystemExit(f"{side}: {json.dumps(figure.to_json())}")
        calls = figure.calls_per_second * (generator.seconds + generator.warm)
        return Run(figure.calls_per_second, (cpu_seconds(running.pid) - before) / calls)

    return run


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
