"""Where everything of the environment is: its folder, its ports, its URLs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""Of the repository."""

BUCKET = "mlflow"

MODELS = {
    "wine-1": ("MLF-ElasticnetWineModel-1", "1", "WINE_1"),
    "wine-2": ("MLF-ElasticnetWineModel-2", "1", "WINE_2"),
    "fraud-3": ("MLF-FraudDetection-3", "1", "FRAUD_3"),
}
"""The served models: each its program's name, the version, and what its host is called in the proxy's template."""

_PORTS = (
    *("PROXY_PORT", "S3_PORT", "PRINZ_API_PORT", "PRINZ_PORT", "PRINZ_HTTP_PORT"),
    *("POSTGRES_PORT", "BUCKET_PORT", "MLFLOW_PORT", "ENRICHER_PORT"),
    *(f"{host}_PORT" for _, _, host in MODELS.values()),
)
_PUBLIC = frozenset(_PORTS[:5])


@dataclass(frozen=True)
class Place:
    """Where everything is.

    Attributes:
        home: The folder of all that is made.
        listen: The address of what callers use; all else listens on loopback.
        ports: By their names in `.env`.
        mlflow_version: Which MLflow is used.
        postgres_programs: The folder of PostgreSQL's programs.
        nginx: nginx's program.
    """

    home: Path
    listen: str
    ports: dict[str, int]
    mlflow_version: str
    postgres_programs: Path
    nginx: str

    @classmethod
    def of_environment(cls) -> Place:
        """Read the variables that `create_environment.sh` sets."""
        read = os.environ
        return cls(
            home=Path(read["ENVIRONMENT_HOME"]),
            listen=read["LISTEN"],
            ports={name: int(read[name]) for name in _PORTS},
            mlflow_version=read["MLFLOW_VERSION"],
            postgres_programs=Path(read["POSTGRES_PROGRAMS"]),
            nginx=read["NGINX_PROGRAM"],
        )

    @property
    def host(self) -> str:
        """Where this machine reaches what callers use."""
        return "127.0.0.1" if self.listen == "0.0.0.0" else self.listen  # noqa: S104 - asked, not bound

    def url(self, port: str) -> str:
        """Return the URL of a server, by the name of its port."""
        host = self.host if port in _PUBLIC else "127.0.0.1"
        return f"http://{host}:{self.ports[port]}"

    @property
    def registry(self) -> str:
        """The URL of MLflow, through the proxy."""
        return self.url("PROXY_PORT")

    @property
    def service(self) -> Path:
        """The Python environment of prinz-enricher."""
        return self.home / "service"

    @property
    def mlflow(self) -> Path:
        """The Python environment of MLflow."""
        return self.home / f"mlflow-{self.mlflow_version}"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.home / "logs"

    @property
    def secrets(self) -> Path:
        """The folder of all secrets."""
        return self.home / "secrets"

    @property
    def socket(self) -> Path:
        """Where supervisord listens."""
        return self.home / "supervisor.sock"

    @property
    def postgres_user(self) -> str:
        """Who runs PostgreSQL: it refuses to run as root."""
        return "postgres" if os.geteuid() == 0 else ""

    @property
    def database(self) -> Path:
        """PostgreSQL's folder. Another user than root may not reach into every folder of root's."""
        if not self.postgres_user:
            return self.home / "postgres"
        number = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return Path("/var/lib/postgresql") / f"prinz-environment-{number}"

    @property
    def chosen_bucket_server(self) -> Path:
        """The file in which `create_environment.sh` says which S3 server it chose."""
        return self.home / "bucket-server"

    @property
    def bucket_server(self) -> str:
        """The S3 server's program; empty where none was chosen yet."""
        return self.chosen_bucket_server.read_text().strip() if self.chosen_bucket_server.exists() else ""

    @property
    def keeps_objects(self) -> bool:
        """Whether the S3 server's objects outlive it."""
        return Path(self.bucket_server).name.startswith("versitygw")

    def client_variables(self) -> dict[str, str]:
        """Return the environment variables of what reads the registry and the bucket."""
        return {
            "MLFLOW_TRACKING_URI": self.registry,
            "MLFLOW_S3_ENDPOINT_URL": self.url("S3_PORT"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.secrets / "aws-credentials"),
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
