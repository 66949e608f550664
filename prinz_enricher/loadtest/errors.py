"""What ends a load test before it has begun, or in its midst."""

from __future__ import annotations


class LoadTestError(Exception):
    """A load test can't be run; the message says why, and what can be done."""
