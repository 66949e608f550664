"""What the logs hold, and what they must not."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import structlog
from prinz_enricher.telemetry import configure_logging

configure_logging("info", sys.argv[1])
password = "hunter" + str(2)
try:
    raise ValueError("told")
except ValueError:
    structlog.get_logger().exception("it failed")
"""


@pytest.mark.parametrize("style", ["console", "json"])
def test_tracebacks_show_no_variables(style: str) -> None:
    """A traceback tells the error and where it was, not the values that were at hand, which may be secrets."""
    told = subprocess.run([sys.executable, "-c", PROGRAM, style], capture_output=True, text=True, check=True).stderr
    assert "ValueError: told" in told
    assert "hunter2" not in told
