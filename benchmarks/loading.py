"""How long a version takes until it scores, and where the time goes: `make bench-loading`.

A private MLflow server has the sample models. `prinz-enricher serve` starts with an empty cache, and its log tells of
each load where the time went. Measured from outside, one caller that never pauses:

- cold: the first call of a model, to its answer; nothing is cached;
- again: the same in a new service, with the model in the cache;
- moved: from the moment that the alias is set in MLflow, to the first answer of the new version, which was not loaded,
  and the longest that the caller waited for any answer meanwhile;
- isolated: cold, in an environment of its own that has to be built (from uv's cache, where it has the packages).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from serving import Service, service

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client
from prinz_enricher.registry import PrivateServer

WINE = "MLF-ElasticnetWineModel-1"
PARTS = ("fetch", "environment", "import", "wait", "confine", "load", "warm")
REFRESH = 1.0


def first_score(address: str, model: str) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    with Client(address, timeout=300) as client:
        client.score(model, EXAMPLES[WINE])
    return time.perf_counter() - began


def show(name: str, seconds: float, running: Service, more: str = "") -> None:
    """Print a line: the seconds seen from outside, and the parts that the service tells."""
    loaded = running.events("a version is loaded")[-1]
    parts = "  ".join(f"{part} {float(str(loaded.get(f'{part}_seconds', 0))):.2f}" for part in PARTS)
    print(f"{name:<9} {seconds:6.2f} s   {parts}{more}")


def move(registry: str, address: str, version: str) -> tuple[float, float]:
    """Move the alias; returns the seconds until the new version answers, and the longest wait for an answer."""
    with Client(address, timeout=300) as client:
        client.score(f"{WINE}@live", EXAMPLES[WINE])
        httpx.post(
            f"{registry}/api/2.0/mlflow/registered-models/alias",
            json={"name": WINE, "alias": "live", "version": version},
        ).raise_for_status()
        began = time.perf_counter()
        longest = 0.0
        while True:
            asked = time.perf_counter()
            answer = client.score(f"{WINE}@live", EXAMPLES[WINE])
            longest = max(longest, time.perf_counter() - asked)
            if answer.version == version:
                return time.perf_counter() - began, longest


def add_version(registry: str) -> None:
    """Register the wine model's first version once more."""
    script = f"import mlflow; mlflow.MlflowClient('{registry}').copy_model_version('models:/{WINE}/1', '{WINE}')"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"MLFLOW_TRACKING_URI": registry})


def main() -> None:
    """Run the benchmark."""
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}; seconds, `wait` is for the download behind the imports"
    )
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        subprocess.run(
            [sys.executable, "-m", "samples.train", "--registry", registry.url],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        add_version(registry.url)
        httpx.post(
            f"{registry.url}/api/2.0/mlflow/registered-models/alias",
            json={"name": WINE, "alias": "live", "version": "1"},
        ).raise_for_status()
        cache = Path(folder) / "cache"
        with service(registry.url, cache, PRINZ_REGISTRY__REFRESH_INTERVAL=str(REFRESH)) as running:
            show("cold", first_score(running.address, f"{WINE}/1"), running)
        with service(registry.url, cache, PRINZ_REGISTRY__REFRESH_INTERVAL=str(REFRESH)) as running:
            show("again", first_score(running.address, f"{WINE}/1"), running)
            taken, longest = move(registry.url, running.address, "2")
            show(
                "moved",
                taken,
                running,
                f"  (looked at every {REFRESH:g} s; longest wait of a caller {longest * 1e3:.0f} ms)",
            )
        with service(registry.url, Path(folder) / "other", PRINZ_WORKERS__ENVIRONMENT="isolated") as running:
            show("isolated", first_score(running.address, f"{WINE}/1"), running)


if __name__ == "__main__":
    main()
