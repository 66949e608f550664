"""A real Prometheus on a port of its own, in which minutes are seconds."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from tests.support.deadline import wait_until

FACTOR = 30
"""How much faster time runs in rules: two minutes are four seconds."""

START_SECONDS = 30.0

_CONFIG = """
global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: prinz-enricher
    tls_config: {ca_file: ca.crt}
    authorization: {credentials_file: prometheus.token}
    file_sd_configs: [{files: [targets.json]}]
"""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def program(name: str) -> str:
    """Return where `prometheus` or `promtool` is; skips the test where it is not installed."""
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed here; on Debian: apt-get install prometheus")
    return found


def faster(text: str) -> str:
    """Return rules or a query with all of its durations, in ranges and in `for`, divided by FACTOR."""

    def divided(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * _UNITS[found[3]] * 1000 // FACTOR}ms"

    return re.sub(r"(\[|\bfor: )(\d+)([smhd])\b", divided, text)


class Prometheus:
    """A Prometheus with these rules, and no target at first; ends with its context.

    Args:
        folder: A new folder, for all that it reads and writes.
        rules: The content of a file of rules.
        ca_file: The authority of the targets that have TLS.
        token: Sent to all targets.
    """

    def __init__(self, folder: Path, rules: str, ca_file: Path, token: str) -> None:
        self._program = program("prometheus")
        self._folder = folder
        folder.mkdir()
        contents = {
            "prometheus.yml": _CONFIG, "alerts.yml": rules, "prometheus.token": token, "targets.json": "[]",
            "ca.crt": ca_file.read_text(),
        }  # fmt: skip
        for name, content in contents.items():
            (folder / name).write_text(content)
        self._targets: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._http = httpx.Client(base_url=f"http://{self._address}/api/v1", trust_env=False, timeout=30.0)

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "--config.file=prometheus.yml", f"--web.listen-address={self._address}",
                    "--storage.tsdb.path=data", "--query.lookback-delta=10s",
                ],
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until(self._is_ready, START_SECONDS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def scrape(self, instance: str, port: int, scheme: str = "http") -> None:
        """Scrape a port of 127.0.0.1 from now on, as an instance of this name."""
        labels = {"instance": instance, "__scheme__": scheme}
        self._targets.append({"targets": [f"127.0.0.1:{port}"], "labels": labels})
        # At once: a file is read whenever it changes.
        new = self._folder / "targets.new"
        new.write_text(json.dumps(self._targets))
        new.replace(self._folder / "targets.json")

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Evaluate an expression now; returns labels and values."""
        found = self.get("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def get(self, path: str, **parameters: str) -> Any:
        """Ask the HTTP API; returns its data."""
        answer = self._http.get(path, params=parameters)
        assert answer.is_success, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            return httpx.get(f"http://{self._address}/-/ready", trust_env=False, timeout=5.0).is_success
        except httpx.TransportError:
            return False
