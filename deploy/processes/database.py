"""PostgreSQL's folder, and whether it answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.processes.place import Place


def make_database(place: Place) -> None:
    """Make PostgreSQL's folder where there is none; the server makes the rest.

    Raises:
        RuntimeError: It can't be made.
    """
    if (place.database / "PG_VERSION").exists():
        return
    shutil.rmtree(place.database, ignore_errors=True)
    place.database.mkdir(parents=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w") as password:
        password.write((place.secrets / "postgres-password").read_text() + "\n")
        password.flush()
        if place.postgres_user:
            shutil.chown(place.database, place.postgres_user)
            shutil.chown(password.name, place.postgres_user)
        command = [
            *(str(place.postgres_programs / "initdb"), "-D", str(place.database), "--username", "mlflow"),
            *("--auth", "scram-sha-256", "--pwfile", password.name, "--encoding", "UTF8", "--locale", "C.UTF-8"),
        ]
        done = subprocess.run(
            command, user=place.postgres_user or None, cwd="/", capture_output=True, text=True, check=False
        )
    if done.returncode:
        remove_database(place)
        raise RuntimeError(f"initdb failed: {done.stderr.strip()}")


def make_first_database(place: Place) -> None:
    """Make the database of MLflow where it is not there yet; the server must run."""
    exists = _ask(place, "select 1 from pg_database where datname = 'mlflow'")
    if "1" not in exists.stdout:
        made = _ask(place, "create database mlflow")
        if made.returncode:
            raise RuntimeError(f"PostgreSQL refuses: {made.stderr.strip()}")


def answers(place: Place) -> bool:
    """Tell whether the server takes connections."""
    return _ask(place, "select 1").returncode == 0


def remove_database(place: Place) -> None:
    """Remove PostgreSQL's folder."""
    shutil.rmtree(place.database, ignore_errors=True)


def _ask(place: Place, statement: str) -> subprocess.CompletedProcess[str]:
    password = Path(place.secrets / "postgres-password").read_text()
    return subprocess.run(
        [
            *(str(place.postgres_programs / "psql"), "-X", "-A", "-t", "-h", "127.0.0.1"),
            *("-p", str(place.ports["POSTGRES_PORT"]), "-U", "mlflow", "-d", "postgres", "-c", statement),
        ],
        env={**os.environ, "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5"},
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
