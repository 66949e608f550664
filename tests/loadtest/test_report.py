"""The report as a document and as a page."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from prinz_enricher.loadtest.counters import Counters
from prinz_enricher.loadtest.generator import Step
from prinz_enricher.loadtest.rendering import Axis, html_page, number_text
from prinz_enricher.loadtest.report import Arguments, Report, StepReport, installed_versions, this_machine

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "link", "br", "img", "input", "hr"}
STEPS: list[Step] = [Step("closed", 1), Step("closed", 16), Step("open", 250.5)]

durations = st.lists(st.integers(1, 10**11), max_size=30)
errors = st.dictionaries(st.sampled_from(["OVERLOADED", "WRONG_ANSWER", "<b>"]), st.integers(1, 1000))


class Page(HTMLParser):
    """Reads a page, and sees to it that what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.charts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self.tags.append(tag)
        given = dict(attrs)
        assert not {"src", "href", "xlink:href", "srcset"} & given.keys()
        if tag == "svg":
            self.charts.append(given["aria-label"] or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See an element without content."""
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the one that was opened last."""
        assert self._open.pop() == tag


def report_of(
    latencies: list[list[int]], failed: dict[str, int], steps: Sequence[Step], model: str = "wine/1"
) -> Report:
    """Make a report."""
    parts = []
    for step, values in zip(steps, latencies, strict=False):
        counters = Counters()
        for value in values:
            counters.latencies.add(value)
            if step.loop == "open":
                counters.add_sent(value % 2_000_000)
        counters.errors.update(failed)
        counters.answered, counters.seconds, counters.processor_seconds = len(values), 2.0, 1.9
        parts.append(StepReport.of(step, [counters], 3))
    return Report(
        started=datetime.now(UTC), interrupted=False, model=model, signature_digest="0" * 32, steps=parts,
        machine=this_machine(), versions=installed_versions(),
        arguments=Arguments(
            addresses=["localhost:50051"], tls=False, mode="unary", form="columns", rows=3, input=None, seed=0,
            processes=1, connections=1, duration=2.0, warm_up=1.0, timeout=30.0, max_in_flight=1000, check="scores",
        ),
    )  # fmt: skip


@given(st.lists(durations, max_size=3), errors)
def test_page_of_any_report(latencies: list[list[int]], failed: dict[str, int]) -> None:
    """Whatever was measured, the page is whole, runs no script and loads nothing."""
    text = html_page(report_of(latencies, failed, STEPS))
    page = Page(text)

    assert not re.search(r"https?:|//|url\(|@import|nan|inf\b", text.removeprefix("<!DOCTYPE html>"))
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert "prefers-color-scheme: dark" in text


def test_page_has_each_plot() -> None:
    """Latency and throughput over load, a histogram of each step and errors by reason are drawn."""
    page = Page(html_page(report_of([[10**6, 2 * 10**6]] * 3, {"OVERLOADED": 2}, STEPS)))

    assert page.charts.count("Latency over load") == page.charts.count("Throughput over load") == 2
    assert page.charts.count("1 caller") == page.charts.count("250.5 calls/s") == 2
    assert "All steps" in page.charts


def test_names_are_text() -> None:
    """A model's name is never taken for markup."""
    text = html_page(report_of([[10**6]], {"<b>": 1}, STEPS, model="<script>x</script>/1"))

    assert "<script>" not in text
    assert "<b>:" not in text
    assert "&lt;script&gt;" in text


@given(st.lists(durations, max_size=3), errors)
def test_document_is_read_back(latencies: list[list[int]], failed: dict[str, int]) -> None:
    """The JSON document is of its own schema, and tells the whole report."""
    report = report_of(latencies, failed, STEPS)

    assert Report.model_validate_json(report.model_dump_json(), strict=True) == report
    assert report.format_version == 1


def test_each_part_is_documented() -> None:
    """docs/load-testing.md has a row for each field of the document, and for no other."""
    _, _, table = (ROOT / "docs" / "load-testing.md").read_text().partition("| field | meaning |")
    rows = set(re.findall(r"^\| `([\w.\[\]]+)` \|", table, flags=re.MULTILINE))

    def fields(model: type[BaseModel], path: str) -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            inner = next((one for one in _models(field.annotation)), None)
            many = "[]" if inner is not None and "list" in str(field.annotation) else ""
            # The lag has the parts of the latency.
            found |= {path + name} if inner is None or name == "lag" else fields(inner, f"{path}{name}{many}.")
        return found

    assert rows == fields(Report, "")


def _models(annotation: object) -> list[type[BaseModel]]:
    parts = [annotation, *getattr(annotation, "__args__", ())]
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def test_warnings() -> None:
    """The report says of a generator that it was busy, or late."""
    step = report_of([[1_500_000] * 100], {}, [Step("open", 50.0)]).steps[0]

    assert (step.processor_shares, step.late, step.calls_per_second, step.rows_per_second) == ([0.95], 100, 50.0, 150.0)
    assert ["95% of a core" in step.warnings[0], "100 of 100 calls" in step.warnings[1]] == [True, True]


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=5), st.booleans())
def test_every_value_has_a_place(values: list[float], logarithmic: bool) -> None:
    """All values lie on their axis, which has some round marks."""
    axis = Axis.over(values, logarithmic=logarithmic)

    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert 2 <= len(axis.ticks()) <= 20
    assert all(-0.001 <= axis.place(tick) <= 1.001 for tick in axis.ticks())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (12.34, "12.3"), (1000, "1,000"), (123456.7, "123,457"), (20, "20")],
)
def test_numbers(value: float, text: str) -> None:
    """Numbers have three digits, and thousands apart."""
    assert number_text(value) == text
    assert number_text(math.inf) == "inf"
