"""The steps of a load test: closed loops of some concurrencies, then open loops of some rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DEFAULT_CONCURRENCIES = (1, 16, 64)
"""What is run where nothing is asked for."""

SEARCH_CONCURRENCY = 64
"""The closed loop that finds the maximum where rates are shares of it and no closed loop is asked for."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop: so many callers, each of which calls again as soon as it has its answer.

    Attributes:
        concurrency: Callers in all.
    """

    concurrency: int

    def share(self, process: int, processes: int) -> Closed:
        """Return what one of several processes does of it; its concurrency may be 0."""
        return Closed(self.concurrency // processes + (process < self.concurrency % processes))


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop: calls begin at planned times, whether earlier ones are answered or not.

    Attributes:
        rate: Calls a second in all.
    """

    rate: float

    def share(self, process: int, processes: int) -> Open:
        """Return what one of several processes does of it."""
        return Open(self.rate / processes)


Step = Closed | Open


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that was asked for.

    Attributes:
        value: Calls a second, or a share of the maximum.
        relative: Whether it is a share: 0.7 is 70 %.
    """

    value: float
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Ladder:
    """What is to be run, in order: closed loops, then open ones.

    Attributes:
        concurrencies: Of the closed loops.
        rates: Of the open loops.
    """

    concurrencies: tuple[int, ...]
    rates: tuple[Rate, ...]

    @classmethod
    def of(cls, concurrencies: Sequence[int], rates: Sequence[Rate]) -> Ladder:
        """Make the ladder of what was asked for.

        Where nothing was, it is `DEFAULT_CONCURRENCIES`; where a rate is a share of a maximum that nothing would find,
        a closed loop of `SEARCH_CONCURRENCY` comes first.
        """
        if not concurrencies and not rates:
            return cls(DEFAULT_CONCURRENCIES, ())
        if not concurrencies and any(rate.relative for rate in rates):
            return cls((SEARCH_CONCURRENCY,), tuple(rates))
        return cls(tuple(concurrencies), tuple(rates))

    def __len__(self) -> int:
        return len(self.concurrencies) + len(self.rates)

    def steps(self, maximum: Sequence[float]) -> Iterator[Step]:
        """Yield the steps.

        Args:
            maximum: Calls a second that the closed loops reached: the caller adds each when its step has ended.

        Yields:
            The next step; open loops whose rate is a share of a maximum of 0 are left out.
        """
        for concurrency in self.concurrencies:
            yield Closed(concurrency)
        for rate in self.rates:
            value = rate.value * max(maximum, default=0.0) if rate.relative else rate.value
            if value > 0:
                yield Open(value)


def parse_concurrencies(text: str) -> tuple[int, ...]:
    """Read `1,16,64`.

    Raises:
        ValueError: A part is no whole number above 0.
    """
    return tuple(_whole(part) for part in text.split(","))


def parse_rates(text: str) -> tuple[Rate, ...]:
    """Read `1000,2500.5,70%`.

    Raises:
        ValueError: A part is no number above 0, with or without a percent sign.
    """
    return tuple(_rate(part.strip()) for part in text.split(","))


def _whole(part: str) -> int:
    if not part.strip().isdecimal() or int(part) == 0:
        raise ValueError(f'"{part.strip()}" is no whole number above 0')
    return int(part)


def _rate(part: str) -> Rate:
    relative = part.endswith("%")
    try:
        value = float(part.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f'"{part}" is no rate: write calls a second, such as 1000, or a share, such as 70%')
    return Rate(value / 100 if relative else value, relative)
