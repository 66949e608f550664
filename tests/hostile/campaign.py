"""Attacks a service, and measures what a well-behaved caller sees of it: `make test-hostile`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.hostile.attacks import SERVER_FLAGS
from tests.hostile.frames import SERVICE
from tests.hostile.models import TOKEN, one_row

ROOT: Final = Path(__file__).resolve().parents[2]
CALLERS: Final = 16
PAUSE: Final = 0.02
"""Seconds between two calls of a caller."""

TIMEOUT: Final = 10.0
OVERTIME: Final = 10.0
"""Seconds that an attacker has for its last step."""

RECOVERY: Final = 10.0
"""Seconds that the service has after an attack until all is as it was."""


@dataclass(frozen=True)
class Seen:
    """What well-behaved callers saw in some seconds.

    Attributes:
        calls: When each call that was answered began, by `time.monotonic()`, and how many seconds it took.
        errors: Of calls and of health checks.
    """

    calls: Sequence[tuple[float, float]]
    errors: Sequence[str]

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies, in milliseconds."""
        ordered = sorted(seconds for _, seconds in self.calls) or [float("inf")]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


@dataclass(frozen=True)
class Outcome:
    """What an attack did.

    Attributes:
        memory: MB of the service before, at most, and after.
        back: Seconds after its end until the callers' median was at most twice as long as before; None for never.
        alive: Whether the service still runs.
        sent: What the attacker sent, in words.
    """

    before: Seen
    during: Seen
    after: Seen
    memory: tuple[int, int, int]
    back: float | None
    alive: bool
    sent: str


class Callers:
    """16 callers of one row on a connection of their own, and one of health that connects anew each time."""

    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._calls: list[tuple[float, float]] = []
        self._errors: list[str] = []
        self._stopped = threading.Event()
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        method: Any = self._channel.unary_unary(f"/{SERVICE}/Score")
        row, metadata = one_row(), [("authorization", f"Bearer {TOKEN}")]

        def score() -> None:
            method(row, timeout=TIMEOUT, wait_for_ready=True, metadata=metadata)

        def check() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                asked = health_pb2.HealthCheckRequest()
                health = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=TIMEOUT)
            if health.status != health_pb2.HealthCheckResponse.SERVING:
                with self._lock:
                    self._errors.append("health: not serving")

        actions = [score] * CALLERS + [check]
        self._threads = [threading.Thread(target=self._run, args=(act,), daemon=True) for act in actions]
        for thread in self._threads:
            thread.start()

    def _run(self, act: Callable[[], None]) -> None:
        while not self._stopped.wait(PAUSE):
            began = time.monotonic()
            try:
                act()
            except grpc.RpcError as error:
                failed: Any = error
                with self._lock:
                    self._errors.append(f"{act.__name__}: {failed.code().name}: {failed.details()}")
            else:
                with self._lock:
                    self._calls.append((began, time.monotonic() - began))

    def take(self) -> Seen:
        """Return what was seen since the last time."""
        with self._lock:
            seen = Seen(self._calls, self._errors)
            self._calls, self._errors = [], []
        return seen

    def watch(self, seconds: float) -> Seen:
        """Return what is seen in the next seconds."""
        self.take()
        time.sleep(seconds)
        return self.take()

    def close(self) -> None:
        """End."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._channel.close()


class Server:
    """A service in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def memory(self) -> int:
        """Return the MB of memory that it holds; 0 where it has ended."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:")), 0)


@contextmanager
def running(front: str, *flags: str) -> Iterator[Server]:
    """Run a service with a front."""
    module = ["tests.hostile.bare"] if front == "bare" else ["tests.hostile.server", front, *flags]
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process, int(process.stdout.readline()))
        finally:
            process.kill()


@contextmanager
def attacker(attack: str, port: int, seconds: float, scale: float) -> Iterator[subprocess.Popen[str]]:
    """Start a process that attacks as soon as it is sent a line."""
    command = [sys.executable, "-m", "tests.hostile.attacks", attack, str(port), str(seconds), str(scale)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def measure(front: str, attack: str, *, seconds: float, scale: float) -> Outcome:
    """Attack a new service for some seconds, and measure before, during and after."""
    flags = SERVER_FLAGS.get(attack, [])
    with running(front, *flags) as server, attacker(attack, server.port, seconds, scale) as hostile:
        callers = Callers(server.port)
        try:
            return _measure(server, callers, hostile, seconds)
        finally:
            callers.close()


def _measure(server: Server, callers: Callers, hostile: subprocess.Popen[str], seconds: float) -> Outcome:
    assert hostile.stdin is not None and hostile.stdout is not None  # noqa: PT018 - for the type checker
    callers.watch(0.5)
    before = callers.watch(max(1.0, seconds / 3))
    start = most = server.memory()
    hostile.stdin.write("\n")
    hostile.stdin.flush()
    callers.take()
    until = time.monotonic() + seconds + OVERTIME
    while hostile.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
        most = max(most, server.memory())
    hostile.kill()
    sent = hostile.stdout.read()
    during, ended, back = callers.take(), time.monotonic(), None
    late: list[tuple[float, float]] = []
    late_errors: list[str] = []
    while back is None and time.monotonic() < ended + RECOVERY:
        recovering = callers.watch(0.5)
        most = max(most, server.memory())
        late += [call for call in recovering.calls if call[0] < ended]
        late_errors += recovering.errors
        if not recovering.errors and recovering.quantile(0.5) <= 2 * before.quantile(0.5):
            back = time.monotonic() - ended
    after = callers.watch(max(1.0, seconds / 3))
    # Memory has the whole time.
    while server.memory() > start + 150 and time.monotonic() < ended + RECOVERY:
        time.sleep(0.1)
    # Calls that began during the attack belong to it, whenever they ended.
    during = Seen([*during.calls, *late], [*during.errors, *late_errors])
    return Outcome(before, during, after, (start, most, server.memory()), back, server.alive, sent)


def line(attack: str, outcome: Outcome) -> str:
    """Return a line of the table."""
    p50, p99 = (
        "→".join(f"{seen.quantile(share):,.0f}" for seen in (outcome.before, outcome.during, outcome.after))
        for share in (0.5, 0.99)
    )
    worst = outcome.during.quantile(1.0)
    calls = len(outcome.during.calls)
    memory = "→".join(f"{size:,}" for size in outcome.memory)
    back = "never" if outcome.back is None else f"{outcome.back:.1f}"
    errors = len(outcome.during.errors)
    return f"| {attack} | {p50} | {p99} | {worst:,.0f} | {calls} | {errors} | {memory} | {back} | {outcome.sent} |" + (
        "" if outcome.alive else " the service has ended"
    )


HEADER: Final = (
    "| attack | p50 ms before→during→after | p99 ms | worst ms | calls | errors | MB | back s | sent |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
