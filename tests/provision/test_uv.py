"""What is told of uv's failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prinz_enricher.provision.uv import Uv, reason


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            [
                "Using Python 3.11.7 environment at: x",
                "error: No solution found when resolving dependencies",
                "  cause: Because there is no version of a==2 and you require a==2, we can conclude",
                "         that your requirements fail.",
            ],
            "Because there is no version of a==2 and you require a==2, we can conclude that your requirements fail.",
        ),
        (
            [
                "  \N{MULTIPLICATION SIGN} No solution found when resolving dependencies:",
                "  ╰─▶ Because you require numpy>2 and numpy<1, we can conclude that your",
                "      requirements are unsatisfiable.",
            ],
            "Because you require numpy>2 and numpy<1, we can conclude that your requirements are unsatisfiable.",
        ),
        (["error: Request failed", "  cause: Failed to fetch: x"], "Request failed Failed to fetch: x"),
        (["error: " + "x" * 1000], "x" * 399 + "…"),
        (["", "  "], ""),
        ([], ""),
    ],
)
def test_the_reason(said: list[str], told: str) -> None:
    """The essence, in a line."""
    assert reason(said) == told


@pytest.mark.parametrize(
    "environment",
    [
        {"UV_DEFAULT_INDEX": "https://me:p4ssw%40rd@index/simple"},
        {"UV_INDEX": "one=https://index/simple two=https://me:p4ssw%40rd@other/simple"},
        {"UV_INDEX": "https://p4ssw%40rd@index/simple"},
        {"UV_INDEX_ONE_PASSWORD": "p4ssw@rd"},
        {"HTTPS_PROXY": "http://me:p4ssw%40rd@proxy:3128"},
    ],
)
def test_passwords_are_masked(environment: dict[str, str]) -> None:
    """Wherever they come from, and however they are written."""
    uv = Uv(timeout=60, environment=environment)
    text = "failed: https://me:p4ssw%40rd@index/simple, p4ssw@rd"
    assert "p4ssw" not in uv.masked(text)
    assert uv.masked(text).startswith("failed: https://index/simple")
    assert "p4ssw" not in uv.index


def test_the_index_without_its_password() -> None:
    """The one that is set goes before uv's own; both are told without credentials."""
    assert Uv(timeout=60, environment={}).index == ""
    assert Uv(timeout=60, environment={"UV_DEFAULT_INDEX": "https://a:b@one/simple"}).index == "https://one/simple"


def test_it_leaves_the_processors_to_whoever_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes every processor for a minute; calls of other models go first."""
    script = tmp_path / "uv"
    script.write_text("#!/bin/sh\nnice\n")
    script.chmod(0o755)
    monkeypatch.setattr("prinz_enricher.provision.uv.uv_binary", lambda: str(script))
    told = Uv(timeout=60).installed(tmp_path / "venv", lambda: False)
    assert told == [str(min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))]
