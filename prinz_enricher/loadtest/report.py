"""What a load test found out, as a document: `docs/load-testing.md` has a line for each part of it."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from prinz_enricher import __version__
from prinz_enricher.loadtest.histogram import Histogram
from prinz_enricher.loadtest.ladder import Closed, Step
from prinz_enricher.loadtest.tally import LATE_NANOSECONDS, Tally

BUSY: Final = 0.85
"""The share of a core from which on a process of the generator is held to be the limit."""

LATE_SHARE: Final = 0.01
"""The share of late calls from which on the generator is held to be the limit."""

FORMAT_VERSION: Final = 1
"""The version of the document: it changes where a reader of it would have to."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Part):
    """Where the generator ran.

    Attributes:
        system: The operating system.
        processor: As it calls itself.
        cores: Of the machine.
        usable_cores: Of those, how many this process may use.
        load_average: Of the last minute, before the test: what else there was to do.
    """

    system: str
    processor: str
    cores: int
    usable_cores: int
    load_average: float


class Arguments(_Part):
    """What was asked for.

    Attributes:
        addresses: Of the server.
        tls: Whether TLS was spoken.
        mode: `unary`, `stream`, `coalesced` or `arrow`.
        form: Of the rows in a message: `columns`, `dense` or `arrow`.
        rows: Of each call.
        input: The file that rows were taken from; None where they were made.
        seed: Of all chance.
        processes: Of the generator.
        connections: Of each process to each address.
        duration: Seconds that each step was measured.
        warm_up: Seconds of load before each.
        timeout: Seconds that one call could take.
        max_in_flight: Calls that an open loop could have on their way.
        check: `scores` where each answer was compared, `rows` where just the number of its rows was.
    """

    addresses: list[str]
    tls: bool
    mode: Literal["unary", "stream", "coalesced", "arrow"]
    form: Literal["columns", "dense", "arrow"]
    rows: int
    input: str | None
    seed: int
    processes: int
    connections: int
    duration: float
    warm_up: float
    timeout: float
    max_in_flight: int
    check: Literal["scores", "rows"]


class Latency(_Part):
    """Latencies of right answers in milliseconds; percentiles are exact to 1 %, the others exactly.

    Attributes:
        min: The shortest.
        mean: The mean.
        p50: Half of all are not longer.
        p90: Nine of ten are not longer.
        p99: 99 of 100 are not longer.
        p99_9: 999 of 1,000 are not longer.
        max: The longest.
    """

    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency | None:
        """Read them; None where there is no answer."""
        if not histogram.count:
            return None
        p50, p90, p99, p99_9 = (histogram.percentile(percent) / 1e6 for percent in (50, 90, 99, 99.9))
        return cls(
            min=histogram.shortest / 1e6,
            mean=histogram.mean / 1e6,
            p50=p50,
            p90=p90,
            p99=p99,
            p99_9=p99_9,
            max=histogram.longest / 1e6,
        )


class Bucket(_Part):
    """A bucket of a histogram.

    Attributes:
        from_ns: Its first nanosecond.
        to_ns: Its last nanosecond.
        calls: How many latencies are in it.
    """

    from_ns: int
    to_ns: int
    calls: int


class StepReport(_Part):
    """What one step found out.

    Attributes:
        loop: `closed` or `open`.
        load: Callers of a closed loop; calls a second of an open one.
        seconds: The measured time.
        calls: That were sent: `answers`, `errors` and `cut` together.
        answers: Right answers to calls that began in the measured time.
        calls_per_second: Right answers that came in the measured time, by its seconds.
        rows_per_second: Their rows, likewise.
        latency: Of the right answers; in an open loop from the planned time. None where there was none.
        histogram: Of the same, without empty buckets.
        errors: Calls that ended otherwise after the warm-up, by reason.
        late: Calls of an open loop that were sent more than 1 ms after their planned time.
        lag: How long after their planned times calls of an open loop were sent; None for a closed loop.
        unsent: Calls of an open loop that were planned and never sent.
        cut: Calls that were given up without an answer since the run was ended.
        processor_shares: Of each process of the generator: processor time by measured time; 1 is a core.
        warnings: Why the figures may tell of the generator, in sentences.
    """

    loop: Literal["closed", "open"]
    load: float
    seconds: float
    calls: int
    answers: int
    calls_per_second: float
    rows_per_second: float
    latency: Latency | None
    histogram: list[Bucket]
    errors: dict[str, int]
    late: int
    lag: Latency | None
    unsent: int
    cut: int
    processor_shares: list[float]
    warnings: list[str]

    @property
    def title(self) -> str:
        """The load, for a person."""
        if self.loop == "open":
            return f"{self.load:,.6g} calls/s"
        return "1 caller" if self.load == 1 else f"{self.load:,.0f} callers"

    @classmethod
    def of(cls, step: Step, tallies: Sequence[Tally], rows: int) -> StepReport:
        """Add up what the processes counted.

        Args:
            step: What was run.
            tallies: Of each process that took part.
            rows: Of each call.
        """
        whole = Tally()
        for tally in tallies:
            whole.merge(tally)
        shares = [tally.processor_seconds / tally.seconds if tally.seconds else 0.0 for tally in tallies]
        speed = whole.answered / whole.seconds if whole.seconds else 0.0
        return cls(
            loop="closed" if isinstance(step, Closed) else "open",
            load=step.concurrency if isinstance(step, Closed) else step.rate,
            seconds=whole.seconds,
            calls=whole.calls,
            answers=whole.latencies.count,
            calls_per_second=speed,
            rows_per_second=speed * rows,
            latency=Latency.of(whole.latencies),
            histogram=[Bucket(from_ns=low, to_ns=high, calls=n) for low, high, n in whole.latencies.buckets()],
            errors=dict(whole.errors.most_common()),
            late=whole.late,
            lag=Latency.of(whole.lags),
            unsent=whole.unsent,
            cut=whole.cut,
            processor_shares=shares,
            warnings=list(_warnings(whole, shares)),
        )


class Report(_Part):
    """A load test.

    Attributes:
        format: What this document is.
        format_version: The version of its form.
        started: When the test began.
        interrupted: Whether it was ended before its time.
        model: `NAME/version` that was called.
        signature_digest: Of its signature.
        arguments: What was asked for.
        machine: Where the generator ran.
        versions: Of what the generator is made of.
        steps: What each step found out.
    """

    format: Literal["prinz-enricher.loadtest"] = "prinz-enricher.loadtest"
    format_version: Literal[1] = FORMAT_VERSION
    started: datetime
    interrupted: bool
    model: str
    signature_digest: str
    arguments: Arguments
    machine: Machine
    versions: dict[str, str]
    steps: list[StepReport]

    @property
    def errors(self) -> Counter[str]:
        """Calls of all steps that ended with an error, by reason."""
        return sum((Counter(step.errors) for step in self.steps), Counter())


def _warnings(tally: Tally, shares: Sequence[float]) -> list[str]:
    warnings = []
    busiest = max(shares, default=0.0)
    if busiest > BUSY:
        warnings.append(
            f"a process of the generator used {busiest:.0%} of a core: it may have been the limit, not the server; "
            "more --processes, on cores that the server does not use, tell"
        )
    planned = tally.lags.count + tally.unsent
    if planned and tally.late > LATE_SHARE * planned:
        warnings.append(
            f"{tally.late:,} of {planned:,} calls were sent more than {LATE_NANOSECONDS / 1e6:.0f} ms after their "
            "planned time: part of their latency is the generator's"
        )
    if tally.unsent:
        warnings.append(f"{tally.unsent:,} calls were planned and never sent: latencies tell only of the others")
    if tally.cut:
        warnings.append(f"{tally.cut:,} calls were given up without an answer when the run was ended")
    return warnings


def this_machine() -> Machine:
    """Describe the machine of this process."""
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load_average=os.getloadavg()[0],
    )


def these_versions() -> dict[str, str]:
    """Tell the versions of what the generator is made of."""
    libraries = {name: version(name) for name in ("grpcio", "protobuf", "pyarrow", "numpy")}
    return {"prinz-enricher": __version__, "python": platform.python_version(), **libraries}


def now() -> datetime:
    """Tell the time, with its zone."""
    return datetime.now(UTC)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
