"""Lint the Dockerfile and docker-compose.yaml; no Docker engine is needed.

Three programs look at them: hadolint, Docker Compose, and dclint. Compose is the plugin of the `docker` command, or is
built once with Go; dclint comes by npx. What can't be had here is skipped, and said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_VERSION = "5.0.2"
"""One that `go install` takes: many releases say in go.mod which versions to exclude, and are refused for it."""
DCLINT_VERSION = "3.1.0"


def main() -> None:
    """Run all that is here; the exit code is 1 where one of them found something."""
    sys.exit(1 if sum([check_dockerfile(), check_project(), check_style()]) else 0)


def check_dockerfile() -> bool:
    """Run hadolint on the Dockerfile; returns whether it found something."""
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.exists():
        # It comes with the other tools of development, so that to miss it is a fault.
        print("hadolint: not in this environment, which `make` sets up")
        return True
    return found("hadolint", [str(hadolint), "Dockerfile"])


def check_project() -> bool:
    """Have Docker Compose read docker-compose.yaml with .env; returns whether it found something."""
    compose = compose_program()
    if not compose:
        return False
    return found("docker compose config", [*compose, "--profile", "*", "config", "--quiet"])


def check_style() -> bool:
    """Run dclint on docker-compose.yaml; returns whether it found something."""
    npx = shutil.which("npx")
    if npx is None:
        skip("dclint", "there is no npx")
        return False
    dclint = [npx, "--yes", f"dclint@{DCLINT_VERSION}"]
    fetched = run([*dclint, "--version"])
    if fetched.returncode:
        skip("dclint", last_line(fetched))
        return False
    return found("dclint", [*dclint, "--config", ".dclintrc.yaml", "--max-warnings", "0", "docker-compose.yaml"])


def compose_program() -> list[str]:
    """Return how Docker Compose is called; empty where it can't be had."""
    docker = shutil.which("docker")
    if docker and not run([docker, "compose", "version"]).returncode:
        return [docker, "compose"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prinz-enricher-tools"
    program = cache / f"docker-compose-{COMPOSE_VERSION}"
    if program.exists():
        return [str(program)]
    go = shutil.which("go")
    if go is None:
        skip("docker compose config", "there is neither Docker's compose plugin, nor Go to build it")
        return []
    print(f"building Docker Compose {COMPOSE_VERSION} once, which takes a minute or two", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        module = f"github.com/docker/compose/v{COMPOSE_VERSION.split('.', maxsplit=1)[0]}/cmd@v{COMPOSE_VERSION}"
        built = subprocess.run(
            [go, "install", module], env={**os.environ, "GOBIN": folder}, capture_output=True, text=True, check=False
        )
        if built.returncode:
            skip("docker compose config", last_line(built))
            return []
        (Path(folder) / "cmd").replace(program)
    return [str(program)]


def found(name: str, command: Sequence[str]) -> bool:
    """Run a linter, and tell; returns whether it found something."""
    done = run(command)
    said = (done.stdout + done.stderr).strip()
    # Compose only warns of a variable that nobody sets.
    faulty = bool(done.returncode or "level=warning" in done.stderr)
    print(f"{name}: {'found' if faulty else 'fine'}", *([said] if faulty else []), sep="\n", flush=True)
    return faulty


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program in the root of the repository."""
    # A variable of the shell wins over .env, and would be checked in its place.
    names = {line.partition("=")[0] for line in (ROOT / ".env").read_text().splitlines()}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def skip(name: str, why: str) -> None:
    """Tell that a linter is left out."""
    print(f"{name}: skipped, {why}", flush=True)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last thing that a program said."""
    return next(iter(reversed((done.stdout + done.stderr).strip().splitlines())), f"exit code {done.returncode}")


if __name__ == "__main__":
    main()
