"""Waiting for what happens soon, without a fixed time."""

import time
from collections.abc import Callable


def wait_until(happened: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait until something has happened; fail where it has not in time."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)
