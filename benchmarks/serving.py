"""A service to measure: `prinz-enricher serve` with a cache of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prinz_enricher.registry import PrivateServer


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        address: Where it listens.
        pid: Its process.
        log: Its log, a JSON object a line.
    """

    address: str
    pid: int
    log: Path

    def events(self, event: str) -> list[dict[str, object]]:
        """Return the entries of the log that tell of an event."""
        return _events(self.log, event)

    def memory(self) -> float:
        """Return the resident memory of the front in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmRSS:")).split()[1]) / 1024


@contextmanager
def sample_registry(folder: Path) -> Iterator[str]:
    """Run an MLflow server with the sample models, in a folder, until the end of the block; gives its URL."""
    with PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        train = [sys.executable, "-m", "samples.train", "--registry", registry.url]
        subprocess.run(train, check=True, cwd=Path(__file__).parents[1], capture_output=True)
        yield registry.url


@contextmanager
def service(
    registry: str, cache: Path, *flags: str, python: str | Path = sys.executable, **variables: str
) -> Iterator[Service]:
    """Run a service until the end of the block.

    Args:
        registry: The registry's URL.
        cache: Its cache; uv's own stays where it is, since that is not what is measured.
        flags: More of the command line.
        python: The interpreter, which belongs to the checkout that is served.
        variables: More environment variables.
    """
    log = Path(tempfile.mkstemp(prefix="prinz-bench-", suffix=".log")[1])
    # Without the current folder, which may be another checkout.
    command = [str(python), "-P", "-m", "prinz_enricher.cli", "serve", "--registry", registry, "--port", "0"]
    uv_cache = os.environ.get("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser()))
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "UV_CACHE_DIR": uv_cache, **variables}
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--log-format", "json", *flags], stderr=output, env=environment)
    try:
        while not _events(log, "serving"):
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield Service(f"127.0.0.1:{_events(log, 'listening')[0]['port']}", process.pid, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        log.unlink()


def _events(log: Path, event: str) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [entry for entry in entries if entry["event"] == event]
