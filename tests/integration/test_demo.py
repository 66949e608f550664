"""`prinz-enricher demo`, as a newcomer runs it."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prinz_enricher.cli.demo import EXAMPLES
from tests.support.processes import is_there, mentioning

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).parent / "prinz-enricher"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's registry, kept from the first run to the second."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that waits for Ctrl-C."""
    command = [str(PROGRAM), "demo", "--folder", str(folder), "--port", "0"]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def test_once(folder: Path) -> None:
    """With --once it lists, describes and scores each model, and ends with 0."""
    result = subprocess.run(
        [PROGRAM, "demo", "--once", "--folder", folder], capture_output=True, text=True, check=False, timeout=250
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    for name in EXAMPLES:
        assert f"{name}, version 1: a row and its score" in result.stdout


def test_commands_to_paste(folder: Path, running: subprocess.Popen[str]) -> None:
    """The commands that it prints work as they are, and Ctrl-C ends it and all that it started."""
    assert running.stdout is not None
    printed = []
    for line in running.stdout:
        printed.append(line.rstrip())
        if "Ctrl-C" in line:
            break
    called = re.findall(r"  curl (\S+)(?: -H '(.+): (.+)' \\\n    -d '(.+)')?$", "\n".join(printed), flags=re.MULTILINE)
    answers = [
        httpx.request(
            "POST" if body else "GET", url, content=body, headers={key: value} if body else {}, trust_env=False
        )
        for url, key, value, body in called
    ]
    commands = [line.strip() for line in printed if line.startswith("  ") and "prinz-enricher" in line.split()[0]]

    results = [subprocess.run(shlex.split(c), capture_output=True, text=True, check=False) for c in commands]
    started = mentioning(str(folder))
    running.send_signal(signal.SIGINT)

    assert running.wait(timeout=60) == 0
    assert [result.returncode for result in results] == [0, 0, 0, 0], results
    assert "score-MLF-FraudDetection-3-champion" in results[-1].stdout
    assert [answer.status_code for answer in answers] == [200, 200]
    head, first, *_ = (folder / "scored.csv").read_text().splitlines()
    assert head == '"payment","output_0"'
    assert first.split(",")[1] == str(answers[1].json()["rows"][0]["output_0"])
    assert any(re.search(r"grpcurl .*EnricherService/Score|EnricherService/Score", line) for line in printed)
    assert len(started) > 1
    assert [pid for pid in started if is_there(pid)] == []
