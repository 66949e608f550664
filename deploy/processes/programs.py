"""The programs of the environment: how each is started, and how it tells that it is well."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.processes.place import BUCKET, MODELS, ROOT, Place


@dataclass(frozen=True)
class Program:
    """A program under the supervisor.

    Attributes:
        name: What it is called.
        command: Its arguments.
        health: The URL that answers when it is well; `postgres` is asked by its own client.
        variables: Its environment, beside the supervisor's.
        user: Who runs it, where that is another user.
        stop: The signal that ends it.
        needs: The programs that must be well before it is started.
        page: The URL to show, where a person or a caller uses it.
    """

    name: str
    command: Sequence[str]
    health: str
    variables: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    stop: str = "TERM"
    needs: Sequence[str] = ()
    page: str = ""


def programs(place: Place) -> list[Program]:
    """Return all programs, each after those that it needs."""
    deploy = ROOT / "deploy"
    clients = place.client_variables()
    mlflow_path = {"PATH": f"{place.mlflow / 'bin'}:{os.environ['PATH']}"}
    bucket, bucket_port = place.bucket_server, str(place.ports["BUCKET_PORT"])
    return [
        Program(
            "postgres",
            # The socket is off: its path may be too long.
            [
                *(str(place.postgres_programs / "postgres"), "-D", str(place.database), "-h", "127.0.0.1"),
                *("-p", str(place.ports["POSTGRES_PORT"]), "-c", "unix_socket_directories="),
            ],
            "postgres",
            user=place.postgres_user,
            # Fast: does not wait for clients to go.
            stop="INT",
        ),
        Program(
            "bucket",
            [str(deploy / "bucket" / "serve.sh"), bucket, "127.0.0.1", bucket_port, str(place.home / "bucket")],
            place.url("BUCKET_PORT"),
            {"S3_KEYS_FILE": str(place.secrets / "s3.env")},
        ),
        Program(
            "mlflow",
            [str(deploy / "mlflow" / "server.sh")],
            f"{place.url('MLFLOW_PORT')}/health",
            {
                **clients,
                **mlflow_path,
                "MLFLOW_S3_ENDPOINT_URL": place.url("BUCKET_PORT"),
                "POSTGRES_HOST": "127.0.0.1",
                "POSTGRES_PORT": str(place.ports["POSTGRES_PORT"]),
                "POSTGRES_PASSWORD_FILE": str(place.secrets / "postgres-password"),
                "BUCKET_NAME": BUCKET,
                "ALLOWED_HOSTS": ",".join(_hosts(place)),
                "MLFLOW_BIND": "127.0.0.1",
                "MLFLOW_BIND_PORT": str(place.ports["MLFLOW_PORT"]),
            },
            needs=("postgres", "bucket"),
        ),
        Program(
            "proxy",
            [place.nginx, "-p", str(place.home), "-c", str(place.home / "nginx.conf"), "-e", f"{place.logs}/nginx.log"],
            f"{place.registry}/health",
            stop="QUIT",
            needs=("mlflow",),
            page=place.registry,
        ),
        Program(
            "prinz-enricher",
            [
                *(str(place.service / "bin" / "prinz-enricher"), "serve", "--host", place.listen),
                *("--port", str(place.ports["PRINZ_PORT"]), "--http-port", str(place.ports["PRINZ_HTTP_PORT"])),
                *("--config", str(place.home / "prinz.toml")),
            ],
            f"{place.url('PRINZ_HTTP_PORT')}/readyz",
            {
                **clients,
                "PRINZ_REGISTRY__URL": place.registry,
                "PRINZ_HTTP__HOST": place.listen,
                "PRINZ_API__HOST": "127.0.0.1",
                "PRINZ_API__PORT": str(place.ports["ENRICHER_PORT"]),
                "PRINZ_ENDPOINTS__PRINZ__URLS": place.registry,
                "PRINZ_ENDPOINTS__DATABRICKS__URLS": place.registry,
                "XDG_CACHE_HOME": str(place.home / "cache"),
                # uv's own cache stays where it is: other environments of this machine are in it.
                "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser())),
            },
            needs=("proxy",),
            page=f"{place.host}:{place.ports['PRINZ_PORT']} (gRPC), {place.url('PRINZ_API_PORT')} (HTTP)",
        ),
        *(
            Program(
                program,
                [str(deploy / "models" / "serve.sh"), name, version, "127.0.0.1", str(place.ports[f"{host}_PORT"])],
                f"{place.url(f'{host}_PORT')}/ping",
                {**clients, **mlflow_path},
                needs=("proxy",),
                page=f"{place.registry}/{name}/invocations",
            )
            for program, (name, version, host) in MODELS.items()
        ),
    ]


def _hosts(place: Place) -> list[str]:
    """Return the hosts by which MLflow lets itself be called."""
    ports = (place.ports["PROXY_PORT"], place.ports["MLFLOW_PORT"])
    named = {"localhost", "127.0.0.1", place.host}
    return sorted(f"{host}:{port}" for host in named for port in ports)
