"""The client commands while a model is being loaded, or where it can't be."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from prinz_enricher.cli import group
from prinz_enricher.client import Client
from tests.support.deadline import wait_until
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import Service

pytestmark = pytest.mark.slow

REGISTER = """
import sys
import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])

class Gated(mlflow.pyfunc.PythonModel):
    def __init__(self, gate):
        self.gate = gate

    def load_context(self, context):
        import os, time
        if not self.gate:
            raise RuntimeError("its weights are gone")
        while not os.path.exists(self.gate):
            time.sleep(0.01)

    def predict(self, context, model_input, params=None):
        return model_input["x"] * 2

class Shows(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [repr(value) for value in model_input["x"]]

mlflow.pyfunc.log_model(
    name="m", python_model=Shows(), registered_model_name="unsigned", pip_requirements=["mlflow"],
    signature=False, input_example=pd.DataFrame({"x": ["a"]}),
)

for name, gate in (("slow", sys.argv[2]), ("later", sys.argv[3]), ("broken", "")):
    mlflow.pyfunc.log_model(
        name="m", python_model=Gated(gate), registered_model_name=name, pip_requirements=["mlflow"],
        signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")])),
    )
"""


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files for which two models wait while they are loaded."""
    folder = tmp_path_factory.mktemp("gates")
    return {name: folder / name for name in ("slow", "later")}


@pytest.fixture(scope="module")
def gated(
    scratch_registry: RegistryWriter, gates: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with these models, of which none is loaded."""
    folder = tmp_path_factory.mktemp("gated")
    register(scratch_registry.url, REGISTER, folder, *map(str, gates.values()))
    with own_service(scratch_registry.url, cache={"folder": str(folder / "cache")}) as service:
        yield service


def arguments(service: Service, folder: Path, model: str, *more: str) -> list[str]:
    """Return what scores a file of two rows."""
    (folder / "rows.csv").write_text("x\n1\n2\n")
    files = ("--input", str(folder / "rows.csv"), "--output", str(folder / "scored.json"))
    return ["score", model, *files, "--address", service.address, *more]


def test_score_waits_until_the_model_is_loaded(gated: Service, gates: dict[str, Path], tmp_path: Path) -> None:
    """It waits longer than a call may take, says each step once, in plain lines, as `models` does, and then scores."""
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "prinz_enricher.cli", *arguments(gated, tmp_path, "slow", "--timeout", "1")],
            stderr=stderr,
        )
    try:
        wait_until(lambda: "slow/1: loading the model" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        listed = CliRunner(env={"COLUMNS": "200"}).invoke(group, ["models", "--address", gated.address]).output
        (line,) = (line for line in listed.splitlines() if " slow " in line)
        assert [cell.strip() for cell in line.split("│")[4::2]] == ["loading", "loading the model"]
        gates["slow"].touch()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
    lines = log.read_text().splitlines()
    assert lines[-1].startswith("2 rows scored by slow/1")
    assert lines.count("slow/1: loading the model") == 1
    scored = (tmp_path / "scored.json").read_text().splitlines()
    assert [json.loads(line) for line in scored] == [{"y": 2.0}, {"y": 4.0}]


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("rows.csv", "x,n\n7,1\nseven,2\n007,3\n", ["'7'", "'seven'", "'007'"]),
        ("rows.csv", "x,n\n7,1\n8,2\n", ["7", "8"]),
        ("rows.json", '[{"x": "7"}, {"x": "seven"}]', ["'7'", "'seven'"]),
    ],
)
def test_text_for_a_model_without_a_signature(
    gated: Service, tmp_path: Path, name: str, content: str, shown: list[str]
) -> None:
    """Text is text, and no JSON, whatever it looks like; numbers are numbers."""
    (tmp_path / name).write_text(content)
    target = tmp_path / "o.json"
    files = ("--input", str(tmp_path / name), "--output", str(target))
    result = CliRunner().invoke(group, ["score", "unsigned", *files, "--address", gated.address])
    assert result.exit_code == 0, result.output
    # A score of any type is written as JSON.
    scores = [json.loads(line)["output_0"] for line in target.read_text().splitlines()]
    assert list(map(json.loads, scores)) == shown


def test_score_ends_when_its_patience_does(gated: Service, tmp_path: Path) -> None:
    """`--wait` limits it; what is being done then, and what gives it more, is told."""
    result = CliRunner().invoke(group, arguments(gated, tmp_path, "later", "--wait", "2", "--timeout", "30"))
    assert result.exit_code == 1
    assert "later/1: " in result.output
    assert "It was not loaded in time; --wait gives it more" in result.output
    assert "Is the service running" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_on_a_terminal_one_line_counts_the_seconds(gated: Service, tmp_path: Path) -> None:
    """What is being done is told in place, and nothing of it is left in the end."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "prinz_enricher.cli", *arguments(gated, tmp_path, "later", "--wait", "4")]
    process = subprocess.Popen(command, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = b""
    try:
        # Reading fails once the other end is closed.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
        assert process.wait(20) == 1
    finally:
        process.kill()
        os.close(ours)
    assert len(set(re.findall(rb"later/1: [a-z ]+ \((\d+) s\)", shown))) >= 2
    left = shown.rpartition(b"\x1b[2K")[2].decode().strip()
    assert left.startswith("Error: later/1: ")
    assert "It was not loaded in time" in left


def test_ctrl_c_ends_the_waiting(gated: Service, tmp_path: Path) -> None:
    """At once, with the exit code of an interrupted command, and without an output."""
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "prinz_enricher.cli", *arguments(gated, tmp_path, "later")], stderr=stderr
        )
    try:
        wait_until(lambda: "later/1: " in log.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
    assert not (tmp_path / "scored.json").exists()


def test_a_model_that_can_not_be_loaded_ends_it_at_once(gated: Service, tmp_path: Path) -> None:
    """With the reason and what to do next; `models` shows the reason whole."""
    result = CliRunner().invoke(group, arguments(gated, tmp_path, "broken", "--timeout", "60"))
    assert result.exit_code == 1
    assert "its weights are gone" in result.output
    assert "Name another version" in result.output
    listed = CliRunner(env={"COLUMNS": "2000"}).invoke(group, ["models", "--address", gated.address]).output
    with Client(gated.address) as client:
        (version,) = next(client.list_models('name = "broken"')).versions
    assert "its weights are gone" in version.state_message
    assert version.state_message in listed


def test_a_service_that_is_not_there(unused_tcp_port: int, tmp_path: Path) -> None:
    """It is told as that, without waiting."""
    (tmp_path / "rows.csv").write_text("x\n1\n")
    files = ("--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "o.json"))
    result = CliRunner().invoke(group, ["score", "any", *files, "--address", f"127.0.0.1:{unused_tcp_port}"])
    assert result.exit_code == 1
    assert "Is the service running" in result.output
