"""What is compared is measured by turns: a machine's speed drifts, and both sides shall have met the same of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from benchmarks.peers.call import wait_until_it_scores
from benchmarks.peers.figure import Figure, median
from benchmarks.peers.generator import Generator, LoadFailed
from benchmarks.peers.loads import Load
from benchmarks.peers.measure import failed, one
from benchmarks.peers.roster import PEERS, Place

Take = Callable[[Generator], Figure]
"""Makes one load with a generator and returns what it gave."""


def by_turns(takes: Mapping[str, Take], generator: Generator) -> dict[str, Figure]:
    """Make several loads, one run of each after the other, and all of them again.

    Args:
        takes: The loads by name.
        generator: Makes them; each is run as often as it has runs.

    Returns:
        The median of the runs of each; where a run failed, its error.
    """
    once = replace(generator, runs=1)
    runs: dict[str, list[Figure]] = {name: [] for name in takes}
    for _ in range(generator.runs):
        for name, take in takes.items():
            try:
                runs[name].append(take(once))
            except LoadFailed as error:
                runs[name].append(failed(error, 1))
    return {name: median(found) for name, found in runs.items()}


@dataclass(frozen=True)
class Echo:
    """A bare grpc.aio echo that runs beside what is held against it.

    Attributes:
        place: Where it runs.
        address: Where it listens.
    """

    place: Place
    address: str

    def take(self, load: Load) -> Take:
        """Give how it is put under a load of single rows."""
        return lambda generator: one(_ECHO.asks, self.address, self.place.models, load, generator)


@contextlib.contextmanager
def echo(place: Place) -> Iterator[Echo]:
    """Run the echo until the end of the block."""
    with _ECHO.start(place) as running:
        address = running.addresses["wine"]
        wait_until_it_scores(running.servers[0], _ECHO.asks, address, place.models, "wine")
        yield Echo(place, address)


_ECHO = next(peer for peer in PEERS if peer.name == "echo-aio")
