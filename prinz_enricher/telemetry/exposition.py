"""Writes what is counted as Prometheus' text or OpenMetrics: thousands of versions in milliseconds, on a bounded page.

prometheus_client makes an object of each sample, which takes ten times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple, TypeVar

from prinz_enricher.telemetry.series import (
    LOAD_SECONDS,
    ROWS,
    SECONDS,
    STATES,
    Buckets,
    MethodSeries,
    Series,
    Usage,
    VersionSeries,
)

MAX_BYTES: Final = 5_000_000
"""Bytes of the page, up to which histograms of versions have buckets."""

_CODES: Final = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
"""The gRPC codes by their numbers, as grpc-go spells them."""

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_AT_ONCE: Final = 500
_PAUSE: Final = 0.0001
_VALUE_BYTES: Final = 12
_EXEMPLAR_BYTES: Final = 90

Versions = Collection[tuple[str, str]]
"""Names and numbers of the versions that are served."""

_Sample = tuple[str, float]
_Spreads = list[tuple[str, tuple[float, ...]]]
_Bounds = tuple[float, ...] | None
_T = TypeVar("_T")


class _Detail(NamedTuple):
    """The bounds of the histograms of versions; without any, one is a summary.

    All versions have the same, since buckets that only some have can't be summed. A page has these bounds or none, and
    never others, since rates are taken over many pages.
    """

    phases: tuple[_Bounds, _Bounds, _Bounds]
    rows: _Bounds

    def templates(self) -> tuple[str, str]:
        """Return the lines of a version: of its durations, and of its batches."""
        phases = zip(("queue", "compute", "total"), self.phases, strict=True)
        durations = [_template(_DURATION, bounds, f',phase="{phase}"') for phase, bounds in phases]
        return "".join(durations), _template(_BATCH_ROWS, self.rows)


_DURATION, _BATCH_ROWS = "prinz_enricher_duration_seconds", "prinz_enricher_batch_rows"
_DETAILS: Final = (
    _Detail((SECONDS, SECONDS, SECONDS), ROWS),
    _Detail(((), (), SECONDS), ()),
    _Detail((None, None, None), None),
)


class Exposition:
    """The text of one scrape."""

    def __init__(self, *, open_metrics: bool) -> None:
        self._open_metrics = open_metrics
        self._parts: list[str] = []

    def text(self) -> str:
        """Return what was added, without an end."""
        return "".join(self._parts)

    def add(self, series: Series, usage: Usage, served: Versions) -> None:
        """Add all that a service counts, and what its pools have now."""
        with series.lock:
            methods, versions = list(series.methods.values()), list(series.versions.items())
            requests = [
                (_labels(method=method, route=route, status=status), _values(seconds, SECONDS))
                for (method, route, status), seconds in series.requests.items()
            ]
            loads = [(_labels(step=step), _values(seconds, LOAD_SECONDS)) for step, seconds in series.loads.items()]
        self._add_methods(methods)
        counts = [(labels, values[-1]) for labels, values in requests]
        self._counter("http_server_requests", "HTTP requests", counts)
        self._histogram("http_server_request_duration_seconds", "Seconds of HTTP requests", SECONDS, requests)
        what = "Seconds of the steps of loads that succeeded"
        self._histogram("prinz_enricher_load_seconds", what, LOAD_SECONDS, loads)
        upstreams = [(name, read()) for name, read in series.upstreams.items()]
        sent = [
            (_labels(endpoint=name, status=status), count)
            for name, one in upstreams
            for status, count in one[0].items()
        ]
        self._counter("prinz_enricher_upstream_requests", "Requests to model servers, by HTTP status", sent)
        breakers = [(_labels(endpoint=name), one[1]) for name, one in upstreams]
        self._gauge("prinz_enricher_upstream_open_breakers", "Base URLs that get no requests as they fail", breakers)
        self._add_usage([(_version_labels(*key), one) for key, one in usage.items() if key in served])
        self._add_versions(series, [(_version_labels(*key), one) for key, one in versions if key in served])

    def _add_methods(self, methods: Sequence[MethodSeries]) -> None:
        started: list[_Sample] = []
        handled: list[_Sample] = []
        seconds: _Spreads = []
        for one in methods:
            labels = _labels(grpc_type=one.type, grpc_service=one.service, grpc_method=one.method)
            with one.lock:
                started.append((labels, one.started))
                handled += [
                    (f'{labels},grpc_code="{code}"', count) for code, count in zip(_CODES, one.handled, strict=True)
                ]
                seconds.append((labels, _values(one.seconds, SECONDS)))
        self._counter("grpc_server_started", "gRPC calls that came in", started)
        self._counter("grpc_server_handled", "gRPC calls that are over, by code", handled)
        self._histogram("grpc_server_handling_seconds", "Seconds of gRPC calls that are over", SECONDS, seconds)

    def _add_usage(self, versions: Sequence[tuple[str, Mapping[str, int]]]) -> None:
        for name, what in (("queue_rows", "Rows that wait for a worker"), ("inflight_rows", "Rows that workers have")):
            self._gauge(f"prinz_enricher_{name}", what, [(labels, one[name]) for labels, one in versions])
        workers = [
            (f'{labels},state="{state}"', one[state])
            for labels, one in versions
            for state in STATES
            if one[state] or state == "available"
        ]
        self._gauge("prinz_enricher_workers", "Workers, by state", workers)
        memory = [(labels, one["memory"]) for labels, one in versions if one["memory"]]
        self._gauge("prinz_enricher_worker_memory_bytes", "Resident memory of workers", memory)

    def _add_versions(self, series: Series, versions: Sequence[tuple[str, VersionSeries]]) -> None:
        counts = [_lines(one, "counts", _counts, labels) for labels, one in _paced(versions)]
        counters = (
            ("prinz_enricher_calls", "Score calls, by outcome"),
            ("prinz_enricher_rows", "Rows answered"),
            ("prinz_enricher_worker_restarts", "Workers that replaced one that had ended"),
        )
        for (name, what), texts in zip(counters, zip(*counts, strict=True) if counts else ((), (), ()), strict=True):
            self._begin(name if self._open_metrics else f"{name}_total", what, "counter")
            self._parts += texts

        left = MAX_BYTES - len(self.text().encode())
        labels_bytes = len("".join([labels for labels, _ in versions]).encode())
        while True:
            detail = _DETAILS[series.detail]
            durations, batches = detail.templates()
            lines = durations + batches
            size = len(versions) * (len(lines) + lines.count("%") * _VALUE_BYTES) + lines.count("\0") * labels_bytes
            if size <= left or detail is _DETAILS[-1]:
                break
            # Never back: buckets that come and go are of less use than none.
            series.detail += 1
        has_room = left - size > len(versions) * len(SECONDS) * _EXEMPLAR_BYTES
        exemplars = self._open_metrics and has_room and detail.phases[-1] is not None
        kind = "summary" if detail.rows is None else "histogram"
        form = detail, exemplars
        spreads = [
            _lines(one, form, _spreads, labels, detail, (durations, batches), exemplars)
            for labels, one in _paced(versions)
        ]
        self._begin(_DURATION, "Seconds of calls that were answered", kind)
        self._parts += [text for text, _ in spreads]
        self._begin(_BATCH_ROWS, "Rows of the batches that workers answered", kind)
        self._parts += [text for _, text in spreads]

    def _counter(self, name: str, what: str, samples: Iterable[_Sample]) -> None:
        self._begin(name if self._open_metrics else f"{name}_total", what, "counter")
        self._parts += [f"{name}_total{{{labels}}} {value}\n" for labels, value in samples]

    def _gauge(self, name: str, what: str, samples: Iterable[_Sample]) -> None:
        self._begin(name, what, "gauge")
        self._parts += [f"{name}{{{labels}}} {value}\n" for labels, value in samples]

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...], spreads: _Spreads) -> None:
        self._begin(name, what, "histogram")
        template = _template(name, bounds)
        self._parts += [(template % values).replace("\0", labels) for labels, values in spreads]

    def _begin(self, name: str, what: str, kind: str) -> None:
        self._parts.append(f"# HELP {name} {what}\n# TYPE {name} {kind}\n")


def _lines(one: VersionSeries, form: object, write: Callable[..., tuple[str, ...]], *how: object) -> tuple[str, ...]:
    """Return the lines of a version in a form, which are written only where something was counted since."""
    with one.lock:
        found = one.lines.get(form)
        if found is None:
            found = one.lines[form] = write(one, *how)
    return found


def _counts(one: VersionSeries, labels: str) -> tuple[str, ...]:
    calls = [f'prinz_enricher_calls_total{{{labels},outcome="{name}"}} {count}\n' for name, count in one.calls.items()]
    rows = f"prinz_enricher_rows_total{{{labels}}} {one.rows}\n"
    return "".join(calls), rows, f"prinz_enricher_worker_restarts_total{{{labels}}} {one.restarts}\n"


def _spreads(
    one: VersionSeries, labels: str, detail: _Detail, templates: tuple[str, str], with_exemplars: bool
) -> tuple[str, ...]:
    durations, batches = templates
    phases = zip((one.queue, one.compute, one.total), detail.phases, strict=True)
    text = durations % tuple(value for found, bounds in phases for value in _values(found, bounds))
    if with_exemplars and one.total.exemplars:
        text = _with_exemplars(text, one.total)
    return text.replace("\0", labels), (batches % _values(one.batch_rows, detail.rows)).replace("\0", labels)


def _values(found: Buckets, bounds: _Bounds) -> tuple[float, ...]:
    """Return what the lines of a histogram say."""
    number = sum(found.counts)
    if bounds is None:
        return found.total, number
    return (*(accumulate(found.counts) if bounds else (number,)), found.total, number)


def _with_exemplars(text: str, total: Buckets) -> str:
    """Return the lines of a version's durations with exemplars of the phase `total`, which is the last."""
    lines = text.split("\n")
    first = len(lines) - 1 - (len(total.counts) + 2)
    for place, (trace_id, value, at) in total.exemplars.items():
        lines[first + place] += f' # {{trace_id="{trace_id}"}} {value} {at:.3f}'
    return "\n".join(lines)


@lru_cache(8_192)
def _version_labels(model: str, version: str) -> str:
    return _labels(model=model, version=version)


def _labels(**labels: str) -> str:
    return ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()])


def _template(name: str, bounds: _Bounds, label: str = "") -> str:
    """Return the lines of a histogram, with a NUL in place of its other labels."""
    ends = [] if bounds is None else [*map(repr, map(float, bounds)), "+Inf"]
    lines = [f'{name}_bucket{{\0{label},le="{end}"}} %d\n' for end in ends]
    return "".join((*lines, f"{name}_sum{{\0{label}}} %s\n{name}_count{{\0{label}}} %d\n"))


def _paced(items: Iterable[_T]) -> Iterator[_T]:
    """Yield the items, and let other threads run now and then: calls must not wait until a page is done."""
    for place, item in enumerate(items, 1):
        yield item
        if place % _AT_ONCE == 0:
            time.sleep(_PAUSE)
