"""Writes what is counted as Prometheus' text or OpenMetrics: thousands of versions in milliseconds, on a bounded page.

prometheus_client makes an object of each sample, which takes ten times as long.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, chain, repeat
from typing import Final

from prinz_enricher.telemetry.series import (
    LOAD_SECONDS,
    ROWS,
    SECONDS,
    Buckets,
    MethodSeries,
    Series,
    Usage,
    VersionSeries,
    VersionUsage,
    total_usage,
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
_EXEMPLARS_BYTES: Final = 90 * len(SECONDS)

_Version = tuple[tuple[str, str], VersionSeries]
Versions = Collection[tuple[str, str]]
"""Names and numbers of the versions that are served."""

_Sample = tuple[str, float]
_Spreads = list[tuple[str, tuple[float, ...]]]
_Bounds = tuple[float, ...] | None


def _template(name: str, bounds: _Bounds, label: str = "") -> str:
    """Return the lines of a histogram, with a NUL in place of its other labels."""
    ends = [] if bounds is None else [*map(repr, map(float, bounds)), "+Inf"]
    lines = [f'{name}_bucket{{\0{label},le="{end}"}} %d\n' for end in ends]
    return "".join((*lines, f"{name}_sum{{\0{label}}} %s\n{name}_count{{\0{label}}} %d\n"))


class _Detail:
    """The bounds of the histograms of versions, and their lines; without bounds, one is a summary.

    All versions have the same, since buckets that only some have can't be summed. A page has these bounds or none, and
    never others, since rates are taken over many pages.
    """

    def __init__(self, phases: tuple[_Bounds, _Bounds, _Bounds], rows: _Bounds) -> None:
        self.phases, self.rows = phases, rows
        named = zip(("queue", "compute", "total"), phases, strict=True)
        self.durations = "".join([_template(_DURATION, bounds, f',phase="{phase}"') for phase, bounds in named])
        self.batches = _template(_BATCH_ROWS, rows)

    def guess(self, versions: Sequence[_Version]) -> int:
        """Return about how many bytes the lines of versions have."""
        labels_bytes = len("".join([f'model="{name}",version="{number}"' for (name, number), _ in versions]).encode())
        lines = _LEAST + self.durations + self.batches
        return len(versions) * (len(lines) + lines.count("%") * _VALUE_BYTES) + lines.count("\0") * labels_bytes


_DURATION, _BATCH_ROWS = "prinz_enricher_duration_seconds", "prinz_enricher_batch_rows"
_FAMILIES: Final = (
    ("prinz_enricher_queue_rows", "gauge", "Rows that wait for a worker"),
    ("prinz_enricher_inflight_rows", "gauge", "Rows that workers have"),
    ("prinz_enricher_workers", "gauge", "Workers, by state"),
    ("prinz_enricher_worker_memory_bytes", "gauge", "Resident memory of workers"),
    ("prinz_enricher_accelerated_workers", "gauge", "Workers in which onnxruntime computes"),
    ("prinz_enricher_calls", "counter", "Score calls, by outcome"),
    ("prinz_enricher_rows", "counter", "Rows answered"),
    ("prinz_enricher_worker_restarts", "counter", "Workers that replaced one that had ended"),
    (_DURATION, "histogram", "Seconds of calls that were answered"),
    (_BATCH_ROWS, "histogram", "Rows of the batches that workers answered"),
)
"""The families of versions: their names, kinds and meanings."""

_LEAST: Final = "".join([f"{name}_total{{\0,outcome=}} %d\n" for name, *_ in _FAMILIES[:-2]])
_DETAILS: Final = (
    _Detail((SECONDS, SECONDS, SECONDS), ROWS),
    _Detail(((), (), SECONDS), ()),
    _Detail((None, None, None), None),
)


class Exposition:
    """The text of one scrape."""

    def __init__(self, *, open_metrics: bool) -> None:
        self._open_metrics = open_metrics
        self._parts: list[bytes] = []

    def content(self) -> bytes:
        """Return what was added, in UTF-8, without an end."""
        return b"".join(self._parts)

    def add(self, series: Series, usage: Usage, served: Versions) -> None:
        """Add all that a service counts, and what its pools have now."""
        with series.lock:
            methods = list(series.methods.values())
            versions = [(key, one) for key, one in series.versions.items() if key in served]
            requests = [
                (_labels(method=method, route=route, status=status), _values(seconds, SECONDS))
                for (method, route, status), seconds in series.requests.items()
            ]
            loads = [(_labels(step=step), _values(seconds, LOAD_SECONDS)) for step, seconds in series.loads.items()]
        self._add_methods(methods)
        self._family("http_server_requests", "counter", "HTTP requests", [(name, one[-1]) for name, one in requests])
        self._histogram("http_server_request_duration_seconds", "Seconds of HTTP requests", SECONDS, requests)
        what = "Seconds of the steps of loads that succeeded"
        self._histogram("prinz_enricher_load_seconds", what, LOAD_SECONDS, loads)
        upstreams = [(name, read()) for name, read in series.upstreams.items()]
        sent = [
            (_labels(endpoint=name, status=status), count)
            for name, one in upstreams
            for status, count in one[0].items()
        ]
        self._family("prinz_enricher_upstream_requests", "counter", "Requests to model servers, by HTTP status", sent)
        breakers = [(_labels(endpoint=name), one[1]) for name, one in upstreams]
        self._family("prinz_enricher_upstream_open_breakers", "gauge", "Base URLs left out as they fail", breakers)
        self._add_versions(series, versions, total_usage(usage))

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
        self._family("grpc_server_started", "counter", "gRPC calls that came in", started)
        self._family("grpc_server_handled", "counter", "gRPC calls that are over, by code", handled)
        self._histogram("grpc_server_handling_seconds", "Seconds of gRPC calls that are over", SECONDS, seconds)

    def _add_versions(
        self, series: Series, versions: Sequence[_Version], usage: Mapping[tuple[str, str], VersionUsage]
    ) -> None:
        others = sum(map(len, self._parts))
        while series.detail < len(_DETAILS) - 1:
            # A guess, so that no page is written that is far too large.
            left = MAX_BYTES - others - _DETAILS[series.detail].guess(versions)
            if left >= 0:
                exemplars = self._open_metrics and left > len(versions) * _EXEMPLARS_BYTES
                lines = _lines(versions, usage, (series.detail, exemplars))
                if others + sum(map(len, chain.from_iterable(lines))) <= MAX_BYTES:
                    break
            # Never back: buckets that come and go are of less use than none.
            series.detail += 1
        else:
            lines = _lines(versions, usage, (series.detail, False))
        without_buckets = _DETAILS[series.detail].rows is None
        columns = zip(*lines, strict=True) if lines else repeat(())
        for (name, kind, what), column in zip(_FAMILIES, columns, strict=False):
            self._begin(name, "summary" if kind == "histogram" and without_buckets else kind, what)
            self._parts += column

    def _family(self, name: str, kind: str, what: str, samples: Iterable[_Sample]) -> None:
        self._begin(name, kind, what)
        name = f"{name}_total" if kind == "counter" else name
        self._write([f"{name}{{{labels}}} {value}\n" for labels, value in samples])

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...], spreads: _Spreads) -> None:
        self._begin(name, "histogram", what)
        template = _template(name, bounds)
        self._write([(template % values).replace("\0", labels) for labels, values in spreads])

    def _begin(self, name: str, kind: str, what: str) -> None:
        name = f"{name}_total" if kind == "counter" and not self._open_metrics else name
        self._write([f"# HELP {name} {what}\n# TYPE {name} {kind}\n"])

    def _write(self, texts: Iterable[str]) -> None:
        self._parts.append("".join(texts).encode())


def _lines(
    versions: Sequence[_Version], usage: Mapping[tuple[str, str], VersionUsage], form: tuple[int, bool]
) -> list[tuple[bytes, ...]]:
    """Return the lines of each version in a form: for each family those of one version, in one piece."""
    found: list[tuple[bytes, ...]] = []
    for start in range(0, len(versions), _AT_ONCE):
        found += [_lines_of(one, (form, usage.get(key))) for key, one in versions[start : start + _AT_ONCE]]
        # Let other threads run: calls must not wait until a page is done.
        time.sleep(_PAUSE)
    return found


def _lines_of(one: VersionSeries, what: tuple[tuple[int, bool], VersionUsage | None]) -> tuple[bytes, ...]:
    """Return the lines of a version, which are written only where something has changed since."""
    with one.lock:
        if one.lines is None or one.lines[0] != what:
            form, usage = what
            labels = _labels(model=one.model, version=one.version)
            texts = (*_usage(labels, usage), *_counts(one, labels), *_spreads(one, labels, *form))
            one.lines = what, tuple(text.encode() for text in texts)
        return one.lines[1]


def _usage(labels: str, usage: VersionUsage | None) -> tuple[str, str, str, str, str]:
    if usage is None:
        return "", "", "", "", ""
    workers = [
        f'prinz_enricher_workers{{{labels},state="{state}"}} {number}\n'
        for state, number in zip(usage._fields[3:7], usage[3:7], strict=True)
        if number or state == "available"
    ]
    queue = f"prinz_enricher_queue_rows{{{labels}}} {usage.queue_rows}\n"
    in_flight = f"prinz_enricher_inflight_rows{{{labels}}} {usage.inflight_rows}\n"
    memory = f"prinz_enricher_worker_memory_bytes{{{labels}}} {usage.memory}\n" if usage.memory else ""
    accelerated = f"prinz_enricher_accelerated_workers{{{labels}}} {usage.accelerated}\n" if usage.accelerated else ""
    return queue, in_flight, "".join(workers), memory, accelerated


def _counts(one: VersionSeries, labels: str) -> tuple[str, str, str]:
    calls = [f'prinz_enricher_calls_total{{{labels},outcome="{name}"}} {count}\n' for name, count in one.calls.items()]
    rows = f"prinz_enricher_rows_total{{{labels}}} {one.rows}\n"
    return "".join(calls), rows, f"prinz_enricher_worker_restarts_total{{{labels}}} {one.restarts}\n"


def _spreads(one: VersionSeries, labels: str, place: int, with_exemplars: bool) -> tuple[str, str]:
    detail = _DETAILS[place]
    phases = zip((one.queue, one.compute, one.total), detail.phases, strict=True)
    text = detail.durations % tuple(value for found, bounds in phases for value in _values(found, bounds))
    if with_exemplars and one.total.exemplars:
        text = _with_exemplars(text, one.total)
    return text.replace("\0", labels), (detail.batches % _values(one.batch_rows, detail.rows)).replace("\0", labels)


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


def _labels(**labels: str) -> str:
    return ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()])
