"""Runs uv, which makes Python environments and installs packages into them from one package index."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from prinz_enricher.provision.child_process import run_program
from prinz_enricher.provision.provision_errors import BuildFailed
from prinz_enricher.provision.variables import installer_variables

_MAX_REASON = 400
_LOGIN = re.compile(r"://([^/\s]*)@")
_MIN_SECRET = 4
_PREFIX = re.compile(r"^(error|cause|warning|\W+):?\s+")
_UNREACHABLE = re.compile(
    r"[Ff]ailed to fetch|[Rr]equest failed|error sending request|dns error|timed out|tcp connect error|\b50[0-4]\b"
)
_FULL = "No space left on device"
_NO_SOLUTION = "No solution found"


class Uv:
    """The program uv; what it fails at is raised as BuildFailed with what it says, without credentials.

    One run may take `timeout` seconds. If `offline` it uses its cache alone; whether it may download a Python, and
    build packages without wheels, which runs code of theirs, is for the operator. Its settings are those of the
    environment, by default of this process, but for a package index, which may have user and password.
    """

    def __init__(
        self,
        *,
        index_url: str = "",
        offline: bool = False,
        python_downloads: bool = False,
        source_builds: bool = False,
        timeout: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.python_downloads = python_downloads
        self.source_builds = source_builds
        self._offline = offline
        self._timeout = timeout
        self._variables = installer_variables(os.environ if environment is None else environment)
        # The hashes that a model gives are checked, whatever else uv is used for here.
        self._variables.pop("UV_NO_VERIFY_HASHES", None)
        if index_url:
            # Not on the command line, which everyone can read.
            self._variables["UV_DEFAULT_INDEX"] = index_url
        self._secrets = _secrets(self._variables)

    @property
    def index(self) -> str:
        """The package index without credentials; empty for the public one."""
        names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
        return next((_LOGIN.sub("://", self._variables[name]) for name in names if self._variables.get(name)), "")

    def make_environment(self, place: Path, python: str, cancelled: Callable[[], bool]) -> None:
        """Make an environment without packages in a new folder, for an interpreter by its path or version."""
        options = [] if self.python_downloads else ["--no-python-downloads"]
        self._run(["venv", "--no-project", "--relocatable", *options, "--python", python, str(place)], place, cancelled)

    def install(self, place: Path, arguments: Sequence[str], cancelled: Callable[[], bool]) -> None:
        """Install packages into an environment; `arguments` as of `uv pip install`."""
        options = [] if self.source_builds else ["--no-build"]
        # A worker writes no bytecode; without it each start would compile everything.
        command = ["pip", "install", "--compile-bytecode", "--python", str(place)]
        self._run([*command, *options, *arguments], place, cancelled)

    def installed(self, place: Path, cancelled: Callable[[], bool]) -> list[str]:
        """List the packages of an environment, such as `numpy==2.4.6`."""
        return self._run(["pip", "freeze", "--python", str(place)], place, cancelled).splitlines()

    def masked(self, text: str) -> str:
        """Return a text without the credentials of package indexes and proxies."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _LOGIN.sub("://", text)

    def _run(self, arguments: Sequence[str], place: Path, cancelled: Callable[[], bool]) -> str:
        # Calls have deadlines: uv gets what they leave of the processors.
        nice = shutil.which("nice")
        command = [*((nice, "-n", "10") if nice else ()), uv_binary(), *arguments]
        # A file of settings may name other indexes.
        options = ["--no-config", "--no-progress", "--color", "never", *(["--offline"] if self._offline else [])]
        try:
            result = run_program(
                [*command, *options],
                self._variables,
                place.parent,
                what="uv",
                tied=True,
                timeout=self._timeout,
                cancelled=cancelled,
                mask=self.masked,
            )
        except TimeoutError as exc:
            raise BuildFailed(f"uv took longer than {self._timeout:g} s", may_pass=True) from exc
        if result.code:
            text = "\n".join(result.errors)
            may_pass = _FULL in text or (bool(_UNREACHABLE.search(text)) and _NO_SOLUTION not in text)
            raise BuildFailed(reason(result.errors) or f"uv ended with exit code {result.code}", may_pass=may_pass)
        return result.output.decode("utf-8", "replace")


def uv_binary() -> str:
    """Return the path of the program; raises BuildFailed where it is not installed."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise BuildFailed("uv, which makes Python environments, is not installed")
    return found


def reason(errors: Sequence[str]) -> str:
    """Return the essence of what uv says when it fails, in a few sentences of at most 400 characters."""
    start = next((at for at, line in enumerate(errors) if line.startswith("error:")), 0)
    lines = [_PREFIX.sub("", line.strip()) for line in errors[start:] if line.strip()]
    if len(lines) > 1 and lines[0].startswith(_NO_SOLUTION):
        # The next line says of what there is none.
        lines = lines[1:]
    text = " ".join(lines)
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"


def _secrets(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Find the passwords in environment variables, as they may be written in a message."""
    secrets = set()
    for name, value in variables.items():
        if "PASSWORD" in name or "TOKEN" in name:
            secrets.add(value)
        for login in _LOGIN.findall(value):
            password = login.partition(":")[2] or login
            secrets |= {password, unquote(password)}
    # Shorter ones are in many a word; they stand in URLs, whose logins are removed anyway.
    return tuple(sorted((one for one in secrets if len(one) >= _MIN_SECRET), key=len, reverse=True))
