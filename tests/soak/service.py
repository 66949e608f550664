"""A service that is soaked: a process of its own, called, scraped and measured from outside."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families as read_text

from prinz_enricher.client import AsyncClient, Client, Tls
from tests.soak.ledger import Ledger
from tests.soak.models import GUEST, REMOTE
from tests.support.serve_process import Serve, serve

FRONTS: Final = ("grpcio", "rust")
DEFAULT_FRONTS: Final = FRONTS if importlib.util.find_spec("prinz_enricher_front") else ("grpcio",)
"""All that are installed."""
TIMEOUT: Final = 120.0
MAX_ROWS: Final = 60_000
"""Rows of a call at most."""

MAX_WAIT: Final = 30.0
"""Seconds that a call may wait: more than by default, since other work of the machine is no fault of the service."""

CONNECTION_AGE: Final = 40.0
"""Seconds of a connection at most, on the grpcio front."""

_FREE_LABELS: Final = frozenset({"outcome", "status", "grpc_code", "state"})
"""Labels whose values appear when they first happen."""

_SETTINGS: Final = """
[registry]
refresh_interval = 1.0
timeout = 5.0
snapshot_folder = ""

[scoring]
max_batch_rows = {max_rows}
max_wait = {max_wait}

[server]
front = "{front}"
max_connection_age = {age}
{tls}
[endpoints.farm]
urls = ["{upstream}"]
convention = ["prinz"]
models = ["{remote}"]
breaker_pause = 0.5
"""


@dataclass(frozen=True)
class Measures:
    """What a process holds: MB of memory, open files, threads."""

    memory: float
    files: int
    threads: int


@dataclass
class Page:
    """The samples of a scrape: by name, their labels and values."""

    samples: Mapping[str, list[tuple[dict[str, str], float]]]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels."""
        return sum(value for found, value in self.samples.get(name, []) if labels.items() <= found.items())

    def calls(self) -> Counter[tuple[str, str]]:
        """Return how many calls were counted, by model and outcome."""
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in self.samples.get("prinz_enricher_calls_total", []):
            found[labels["model"], labels["outcome"]] += int(value)
        return found

    def series(self) -> int:
        """Return how many series there are of what stays, not told apart by what first has to happen."""
        return len(
            {
                (name, *sorted(pair for pair in labels.items() if pair[0] not in _FREE_LABELS))
                for name, samples in self.samples.items()
                for labels, _ in samples
                if not labels.get("model", "").startswith(GUEST) and "worker_memory" not in name
            }
        )

    def available(self) -> set[tuple[str, str]]:
        """Return the versions that have a worker at their service."""
        samples = self.samples.get("prinz_enricher_workers", [])
        return {(one["model"], one["version"]) for one, value in samples if one["state"] == "available" and value}

    def models(self) -> set[str]:
        """Return the models that have series."""
        return {labels["model"] for samples in self.samples.values() for labels, _ in samples if "model" in labels}


@dataclass
class Service:
    """A running service.

    Attributes:
        front: What speaks gRPC.
        serve: Its process.
        ca: The authority of its certificate; None without TLS.
        admin_port: The port of its admin HTTP server.
        ledger: What its callers heard.
        base: The metrics before callers begin.
        measures: What its process held, by `time.monotonic()`.
        series: How many series it had.
    """

    front: str
    serve: Serve
    ca: Path | None
    admin_port: int
    ledger: Ledger
    base: Page = field(default_factory=lambda: Page({}))
    measures: list[tuple[float, Measures]] = field(default_factory=list)
    series: list[tuple[float, int]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The id of the front's process."""
        return self.serve.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.serve.process.poll() is None

    def channel(self) -> grpc.Channel:
        """Return a connection of its own."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Each attempt counts as a call of the service.
            ("grpc.enable_retries", 0),
        ]
        if self.ca is None:
            return grpc.insecure_channel(self.serve.address, options)
        return grpc.secure_channel(self.serve.address, grpc.ssl_channel_credentials(self.ca.read_bytes()), options)

    def client(self, *, coalesce: bool) -> Client:
        """Return a client that makes each call once."""
        return Client(self.serve.address, timeout=TIMEOUT, tls=self._tls(), retry=False, coalesce=coalesce)

    def async_client(self) -> AsyncClient:
        """Return a client for asyncio that makes each call once."""
        return AsyncClient(self.serve.address, timeout=TIMEOUT, tls=self._tls(), retry=False)

    def scrape(self) -> Page:
        """Read its metrics."""
        # Each time anew: it has another certificate after a while.
        verify = True if self.ca is None else ssl.create_default_context(cafile=self.ca)
        url = f"{'https' if self.ca else 'http'}://127.0.0.1:{self.admin_port}/metrics"
        answer = httpx.get(url, verify=verify, trust_env=False, timeout=TIMEOUT)
        answer.raise_for_status()
        samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in read_text(answer.text):
            for one in family.samples:
                samples.setdefault(one.name, []).append((one.labels, one.value))
        return Page(samples)

    def measure(self) -> Measures:
        """Return what its process holds, without workers."""
        process = Path(f"/proc/{self.pid}")
        lines = dict(line.split(":", 1) for line in (process / "status").read_text(encoding="ascii").splitlines())
        memory = int(lines["VmRSS"].split()[0]) / 1024
        return Measures(memory, len(os.listdir(process / "fd")), int(lines["Threads"]))  # noqa: PTH208 - names alone

    def log(self) -> list[dict[str, Any]]:
        """Return the events of its log so far."""
        return [json.loads(line) for line in list(self.serve.lines) if line.startswith("{")]

    def _tls(self) -> Tls | None:
        return None if self.ca is None else Tls(ca=self.ca)


@contextmanager
def running(
    front: str, folder: Path, registry: str, upstream: str, pair: tuple[Path, Path] | None, ca: Path
) -> Iterator[Service]:
    """Run a service.

    Args:
        front: What speaks gRPC.
        folder: For its files.
        registry: The registry's URL.
        upstream: The URL of the model server for `REMOTE`.
        pair: Files of certificate and key; None for no TLS.
        ca: The authority of the certificate.
    """
    file = folder / "prinz.toml"
    tls = "" if pair is None else f'\n[server.tls]\ncertificate = "{pair[0]}"\nkey = "{pair[1]}"\n'
    text = _SETTINGS.format(
        max_rows=MAX_ROWS, max_wait=MAX_WAIT, front=front, age=CONNECTION_AGE, tls=tls, upstream=upstream, remote=REMOTE
    )
    file.write_text(text, encoding="utf-8")
    variables = {"XDG_CACHE_HOME": str(folder)}
    flags = ("--registry", registry, "--config", str(file), "--http-port", "0")
    with serve(*flags, variables=variables) as process:
        port = next(
            event["port"]
            for event in map(json.loads, list(process.lines))
            if event["event"] == "admin http server started"
        )
        service = Service(front, process, None if pair is None else ca, port, Ledger(front))
        try:
            yield service
        finally:
            (folder / "log.jsonl").write_text("".join(process.lines), encoding="utf-8")


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
