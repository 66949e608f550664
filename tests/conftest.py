"""Real MLflow servers, once for all tests: one with the sample models, one to write into."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tests.hypothesis_profiles  # noqa: F401 - it sets the profile of all property tests
from prinz_enricher.registry import PrivateServer
from tests.support.basic_auth_server import BasicAuthServer, basic_auth_server
from tests.support.hostile_server import HostileServer
from tests.support.registry_writer import RegistryWriter
from tests.support.typed_model import register_typed_model

ROOT = Path(__file__).parent.parent
DATABASE = "mlflow.db"

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # The tests start a dozen processes that import MLflow; compiling it takes each of them five seconds.
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path.home() / ".cache" / "prinz-enricher" / "bytecode"))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A background job of a shell ignores it, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What a service stores of its catalog is not to come back in another test, nor to stay on the disk. uv keeps its own
# cache, or it would download everything anew.
os.environ.setdefault("UV_CACHE_DIR", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"))
_CACHE = tempfile.TemporaryDirectory(prefix="prinz-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name
# MLflow is not to tell anyone that our tests run.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(autouse=True)
def logging_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a command that a test runs in this process from setting the level of the logs that other tests read."""
    monkeypatch.setattr("prinz_enricher.telemetry.configure_logging", lambda *_: None)


@dataclass(frozen=True)
class RunningRegistry:
    """A real `mlflow server` on loopback.

    Attributes:
        url: Its base URL.
        store: The folder of its database `mlflow.db` and of its artifacts, `mlartifacts`.
    """

    url: str
    store: Path

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts that go through the server."""
        return self.store / "mlartifacts"


def _start(store: Path) -> Iterator[RunningRegistry]:
    # Four slashes: the path is absolute.
    with PrivateServer(f"sqlite:///{store / DATABASE}", log_file=store / "server.log") as server:
        yield RunningRegistry(server.url, store)


@pytest.fixture(scope="session")
def sample_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry with the three sample models; tests only read it."""
    store = tmp_path_factory.mktemp("samples") / "store"
    shutil.copytree(_trained(tmp_path_factory.getbasetemp()), store)
    yield from _start(store)


def _trained(base: Path) -> Path:
    """Return the folder of a store with the sample models: they are trained once for all processes of a run."""
    # With xdist the folder of each process is in that of the run.
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    with (shared.parent / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            making = shared.with_suffix(".tmp")
            making.mkdir()
            with PrivateServer(f"sqlite:///{making / DATABASE}") as server:
                training = subprocess.run(
                    [sys.executable, "-m", "samples.train", "--registry", server.url],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    timeout=110,
                    check=False,
                )
            assert training.returncode == 0, training.stderr
            making.rename(shared)
    return shared


@pytest.fixture(scope="session")
def scratch_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWriter]:
    """A registry that tests write into; each uses names of its own."""
    for registry in _start(tmp_path_factory.mktemp("scratch")):
        with RegistryWriter(registry.url, registry.store / DATABASE, registry.artifacts) as writer:
            yield writer


@pytest.fixture(scope="session")
def basic_auth_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BasicAuthServer]:
    """A registry that wants user and password; it has the one model of `tests.support.typed_model`."""
    with basic_auth_server(tmp_path_factory.mktemp("basic-auth")) as server:
        register_typed_model(server.url, server.variables)
        yield server


@pytest.fixture
def hostile_server() -> Iterator[HostileServer]:
    """An HTTP server that answers as a test tells it to."""
    with HostileServer() as server:
        yield server


@pytest.fixture
def unused_tcp_port() -> int:
    """A port of loopback that nobody listens on."""
    return find_port()


def find_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
