"""The environment of `create_environment.sh --without-docker`, on ports of its own, and what a test does to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.processes.place import ROOT

PORTS = (
    *("PROXY_PORT", "S3_PORT", "PRINZ_API_PORT", "PRINZ_PORT", "PRINZ_HTTP_PORT"),
    *("POSTGRES_PORT", "BUCKET_PORT", "MLFLOW_PORT", "ENRICHER_PORT", "WINE_1_PORT", "WINE_2_PORT", "FRAUD_3_PORT"),
)

SECONDS = 900.0
"""How long a command of the script may take; the first one installs and compiles."""


class WholeEnvironment:
    """One environment.

    Args:
        home: The folder of all that it makes.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.registry = f"http://127.0.0.1:{self.ports['PROXY_PORT']}"
        self.bucket = f"http://127.0.0.1:{self.ports['S3_PORT']}"
        self.address = f"127.0.0.1:{self.ports['PRINZ_PORT']}"
        self.api = f"http://127.0.0.1:{self.ports['PRINZ_API_PORT']}"
        self.door = f"http://127.0.0.1:{self.ports['PRINZ_HTTP_PORT']}"

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script; its output is returned, whatever became of it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
        environment = {
            **kept,
            **{name: str(port) for name, port in self.ports.items()},
            "ENVIRONMENT_HOME": str(self.home),
            **variables,
        }
        return subprocess.run(
            [ROOT / "create_environment.sh", *arguments, "--without-docker"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip

    def up(self, **variables: str) -> str:
        """Create what is not there, and start what does not run; returns what the script printed."""
        done = self.run("up", *(["--install"] if os.geteuid() == 0 else []), **variables)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def supervise(self, *arguments: str) -> str:
        """Have supervisord do something by its own client."""
        program = self.home / "service" / "bin" / "supervisorctl"
        done = subprocess.run(
            [program, "-c", self._client_settings(), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout

    def process(self, name: str) -> int:
        """Return the process of a program; 0 for one that does not run."""
        return int(self.supervise("pid", name).strip() or 0)

    def supervisor(self) -> int:
        """Return the process of the supervisor."""
        return int((self.home / "supervisor.pid").read_text())

    def mlflow_version(self) -> str:
        """Ask the registry for its version, through the proxy."""
        return httpx.get(f"{self.registry}/version", trust_env=False).text

    def client_variables(self) -> dict[str, str]:
        """Return the variables of what reads the registry and the bucket."""
        return {
            "MLFLOW_TRACKING_URI": self.registry,
            "MLFLOW_S3_ENDPOINT_URL": self.bucket,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.home / "secrets" / "aws-credentials"),
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _client_settings(self) -> Path:
        file = self.home / "supervisorctl.conf"
        file.write_text(
            f"[supervisorctl]\nserverurl = unix://{self.home}/supervisor.sock\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        )
        return file


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def listens(port: int) -> bool:
    """Tell whether something listens on a port."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def whole_environment() -> Iterator[WholeEnvironment]:
    """Make room for an environment, and remove all of it at the end, whatever happened."""
    # Short, since the supervisor's socket is in it.
    environment = WholeEnvironment(Path(tempfile.mkdtemp(prefix="prinz-")))
    try:
        yield environment
    finally:
        done = environment.run("down", "--volumes")
        if done.returncode and (environment.home / "supervisor.pid").exists():
            os.kill(environment.supervisor(), signal.SIGTERM)
        shutil.rmtree(environment.home, ignore_errors=True)
