"""What two workers are worth on all cores beside one, by turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.peers.call import WrongScores, wait_until_it_scores
from benchmarks.peers.figure import Figure
from benchmarks.peers.generator import Generator
from benchmarks.peers.loads import Load
from benchmarks.peers.measure import describe, one
from benchmarks.peers.processes import NotStarted
from benchmarks.peers.protocols import Prinz
from benchmarks.peers.results import Results
from benchmarks.peers.roster import Place
from benchmarks.peers.service import service
from benchmarks.peers.turns import Take, by_turns

HEAVY = Load("heavy", "100 trees, 1,000 rows, 8 callers", "forest", 8, 1_000)
LEAST_WARM_SECONDS = 4.0


@dataclass(frozen=True)
class Scaling:
    """Something there may be several of.

    Attributes:
        name: The figures' names, before the number.
        setting: The environment variable with the number.
        asks: How the service is asked.
        load: What it is put under.
    """

    name: str
    setting: str
    asks: Prinz
    load: Load


SCALINGS = (Scaling("heavy", "PRINZ_SCORING__REPLICAS", Prinz("arrow"), HEAVY),)


def scale(
    results: Results,
    registry: str,
    place: Callable[[bool], Place],
    generator: Generator,
    tell: Callable[[str], None],
) -> None:
    """Measure services with one and with two, which run beside each other, and of which one at a time is asked.

    Args:
        results: Take the figures.
        registry: URL of the MLflow server with the models.
        place: Gives a new place to run at; on all cores, if asked so.
        generator: Makes the loads, here on all cores as well.
        tell: Takes a line of progress.
    """
    for what in SCALINGS:
        tell(f"ours, {what.name}: one and two on all cores")
        try:
            found = _measured(what, registry, place, generator)
        except (NotStarted, WrongScores) as error:
            results.why_not |= {f"{what.name}_{number}": str(error) for number in (1, 2)}
            tell(f"  not run: {error}")
            continue
        results.ours |= found
        for name, figure in found.items():
            if not figure.sound:
                results.why_not[name] = figure.error
            tell(f"  {name:<18} {describe(figure)}")


def _measured(what: Scaling, registry: str, place: Callable[[bool], Place], generator: Generator) -> dict[str, Figure]:
    """Run both services, and put them under the load by turns; gives their figures by name."""
    takes: dict[str, Take] = {}
    with contextlib.ExitStack() as stack:
        for number in (1, 2):
            where = place(True)
            running = stack.enter_context(service(where, registry, "rust", **{what.setting: str(number)}))
            address = running.addresses[what.load.model]
            wait_until_it_scores(running.servers[0], what.asks, address, where.models, what.load.model)
            takes[f"{what.name}_{number}"] = _take(what, address, where)
        shared = replace(generator, cores=where.cores, warm=max(generator.warm, LEAST_WARM_SECONDS))
        return by_turns(takes, shared)


def _take(what: Scaling, address: str, place: Place) -> Take:
    return lambda generator: one(what.asks, address, place.models, what.load, generator)
