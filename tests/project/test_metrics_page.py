"""docs/metrics.md tells all metrics, and docs/operations.md shows settings and events that there are."""

import re
from pathlib import Path

from mlflow.entities.webhook import WebhookEvent
from prometheus_client.parser import text_string_to_metric_families

from prinz_enricher.catalog import CatalogState
from prinz_enricher.config import Settings
from prinz_enricher.fronts.admin.webhook import Verdict
from prinz_enricher.telemetry.metrics import SECURITY, Metrics
from prinz_enricher.telemetry.series import Series, VersionUsage

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_metric_is_documented() -> None:
    """docs/metrics.md has a row for each metric, with its type and its labels, and for no other."""
    page = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([`\w, ]*?) ?\| ", page, flags=re.MULTILINE)
    state = CatalogState(1, 1, 0, "r", 1.0, False, "", 1.0, 0, 1)
    security = {name: {"x": 1.0} for name in SECURITY}
    series = Series()
    series.method("/package.Service/Method", "unary")
    series.requested("GET", "/", "200", 1.0)
    series.version("m", "1")
    series.upstreams["e"] = lambda: ({"200": 0}, 0)
    usage = [(("m", "1"), VersionUsage(memory=1, accelerated=1))]
    metrics = Metrics(
        lambda: {"default": state},
        lambda: {verdict.value: 1 for verdict in Verdict},
        lambda: security,
        lambda: (series, usage, series.versions.keys()),
    )

    content, _ = metrics.write("application/openmetrics-text; version=1.0.0")
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", content.decode(), flags=re.MULTILINE))
    plain, _ = metrics.write("")
    found = set()
    for family in text_string_to_metric_families(plain.decode()):
        for sample in family.samples:
            kind = types[re.sub("_(total|info)$", "", sample.name) if family.type != "histogram" else family.name]
            name = family.name if kind == "histogram" else sample.name
            found.add((name, kind, ", ".join(f"`{label}`" for label in sample.labels if label != "le")))

    assert set(rows) == found
    assert len(rows) == len(found) > 10
    assert all(f"`{verdict.value}`" in page for verdict in Verdict)


def test_examples_of_the_operations_page(tmp_path: Path) -> None:
    """Each settings file of docs/operations.md is one, and each event of MLflow's there is one."""
    page = (DOCS / "operations.md").read_text()
    file = tmp_path / "prinz.toml"
    examples = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    for example in examples:
        file.write_text(example)
        assert Settings.load(file=file, environment={}).http.port == 9090
    events = re.findall(r'"(\w+\.\w+)",$', page, flags=re.MULTILINE)

    assert len(examples) == 2
    assert [str(WebhookEvent.from_str(event)) for event in events] == events
    assert len(events) == 6
