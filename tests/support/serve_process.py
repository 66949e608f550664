"""`prinz-enricher serve` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest


class Serve:
    """A running `prinz-enricher serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int, lines: list[str]) -> None:
        self.process = process
        self.port = port
        self.lines = lines
        self.address = f"127.0.0.1:{port}"

    def end(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def serve(
    *flags: str,
    until: str = "serving",
    variables: Mapping[str, str | None] | None = None,
    begin: Callable[[int], object] = lambda _: None,
) -> Iterator[Serve]:
    """Run `prinz-enricher serve` until its log has an event; ends it whatever happens.

    Args:
        flags: Of the command line.
        until: The event.
        variables: More environment variables; None removes one.
        begin: Called with the number of the process once that begins.
    """
    command = [sys.executable, "-m", "prinz_enricher.cli", "serve", "--port", "0", "--log-format", "json", *flags]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PRINZ_")}
    # What an earlier test had in use is nothing to this one.
    wanted = {**kept, "PRINZ_SCORING__PRELOAD": "", **(variables or {})}
    environment = {key: value for key, value in wanted.items() if value is not None}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stderr is not None
    lines: list[str] = []
    reader: threading.Thread | None = None
    try:
        begin(process.pid)
        for line in process.stderr:
            lines.append(line)
            if json.loads(line)["event"] == until:
                break
        else:
            pytest.fail(f"it did not start: {''.join(lines)}")
        port = next(event["port"] for event in map(json.loads, lines) if event["event"] == "listening")
        # What nobody reads would block it once the pipe is full.
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        reader.start()
        yield Serve(process, port, lines)
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join(timeout=10)
        process.stderr.close()
