"""Fuzzes the service for some minutes, and prints what it was asked and what it answered: `make fuzz`."""

from __future__ import annotations

import copy
import random
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, seed, settings

from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.fuzz.answers import Malformed, check
from tests.fuzz.damage import damaged
from tests.fuzz.models import signatures
from tests.fuzz.mutation import mutate, random_changes
from tests.fuzz.questions import MESSAGES, Question, questions
from tests.fuzz.server_process import ServerProcess

MIB = 1024 * 1024
WINDOW = 8
"""Calls in flight."""

VARIANTS = 20
"""How many variants are asked of each question: they are much cheaper to make than a new one."""

TIMEOUT = 60.0
"""Seconds for an answer; where there is none by then the client makes up a status, which has no details."""

LARGE = 100_000
"""Bytes of a question from which few variants are asked: each takes its time."""

MAX_GROWTH = 64 * MIB
"""How much more memory the server may hold after the campaign than after its warm-up."""

WARM_UP = 0.15
"""The part of the time after which memory is measured first: caches, arenas and threads are there by then."""

QUIET = settings(
    max_examples=300, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


class Campaign:
    """Asks one server, and counts its answers.

    Attributes:
        answers: How many there were of each kind.
        faults: One question for each kind of answer that is none of the contract's.
        slowest: The longest that an answer took, in seconds, and its question.
    """

    def __init__(self, server: ServerProcess) -> None:
        self.answers: Counter[str] = Counter()
        self.faults: dict[str, Question] = {}
        self.slowest: tuple[float, Question | None] = (0.0, None)
        self._server = server
        self._methods = {name: server.method(name) for name in MESSAGES}
        self._waiting: deque[tuple[Question, list[float], Any]] = deque()

    def ask(self, question: Question) -> None:
        """Send a call, and check the oldest answer where enough calls are under way."""
        future = self._methods[question.method].future(question.data, timeout=TIMEOUT)
        asked = time.monotonic()
        answered: list[float] = []
        future.add_done_callback(lambda _: answered.append(time.monotonic() - asked))
        self._waiting.append((question, answered, future))
        if len(self._waiting) >= WINDOW:
            self._take()

    def finish(self) -> None:
        """Wait for all answers."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        question, answered, future = self._waiting.popleft()
        error = future.exception()
        if answered and answered[0] > self.slowest[0]:
            self.slowest = (answered[0], question)
        try:
            kind = check(question, future.result() if error is None else error)
        except Malformed as fault:
            kind = f"{question.method} MALFORMED"
            self.faults.setdefault(str(fault)[:60], question)
            if not self._server.alive:
                # Any of those under way has done it.
                self.faults |= {f"under way at the end, {place}": one[0] for place, one in enumerate(self._waiting)}
        self.answers[kind] += 1

    @property
    def going(self) -> bool:
        """Whether there is a server to ask, and there are not too many faults yet."""
        return self._server.alive and len(self.faults) < 20


def scores(server: ServerProcess) -> bool:
    """Tell whether the server scores a good request."""
    request = pb.ScoreRequest()
    request.model.name = "doubles"
    request.columns.num_rows = 2
    for name in ("a", "b", "c"):
        request.columns.columns.add(name=name).doubles.values.extend([1.0, 2.0])
    try:
        answer = server.method("Score")(request.SerializeToString(), timeout=TIMEOUT)
    except grpc.RpcError:
        return False
    return bool(pb.ScoreResponse.FromString(answer).columns == request.columns)


def variants(question: Question, source: random.Random, most: int = VARIANTS) -> Iterator[Question]:
    """Give questions that nearly are the same; none of one that ends at its first checks."""
    try:
        message = MESSAGES[question.method].FromString(question.data)
    except DecodeError:
        return
    if isinstance(message, pb.ScoreRequest) and message.model.name not in signatures():
        return
    for _ in range(most if len(question.data) < LARGE else 2):
        if source.random() < 0.1:
            yield Question(question.method, damaged(question.data, random_changes(source)))
        else:
            changed = copy.deepcopy(message)
            for _ in range(source.randint(1, 3)):
                mutate(changed, source)
            if isinstance(message, pb.ScoreRequest) and isinstance(changed, pb.ScoreRequest) and source.random() < 0.9:
                # Of a model that there is, for the signature that it has: else nothing behind that is reached.
                changed.model.CopyFrom(message.model)
                changed.signature_digest = message.signature_digest
            yield Question(question.method, changed.SerializeToString())


def run(campaign: Campaign, first_seed: int, seconds: float) -> int:
    """Ask for some time; returns the seed to go on with."""
    end = time.monotonic() + seconds
    source = random.Random(first_seed)  # noqa: S311 - no secret
    while time.monotonic() < end and campaign.going:

        @seed(first_seed)
        @QUIET
        @given(questions)
        def ask(question: Question) -> None:
            if time.monotonic() < end and campaign.going:
                campaign.ask(question)
                for variant in variants(question, source):
                    campaign.ask(variant)

        ask()
        first_seed += 1
    campaign.finish()
    return first_seed


def _report(campaign: Campaign) -> None:
    click.echo(f"\n{campaign.answers.total()} calls")
    for kind, count in sorted(campaign.answers.items()):
        click.echo(f"  {count:9}  {kind}")
    took, question = campaign.slowest
    folder = Path(tempfile.mkdtemp(prefix="prinz-fuzz-"))
    if question is not None:
        path = folder / f"slowest-{question.method}.bin"
        path.write_bytes(question.data)
        click.echo(f"slowest answer: {took:.2f} s, of {len(question.data)} bytes: {path}")
    if campaign.faults:
        for place, (fault, asked) in enumerate(campaign.faults.items()):
            path = folder / f"{place}-{asked.method}.bin"
            path.write_bytes(asked.data)
            click.echo(f"FAULT {fault}\n      {path}")


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True, help="How long to ask.")
@click.option("--first-seed", default=0, show_default=True, help="The same seed asks the same, if as fast.")
@click.option("--front", type=click.Choice(["rust", "grpcio"]), default="grpcio", show_default=True)
def main(minutes: float, first_seed: int, front: str) -> None:
    """Run a campaign, and end with 1 where the server did not hold."""
    with ServerProcess(front) as server:
        started = server.memory()
        campaign = Campaign(server)
        next_seed = run(campaign, first_seed, WARM_UP * minutes * 60)
        warm = server.memory() if server.alive else 0
        if campaign.going:
            run(campaign, next_seed, (1 - WARM_UP) * minutes * 60)
        alive = server.alive
        serving = alive and scores(server)
        after = server.memory() if alive else 0
        _report(campaign)
        if alive:
            click.echo(
                f"memory: {started // MIB} MiB at first, {warm // MIB} after the warm-up, {after // MIB} at the end, "
                f"{server.peak_memory() // MIB} at most; growth allowed: {MAX_GROWTH // MIB} MiB"
            )
        flat = alive and after - warm < MAX_GROWTH
        click.echo(f"alive: {alive or server.ended}, still scores: {serving}, memory flat: {flat}")
        log = server.log()[:3000]
        if campaign.faults or not alive:
            click.echo(f"the end of the server's log:\n{log}")
    sys.exit(0 if serving and flat and not campaign.faults else 1)


if __name__ == "__main__":
    main()
