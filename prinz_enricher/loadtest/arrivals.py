"""When the calls of an open loop begin: a Poisson process, as many callers who know nothing of each other make it."""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the times at which calls are to begin, in order; the same for the same arguments.

    Schedules of several processes, each of its share of the rate and with another seed, are together one of the whole
    rate.

    Args:
        rate: Calls a second, on average; more than 0.
        seconds: How long.
        seed: Of the chance.

    Yields:
        Seconds from the start, below `seconds`.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    planned = chance.expovariate(rate)
    while planned < seconds:
        yield planned
        planned += chance.expovariate(rate)
