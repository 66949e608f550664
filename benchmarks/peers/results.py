"""What a run gave, and the file that it is kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.figure import Figure


@dataclass
class Row:
    """What one server gave.

    Attributes:
        title: Its row in the tables.
        kind: `ours`, `peer`, `way` or `limit`.
        batching: Whether it puts rows of several callers together.
        versions: Of its packages.
        why_not: Why it was not run; empty where it was.
        memory_mb: With both models loaded, after loads of single rows.
        loads: Figures by the loads' names.
    """

    title: str
    kind: str
    batching: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    why_not: str = ""
    memory_mb: float | None = None
    loads: dict[str, Figure] = field(default_factory=dict)

    def figure(self, load: str) -> Figure | None:
        """Return a figure that may be compared; None where there is none, or it had errors."""
        found = self.loads.get(load)
        return found if found and found.sound else None


@dataclass
class Results:
    """What a run gave.

    Attributes:
        machine: Its machine, versions, and the load on it at the start.
        arguments: How it was run.
        rows: The servers by name.
        ours: Further figures of ours by name.
        echo: What a bare grpc.aio echo gave by turns with these, by the same names.
        numbers: Further numbers of ours by name: shares and microseconds.
        why_not: Why some of these are not there.
        limits: Of the generator, against the C++ echo, or nginx where the name ends in `_http`.
    """

    machine: dict[str, Any]
    arguments: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    ours: dict[str, Figure] = field(default_factory=dict)
    echo: dict[str, Figure] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Figure] = field(default_factory=dict)

    def figure(self, row: str, load: str) -> Figure | None:
        """Return a figure of a server that may be compared, where there is one."""
        return self.rows[row].figure(load) if row in self.rows else None

    def best(self, load: str, *, batching: bool = False, by_latency: bool = False) -> tuple[str, Figure] | None:
        """Return the best peer under a load, by its title, and its figure.

        Args:
            load: The load's name.
            batching: Whether only those that batch count.
            by_latency: Whether the least p50 is the best, rather than the most calls.
        """
        found = [
            (row.title, figure)
            for row in self.rows.values()
            if row.kind == "peer" and (row.batching or not batching) and (figure := row.figure(load))
        ]
        if not found:
            return None
        return min(found, key=lambda one: one[1].p50_ms if by_latency else -one[1].calls_per_second)

    def write(self, file: Path) -> None:
        """Keep it as JSON."""
        told = {
            "machine": self.machine,
            "arguments": self.arguments,
            "rows": {
                name: {**vars(row), "loads": {load: one.to_json() for load, one in row.loads.items()}}
                for name, row in self.rows.items()
            },
            "ours": {name: figure.to_json() for name, figure in self.ours.items()},
            "echo": {name: figure.to_json() for name, figure in self.echo.items()},
            "numbers": self.numbers,
            "why_not": self.why_not,
            "limits": {name: figure.to_json() for name, figure in self.limits.items()},
        }
        file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Results:
        """Return what was kept."""
        told = json.loads(file.read_text(encoding="utf-8"))
        rows = {name: Row(**{**row, "loads": _figures(row["loads"])}) for name, row in told["rows"].items()}
        figures = {key: _figures(told.get(key, {})) for key in ("ours", "echo", "limits")}
        return cls(**{**told, "rows": rows, **figures})


def _figures(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    return {name: Figure.from_json(figure) for name, figure in kept.items()}
