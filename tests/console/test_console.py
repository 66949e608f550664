"""The console in a real browser, before a real service."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from playwright.sync_api import expect

from prinz_enricher.batch.json_answers import EXACT
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.fronts.http.score_exchange import objects
from prinz_enricher.telemetry.activity import Activity
from tests.console.conftest import ConsolePage
from tests.fronts.test_http_api import EchoService, guarded
from tests.support.guarded_service import SIGNATURE, GuardedService, model_of
from tests.support.http_api import RunningApi, running_api
from tests.support.own_service import own_service
from tests.support.running_service import Service

FRAUD = "MLF-FraudDetection-3"
ROW = {"age": "4", "gender": "F", "category": "es_transportation", "amount": "800.5"}
HOSTILE = """<img src=x onerror="alert('1')"> '$(touch here)' \\ ü"""

WRITTEN = {
    "long": "9007199254740993", "integer": "-2147483648", "double": "NaN", "float": "0.5", "flag": "true",
    "text": "a 'b' \"c\" $d \\ ß", "at": "2024-03-01T01:59:59.123456+02:00", "bytes": "AP8=",
    "list": "[-9223372036854775808, 1]", "map": '{"it\'s": "1969-07-20T20:17:40Z"}',
    "any": '{"b": [1, 1.5, null, "x"]}', "record": '{"a": "/w=="}',
}  # fmt: skip
SPEL = Path(__file__).parents[2] / "nussknacker/client/src/test/resources/console.spel"
SHOWN = WRITTEN | {"at": "2024-02-29T23:59:59.123456Z"}


@pytest.fixture(scope="module")
def service(sample_registry: Any) -> Iterator[Service]:
    """The service before the sample models."""
    with own_service(sample_registry.url, api={"port": 0}, scoring={"preload": ["MLF-*"]}) as service:
        yield service


@pytest.fixture(scope="module")
def port(service: Service) -> int:
    """The port of its HTTP API."""
    assert service.application._api is not None
    return int(service.application._api._listener.getsockname()[1])


@pytest.fixture(scope="module")
def echo() -> Iterator[RunningApi]:
    """The API of a model that answers with its inputs, of every type."""
    with EchoService() as service, running_api(service) as running:
        yield running


def run(*command: str, **variables: str) -> str:
    """Return what a command prints."""
    environment = {**os.environ, "no_proxy": "127.0.0.1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(command: str, **variables: str) -> Any:
    """Return the JSON that a shell command prints."""
    return json.loads(run("bash", "-c", command, **variables))


def test_find_score_and_call(console: ConsolePage, port: int) -> None:
    """A model is found by a word, its row scored, and the same call run from a shell and from Python."""
    console.show(port, "fraud", FRAUD)
    expect(console.page.locator("#list a")).to_have_count(1)
    console.write(ROW)

    shown = console.score()

    by_curl = bash(console.snippet("curl"))
    assert {name: json.dumps(value) for name, value in by_curl["rows"][0].items()} == shown
    assert run(sys.executable, "-c", console.snippet("Python")).strip() == f"1 {by_curl['rows']}"
    assert console.snippet("Nussknacker SpEL").startswith("{'age': '4', 'gender': 'F', 'category': 'es_transportation'")


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed here")
def test_grpcurl(console: ConsolePage, port: int) -> None:
    """The same call by grpcurl has the same scores."""
    console.show(port, "fraud", FRAUD)
    console.write(ROW)
    console.score()

    response = json_format.ParseDict(bash(console.snippet("grpcurl")), pb.ScoreResponse())

    [row] = objects(response.columns, EXACT)
    assert row == bash(console.snippet("curl"))["rows"][0]


def test_copy(console: ConsolePage, port: int) -> None:
    """A snippet is copied by its button."""
    console.show(port, "fraud", FRAUD)
    console.page.context.grant_permissions(["clipboard-read"])
    shown = console.snippet("curl")
    console.page.get_by_role("button", name="Copy").click()
    expect(console.page.get_by_text("Copied.")).to_be_visible()
    assert console.page.evaluate("navigator.clipboard.readText()") == shown


def test_an_error_at_its_field(console: ConsolePage, port: int) -> None:
    """What the service refuses is told at the field, which has the focus; it is gone once the field is changed."""
    console.show(port, "fraud", FRAUD)
    console.write(ROW | {"amount": "much"})
    console.page.get_by_role("button", name="Score the row").click()

    field = console.field("amount")
    expect(field).to_have_accessible_description("is text; wanted double")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(console.page.get_by_role("alert")).to_contain_text("INVALID_INPUT")
    expect(console.page.get_by_role("alert")).to_contain_text("correlation id")
    field.press("7")
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_every_type(console: ConsolePage, echo: RunningApi) -> None:
    """Values of every type come back as they were written, and stand in the snippets as they are."""
    console.show(echo.port, "", "echo")
    console.write(WRITTEN)

    assert console.score() == SHOWN
    by_curl = bash(console.snippet("curl"))["rows"][0]
    assert (by_curl["long"], by_curl["text"]) == (2**53 + 1, WRITTEN["text"])
    words = shlex.split(console.snippet("grpcurl"))
    assert words[:2] == ["grpcurl", "-plaintext"]
    request = json_format.Parse(words[words.index("-d") + 1], pb.ScoreRequest())
    [by_grpc] = objects(echo.service.one(None, request).columns, EXACT)
    assert by_grpc == by_curl
    # A test of the JVM client evaluates it.
    assert console.snippet("Nussknacker SpEL") == SPEL.read_text().strip()


def test_what_is_left_out(console: ConsolePage, echo: RunningApi) -> None:
    """Empty optional fields are null; JSON that can't be read is told before anything is sent."""
    console.show(echo.port, "", "echo")
    console.write({name: text for name, text in WRITTEN.items() if name not in {"flag", "any"}} | {"list": "[1,"})
    console.page.get_by_role("button", name="Score the row").click()
    expect(console.page.locator(".fault", has_text="can't be read")).to_be_visible()
    expect(console.page.locator(".answer table")).to_have_count(0)
    console.write({"list": "[1]"})

    assert console.score() == SHOWN | {"any": "null", "flag": "null", "list": "[1]"}


def test_hostile_names(console: ConsolePage) -> None:
    """Whatever a registry calls things is text, also in a shell."""
    with GuardedService("wine") as service, running_api(service) as api:
        hostile = model_of(HOSTILE, HOSTILE)
        inputs = (replace(SIGNATURE.inputs[0], description=HOSTILE),)
        signature = replace(SIGNATURE, inputs=inputs)
        version = replace(hostile.versions[0], tags={HOSTILE: HOSTILE}, fault=HOSTILE, signature=signature)
        service.catalog.change(replace(hostile, tags={HOSTILE: HOSTILE}, versions=(version,)))
        console.show(api.port, "onerror", HOSTILE)
        console.write({"x": "3"})
        assert console.score() == {"y": "1.5"}
        assert console.page.title() == f"{HOSTILE} – prinz-enricher"  # noqa: RUF001 - as it is written
        assert console.page.get_by_text(HOSTILE).count() >= 6
        expect(console.page.locator("img")).to_have_count(0)
        assert bash(console.snippet("curl"))["rows"] == [{"y": 1.5}]
        console.page.set_viewport_size({"width": 400, "height": 800})
        assert console.width() == 400


def test_tokens(console: ConsolePage, tmp_path: Path) -> None:
    """A token is asked for until it is right; it is kept nowhere but in the page, and no snippet has it."""
    page = console.page
    with guarded(tmp_path) as api:
        console.open(api.port)
        for given, why in (("wrong", ""), ("token-of-nk", "token")):
            expect(page.locator("#token-why")).to_contain_text(why)
            expect(page.locator("#token")).to_be_focused()
            assert page.locator("#token").get_attribute("type") == "password"
            assert console.barriers() == []
            page.keyboard.type(given)
            page.keyboard.press("Enter")
            expect(page.locator("#token")).to_have_value("")
        expect(page.locator("#list .name")).to_have_text(["fraud-a", "fraud-bad"])
        page.locator("#list a").first.click()
        console.write({"x": "3"})
        assert console.score() == {"y": "1.5"}
        for language in ("curl", "grpcurl", "Python"):
            assert "PRINZ_TOKEN" in console.snippet(language)
        assert "token-of-nk" not in page.content()
        answer = bash(console.snippet("curl"), PRINZ_TOKEN="token-of-nk")  # noqa: S106 - of this test
        assert answer["rows"] == [{"y": 1.5}]
        assert page.url == f"http://127.0.0.1:{api.port}/#/fraud-a"
        assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]


def test_by_keyboard(console: ConsolePage, port: int) -> None:
    """A row is scored without a mouse, and the focus is always to be seen."""
    page = console.page
    console.open(port)
    expect(page.locator("#list a")).to_have_count(3)
    console.tab_to("#skip")
    console.tab_to("#filter")
    page.keyboard.type("fraud")
    console.tab_to("#list a")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for name, text in ROW.items():
        console.tab_to(f"#{console.field(name).get_attribute('id')}")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_contain_text("Version 1")
    console.tab_to(".choices input")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Snippet", exact=True)).to_contain_text("grpcurl")


@pytest.mark.parametrize("dark", [False, True])
def test_barriers(console: ConsolePage, port: int, echo: RunningApi, *, dark: bool) -> None:
    """Axe finds no serious barrier in the list, a model, an answer and an error, in the light and in the dark."""
    console.page.emulate_media(color_scheme="dark" if dark else "light")
    console.open(port)
    expect(console.page.locator("#list a")).to_have_count(3)
    background = console.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(", "))) < 384) is dark
    assert console.barriers() == []
    console.show(port, "fraud", FRAUD)
    assert console.barriers() == []
    console.show(echo.port, "", "echo")
    console.write(WRITTEN)
    console.score()
    assert console.barriers() == []
    console.write({"long": "many"})
    console.page.get_by_role("button", name="Score the row").click()
    expect(console.field("long")).to_have_attribute("aria-invalid", "true")
    assert console.barriers() == []


def test_on_a_narrow_screen(console: ConsolePage, port: int, echo: RunningApi) -> None:
    """At 400 pixels nothing is beyond the edge; the list gives way to the model, and comes back by a link."""
    console.page.set_viewport_size({"width": 400, "height": 800})
    console.show(port, "", FRAUD)
    expect(console.page.locator("#list")).not_to_be_visible()
    console.write(ROW)
    console.score()
    assert console.width() == 400
    console.page.get_by_role("link", name="All models").click()
    expect(console.page.locator("#list")).to_be_visible()
    assert console.width() == 400
    console.show(echo.port, "", "echo")
    assert console.width() == 400


def test_documentation(console: ConsolePage, port: int) -> None:
    """Swagger UI shows the API under the page's policy, and loads nothing from elsewhere."""
    asked: list[str] = []
    console.page.on("request", lambda request: asked.append(request.url))
    console.open(port, "/docs")
    expect(console.page.get_by_text("/v1/models/{name}:score")).to_be_visible()
    assert all(url.startswith((f"http://127.0.0.1:{port}/", "about:", "data:")) for url in asked)


def test_activity(console: ConsolePage, service: Service, port: int) -> None:
    """The charts have what was called in each interval; the pictures of the documentation show them."""
    front = service.application._api
    assert front is not None
    console.show(port, "fraud", FRAUD)
    console.write(ROW)
    console.score()
    began = time.monotonic()
    activity = Activity(service.application._series, began - 615)
    # What was called before is in the interval that is forgotten first.
    activity.sample(began - 600)
    body = json.dumps({"rows": [{**ROW, "amount": 800.5}]})
    call = """([path, body, calls]) => Promise.all(Array.from({ length: calls }, () =>
        fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body })))"""
    for place in range(40):
        for text, calls in ((body, 8 + place * (40 - place) // 10), ("{}", place % 9 == 5)):
            console.page.evaluate(call, [f"v1/models/{FRAUD}:score", text, int(calls)])
        activity.sample(began - 585 + place * 15)
    front._console._activity = activity
    console.page.reload()
    lines = console.page.locator("path.line")
    expect(lines).to_have_count(8)
    points = [(one.get_attribute("d") or "").count("h0") for one in lines.all()]
    assert points[:2] == [40, 40]
    # No calls have no durations: the front may have taken samples of its own since.
    assert min(points) >= 38
    console.page.get_by_text("As a table").first.click()
    expect(console.page.get_by_role("region", name="Activity").get_by_role("row")).to_have_count(41)
    console.page.get_by_text("As a table").first.click()
    console.write(ROW)
    console.score()
    console.page.set_viewport_size({"width": 1280, "height": 1500})
    console.page.evaluate("document.activeElement.blur()")
    console.picture("console", "body")
    console.page.set_viewport_size({"width": 900, "height": 900})
    console.page.emulate_media(color_scheme="dark")
    console.write({"amount": "much"})
    console.page.get_by_role("button", name="Score the row").click()
    expect(console.field("amount")).to_have_attribute("aria-invalid", "true")
    console.picture("console-error", "section:has(form)")
