"""What `create_environment.sh` says before it creates anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a home of its own."""
    environment = {**os.environ, "ENVIRONMENT_HOME": str(home), **variables}
    return subprocess.run(
        [ROOT / "create_environment.sh", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
    )  # fmt: skip


def failing(folder: Path, *programs: str) -> str:
    """Return a PATH whose first folder has programs that only fail."""
    folder.mkdir()
    for name in programs:
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_help_tells_commands_and_options(tmp_path: Path) -> None:
    """--help names every command and option, and creates nothing."""
    done = run(tmp_path / "home", "--help")
    assert done.returncode == 0
    for word in ("up", "down", "status", "logs", "--without-docker", "--install", "--volumes", "--follow"):
        assert word in done.stdout
    assert not (tmp_path / "home").exists()


def test_words_that_it_does_not_know_are_refused(tmp_path: Path) -> None:
    """A mistyped command or option is named, and nothing is created."""
    for word in ("upp", "--with-docker"):
        done = run(tmp_path / "home", word)
        assert done.returncode == 1
        assert word in done.stdout.splitlines()[-1]
    assert not (tmp_path / "home").exists()


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    """Where Python is too old, the packages and the command that installs them are told."""
    path = failing(tmp_path / "programs", "python3")
    done = run(tmp_path / "home", "up", "--without-docker", PATH=path)
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stdout
    assert "--install" in done.stdout


def test_docker_is_asked_for(tmp_path: Path) -> None:
    """Without Docker's compose plugin the way without Docker is told."""
    path = failing(tmp_path / "programs", "docker")
    done = run(tmp_path / "home", "up", PATH=path)
    assert done.returncode == 1
    assert "--without-docker" in done.stdout


def test_where_nothing_was_created(tmp_path: Path) -> None:
    """Without an environment there is nothing to stop, and that is no fault."""
    done = run(tmp_path / "home", "down", "--without-docker")
    assert (done.returncode, done.stdout) == (0, "nothing was created here\n")
