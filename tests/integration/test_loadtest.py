"""`prinz-enricher loadtest` against a running service."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_reflection.v1alpha import reflection_pb2

from prinz_enricher.cli import group
from prinz_enricher.loadtest.report import Report
from tests.support.deadline import wait_until
from tests.support.running_service import Service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
WINE = "MLF-ElasticnetWineModel-1"
FRAUD = "MLF-FraudDetection-3"
SHORT = ("--duration", "0.3", "--warm-up", "0.1", "--concurrency", "2")


def loadtest(service: Service, *arguments: str) -> Result:
    """Run the command against the service."""
    runner = CliRunner(env={"COLUMNS": "200"})
    return runner.invoke(group, ["loadtest", *SHORT, *arguments, "--address", service.address])


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (("--mode", "unary"), 1),
        (("--mode", "unary", "--form", "dense", "--rows", "7"), 7),
        (("--mode", "stream", "--rows", "3"), 3),
        (("--mode", "coalesced"), 1),
        (("--mode", "arrow", "--rows", "500"), 500),
        (("--mode", "unary", "--rate", "20,50%", "--processes", "2"), 1),
    ],
)
def test_each_mode(service: Service, tmp_path: Path, arguments: tuple[str, ...], rows: int) -> None:
    """In each mode all answers are right, and the table, the document and the page tell of them."""
    written, page = tmp_path / "report.json", tmp_path / "report.html"

    result = loadtest(service, WINE, *arguments, "--json", str(written), "--html", str(page))

    assert result.exit_code == 0, result.output
    report = Report.model_validate_json(written.read_text(), strict=True)
    assert [step.errors for step in report.steps] == [{}] * len(report.steps)
    assert len(report.steps) == (3 if "--rate" in arguments else 1)
    for step in report.steps:
        assert step.answers > 0
        assert step.rows_per_second == pytest.approx(step.calls_per_second * rows)
        assert step.title in result.output
    assert report.model.startswith(f"{WINE}/")
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("mode", ["unary", "coalesced"])
def test_texts(service: Service, mode: str) -> None:
    """Rows are made for columns of text too."""
    result = loadtest(service, FRAUD, "--mode", mode)

    assert result.exit_code == 0, result.output


def test_rows_of_a_file(service: Service, tmp_path: Path) -> None:
    """Rows of a file are sent; its columns that are no inputs are not."""
    file = tmp_path / "rows.csv"
    file.write_text("id;age;gender;category;amount\n1;4;F;es_travel;800\n2;5;M;es_health;1.5\n")
    written = tmp_path / "report.json"

    result = loadtest(service, FRAUD, "--input", str(file), "--rows", "3", "--json", str(written))

    assert result.exit_code == 0, result.output
    assert json.loads(written.read_text())["arguments"]["input"] == str(file)


def test_a_file_that_does_not_fit(service: Service, tmp_path: Path) -> None:
    """A file without a column that is required is told before the test."""
    file = tmp_path / "rows.csv"
    file.write_text("age,gender,amount\n4,F,800\n")

    result = loadtest(service, FRAUD, "--input", str(file))

    assert result.exit_code == 1
    assert 'columns["category"]' in result.output


def test_unreachable() -> None:
    """A server that is not there is told, with its address."""
    result = CliRunner().invoke(group, ["loadtest", WINE, "--address", "127.0.0.1:9"])

    assert result.exit_code == 1
    assert "Is the service running at 127.0.0.1:9?" in result.output


def test_unknown_model(service: Service) -> None:
    """A model that is not there is told by the service's own reason."""
    result = loadtest(service, "nothing")

    assert result.exit_code == 1
    assert "MODEL_NOT_FOUND" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mode", "arrow", "--form", "dense"), "--form dense"),
        (("--mode", "coalesced", "--rows", "2"), "--rows 1"),
        (("--concurrency", "1,x"), "whole number"),
        (("--rate", "fast"), "invalid rate"),
    ],
)
def test_wrong_arguments(service: Service, arguments: tuple[str, ...], said: str) -> None:
    """Arguments that mean nothing, or do not go together, are refused in one sentence."""
    result = loadtest(service, WINE, *arguments)

    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal(service: Service, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends the test, which reports what it measured."""
    written, log = tmp_path / "report.json", tmp_path / "log"
    command = [
        *(sys.executable, "-m", "prinz_enricher.cli", "loadtest", WINE, "--address", service.address),
        *("--concurrency", "2,4", "--warm-up", "0", "--duration", "60", "--json", str(written)),
    ]
    # On what it takes for a terminal it shows how far it is.
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "200"}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=ROOT) as process,
    ):
        try:
            wait_until(lambda: " calls/s" in log.read_text())
            process.send_signal(number)
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()

    report = Report.model_validate_json(written.read_text(), strict=True)
    assert report.interrupted
    assert len(report.steps) == 1
    assert report.steps[0].answers > 0
    assert "1 of 2 steps were measured" in log.read_text()


def test_reflection_knows_methods(service_channel: grpc.Channel) -> None:
    """Reflection finds the file of a method by its full name, which is what ghz asks for."""
    method: Any = service_channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    names = ["prinz.enricher.v1.EnricherService.Score", "prinz.enricher.v1.EnricherService.Nothing"]
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]

    found, missing = method(iter(requests), timeout=30)

    assert found.WhichOneof("message_response") == "file_descriptor_response"
    assert missing.WhichOneof("message_response") == "error_response"
