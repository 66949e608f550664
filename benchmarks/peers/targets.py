"""What we want to reach, and whether this run did: each with its two figures."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.figure import Figure
from benchmarks.peers.loads import BATCH_100K, SINGLE_1, SINGLE_64
from benchmarks.peers.results import Results

ECHO_CALLS, ECHO_P50 = 7_138, 0.16
"""Calls/s at 64 callers, and ms at one, of a bare grpc.aio echo on the machine for which targets in absolute figures
were set. Another machine is quicker or slower: beside its own echo they are ratios."""


@dataclass(frozen=True)
class Target:
    """A target and how it came out.

    Attributes:
        wanted: What was wanted, in words.
        ours: Our figure, in words.
        against: What it is held against, in words.
        met: Whether it was reached; None where a figure is not there.
    """

    wanted: str
    ours: str
    against: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """The word in the table."""
        return {True: "met", False: "**MISSED**", None: "not measured"}[self.met]


def decide(results: Results) -> list[Target]:
    """Return all targets in the order of the table."""
    return [*_single_rows(results), *_many_rows(results), *_costs(results)]


def _single_rows(results: Results) -> list[Target]:
    many, one = results.figure("ours", SINGLE_64.name), results.figure("ours", SINGLE_1.name)
    many_beside, one_beside = _sound(results, SINGLE_64.name), _sound(results, SINGLE_1.name)
    behind = _sound(results, "grpcio_64")
    echo = _named("grpc.aio echo", _echo(results, SINGLE_64.name))
    kin = _named("echo of its kind", _echo(results, "grpcio_64"))
    batching = results.best(SINGLE_64.name, batching=True)
    quickest = results.best(SINGLE_1.name, by_latency=True)
    open_loop = _sound(results, "open_loop")
    return [
        _times("64 callers, one row each: 13 x the best peer that batches", many, batching, 13),
        _times("64 callers: 2.5 x a bare grpc.aio echo", many_beside, echo, 2.5),
        _times("64 callers, grpcio front: 0.5 x a bare Python echo of its kind", behind, kin, 0.5),
        _below("1 caller: p50 below 0.4 ms", one.p50_ms if one else None, 0.4, "ms"),
        _as_slow("1 caller", one_beside.p50_ms if one_beside else None, 0.4, _echo(results, SINGLE_1.name)),
        _quicker("1 caller: p50 below a quarter of the best peer's", one, quickest, 0.25),
        _below("open loop at 70 % of the maximum: p99 below 4 ms", open_loop.p99_ms if open_loop else None, 4, "ms"),
        _as_slow("open loop", open_loop.p99_ms if open_loop else None, 4, _echo(results, "open_loop")),
    ]


def _many_rows(results: Results) -> list[Target]:
    large, best = results.figure("ours", BATCH_100K.name), results.best(BATCH_100K.name)
    mlflow = _named("MLflow's scoring server", results.figure("mlflow", BATCH_100K.name))
    coalesced, stream = _sound(results, "coalesced_256"), _sound(results, "stream_columns")
    one_worker = _named("one worker", _sound(results, "heavy_1"))
    two_workers = _sound(results, "heavy_2")
    return [
        _rate("256 coalesced callers in one client process: 30,000 rows/s", coalesced, 30_000),
        _as_quick("coalesced", coalesced, 30_000, _echo(results, "coalesced_256")),
        _rate("messages of 100 rows on a stream: 200,000 rows/s", stream, 200_000),
        _as_quick("stream", stream, 200_000, _echo(results, "stream_columns")),
        _times("one request of 100,000 rows: 4 x the best peer's rows/s", large, best, 4),
        _times("one request of 100,000 rows: 100 x MLflow's JSON", large, mlflow, 100),
        _million(results),
        _times("100 trees, 1,000-row batches: two workers 1.6 x one", two_workers, one_worker, 1.6),
    ]


def _costs(results: Results) -> list[Target]:
    share = results.numbers.get("idle_share")
    idle = _below("idle: below 1 % of a core", share * 100 if share is not None else None, 1, "%")
    return [idle, _dense(results)]


def _sound(results: Results, name: str) -> Figure | None:
    figure = results.ours.get(name)
    return figure if figure and figure.sound else None


def _echo(results: Results, name: str) -> Figure | None:
    """Give what the echo did by turns with a figure of ours."""
    figure = results.echo.get(name)
    return figure if figure and figure.sound else None


def _named(title: str, figure: Figure | None) -> tuple[str, Figure] | None:
    return (title, figure) if figure else None


def _rows(figure: Figure | None) -> str:
    return f"{figure.rows_per_second:,.0f} rows/s" if figure else "-"


def _times(wanted: str, ours: Figure | None, other: tuple[str, Figure] | None, least: float) -> Target:
    if ours is None or other is None:
        return Target(wanted, _rows(ours), f"{other[0]}: {_rows(other[1])}" if other else "-", None)
    ratio = ours.rows_per_second / other[1].rows_per_second
    return Target(wanted, f"{_rows(ours)}, {ratio:.2f} x", f"{other[0]}: {_rows(other[1])}", ratio >= least)


def _quicker(wanted: str, ours: Figure | None, other: tuple[str, Figure] | None, most: float) -> Target:
    own = f"{ours.p50_ms:.2f} ms" if ours else "-"
    if ours is None or other is None:
        return Target(wanted, own, f"{other[0]}: {other[1].p50_ms:.2f} ms" if other else "-", None)
    ratio = ours.p50_ms / other[1].p50_ms
    return Target(wanted, f"{own}, {ratio:.2f} x", f"{other[0]}: {other[1].p50_ms:.2f} ms", ratio < most)


def _rate(wanted: str, ours: Figure | None, least: float) -> Target:
    return Target(wanted, _rows(ours), f"{least:,.0f} rows/s", ours.rows_per_second >= least if ours else None)


def _below(wanted: str, value: float | None, most: float, unit: str) -> Target:
    return Target(
        wanted,
        f"{value:.2f} {unit}" if value is not None else "-",
        f"{most:g} {unit}",
        value < most if value is not None else None,
    )


def _as_slow(what: str, value: float | None, most: float, echo: Figure | None) -> Target:
    """Hold a time against the echo's, taken by turns with it, as it was set against another machine's."""
    own, times = (f"{value:.2f} ms" if value is not None else "-"), most / ECHO_P50
    wanted = f"{what}: below {times:.3g} x the p50 of an echo beside it"
    if value is None or echo is None:
        return Target(wanted, own, "-", None)
    ratio = value / echo.p50_ms
    return Target(wanted, f"{own}, {ratio:.2f} x", f"grpc.aio echo: {echo.p50_ms:.2f} ms", ratio < times)


def _as_quick(what: str, ours: Figure | None, least: float, echo: Figure | None) -> Target:
    """Hold a rate against the echo's, taken by turns with it, as it was set against another machine's."""
    times = least / ECHO_CALLS
    return _times(f"{what}: {times:.3g} x the calls/s of an echo beside it", ours, _named("grpc.aio echo", echo), times)


def _million(results: Results) -> Target:
    wanted = "1,000,000 rows under the default limits"
    whole = results.ours.get("arrow_1000000")
    if whole and whole.sound:
        return Target(wanted, f"one request of ten record batches: {_rows(whole)}", "it works", met=True)
    seconds = results.numbers.get("million_seconds")
    if seconds:
        return Target(wanted, f"ten requests: {1e6 / seconds:,.0f} rows/s", "it works", met=True)
    tried = whole or "million_seconds" in results.why_not
    return Target(wanted, results.why_not.get("arrow_1000000", "-"), "it works", met=False if tried else None)


def _dense(results: Results) -> Target:
    wanted = "one-row call: the dense form costs the front less than half of columns"
    dense, columns = (results.numbers.get(f"front_us_{form}") for form in ("dense", "columns"))
    own, against = (f"{value:.1f} µs" if value is not None else "-" for value in (dense, columns))
    if dense is None or not columns:
        return Target(wanted, own, against, None)
    return Target(wanted, f"{own}, {dense / columns:.2f} x", against, dense < 0.5 * columns)
