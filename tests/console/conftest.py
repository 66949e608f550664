"""A headless Chromium that reaches this machine alone, and the console in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WAIT = 60_000
"""Milliseconds until a test gives up."""

FLAGS = (
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


class ConsolePage:
    """The console in a page of the browser."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, port: int, path: str = "/") -> None:
        """Open the console anew, or another page."""
        self.page.goto("about:blank")
        self.page.goto(f"http://127.0.0.1:{port}{path}")

    def show(self, port: int, words: str, name: str) -> None:
        """Open the page of a model by the list."""
        self.open(port)
        self.page.get_by_label("Filter by name").fill(words)
        self.page.locator("#list a").filter(has_text=name).click()
        expect(self.page.locator("h1")).to_have_text(name)

    def field(self, name: str) -> Locator:
        """Return a field of the form."""
        label = self.page.locator(".field > label").filter(has=self.page.get_by_text(name, exact=True))
        return self.page.locator(f"#{label.get_attribute('for')}")

    def write(self, values: dict[str, str]) -> None:
        """Write into fields of the form."""
        for name, text in values.items():
            field = self.field(name)
            if field.evaluate("one => one.tagName") == "SELECT":
                field.select_option(text)
            else:
                field.fill(text)

    def score(self) -> dict[str, str]:
        """Score the row, and return what is shown of the answer."""
        self.page.get_by_role("button", name="Score the row").click()
        rows = self.page.locator(".answer tbody tr")
        expect(rows.first).to_be_visible()
        names, values = (rows.locator(tag).all_text_contents() for tag in ("th", "td"))
        return dict(zip(names, values, strict=True))

    def snippet(self, language: str) -> str:
        """Return a snippet."""
        self.page.locator(".choices").get_by_text(language, exact=True).click()
        return self.page.get_by_label("Snippet", exact=True).text_content() or ""

    def tab_to(self, css: str) -> Locator:
        """Press Tab until an element has the focus, which must be seen on each one on the way."""
        ring = "one => getComputedStyle(one.matches('.choices input') ? one.nextSibling : one).outlineStyle"
        focused = self.page.locator(":focus")
        for _ in range(60):
            self.page.keyboard.press("Tab")
            if not focused.count():
                continue
            assert focused.evaluate(ring) != "none", focused.evaluate("one => one.outerHTML")
            if focused.evaluate("(one, css) => one.matches(css)", css):
                return focused
        raise AssertionError(f"{css} is not reached by Tab")

    def width(self) -> int:
        """Return how wide the document is, in pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def barriers(self) -> list[str]:
        """Return what axe finds to be a serious or critical barrier."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['html']} {node['failureSummary']}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]

    def picture(self, name: str, element: str) -> None:
        """Write a picture for the documentation, where PRINZ_CONSOLE_IMAGES is set."""
        if os.environ.get("PRINZ_CONSOLE_IMAGES"):
            self.page.locator(element).screenshot(path=str(IMAGES / f"{name}.png"), animations="disabled")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser for all tests."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("install Chromium; on Debian: apt-get install chromium")
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(FLAGS), chromium_sandbox=os.geteuid() != 0, timeout=WAIT
        )
        yield browser
        browser.close()


@pytest.fixture
def console(chromium: Browser) -> Iterator[ConsolePage]:
    """A page without a past, in which no script may fail, and nothing be against the page's own policy."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    page.set_default_navigation_timeout(WAIT)
    failures: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A refusal of the service is shown there, too.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            failures.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield ConsolePage(page)
    page.context.close()
    assert failures == []
