"""The Python environment of each peer: one of its own, with pinned versions, kept for the next run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"

_COMPLETE = "complete"
_INSTALL_SECONDS = 1800.0


class NotInstalled(Exception):
    """A peer's environment can't be made; the message says why."""


def cache_folder() -> Path:
    """Return where environments and compiled programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "prinz-enricher" / "peers"


def environment(name: str, tell: Callable[[str], None]) -> Path:
    """Return the Python of a peer's environment, made now where it is not there yet.

    Args:
        name: The peer, as its file of requirements is called.
        tell: Called with a line where something has to be installed, since that takes minutes.

    Returns:
        The path of its `python`.

    Raises:
        NotInstalled: uv can't install its requirements here.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = cache_folder() / f"{name}-{sys.implementation.cache_tag}-{_digest(requirements)}"
    python = folder / "bin" / "python"
    if (folder / _COMPLETE).exists():
        return python
    uv = _uv()
    tell(f"{name}: installing {requirements.relative_to(REQUIREMENTS.parent)} into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "--requirements", str(requirements)])
    (folder / _COMPLETE).touch()
    return python


def versions(name: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the pinned versions of some packages of a peer, those that it has."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==", 1) for line in lines if "==" in line)
    return {package: pinned[package] for package in packages if package in pinned}


def _digest(requirements: Path) -> str:
    return hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]


def _uv() -> str:
    """Return the uv that our service brings, or the one on the path."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise NotInstalled("uv is not there, which makes the environments")
    return found


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"uv did not end: {error}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise NotInstalled(f"uv could not install it: {reason[-600:]}")
