"""Who is measured, and how each is started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers.environments import environment
from benchmarks.peers.generator import compiled
from benchmarks.peers.loads import Load
from benchmarks.peers.models import Models
from benchmarks.peers.nginx import nginx
from benchmarks.peers.processes import Server, free_port
from benchmarks.peers.protocols import Asks, Echo, OpenInference, RayRows, mlflow_json, rows_json

SERVERS = Path(__file__).parent / "servers"

# One setting for all that batch, except BentoML, whose own is to find them out.
BATCH_ROWS, BATCH_SECONDS = 64, 0.005

MAX_MESSAGE_BYTES = 2**28

ECHO_BYTES = 65_536
"""Bytes of the C++ echo's answers at most; those of a model are small, however many rows it was asked for."""


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Attributes:
        cores: Its cores.
        folder: An empty folder of its own.
        models: What it serves.
        tell: Takes a line of progress.
    """

    cores: set[int]
    folder: Path
    models: Models
    tell: Callable[[str], None]

    def server(self, command: list[str], **more: Any) -> Server:
        """Return a server, not yet started, on these cores and in this folder."""
        return Server(command, self.cores, **{"folder": self.folder, **more})


@dataclass(frozen=True)
class Running:
    """A server that was started.

    Attributes:
        servers: Its processes, the one that must stay first.
        addresses: Where it listens for each model.
    """

    servers: tuple[Server, ...]
    addresses: Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """A server to measure ours against.

    Attributes:
        name: Its key, as `--only` takes it.
        title: Its row in the tables.
        kind: A peer that serves models; a way that callers go without us; or a limit, which scores nothing.
        asks: How it is asked.
        start: Starts it until the end of the block.
        batching: Whether it puts rows of several callers together.
        environment: Its file of requirements; None is our own environment.
        packages: Those whose versions are told.
        asks_many: How it is asked for many rows at once, where that is another way.
    """

    name: str
    title: str
    kind: Literal["peer", "way", "limit"]
    asks: Asks
    start: Callable[[Place], contextlib.AbstractContextManager[Running]]
    batching: bool = False
    environment: str | None = None
    packages: tuple[str, ...] = ()
    asks_many: Asks | None = None

    def asks_for(self, load: Load) -> Asks:
        """Return how it is asked under a load."""
        return self.asks_many if self.asks_many and load.rows > 1 else self.asks


def _both(address: str) -> dict[str, str]:
    return {"wine": address, "fraud": address}


def _variables(python: Path) -> dict[str, str]:
    """Return what a peer is told: its own programs first, and that nobody is to be told of its use."""
    return {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(python.parent.parent),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def _mlflow(place: Place) -> Iterator[Running]:
    """Start MLflow's scoring server, one for each model: it serves no more."""
    python = environment("mlflow", place.tell)
    with contextlib.ExitStack() as stack:
        servers, addresses = [], {}
        for model in ("wine", "fraud"):
            port = free_port()
            command = [
                *(str(python), "-m", "mlflow", "models", "serve", "--model-uri", str(place.models.folder / model)),
                *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
            ]
            servers.append(stack.enter_context(place.server(command, variables=_variables(python))))
            addresses[model] = f"127.0.0.1:{port}"
        yield Running(tuple(servers), addresses)


@contextlib.contextmanager
def _prinz_way(place: Place) -> Iterator[Running]:
    """Start MLflow's scoring servers with nginx before them, where it is there."""
    with contextlib.ExitStack() as stack:
        behind = stack.enter_context(_mlflow(place))
        before = (
            [stack.enter_context(nginx(place.folder, place.cores, behind.addresses))] if shutil.which("nginx") else []
        )
        addresses = before[0].addresses if before else behind.addresses
        yield Running((*behind.servers, *(one.server for one in before)), addresses)


def _mlserver(*, batching: bool) -> Callable[[Place], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(place: Place) -> Iterator[Running]:
        python = environment("mlserver", place.tell)
        port = free_port()
        settings = {
            "host": "127.0.0.1",
            "grpc_port": port,
            "http_port": free_port(),
            "metrics_port": free_port(),
            "grpc_max_message_length": MAX_MESSAGE_BYTES,
            # Models in the process that serves: quicker than its default of a worker process.
            "parallel_workers": 0,
            "debug": False,
        }
        (place.folder / "settings.json").write_text(json.dumps(settings))
        batches = {"max_batch_size": BATCH_ROWS, "max_batch_time": BATCH_SECONDS} if batching else {}
        for model in ("wine", "fraud"):
            (place.folder / model).mkdir()
            described = {
                "name": model,
                "implementation": "mlserver_mlflow.MLflowRuntime",
                "parameters": {"uri": str(place.models.folder / model)},
                **batches,
            }
            (place.folder / model / "model-settings.json").write_text(json.dumps(described))
        command = [str(python), "-m", "mlserver.cli.main", "start", str(place.folder)]
        if (python.parent / "mlserver").exists():
            command = [str(python.parent / "mlserver"), "start", str(place.folder)]
        with place.server(command, variables=_variables(python)) as server:
            yield Running((server,), _both(f"127.0.0.1:{port}"))

    return start


@contextlib.contextmanager
def _kserve(place: Place) -> Iterator[Running]:
    python = environment("kserve", place.tell)
    port = free_port()
    command = [
        *(str(python), str(SERVERS / "kserve_server.py"), str(place.models.folder)),
        *("--grpc_port", str(port), "--http_port", str(free_port()), "--enable_latency_logging", "false"),
        *("--grpc_max_receive_message_length", str(MAX_MESSAGE_BYTES)),
        *("--grpc_max_send_message_length", str(MAX_MESSAGE_BYTES)),
    ]
    with place.server(command, variables=_variables(python)) as server:
        yield Running((server,), _both(f"127.0.0.1:{port}"))


@contextlib.contextmanager
def _bentoml(place: Place) -> Iterator[Running]:
    python = environment("bentoml", place.tell)
    port = free_port()
    command = [
        *(str(python.parent / "bentoml"), "serve", "bentoml_service:Scoring", "--working-dir", str(SERVERS)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    variables = _variables(python) | {
        "BENCH_MODELS": str(place.models.folder),
        "BENTOML_HOME": str(place.folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with place.server(command, variables=variables) as server:
        yield Running((server,), _both(f"127.0.0.1:{port}"))


@contextlib.contextmanager
def _litserve(place: Place) -> Iterator[Running]:
    python = environment("litserve", place.tell)
    port = free_port()
    command = [
        *(str(python), str(SERVERS / "litserve_server.py"), str(place.models.folder)),
        *(str(port), str(BATCH_ROWS), str(BATCH_SECONDS)),
    ]
    with place.server(command, variables=_variables(python)) as server:
        yield Running((server,), _both(f"127.0.0.1:{port}"))


def _ray(kind: Literal["plain", "batch"]) -> Callable[[Place], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(place: Place) -> Iterator[Running]:
        python = environment("ray", place.tell)
        port = free_port()
        # Ray puts sockets there, whose paths may have 107 bytes.
        with tempfile.TemporaryDirectory(prefix="prinz-ray-", ignore_cleanup_errors=True) as folder:
            command = [
                *(str(python), str(SERVERS / "ray_server.py"), str(place.models.folder), str(port)),
                *(folder, kind, str(BATCH_ROWS), str(BATCH_SECONDS)),
            ]
            with place.server(command, variables=_variables(python), input_ends_it=True) as server:
                yield Running((server,), _both(f"127.0.0.1:{port}"))

    return start


def _echo(kind: Literal["aio", "sync"]) -> Callable[[Place], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(place: Place) -> Iterator[Running]:
        port = free_port()
        with place.server([sys.executable, str(SERVERS / "echo_server.py"), str(port), kind]) as server:
            yield Running((server,), _both(f"127.0.0.1:{port}"))

    return start


@contextlib.contextmanager
def _echo_cpp(place: Place) -> Iterator[Running]:
    port = free_port()
    with place.server([str(compiled("echo")), str(port), str(ECHO_BYTES)], input_ends_it=True) as server:
        yield Running((server,), _both(f"127.0.0.1:{port}"))


_MLFLOW = ("mlflow", "scikit-learn")

PEERS = (
    Peer(
        "mlflow", "MLflow's scoring server, JSON", "peer", mlflow_json(), _mlflow,
        environment="mlflow", packages=_MLFLOW,
    ),
    Peer(
        "mlserver", "MLServer, gRPC", "peer", OpenInference(pandas=True), _mlserver(batching=False),
        environment="mlserver", packages=("mlserver", *_MLFLOW),
    ),
    Peer(
        "mlserver-batching", "MLServer, gRPC, adaptive batching", "peer", OpenInference(pandas=True),
        _mlserver(batching=True), batching=True, environment="mlserver", packages=("mlserver", *_MLFLOW),
    ),
    Peer(
        "kserve", "KServe's Python server, gRPC", "peer", OpenInference(pandas=False), _kserve,
        environment="kserve", packages=("kserve", *_MLFLOW),
    ),
    Peer(
        "bentoml", "BentoML, batching", "peer", rows_json(lambda told: told), _bentoml,
        batching=True, environment="bentoml", packages=("bentoml", *_MLFLOW),
        asks_many=rows_json(lambda told: told, "_many"),
    ),
    Peer(
        "litserve", "LitServe, batching", "peer", rows_json(lambda told: told["scores"]), _litserve,
        batching=True, environment="litserve", packages=("litserve", *_MLFLOW),
    ),
    Peer(
        "ray", "Ray Serve, gRPC", "peer", RayRows(), _ray("plain"),
        environment="ray", packages=("ray", *_MLFLOW),
    ),
    Peer(
        "ray-batching", "Ray Serve, gRPC, @serve.batch", "peer", RayRows(), _ray("batch"),
        batching=True, environment="ray", packages=("ray", *_MLFLOW),
    ),
    Peer(
        "prinz-way", "Prinz's way: nginx, MLflow's server", "way", mlflow_json(), _prinz_way,
        environment="mlflow", packages=_MLFLOW,
    ),
    Peer("echo-aio", "limit: grpc.aio echo", "limit", Echo(), _echo("aio")),
    Peer("echo-sync", "limit: grpc echo, threads", "limit", Echo(), _echo("sync")),
    Peer("echo-cpp", "limit: C++ gRPC echo", "limit", Echo(), _echo_cpp),
)  # fmt: skip
