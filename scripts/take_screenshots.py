"""Take the pictures of docs/environment.md, from an environment that runs, with a headless Chromium.

`python scripts/take_screenshots.py --registry http://127.0.0.1:5000` writes docs/images/*.png. Nothing in the registry
is changed: a tag that a picture shows is typed in, and never added.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from urllib.request import urlopen

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

WIDTH = 1280

MODEL = "MLF-FraudDetection-3"

PATIENCE = 30.0
"""Seconds until a page must show what is waited for."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")

_FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Chromium does not start as root with its sandbox.
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),
)

# What MLflow's pages keep in the browser: no welcome, no assistant, and the menu of those who train models.
_KEPT = {
    "_mlflow_model_registry_promo_modal_dismissed_v1": "true",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
    "mlflow.workflowType_v1": '"machine_learning"',
}

# The field with such a placeholder; else the first element with a text, and the smallest one that holds it.
_FIND = """
const has = (one, text) => one.textContent.trim() === text;
const find = text => document.querySelector(`input[placeholder="${text}"]`) ??
    [...document.querySelectorAll("body *")].find(one =>
        has(one, text) && ![...one.children].some(child => has(child, text)));
"""

# It is there, and nothing is loading. Lines of grey are what MLflow shows meanwhile.
_SHOWN = (
    _FIND
    + """
document.body && [...document.images].every(one => one.complete)
    && !document.querySelector("[class*=skeleton i], [class*=spin-spinning]")
    && TEXTS.every(text => document.body.innerText.includes(text) || find(text))
"""
)


@dataclass(frozen=True)
class Picture:
    """A picture to take.

    Attributes:
        file: Its name in docs/images.
        page: The page, after the URL's `#`.
        height: Its height; all are as wide.
        texts: What the page must show.
        clicks: The texts to click on, one after the other.
        typed: What to type into which field, by its placeholder.
    """

    file: str
    page: str
    height: int
    texts: Sequence[str]
    clicks: Sequence[str] = ()
    typed: Sequence[tuple[str, str]] = ()


class Browser:
    """A headless Chromium with one page, told what to do through a pipe.

    Args:
        program: Chromium.
    """

    def __init__(self, program: str) -> None:
        self._home = tempfile.mkdtemp(prefix="screenshots-")
        # Chromium reads from its file 3 and writes to its file 4; ours must be neither.
        theirs, ours = (_high(number) for number in os.pipe())
        self._commands = os.fdopen(ours, "wb", buffering=0)
        answers, their_answers = (_high(number) for number in os.pipe())
        self._answers = os.fdopen(answers, "rb")
        self._process = os.posix_spawn(
            program,
            [program, *_FLAGS, f"--user-data-dir={self._home}", "--remote-debugging-pipe", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs, 3),
                (os.POSIX_SPAWN_DUP2, their_answers, 4),
            ],
        )
        os.close(theirs)
        os.close(their_answers)
        self._number = 0
        self._session = ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        self._ask("Page.enable")
        keep = f"for (const [key, value] of Object.entries({json.dumps(_KEPT)})) localStorage.setItem(key, value)"
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=keep)

    def __enter__(self) -> Self:
        """Return this browser."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End Chromium, and remove what it kept."""
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        self._commands.close()
        self._answers.close()
        # Its other processes end a little later, and write meanwhile.
        for _ in range(20):
            shutil.rmtree(self._home, ignore_errors=True)
            time.sleep(0.1)
            if not Path(self._home).exists():
                break

    def take(self, url: str, picture: Picture) -> bytes:
        """Open a page, do what the picture says, and return it as PNG.

        Raises:
            RuntimeError: The page does not show what it should.
        """
        size = {"width": WIDTH, "height": picture.height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        # Another hash alone would not load the page anew.
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=url)
        for text in picture.clicks:
            self._click(text)
        for field, text in picture.typed:
            self._click(field)
            self._ask("Input.insertText", text=text)
        self._wait(picture.texts)
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def _click(self, text: str) -> None:
        self._wait([text])
        box = f"const box = find({json.dumps(text)}).getBoundingClientRect();"
        x, y = self._evaluate(_FIND + box + "[box.x + box.width / 2, box.y + box.height / 2]")
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=WIDTH - 1, y=1)

    def _wait(self, texts: Sequence[str]) -> None:
        shown = _SHOWN.replace("TEXTS", json.dumps(texts))
        end = time.monotonic() + PATIENCE
        while not self._evaluate(shown):
            if time.monotonic() > end:
                raise RuntimeError(f"the page does not show {texts}:\n{self._evaluate('document.body.innerText')}")
            time.sleep(0.2)
        # Until what moves has come to rest.
        time.sleep(0.8)

    def _evaluate(self, expression: str) -> Any:
        answer = self._ask("Runtime.evaluate", expression=f"{{{expression}}}", returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the page refuses: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def _ask(self, method: str, **values: object) -> dict[str, Any]:
        self._number += 1
        command: dict[str, object] = {"id": self._number, "method": method, "params": values}
        if self._session:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        while True:
            message = json.loads(self._read())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result

    def _read(self) -> bytes:
        read = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            read += byte
        return bytes(read)


def pictures(registry: str) -> list[Picture]:
    """Return what is to be taken."""
    version = _get(f"{registry}/api/2.0/mlflow/model-versions/get?name={quote(MODEL)}&version=1")["model_version"]
    logged = version["source"].removeprefix("models:/")
    info = _get(f"{registry}/api/2.0/mlflow/logged-models/{logged}")["model"]["info"]
    return [
        Picture("mlflow-models.png", "/models", 420, ["MLF-ElasticnetWineModel-1", "MLF-ElasticnetWineModel-2", MODEL]),
        Picture("mlflow-model.png", f"/models/{MODEL}", 560, ["Version 1", "champion"]),
        Picture(
            "mlflow-tag.png",
            f"/models/{MODEL}",
            680,
            ["Version 1", "champion", "Add"],
            ["Tags"],
            [("Name", "prinz.route"), ("Value", "remote:prinz")],
        ),
        Picture(
            "mlflow-version.png",
            f"/models/{MODEL}/versions/1",
            840,
            ["champion", "category", "Inputs (4)"],
            ["Inputs (4)", "Outputs (1)"],
        ),
        Picture(
            "mlflow-artifacts.png",
            f"/experiments/{info['experiment_id']}/models/{logged}/artifacts",
            800,
            ["MLmodel", info["artifact_uri"][:20]],
            ["MLmodel"],
        ),
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Take the pictures of docs/environment.md.")
    parser.add_argument("--registry", default="http://127.0.0.1:5000", help="MLflow's URL (default: %(default)s)")
    registry = parser.parse_args().registry.rstrip("/")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        sys.exit(f"none of these is installed: {', '.join(_NAMES)}")
    IMAGES.mkdir(exist_ok=True)
    with Browser(program) as browser:
        for picture in pictures(registry):
            content = browser.take(f"{registry}/#{picture.page}", picture)
            (IMAGES / picture.file).write_bytes(content)
            print(f"{picture.file}: {len(content) // 1024} kB")


def _get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - the registry's
        read: dict[str, Any] = json.load(answer)
    return read


def _high(number: int) -> int:
    """Move a file to a number that is no one's."""
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(number)
    return moved


if __name__ == "__main__":
    main()
