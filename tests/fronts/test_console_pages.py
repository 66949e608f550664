"""The console's pages and figures, as a caller gets them."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import prinz_enricher.fronts.http
from tests.fronts.test_http_api import bearer, guarded
from tests.support.guarded_service import GuardedService
from tests.support.http_api import RunningApi, running_api

ROOT = Path(__file__).resolve().parents[2]
FOLDER = files(prinz_enricher.fronts.http) / "pages"
NAMES = sorted(one.name for one in FOLDER.iterdir())
PATHS = {"/": "index.html", "/docs": "docs.html", "/docs/docs.js": "docs.js"}
PATHS |= {f"/console/{name}": name for name in NAMES if name not in PATHS.values()}


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API, without tokens."""
    with GuardedService("wine", "größe/1") as service, running_api(service) as running:
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_files(api: RunningApi, path: str) -> None:
    """Each file is served as what it is, under a strict policy, and once more only if it changed."""
    answer = api.client.get(path)

    assert answer.status_code == 200
    assert answer.content == (FOLDER / PATHS[path]).read_bytes()
    kinds = {"css": "text/css", "js": "text/javascript", "html": "text/html"}
    assert answer.headers["content-type"] == f"{kinds[PATHS[path].rpartition('.')[2]]}; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["style-src"] == ("'self' 'unsafe-inline'" if path == "/docs" else "'self'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    again = api.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert api.client.head(path).content == b""
    assert api.client.post(path).status_code == 405


@pytest.mark.parametrize(("name", "size"), [("swagger-ui-bundle.js", 1_000_000), ("swagger-ui.css", 100_000)])
def test_swagger_ui(api: RunningApi, name: str, size: int) -> None:
    """The files of Swagger UI come from its package."""
    answer = api.client.get(f"/docs/{name}")

    assert answer.status_code == 200
    assert len(answer.content) > size
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_other_files(api: RunningApi) -> None:
    """There is nothing else beside them."""
    for path in ("/console/index.html", "/console/x.js", "/console/..%2fapi.py", "/console/", "/console", "/docs/"):
        answer = api.client.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "PATH_NOT_FOUND")


def test_the_wheel_has_the_files(tmp_path: Path) -> None:
    """The files are in the wheel of the service."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name.removeprefix("prinz_enricher/fronts/http/pages/") for name in archive.namelist()}

    assert set(NAMES) <= held


def test_nothing_is_inline() -> None:
    """No file makes markup of text, has a script or a style in the page, or loads from elsewhere."""
    for name in NAMES:
        text = (FOLDER / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|https?://(?!www\.w3\.org)", text
        )
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB", text)
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_lengths() -> None:
    """The console is small: no line over 120 characters, no more than 900 lines in all."""
    lines = [line for name in NAMES for line in (FOLDER / name).read_text().splitlines()]

    assert max(map(len, lines)) <= 120
    assert len(lines) <= 900


def test_activity(api: RunningApi) -> None:
    """The figures of a model, or of a version, are counts and quantiles by phase for each interval."""
    for _ in range(4):
        assert api.score([{"x": 1}]).status_code == 200
    api.score([{"x": "a"}])
    api.front._console.sample()

    def figures(**query: str) -> Any:
        answer = api.client.get("/console/activity", params=query).json()
        assert answer["grpc"] == {"port": 0, "tls": False}
        # More than one where the front has taken a sample of its own.
        return answer["intervals"]

    intervals = figures(model="wine", version="1")
    assert sum(one["calls"] for one in intervals) == sum(one["calls"] for one in figures(model="wine")) == 5
    assert sum(one["errors"] for one in intervals) == 1
    assert all(one["ago"] >= 0 and one["seconds"] > 0 for one in intervals)
    phases = [one[phase] for one in intervals for phase in ("queue", "compute", "total") if phase in one]
    assert phases
    assert all(0 < phase["p50"] <= phase["p99"] <= 10 for phase in phases)
    assert {(one["calls"], "total" in one) for one in figures(model="größe/1")} == {(0, False)}


def test_activity_of_nothing(api: RunningApi) -> None:
    """A model that is not there has no figures, and no other option is taken."""
    for query, status in (("model=nothing", 404), ("", 404), ("model=wine&x=1", 400), ("model=wine&model=wine", 400)):
        assert api.client.get(f"/console/activity?{query}").status_code == status


def test_rights(tmp_path: Path) -> None:
    """The page is for anybody; figures need a token, and a model that its caller may not list does not exist."""
    with guarded(tmp_path) as api:
        assert api.client.get("/").status_code == 200
        assert api.client.get("/console/activity?model=fraud-a").status_code == 401
        for name, model, status in (("nk", "fraud-a", 200), ("reader", "fraud-a", 200), ("reader", "geheim", 404)):
            answer = api.client.get("/console/activity", params={"model": model}, headers=bearer(name))
            assert answer.status_code == status
        hidden, missing = (
            api.client.get("/console/activity", params={"model": model}, headers=bearer("nk")).json()
            for model in ("geheim", "fehlt!")
        )
        assert hidden["detail"].replace("geheim", "fehlt!") == missing["detail"]
        assert hidden["reason"] == missing["reason"] == "MODEL_NOT_FOUND"
