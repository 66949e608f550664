"""The report on a load test, as a document: `docs/load-testing.md` describes each field."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from prinz_enricher import __version__
from prinz_enricher.loadtest.callers import Form, Mode
from prinz_enricher.loadtest.counters import LATE_NANOSECONDS, Counters, Histogram
from prinz_enricher.loadtest.generator import Step

_BUSY: Final = 0.85
"""The share of a core above which a generator process may be the limit."""
_LATE_SHARE: Final = 0.01
"""The share of late calls above which the generator may be the limit."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Part):
    """The machine of the generator."""

    system: str
    processor: str
    cores: int
    usable_cores: int
    load_average: float


class Arguments(_Part):
    """What was asked for."""

    addresses: list[str]
    tls: bool
    mode: Mode
    form: Form
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
    """Durations in milliseconds; percentiles are exact to 1 %, the others exactly."""

    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency | None:
        """Read a histogram; None where it is empty."""
        if not histogram.count:
            return None
        percentiles = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9}
        return cls(
            min=histogram.shortest / 1e6,
            mean=histogram.mean / 1e6,
            max=histogram.longest / 1e6,
            **{name: histogram.percentile(percent) / 1e6 for name, percent in percentiles.items()},
        )


class Bucket(_Part):
    """A bucket of a histogram."""

    from_ns: int
    to_ns: int
    calls: int


class StepReport(_Part):
    """The results of a step."""

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
        return load_text(self.loop, self.load)

    @property
    def busiest(self) -> float:
        """The CPU share of the busiest generator process; 1 is a core."""
        return max(self.processor_shares, default=0.0)

    @classmethod
    def of(cls, step: Step, parts: Sequence[Counters], rows: int) -> StepReport:
        """Add up what the processes that took part counted, for calls of `rows` rows."""
        whole = Counters()
        for part in parts:
            whole.merge(part)
        shares = [part.processor_seconds / part.seconds if part.seconds else 0.0 for part in parts]
        speed = whole.answered / whole.seconds if whole.seconds else 0.0
        return cls(
            loop=step.loop,
            load=step.load,
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
            warnings=_warnings(whole, max(shares, default=0.0)),
        )


class Report(_Part):
    """A load test. `format_version` changes where a reader would have to."""

    format: Literal["prinz-enricher.loadtest"] = "prinz-enricher.loadtest"
    format_version: Literal[1] = 1
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
        """Failed calls of all steps, by reason."""
        return sum((Counter(step.errors) for step in self.steps), Counter())


def load_text(loop: str, load: float) -> str:
    """Return the load of a step, for a person."""
    if loop == "open":
        return f"{load:,.6g} calls/s"
    return f"{load:,.0f} caller{'s' * (load != 1)}"


def _warnings(counters: Counters, busiest: float) -> list[str]:
    warnings = []
    if busiest > _BUSY:
        warnings.append(
            f"a generator process used {busiest:.0%} of a core and may have been the limit, not the server; "
            "try more --processes, on cores that the server does not use"
        )
    planned = counters.lags.count + counters.unsent
    if planned and counters.late > _LATE_SHARE * planned:
        warnings.append(
            f"{counters.late:,} of {planned:,} calls were sent more than {LATE_NANOSECONDS / 1e6:.0f} ms after their "
            "planned time: part of their latency is the generator's"
        )
    if counters.unsent:
        warnings.append(f"{counters.unsent:,} calls were planned and never sent: latencies are those of the others")
    if counters.cut:
        warnings.append(f"{counters.cut:,} calls were given up without an answer when the test was stopped")
    return warnings


def this_machine() -> Machine:
    """Describe the machine of this process."""
    cores = os.cpu_count() or 1
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        load_average=os.getloadavg()[0],
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed_versions() -> dict[str, str]:
    """Return the versions of what the generator is made of, by name."""
    libraries = {name: version(name) for name in ("grpcio", "protobuf", "pyarrow", "numpy")}
    return {"prinz-enricher": __version__, "python": platform.python_version(), **libraries}
