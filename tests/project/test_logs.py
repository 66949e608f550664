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


CALLS = r"""
import sys
import structlog
from prinz_enricher.config import LoggingSettings
from prinz_enricher.telemetry import configure_logging
from prinz_enricher.telemetry.request_log import ANSWERED, RequestLog

configure_logging("error", sys.argv[1])
log = structlog.get_logger()
log.warning("unseen")
configure_logging("debug", sys.argv[1])
log.debug("seen")
requests = RequestLog(LoggingSettings(requests="all"))
requests.add(ANSWERED, {"model": "a\nfalse line", "request_id": "\x1b[31m\u202e\x85", "reason": ""})
requests.close()
configure_logging("warning", sys.argv[1])
log.info("unseen")
"""


@pytest.mark.parametrize("style", ["console", "json"])
def test_lines_of_calls(style: str) -> None:
    """The level changes for loggers that were used before, too; what a caller sent begins no line, nor is a control."""
    result = subprocess.run([sys.executable, "-c", CALLS, style], capture_output=True, text=True, check=True)
    lines = result.stderr.split("\n")
    assert len(lines) == 3
    assert "seen" in lines[0]
    assert "call answered" in lines[1]
    assert "reason" not in lines[1]
    assert "unseen" not in result.stderr
    assert "".join(lines).isprintable()
