"""The command against a server that answers as it is told to."""

import json
from pathlib import Path

import grpc
from click.testing import CliRunner

from prinz_enricher.cli import group
from prinz_enricher.loadtest.request_pool import pool_size
from tests.loadtest.scoring_server import ScoringServer, doubled, refusal

SHORT = ["--concurrency", "2", "--duration", "0.3", "--warm-up", "0"]


def test_errors_make_the_exit_code(tmp_path: Path) -> None:
    """With calls that fail the exit code is 1, and output, document and page say how many and why."""
    written, page = tmp_path / "report.json", tmp_path / "report.html"
    with ScoringServer() as server:
        server.answer = lambda number, request: (
            refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            if number > pool_size(1) + 2 and number % 2
            else doubled(number, request)
        )
        result = CliRunner(env={"COLUMNS": "200"}).invoke(
            group,
            ["loadtest", "double", *SHORT, "--address", server.address, "--json", str(written), "--html", str(page)],
        )

    (step,) = json.loads(written.read_text())["steps"]
    assert result.exit_code == 1
    assert f"{step['errors']['OVERLOADED']:,} x OVERLOADED" in result.output
    assert "OVERLOADED" in page.read_text()


def test_a_share_of_nothing_is_told() -> None:
    """Where no closed loop has an answer, rates that are a share of it are not run, and the output says so."""
    with ScoringServer() as server:
        server.answer = lambda number, request: (
            refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            if number > pool_size(1) + 2
            else doubled(number, request)
        )
        result = CliRunner(env={"COLUMNS": "200"}).invoke(
            group, ["loadtest", "double", *SHORT, "--rate", "50%", "--address", server.address]
        )

    assert result.exit_code == 1
    assert "1 of 2 steps were measured: the closed loops had no answer" in result.output
