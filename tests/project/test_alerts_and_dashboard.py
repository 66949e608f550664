"""The alerts, their runbook and the dashboard: what they ask for are metrics, and each alert has a section."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0][
    "rules"
]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "prinz-enricher.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"up", "ALERTS"}


def metrics_in(query: str) -> dict[str, set[str]]:
    """Return the names of the metrics in a query, without suffixes of a histogram, and the labels it asks of each."""
    query = re.sub(r'"(?:\\.|[^"])*"|\[[^]]*\]', "", query)
    query = re.sub(r"\b(\w+ by|on)\s*\([^)]*\)", "", query)
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"\b([a-zA-Z_]\w*)\b(?!\s*\()(?:\{([^}]*)\})?", query):
        if name not in {"and", "or", "unless"}:
            found.setdefault(re.sub("_(bucket|sum|count)$", "", name), set()).update(
                re.findall(r"(\w+)\s*[=!]", labels)
            )
    return found


def documented() -> dict[str, set[str]]:
    """Return the metrics of docs/metrics.md, and the labels of each."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| ([`\w, ]*?) ?\| ", page, flags=re.MULTILINE)
    return {name: set(re.findall(r"\w+", labels)) for name, labels in rows}


def test_queries_are_of_metrics_that_exist() -> None:
    """Metrics and labels in alerts and panels stand in docs/metrics.md; all but one of that page are asked for."""
    known = documented()
    asked: dict[str, set[str]] = {}
    queries = [str(rule["expr"]) for rule in RULES]
    queries += [target["expr"] for panel in PANELS for target in panel["targets"]]
    for query in queries:
        for name, labels in metrics_in(query).items():
            asked.setdefault(name, set()).update(labels)
    assert asked.keys() - known.keys() == OF_PROMETHEUS
    wrong = {
        name: left
        for name, labels in asked.items()
        if name in known and (left := labels - known[name] - {"job", "instance"})
    }
    assert wrong == {}
    assert known.keys() - asked.keys() == {"process_virtual_memory_bytes"}


def test_each_alert_has_a_section() -> None:
    """Each alert says what it is, and has a section of the runbook, which has no other; links lead there."""
    page = (ROOT / "docs" / "operations.md").read_text()
    runbook = page.split("\n## Runbook\n")[1].split("\n## ")[0]
    sections = re.findall(r"^### (\w+)\n\n(.*?)(?=^### |\Z)", runbook, flags=re.MULTILINE | re.DOTALL)
    names = [rule["alert"] for rule in RULES]
    assert [name for name, _ in sections] == names
    assert len(names) == len(set(names)) > 18
    for name, text in sections:
        assert "- Look" in text, name
        assert len(text.strip().splitlines()) <= 10, name
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    headings = {
        re.sub(r"[^\w-]", "", line.lower().replace(" ", "-")) for line in re.findall("^#+ (.*)$", page, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings


def test_dashboard_can_be_imported() -> None:
    """Panels do not overlap, have titles, descriptions and units, and data source and filters from variables."""
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "job", "instance", "model"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert "$instance" in target["expr"]
            assert ("$model" in target["expr"]) == ("model" in documented_labels(target["expr"]))


def documented_labels(query: str) -> set[str]:
    """Return all labels that the metrics of a query have."""
    known = documented()
    return {label for name in metrics_in(query) for label in known.get(name, ())}
