"""The pages for people: files that are served from memory, and the figures that the console draws."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from prinz_enricher.fronts.http.row_template import Answer
from prinz_enricher.telemetry.activity import Activity, Interval, quantile
from prinz_enricher.telemetry.series import Series

_MEDIA: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
}
_CONSOLE: Final = (
    *("console.css", "charts.js", "console.js", "dom.js"),
    *("score_form.js", "service.js", "snippets.js", "values.js"),
)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'{}; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that is the same foreverybody, as an answer, with its tag."""

    answer: Answer
    tag: bytes


class Console:
    """The console and the documentation, by path; and what the versions have done, which it samples.

    `grpc_port` is where the service listens for gRPC, with TLS or without; the page shows it in commands.
    """

    def __init__(self, series: Series, grpc_port: int = 0, *, tls: bool = False) -> None:
        self._activity = Activity(series, time.monotonic())
        self._grpc = {"port": grpc_port, "tls": tls}
        self.files = _read_files()

    def sample(self) -> None:
        """End an interval of the charts."""
        self._activity.sample(time.monotonic())

    def activity(self, model: str, version: str | None) -> Answer:
        """Return the intervals of a version, or of a whole model, as JSON; durations are in seconds."""
        now = time.monotonic()
        intervals = [_figures(one, now) for one in self._activity.of(model, version)]
        return Answer(json.dumps({"intervals": intervals, "grpc": self._grpc}).encode())


def _figures(interval: Interval, now: float) -> dict[str, Any]:
    phases = {
        phase: {"p50": quantile(0.5, counts), "p99": quantile(0.99, counts)}
        for phase, counts in interval.counts.items()
        if any(counts)
    }
    ago, seconds = round(now - interval.end, 6), round(interval.seconds, 6)
    return {"ago": ago, "seconds": seconds, "calls": interval.calls, "errors": interval.errors, **phases}


def _read_files() -> dict[bytes, StaticFile]:
    here = Path(__file__).parent
    pages, swagger_ui = here / "pages", _folder_of("swagger_ui") / "static"
    paths = {"": pages / "index.html", "docs": pages / "docs.html", "docs/docs.js": pages / "docs.js"}
    paths |= {f"docs/{name}": swagger_ui / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
    paths |= {f"console/{name}": pages / name for name in _CONSOLE}
    # Swagger UI writes styles into its page.
    policies = {path: _POLICY.format(" 'unsafe-inline'" if path == "docs" else "") for path in paths}
    found = {f"/{path}".encode(): _file(file, policies[path]) for path, file in paths.items()}
    return {b"/openapi.json": _file(here / "openapi.json", ""), **found}


def _folder_of(package: str) -> Path:
    """Return where a package is, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {package} is not installed")
    return Path(spec.origin).parent


def _file(source: Path, policy: str) -> StaticFile:
    body = source.read_bytes()
    headers = _HEADERS + (f"Content-Security-Policy: {policy}\r\n" if policy else "")
    answer = Answer(body, _MEDIA[source.suffix], headers.encode())
    return StaticFile(answer, tag_of(body))


def tag_of(body: bytes) -> bytes:
    """Return the ETag of a body."""
    return b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'
