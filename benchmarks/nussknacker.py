"""How many events a second a JVM gets scored, as an engine hands them over: `make bench-nussknacker`.

One thread hands over single rows of the wine model with 200 of them in flight, as Flink's async operator does; the
service and its worker have one processor, where the system can bind them, and the JVM has the others.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from serving import service

from prinz_enricher.registry import PrivateServer

MODEL = "MLF-ElasticnetWineModel-1"
ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "nussknacker"
IN_FLIGHT = (1, 20, 200)
SECONDS = 5
ROUNDS = 3


def classpath(folder: Path) -> str:
    """Build the client with its tests; give what java needs to run them."""
    maven = shutil.which("mvn")
    if maven is None:
        sys.exit("Maven and a JDK are needed; on Debian: apt-get install maven openjdk-17-jdk-headless")
    found = folder / "classpath"
    goals = ["test-compile", "dependency:build-classpath", f"-Dmdep.outputFile={found}"]
    subprocess.run(
        [maven, "--batch-mode", "--quiet", "--no-transfer-progress", "--file", PROJECT, "--projects", "client", *goals],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    target = PROJECT / "client" / "target"
    return os.pathsep.join([str(target / "classes"), str(target / "test-classes"), found.read_text().strip()])


def bind(pid: int, processors: set[int]) -> None:
    """Have a process and all its threads run on some processors alone; children that it starts later as well."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), processors)


def children(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return found + [deeper for child in found for deeper in children(child)]


def main() -> None:
    """Measure, and print."""
    print(f"{platform.platform()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = classpath(folder)
        with PrivateServer(f"sqlite:///{folder / 'mlflow.db'}", log_file=folder / "mlflow.log") as registry:
            subprocess.run([sys.executable, "-m", "samples.train", "--registry", registry.url], cwd=ROOT, check=True)
            with service(registry.url, folder / "cache", PRINZ_SCORING__PRELOAD=f'["{MODEL}"]') as running:
                everywhere = sorted(os.sched_getaffinity(0))
                one = set(everywhere[:1]) if len(everywhere) > 1 else set(everywhere)
                for pid in (running.pid, *children(running.pid)):
                    bind(pid, one)
                for in_flight in IN_FLIGHT:
                    measure(path, running.address, in_flight, set(everywhere) - one or one)


def measure(path: str, address: str, in_flight: int, processors: set[int]) -> None:
    """Run the JVM with some events in flight, and print the medians of its rounds."""
    done = subprocess.run(
        [
            *("java", "-Djava.util.logging.config.file=/dev/null", "-cp", path),
            *("io.prinz.enricher.client.ThroughputBenchmark", address, MODEL),
            *(str(in_flight), str(SECONDS), str(ROUNDS)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, processors),
    )
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    if any(one["failed"] for one in rounds):
        raise RuntimeError(f"events failed: {rounds}")
    rates = [one["events_per_second"] for one in rounds]
    medians = {key: statistics.median(one[key] for one in rounds) for key in ("events_per_second", "p50_ms", "p99_ms")}
    print(
        f"{in_flight:4} in flight: {medians['events_per_second']:8,.0f} events/s (rounds {min(rates):,.0f} to "
        f"{max(rates):,.0f}), p50 {medians['p50_ms']:.2f} ms, p99 {medians['p99_ms']:.2f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
