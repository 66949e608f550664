"""How long the front takes to start, and how much memory it holds: `make bench-start`.

A private MLflow server with the sample models is started first and left out of the count. Then, several times:
`prinz-enricher serve` is started, and asked for its health until it is SERVING; a model is scored, and the memory of
the front process is read before and after.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client
from prinz_enricher.registry import PrivateServer

RUNS = 5
MODEL = "MLF-ElasticnetWineModel-1"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def serving_after(command: list[str], port: int) -> tuple[subprocess.Popen[bytes], float]:
    """Start the service; return it, and the seconds until its health is SERVING."""
    started = time.perf_counter()
    # Without what an earlier run has stored.
    environment = os.environ | {"PRINZ_REGISTRY__SNAPSHOT_FOLDER": ""}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    with grpc.insecure_channel(
        f"127.0.0.1:{port}",
        options=[
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.min_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 20),
        ],
    ) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for answer in health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return process, time.perf_counter() - started
    raise RuntimeError("it never became SERVING")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def main() -> None:
    """Run the benchmark."""
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}"
    )
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        subprocess.run(
            [sys.executable, "-m", "samples.train", "--registry", registry.url],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seconds, before, after = [], [], []
        for _ in range(RUNS):
            port = free_port()
            command = [
                str(Path(sys.executable).parent / "prinz-enricher"),
                "serve",
                "--registry",
                registry.url,
                "--port",
                str(port),
            ]
            process, taken = serving_after(command, port)
            seconds.append(taken)
            before.append(resident_mb(process.pid))
            with Client(f"127.0.0.1:{port}") as client:
                for _ in range(1_000):
                    client.score(MODEL, EXAMPLES[MODEL])
            after.append(resident_mb(process.pid))
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
    print(f"from the command to SERVING: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    print(
        f"memory of the front: {statistics.median(before):.0f} MB at the start, "
        f"{statistics.median(after):.0f} MB after 1,000 calls (worst {max(after):.0f} MB)"
    )


if __name__ == "__main__":
    main()
