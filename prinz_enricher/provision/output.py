"""What a process prints, as lines of the log."""

from __future__ import annotations

import time
from typing import IO, Any

_MOST_LINES = 200
"""Lines of a process's output that are logged in a second; the rest is counted."""

_LONGEST_LINE = 8192
"""Bytes of its output that are logged as one line."""


def log_output(stream: IO[bytes], log: Any, event: str = "program output") -> None:
    """Log what a process prints, line by line, until it closes the stream.

    Args:
        stream: The other end of what it prints to.
        log: Gets the lines.
        event: What each of them is.
    """
    second, lines = 0, 0
    with stream:
        while line := stream.readline(_LONGEST_LINE):
            now = int(time.monotonic())
            if now != second:
                if lines > _MOST_LINES:
                    log.warning("output left out", of=event, lines=lines - _MOST_LINES)
                second, lines = now, 0
            text = line.decode("utf-8", "replace").rstrip()
            lines += 1
            # A model that prints for each row must not fill the disk that the logs are on.
            if text and lines <= _MOST_LINES:
                log.info(event, line=text)
