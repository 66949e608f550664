"""Runs uv: it makes Python environments and installs packages into them, quickly and from one package index."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from prinz_enricher.provision.errors import BuildFailed
from prinz_enricher.provision.program import run_program
from prinz_enricher.provision.variables import installer_variables

_LONGEST_REASON = 400
_LOGIN = re.compile(r"://([^/\s]*)@")
_SHORTEST_SECRET = 4
_PREFIX = re.compile(r"^(error|cause|warning|\W+):?\s+")
_UNREACHABLE = re.compile(
    r"[Ff]ailed to fetch|[Rr]equest failed|error sending request|dns error|timed out|tcp connect error|\b50[0-4]\b"
)
_FULL = "No space left on device"
_NO_SOLUTION = "No solution found"
_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")


@dataclass(frozen=True, slots=True)
class UvSettings:
    """How uv is used.

    Attributes:
        index_url: The package index; empty for that of uv's own settings. It may hold a password.
        offline: Whether only what uv has in its cache may be used.
        python_downloads: Whether a Python that is not on this machine is downloaded.
        source_builds: Whether packages without wheels are built, which runs code of theirs.
        timeout: Seconds that all may take together.
    """

    index_url: str
    offline: bool
    python_downloads: bool
    source_builds: bool
    timeout: float


class Uv:
    """The program uv."""

    def __init__(self, settings: UvSettings, environment: Mapping[str, str] | None = None) -> None:
        """Start nothing yet.

        Args:
            settings: How it is used.
            environment: Where its own settings are read from; the environment of this process by default.
        """
        self._settings = settings
        self._variables = installer_variables(os.environ if environment is None else environment)
        # What a model gives hashes of is checked by them, whatever else uv is used for here.
        self._variables.pop("UV_NO_VERIFY_HASHES", None)
        if settings.index_url:
            # Not on the command line, which everyone can read.
            self._variables["UV_DEFAULT_INDEX"] = settings.index_url
        self._secrets = _secrets(self._variables)

    @property
    def index(self) -> str:
        """The package index without credentials; empty for the public one."""
        return next((_without_login(self._variables[name]) for name in _INDEXES if self._variables.get(name)), "")

    def make_environment(self, place: Path, python: str, cancelled: Callable[[], bool]) -> None:
        """Make an environment without packages.

        Args:
            place: Its folder, in one that is there.
            python: The interpreter, as a path or as a version.
            cancelled: Asked again and again.

        Raises:
            Cancelled: The caller cancelled.
            BuildFailed: It can't be made; the message is what uv says of it.
        """
        options = [] if self._settings.python_downloads else ["--no-python-downloads"]
        self._run(["venv", "--no-project", "--relocatable", *options, "--python", python, str(place)], place, cancelled)

    def install(self, place: Path, arguments: Sequence[str], cancelled: Callable[[], bool]) -> None:
        """Install packages into an environment.

        Args:
            place: Its folder.
            arguments: What to install, as uv takes it.
            cancelled: Asked again and again.

        Raises:
            Cancelled: The caller cancelled.
            BuildFailed: They can't be installed; the message is what uv says of it.
        """
        options = [] if self._settings.source_builds else ["--no-build"]
        # A worker writes no bytecode; without it each start would compile everything.
        self._run(
            ["pip", "install", "--compile-bytecode", "--python", str(place), *options, *arguments], place, cancelled
        )

    def installed(self, place: Path, cancelled: Callable[[], bool]) -> list[str]:
        """List what is in an environment, such as `numpy==2.4.6`."""
        return self._run(["pip", "freeze", "--python", str(place)], place, cancelled).splitlines()

    def masked(self, text: str) -> str:
        """Give a text without the credentials of package indexes and proxies."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _without_login(text)

    def _run(self, arguments: Sequence[str], place: Path, cancelled: Callable[[], bool]) -> str:
        # A file of settings may name other indexes.
        options = ["--no-config", "--no-progress", "--color", "never"]
        if self._settings.offline:
            options.append("--offline")
        try:
            ended = run_program(
                [*_aside(), uv_binary(), *arguments, *options],
                self._variables,
                place.parent,
                what="uv",
                tied=True,
                timeout=self._settings.timeout,
                cancelled=cancelled,
                mask=self.masked,
            )
        except TimeoutError as exc:
            raise BuildFailed(f"uv took longer than {self._settings.timeout:g} s", may_pass=True) from exc
        if ended.code:
            text = "\n".join(ended.said)
            passing = _FULL in text or (bool(_UNREACHABLE.search(text)) and _NO_SOLUTION not in text)
            raise BuildFailed(reason(ended.said) or f"uv ended with exit code {ended.code}", may_pass=passing)
        return ended.output.decode("utf-8", "replace")


def _aside() -> list[str]:
    """Give what makes a program run on the processors that others leave: calls have deadlines."""
    nice = shutil.which("nice")
    return [nice, "-n", "10"] if nice else []


def uv_binary() -> str:
    """Find the program.

    Raises:
        BuildFailed: It is not installed.
    """
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise BuildFailed("uv, which makes Python environments, is not installed")
    return found


def reason(said: Sequence[str]) -> str:
    """Give the essence of what uv says when it fails, in a few sentences and at most 400 characters."""
    told = [_PREFIX.sub("", line.strip()) for line in said if line.strip()]
    start = next((at for at, line in enumerate(said) if line.startswith("error:")), 0)
    lines = told[start:]
    if lines and lines[0].startswith(_NO_SOLUTION) and len(lines) > 1:
        # The next line says of what there is none.
        lines = lines[1:]
    text = " ".join(lines)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _secrets(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Find the passwords in environment variables, as they may be written in a message."""
    secrets = set()
    for name, value in variables.items():
        if "PASSWORD" in name or "TOKEN" in name:
            secrets.add(value)
        for login in _LOGIN.findall(value):
            password = login.partition(":")[2] or login
            secrets |= {password, unquote(password)}
    # Shorter ones are in many a word; they stand in URLs, which are without them anyway.
    return tuple(sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True))


def _without_login(text: str) -> str:
    return _LOGIN.sub("://", text)
