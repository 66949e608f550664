"""The text of what is counted: valid in both formats, bounded in bytes and in work."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import grpc
import pytest
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as read_text

from prinz_enricher.telemetry.exposition import MAX_BYTES, Exposition, Versions
from prinz_enricher.telemetry.series import ROWS, SECONDS, Series, VersionSeries, VersionUsage

read_openmetrics: Any = parser.text_string_to_metric_families


def written(
    series: Series,
    usage: Mapping[tuple[str, str], VersionUsage] | None = None,
    *,
    served: Versions | None = None,
    open_metrics: bool = False,
) -> str:
    """Return the text of a scrape."""
    exposition = Exposition(open_metrics=open_metrics)
    exposition.add(series, (usage or {}).items(), series.versions.keys() if served is None else served)
    return exposition.content().decode()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the values by name and the values of labels."""
    return {(s.name, tuple(s.labels.values())): s.value for family in read_text(text) for s in family.samples}


def used(models: int, name: str = "model-{:04}") -> Series:
    """Return what is counted of so many models with three versions each, all of them in use."""
    series = Series()
    for number in range(models):
        for version in "123":
            one = series.version(name.format(number), version)
            one.answered(64, 64, 0.0004, 0.003, 0.007)
            one.failed("DEADLINE_EXCEEDED")
            one.scored(64)
    return series


@pytest.mark.parametrize("open_metrics", [False, True])
def test_both_formats(open_metrics: bool) -> None:
    """What is counted is read by the parsers of both formats, and each family is there once, as the same type."""
    series = used(2)
    series.method("/a.Service/Score", "unary").end(0, 0.2)
    series.requested("GET", "/metrics", "200", 0.01)
    series.loaded({"fetch": 1.0, "environment": 0.0, "load": 2.0, "warm": 0.5, "import": 1.0, "all": 5.0})
    now = {("model-0000", "1"): VersionUsage(queue_rows=3, inflight_rows=2, available=1, memory=9)}
    text = written(series, now, open_metrics=open_metrics)
    families = list(read_openmetrics(text + "# EOF\n") if open_metrics else read_text(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) == 18
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    found = {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}
    assert found["grpc_server_handled_total", ("unary", "a.Service", "Score", "OK")] == 1
    codes = {labels[-1]: count for (name, labels), count in found.items() if name == "grpc_server_handled_total"}
    assert len(codes) == len(grpc.StatusCode) == 17
    assert {code for code, count in codes.items() if count} == {"OK"}
    assert found["prinz_enricher_calls_total", ("model-0001", "3", "ok")] == 64
    assert found["prinz_enricher_duration_seconds_bucket", ("model-0001", "3", "compute", "0.002")] == 0
    assert found["prinz_enricher_duration_seconds_bucket", ("model-0001", "3", "compute", "0.005")] == 64
    assert found["prinz_enricher_duration_seconds_sum", ("model-0001", "3", "total")] == pytest.approx(64 * 0.007)
    assert found["prinz_enricher_batch_rows_bucket", ("model-0001", "3", "64.0")] == 1
    assert found["prinz_enricher_load_seconds_sum", ("start",)] == 1.5
    assert found["prinz_enricher_workers", ("model-0000", "1", "available")] == 1


def test_names_of_a_registry() -> None:
    """A model's name may hold any character."""
    name = 'a"b\\c\nd{e="f"} ü'
    series = Series()
    series.version(name, "1").failed("INTERNAL")
    assert samples(written(series))["prinz_enricher_calls_total", (name, "1", "INTERNAL")] == 1


def test_versions_that_are_gone() -> None:
    """A version that is not served takes its series along; one that comes back later begins anew."""
    series = used(1)
    assert len({labels[1] for (name, labels) in samples(written(series)) if name == "prinz_enricher_rows_total"}) == 3
    gone = {("model-0000", "1"): VersionUsage(unloading=1, memory=5)}
    text = written(series, gone, served={("model-0000", "2")})
    assert {labels[1] for (name, labels) in samples(text) if labels and labels[0] == "model-0000"} == {"2"}
    series.retain({("model-0000", "2")})
    assert series.versions.keys() == {("model-0000", "2")}
    assert series.version("model-0000", "1").calls == {"ok": 0}


@pytest.mark.parametrize("name", ["model-{:04}", "MLF-ElasticnetWineModel-{}"])
def test_a_thousand_models(name: str) -> None:
    """1,000 models of 3 versions in use: a page below 5 MB, and some tens of calls of functions for each version."""
    series = used(1_000, name)
    usage = {
        key: VersionUsage(available=2, queue_rows=1_000, inflight_rows=100, memory=10**9) for key in series.versions
    }
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        text = written(series, usage, open_metrics=True)
    finally:
        sys.setprofile(None)
    assert len(text.encode()) < MAX_BYTES
    assert text.count("prinz_enricher_rows_total{") == 3_000
    assert calls / 3_000 < 60


def buckets_of(text: str) -> dict[str, set[str]]:
    """Return the ends of the buckets of versions by phase, and of batches by an empty text."""
    found: dict[str, set[str]] = {}
    for phase, end in re.findall(r'^\w+_bucket{model=[^}]*?(?:,phase="(\w+)")?,le="([^"]+)"}', text, re.MULTILINE):
        found.setdefault(phase, set()).add(end)
    return found


def test_buckets_are_left_out() -> None:
    """Few versions have all buckets, more those of their calls' seconds, very many none; and none come back."""
    seconds, rows = {*map(str, SECONDS), "+Inf"}, {*map(str, map(float, ROWS)), "+Inf"}
    last = {"+Inf"}
    for models, expected in (
        (150, {"queue": seconds, "compute": seconds, "total": seconds, "": rows}),
        (400, {"queue": last, "compute": last, "total": seconds, "": last}),
        (1_000, {}),
    ):
        series = used(models)
        text = written(series)
        assert len(text.encode()) < MAX_BYTES
        assert buckets_of(text) == expected
        assert text.count("prinz_enricher_duration_seconds_count{") == models * 9
    series.retain({("model-0000", "1")})
    assert buckets_of(written(series)) == {}


def test_exemplars() -> None:
    """The latest trace of each bucket of calls' seconds is in OpenMetrics alone, while there is room."""
    series = used(1)
    for seconds, trace in ((0.006, "a" * 32), (0.007, "b" * 32), (99.0, "c" * 32)):
        series.version("model-0000", "1").answered(1, 1, 0.006, 0.006, seconds, trace)
    assert "trace_id" not in written(series)

    def exemplars() -> dict[tuple[str, str], tuple[dict[str, str], float]]:
        families = read_openmetrics(written(series, open_metrics=True) + "# EOF\n")
        samples = [sample for family in families for sample in family.samples if sample.exemplar]
        return {(one.labels["phase"], one.labels["le"]): (one.exemplar.labels, one.exemplar.value) for one in samples}

    assert exemplars() == {
        ("total", "0.01"): ({"trace_id": "b" * 32}, 0.007),
        ("total", "+Inf"): ({"trace_id": "c" * 32}, 99.0),
    }
    series.detail = 2
    assert exemplars() == {}


@pytest.mark.parametrize("open_metrics", [False, True])
@pytest.mark.parametrize(
    "count",
    [
        lambda one: one.answered(2, 6, 0.1, 0.2, 0.3),
        lambda one: one.answered(1, 3, 0.1, 0.2, 0.3, "0af7651916cd43dd8448eb211c80319c"),
        lambda one: one.failed("OVERLOADED"),
        lambda one: one.scored(64),
        lambda one: one.restarted(),
    ],
    ids=["answered", "traced", "failed", "scored", "restarted"],
)
def test_counted_between_scrapes(count: Callable[[VersionSeries], None], open_metrics: bool) -> None:
    """Whatever is counted after a scrape stands in the next one as if there had been none before."""
    scraped, fresh = used(2), used(2)
    before = written(scraped, open_metrics=open_metrics)
    assert written(scraped, open_metrics=open_metrics) == before == written(fresh, open_metrics=open_metrics)
    written(scraped, open_metrics=not open_metrics)
    fresh = used(2)
    for series in (scraped, fresh):
        count(series.versions["model-0001", "2"])
    after, expected = (_without_time(written(series, open_metrics=open_metrics)) for series in (scraped, fresh))
    assert after == expected != _without_time(before)


def test_usage_between_scrapes() -> None:
    """What pools have stands in each scrape as it is then; a version that is there twice has the sum of both."""
    series, key = used(1), ("model-0000", "1")
    exposition = Exposition(open_metrics=False)
    twice = [(key, VersionUsage(available=1, memory=5)), (key, VersionUsage(unloading=2, memory=6))]
    exposition.add(series, twice, {key})
    found = samples(exposition.content().decode())
    states = {labels[2]: value for (name, labels), value in found.items() if name == "prinz_enricher_workers"}
    assert states == {"available": 1, "unloading": 2}
    assert found["prinz_enricher_worker_memory_bytes", key] == 11
    for rows in (3, 0):
        now = samples(written(series, {key: VersionUsage(queue_rows=rows, failed=1)}))
        assert now["prinz_enricher_queue_rows", key] == rows
        assert now["prinz_enricher_workers", (*key, "failed")] == 1
    gone = samples(written(series))
    assert ("prinz_enricher_queue_rows", key) not in gone
    assert gone["prinz_enricher_calls_total", (*key, "ok")] == 64


def _without_time(text: str) -> str:
    """Return a page without the times of its exemplars."""
    return re.sub(r"(# \{.*\} \S+) \S+", r"\1", text)
