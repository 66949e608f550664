"""Each attack in small: nobody else is refused, the service stays healthy, and memory stays within its bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.hostile.attacks import ATTACKS, SERVER_FLAGS, Target
from tests.hostile.campaign import Callers, Server, running
from tests.hostile.frames import GoneError
from tests.hostile.models import INFLIGHT_BYTES, MIB
from tests.support.front_core import KINDS

pytestmark = pytest.mark.slow

SECONDS = 0.5
SCALE = 0.1
WAIT = 60.0
MAX_MB = INFLIGHT_BYTES // MIB + 150
NOT_HELD = {
    "grpcio": {"full-of-connections": "new callers are refused while idle ones have all the files"},
    "rust": {"full-of-connections": "new callers are refused while idle ones have all the files"},
}
"""What a front can't hold, and why: docs/security.md."""


class Servers:
    """A service of a kind and one more for each attack that needs other flags, all for as long as these tests."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[tuple[str, ...], Server] = {}

    def get(self, front: str, *flags: str) -> Server:
        """Return a service that runs."""
        key = (front, *flags)
        if key not in self._running:
            self._running[key] = self._stack.enter_context(running(*key))
        return self._running[key]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Services that start when they are asked for."""
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.mark.parametrize("front", KINDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_served(servers: Servers, front: str, name: str) -> None:
    """While an attack goes on and after it, others get their answers, health is SERVING, and memory is bounded."""
    if name in NOT_HELD[front]:
        pytest.skip(NOT_HELD[front][name])
    server = servers.get(front, *SERVER_FLAGS.get(name, []))
    callers, start = Callers(server.port), server.memory()
    try:
        with suppress(GoneError), Target(server.port, time.monotonic() + SECONDS, SCALE) as target:
            ATTACKS[name](target)
        most, limit, answered = server.memory(), time.monotonic() + WAIT, 0
        while answered < 100:
            assert server.alive
            assert time.monotonic() < limit, "nobody is answered"
            seen = callers.watch(0.1)
            most = max(most, server.memory())
            assert not seen.errors
            answered += len(seen.calls)
    finally:
        callers.close()
    assert most - start < MAX_MB
