"""How long a version takes until it scores, and where the time goes: `make bench-loading`.

A private MLflow server has many copies of a sample model. `prinz-enricher serve` starts with an empty cache, and its
log tells of each load where the time went. Measured from outside:

- cold: the first call of each of twenty models that were never fetched, one after the other, to its answer;
- burst: ten more such models, called at once with a deadline of 15 s;
- moved: from the moment that an alias is set in MLflow to the first answer of the new version, which was not fetched,
  and the longest that a caller that never pauses waited for any answer meanwhile; `load` is from the poll that saw it;
- restart: the service is killed with ten versions in use, and started anew; from then until all of them are AVAILABLE
  without a call;
- idle: the memory of the front and of the spare, and the processor time of both;
- fetch: models with a file of 1 MB and of 1 GB: the download as the log tells it, beside a client that gets the same
  files one after the other and keeps nothing, by turns; and the most memory that the front ever had;
- without: the cold calls again, without a spare (`scoring.spare_workers = 0`);
- isolated: cold, in an environment of its own that has to be built (from uv's cache, where it has the packages), and
  another version in the same one.
"""

from __future__ import annotations

import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from serving import Service, service

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import model_pb2
from prinz_enricher.registry import PrivateServer

WINE = "MLF-ElasticnetWineModel-1"
PARTS = ("fetch", "environment", "import", "wait", "confine", "load", "warm")
REFRESH = 1.0
COLD, BURST = 20, 10
SETTLING_SECONDS, IDLE_SECONDS = 15.0, 60.0


def first_score(address: str, model: str, deadline: float = 300.0) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    with Client(address, timeout=deadline, retry=False) as client:
        client.score(model, EXAMPLES[WINE])
    return time.perf_counter() - began


def show(name: str, seconds: list[float], running: Service, more: str = "") -> None:
    """Print a line: the seconds seen from outside, and the median parts of the last loads that the service tells."""
    loads = running.events("a version is loaded")[-len(seconds) :]
    medians = {part: statistics.median(float(str(load.get(f"{part}_seconds", 0))) for load in loads) for part in PARTS}
    parts = "  ".join(f"{part} {medians[part]:.2f}" for part in PARTS)
    print(f"{name:<9} median {statistics.median(seconds):5.2f} s, worst {max(seconds):5.2f} s   {parts}{more}")


def burst(address: str, models: list[str]) -> list[float]:
    """Call models at once; return the seconds of each call."""
    taken: list[float] = []
    faults: list[ServiceError] = []

    def call(model: str) -> None:
        try:
            taken.append(first_score(address, model, 15.0))
        except ServiceError as error:
            faults.append(error)

    threads = [threading.Thread(target=call, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fault in faults:
        print(f"          {fault}")
    return taken


def set_alias(registry: str, version: str) -> None:
    """Have the alias `live` of the wine model mean a version."""
    httpx.post(
        f"{registry}/api/2.0/mlflow/registered-models/alias",
        json={"name": WINE, "alias": "live", "version": version},
    ).raise_for_status()


def move(registry: str, address: str, version: str) -> tuple[float, float]:
    """Move the alias; returns the seconds until the new version answers, and the longest wait for an answer."""
    with Client(address, timeout=300) as client:
        client.score(f"{WINE}@live", EXAMPLES[WINE])
        set_alias(registry, version)
        began = time.perf_counter()
        longest = 0.0
        while True:
            asked = time.perf_counter()
            answer = client.score(f"{WINE}@live", EXAMPLES[WINE])
            longest = max(longest, time.perf_counter() - asked)
            if answer.version == version:
                return time.perf_counter() - began, longest


def available(address: str) -> int:
    """Return how many versions are AVAILABLE."""
    with Client(address, timeout=30) as client:
        versions = [version for model in client.list_models() for version in model.versions]
    return sum(version.state == model_pb2.ModelVersion.STATE_AVAILABLE for version in versions)


def spare_of(pid: int) -> int | None:
    """Return the process id of a service's spare."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told, parent = entry.read_bytes(), int((entry.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"fork_server" in told and parent == pid:
            return int(entry.parent.name)
    return None


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS:")).split()[1]) / 1024


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(registry: str) -> None:
    """Train the sample models, and register the wine model under many names."""
    script = (
        f"import mlflow; client = mlflow.MlflowClient('{registry}')\n"
        f"for n in range({COLD + BURST}): client.copy_model_version('models:/{WINE}/1', f'copy-{{n}}')\n"
        f"for n in range(2): client.copy_model_version('models:/{WINE}/1', '{WINE}')"
    )
    for arguments in (["-m", "samples.train", "--registry", registry], ["-c", script]):
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"MLFLOW_TRACKING_URI": registry},
        )
    set_alias(registry, "1")


def restart(registry: str, cache: Path, variables: dict[str, str]) -> None:
    """Kill a service with ten versions in use, and time the next one."""
    models = [f"copy-{n}" for n in range(10)]
    with service(registry, cache, **variables) as running:
        for model in models:
            first_score(running.address, model)
        time.sleep(3.0)  # what is in use is written at most once a second
        os.kill(running.pid, signal.SIGKILL)
    began = time.perf_counter()
    with service(registry, cache, **variables) as running:
        serving = time.perf_counter() - began
        while (count := available(running.address)) < len(models) and time.perf_counter() - began < 60:
            time.sleep(0.1)
        taken = time.perf_counter() - began
        print(f"restart   {count} of {len(models)} versions AVAILABLE in {taken:.2f} s (serving after {serving:.2f} s)")


def idle(registry: str, cache: Path) -> None:
    """Print what a service, with its usual interval between two looks at the registry, takes while nobody calls it."""
    with service(registry, cache) as running:
        time.sleep(SETTLING_SECONDS)
        spare = spare_of(running.pid)
        pids = [running.pid, *([spare] if spare else [])]
        before = [processor_seconds(pid) for pid in pids]
        time.sleep(IDLE_SECONDS)
        used = [processor_seconds(pid) - first for pid, first in zip(pids, before, strict=True)]
        told = ", ".join(
            f"{name} {memory(pid):.0f} MB, {100 * seconds / IDLE_SECONDS:.2f} % of a core"
            for name, pid, seconds in zip(("front", "spare"), pids, used, strict=False)
        )
        print(f"idle      {told}")


WEIGHTS = """
import os, sys, mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

class Same(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input[["x"]].rename(columns={"x": "y"})

mlflow.set_tracking_uri(sys.argv[1])
for name, size in (("one-mb", 1 << 20), ("one-gb", 1 << 30)):
    with open(name, "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    mlflow.pyfunc.log_model(
        name=name, python_model=Same(), artifacts={"weights": name}, registered_model_name=name,
        signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")])),
        pip_requirements=["mlflow"],
    )
    os.unlink(name)
"""


def read_all(registry: str, model: str) -> float:
    """Get all files of a model from the server, and keep nothing; return the seconds."""
    with httpx.Client(base_url=registry, timeout=300, trust_env=False) as client:
        answer = client.get("/api/2.0/mlflow/model-versions/get-download-uri", params={"name": model, "version": "1"})
        began = time.perf_counter()
        waiting = [answer.json()["artifact_uri"].removeprefix("mlflow-artifacts:/")]
        while waiting:
            place = waiting.pop()
            listed = client.get("/api/2.0/mlflow-artifacts/artifacts", params={"path": place}).json()["files"]
            for entry in listed:
                path = f"{place}/{entry['path']}"
                if entry["is_dir"]:
                    waiting.append(path)
                    continue
                with client.stream("GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}") as response:
                    for _ in response.iter_raw():
                        pass
        return time.perf_counter() - began


def fetches(registry: str, folder: Path, variables: dict[str, str]) -> None:
    """Print what downloads of large files take, beside a client that keeps nothing."""
    subprocess.run(
        [sys.executable, "-c", WEIGHTS, registry], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        cwd=folder, env=os.environ | {"MLFLOW_TRACKING_URI": registry},
    )  # fmt: skip
    for model in ("one-mb", "one-gb"):
        beside, ours, most = [], [], 0.0
        for turn in range(3):
            beside.append(read_all(registry, model))
            with service(registry, folder / f"{model}-{turn}", **variables) as running:
                with Client(running.address, timeout=300) as client:
                    client.score(model, [{"x": 1.0}])
                ours.append(float(str(running.events("a model was downloaded")[-1]["seconds"])))
                status = Path(f"/proc/{running.pid}/status").read_text().splitlines()
                most = max(most, int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 1024)
        print(
            f"fetch     {model}: median {statistics.median(ours):.2f} s, a client that keeps nothing "
            f"{statistics.median(beside):.2f} s; most memory of the front {most:.0f} MB"
        )


def main() -> None:
    """Run the benchmark."""
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}; parts are medians, `wait` is for the front behind the imports"
    )
    variables = {"PRINZ_REGISTRY__REFRESH_INTERVAL": str(REFRESH), "PRINZ_SCORING__MAX_WORKERS": "64"}
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        fill(registry.url)
        cache = Path(folder) / "cache"
        idle(registry.url, cache)
        cold = [f"copy-{n}" for n in range(COLD)]
        with service(registry.url, cache, **variables) as running:
            time.sleep(SETTLING_SECONDS)
            show("cold", [first_score(running.address, model) for model in cold], running)
            taken = burst(running.address, [f"copy-{n}" for n in range(COLD, COLD + BURST)])
            show("burst", taken, running, f"  ({len(taken)} of {BURST} answered)")
            seconds, longest = move(registry.url, running.address, "2")
            load = float(str(running.events("a version is loaded")[-1]["seconds"]))
            show("moved", [seconds], running, f"  load {load:.2f} s; longest wait of a caller {longest * 1e3:.0f} ms")
        restart(registry.url, Path(folder) / "restart", variables)
        fetches(registry.url, Path(folder), variables)
        with service(registry.url, Path(folder) / "without", PRINZ_SCORING__SPARE_WORKERS="0", **variables) as running:
            print(f"without   front {memory(running.pid):.0f} MB")
            show("without", [first_score(running.address, model) for model in cold[:5]], running)
        with service(registry.url, Path(folder) / "own", PRINZ_WORKERS__ENVIRONMENT="isolated", **variables) as running:
            show("isolated", [first_score(running.address, "copy-0")], running)
            show("its next", [first_score(running.address, "copy-1")], running)


if __name__ == "__main__":
    main()
