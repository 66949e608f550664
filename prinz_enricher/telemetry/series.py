"""What is counted between scrapes: plain numbers, added for a batch of calls at once wherever calls are answered so.

Each part has a lock of its own, which is held for as long as a few additions take. Nothing here is made from a text of
a caller: methods are those that are served, versions those that a call was resolved to.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Final, NamedTuple

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
LOAD_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ROWS: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)
"""Bounds of the last bucket but one and those below."""

LOAD_STEPS: Final = ("fetch", "environment", "start", "load", "warm_up")

OTHER: Final = "_OTHER"
"""A label for what a caller made up, as OpenTelemetry has it."""

_CODES = 17


class Buckets:
    """How many values are up to each bound, or beyond; guarded by a lock of its owner's.

    `exemplars` has the latest of each bucket, by its place: the id of a trace, the value and the time.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, tuple[str, float, float]] = {}
        self.total: float = 0

    def add(self, value: float, times: int = 1, trace_id: str | None = None) -> None:
        """Add a value, and where it comes of a call that is traced, the id of the trace: 32 hexadecimal digits."""
        place = bisect_left(self.bounds, value)
        self.counts[place] += times
        self.total += value * times
        if trace_id is not None:
            self.exemplars[place] = trace_id, value, time.time()


class MethodSeries:
    """The calls of one gRPC method; `handled` is by code."""

    def __init__(self, path: str, type: str) -> None:
        _, self.service, self.method = path.split("/")
        self.type = type
        self.lock = threading.Lock()
        self.started = 0
        self.handled = [0] * _CODES
        self.seconds = Buckets(SECONDS)

    def start(self, calls: int = 1) -> None:
        """Count calls that came in."""
        with self.lock:
            self.started += calls

    def end(self, code: int, seconds: float, calls: int = 1) -> None:
        """Count calls that are over, with a gRPC code."""
        with self.lock:
            self.handled[code] += calls
            self.seconds.add(seconds, calls)


class VersionSeries:
    """The calls of one version of a model, and the work for them; `calls` is by outcome.

    `lines` has what the last scrape wrote of it, and what for, until something is counted: most versions of thousands
    are not called between two scrapes.
    """

    def __init__(self, model: str, version: str) -> None:
        self.model, self.version = model, version
        self.lock = threading.Lock()
        self.calls = {"ok": 0}
        self.rows = self.restarts = 0
        self.queue, self.compute, self.total = (Buckets(SECONDS) for _ in range(3))
        self.batch_rows = Buckets(ROWS)
        self.lines: tuple[object, tuple[bytes, ...]] | None = None

    def answered(
        self, calls: int, rows: int, queue: float, compute: float, total: float, trace_id: str | None = None
    ) -> None:
        """Count calls that got the scores of so many rows in all, and the seconds that each of them took.

        Where one of them is traced, the id of its trace is an exemplar of the phase `total`.
        """
        with self.lock:
            self.calls["ok"] += calls
            self.rows += rows
            self.queue.add(queue, calls)
            self.compute.add(compute, calls)
            self.total.add(total, calls, trace_id)
            self.lines = None

    def failed(self, reason: str) -> None:
        """Count a call that got no scores."""
        with self.lock:
            self.calls[reason] = self.calls.get(reason, 0) + 1
            self.lines = None

    def scored(self, rows: int) -> None:
        """Count a batch that a worker has answered."""
        with self.lock:
            self.batch_rows.add(rows)
            self.lines = None

    def restarted(self) -> None:
        """Count a worker that replaces one that has ended."""
        with self.lock:
            self.restarts += 1
            self.lines = None


class VersionUsage(NamedTuple):
    """What a version has now: rows that wait, rows that workers have, bytes of memory, and workers by their state.

    Of those that can score, some may be `accelerated`.
    """

    queue_rows: int = 0
    inflight_rows: int = 0
    memory: int = 0
    loading: int = 0
    available: int = 0
    unloading: int = 0
    failed: int = 0
    accelerated: int = 0


Usage = Iterable[tuple[tuple[str, str], VersionUsage]]
"""What pools have now. A version whose files have changed is there twice: it leaves while the new one serves."""

Upstream = Callable[[], tuple[Mapping[str, int], int]]
"""Returns what was sent to an endpoint, by the status of the answer, and how many of its bases are left out now."""


def total_usage(usage: Usage) -> dict[tuple[str, str], VersionUsage]:
    """Return what each version has in all."""
    found: dict[tuple[str, str], VersionUsage] = {}
    for key, one in usage:
        if (known := found.setdefault(key, one)) is not one:
            found[key] = VersionUsage(*map(add, known, one))
    return found


@dataclass(slots=True, eq=False)
class Series:
    """All that one service counts.

    Attributes:
        methods: By the path of a gRPC method.
        versions: By name and number of a model's version.
        loads: Seconds of the steps of loads that succeeded.
        requests: Seconds of HTTP requests by method, route and status.
        upstreams: By the name of an endpoint.
        detail: How much less than all the page shows of each version, since it would be too large.
    """

    methods: dict[str, MethodSeries] = field(default_factory=dict)
    versions: dict[tuple[str, str], VersionSeries] = field(default_factory=dict)
    loads: dict[str, Buckets] = field(default_factory=lambda: {step: Buckets(LOAD_SECONDS) for step in LOAD_STEPS})
    requests: dict[tuple[str, str, str], Buckets] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    detail: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def method(self, path: str, type: str) -> MethodSeries:
        """Return what counts a method that is served, such as `/grpc.health.v1.Health/Check`."""
        with self.lock:
            return self.methods.setdefault(path, MethodSeries(path, type))

    def version(self, model: str, version: str) -> VersionSeries:
        """Return what counts a version that is served."""
        key = (model, version)
        found = self.versions.get(key)
        if found is None:
            with self.lock:
                found = self.versions.setdefault(key, VersionSeries(*key))
        return found

    def retain(self, versions: Collection[tuple[str, str]]) -> None:
        """Forget the versions that are not served any more."""
        with self.lock:
            for key in self.versions.keys() - versions:
                del self.versions[key]

    def loaded(self, seconds: Mapping[str, float]) -> None:
        """Count a load, by the seconds of its steps as a worker reports them."""
        took = {step: seconds[name] for step, name in _REPORTED.items() if name in seconds}
        if "all" in seconds:
            took["start"] = max(0.0, seconds["all"] - sum(took.values()))
        with self.lock:
            for step, some in took.items():
                self.loads[step].add(some)

    def requested(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count an HTTP request."""
        key = method, route, status
        with self.lock:
            (self.requests.get(key) or self.requests.setdefault(key, Buckets(SECONDS))).add(seconds)


_REPORTED = {"fetch": "fetch", "environment": "environment", "load": "load", "warm_up": "warm"}
