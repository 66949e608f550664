"""The Python environments that models run in: the service's own, or one built for what a model needs."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from prinz_enricher.provision.entry import located, normalised
from prinz_enricher.provision.errors import BuildFailed
from prinz_enricher.provision.installed import unmet
from prinz_enricher.provision.requirements import Requirements, overridden, read_requirements
from prinz_enricher.provision.shelf import Lease, Shelf, never
from prinz_enricher.provision.steps import tell_step
from prinz_enricher.provision.turns import Turns
from prinz_enricher.provision.uv import Uv, UvSettings
from prinz_enricher.provision.worker_needs import with_worker_needs

MOST_BUILDS = 2
"""Environments that are built at once, in one process."""

_VENV = "venv"
_INSTALLED = "installed.txt"
_MOST_SHOWN = 3

_TURNS = Turns(MOST_BUILDS)

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a worker runs.

    Attributes:
        python: The interpreter.
        lease: Keeps the environment while a worker uses it; None for that of this process.
        isolated: Whether it was built for the model.
        why: Why it is this one, for people.
    """

    python: Path
    lease: Lease | None
    isolated: bool
    why: str

    def close(self) -> None:
        """Let go of it; a second time does nothing."""
        if self.lease is not None:
            self.lease.close()


class Environments:
    """Chooses the environment of each model, and builds it where it is not there, for all processes of a machine."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        mode: Literal["auto", "isolated", "current"],
        index_url: str = "",
        overrides: tuple[str, ...] = (),
        offline: bool = False,
        python_downloads: bool = False,
        source_builds: bool = False,
        timeout: float,
    ) -> None:
        """Touch nothing yet.

        Args:
            folder: Where environments are.
            max_bytes: How large all may be together before those that nobody uses are removed. Files that uv shares
                with its cache by hard links are counted in full.
            mode: `current`: all models run in the environment of this process; `isolated`: each in one that is built
                for it; `auto`: only those whose requirements this process does not meet.
            index_url: Where packages come from, with user and password if need be; uv's own settings by default.
            overrides: Requirements that replace those of the same name, of models and of what they install.
            offline: Whether nothing may be downloaded.
            python_downloads: Whether uv may download a Python that is not on this machine.
            source_builds: Whether packages without wheels may be built here, which runs code of theirs.
            timeout: Seconds that one run of uv may take.

        Raises:
            RequirementsRefused: An override is no requirement.
        """
        self._shelf = Shelf(folder, max_bytes=max_bytes)
        self._mode = mode
        self._overrides = tuple(sorted(map(normalised, overrides)))
        self._python_downloads = python_downloads
        self._source_builds = source_builds
        settings = UvSettings(
            index_url=index_url,
            offline=offline,
            python_downloads=python_downloads,
            source_builds=source_builds,
            timeout=timeout,
        )
        self._uv = Uv(settings)

    def get(self, model_folder: Path, *, mode: str = "", cancelled: Callable[[], bool] = never) -> Environment:
        """Get the environment of a model, and build it where it is not there; blocks.

        Args:
            model_folder: The folder with the MLmodel file.
            mode: That of this model, where it is not the same as for all.
            cancelled: Asked again and again while that lasts.

        Returns:
            The environment, to be closed when its worker has ended.

        Raises:
            Cancelled: The caller cancelled.
            RequirementsRefused: What the model says it needs can't be read, or is not allowed.
            BuildFailed: The environment can't be built.
            ShelfFault: The folder can't be used, or the disk is full.
        """
        chosen = mode or self._mode
        if chosen == "current":
            return Environment(Path(sys.executable), None, isolated=False, why="workers run in the service's own")
        needed = overridden(read_requirements(model_folder), self._overrides)
        why = "workers run in environments of their own"
        if chosen == "auto":
            lacking = unmet(needed)
            if not lacking:
                here = Path(sys.executable)
                return Environment(here, None, isolated=False, why="the service's own has what the model needs")
            more = f" and {len(lacking) - _MOST_SHOWN} more" if len(lacking) > _MOST_SHOWN else ""
            why = f"the service's own has not: {', '.join(lacking[:_MOST_SHOWN])}{more}"
        return self._isolated(needed, why, model_folder, cancelled)

    def _isolated(
        self, needed: Requirements, why: str, model_folder: Path, cancelled: Callable[[], bool]
    ) -> Environment:
        minor = needed.python_minor or ".".join(platform.python_version_tuple()[:2])
        needed = with_worker_needs(needed, minor, self._overrides)

        def fill(folder: Path) -> None:
            tell_step("building its environment")
            with _TURNS.take(cancelled):
                self._build(folder, minor, needed, model_folder, cancelled)

        lease = self._shelf.acquire(
            self._key(minor, needed),
            fill,
            cancelled=cancelled,
            # A link to the interpreter that it was made from, which may have gone since.
            usable=lambda entry: _python(entry).exists(),
        )
        return Environment(_python(lease.path), lease, isolated=True, why=why)

    def _key(self, minor: str, needed: Requirements) -> str:
        told = {
            "python": minor,
            "requirements": needed.requirements,
            "constraints": needed.constraints,
            "overrides": self._overrides,
            "source_builds": self._source_builds,
            "index": self._uv.index,
            "machine": (platform.machine(), *platform.libc_ver()),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _build(
        self,
        folder: Path,
        minor: str,
        needed: Requirements,
        model_folder: Path,
        cancelled: Callable[[], bool],
    ) -> None:
        started = time.monotonic()
        place = folder / _VENV
        self._make_environment(place, minor, cancelled)
        arguments = []
        for option, name, listed in (
            ("-r", "requirements.txt", [located(one, model_folder) for one in needed.requirements]),
            ("-c", "constraints.txt", needed.constraints),
            ("--override", "overrides.txt", self._overrides),
        ):
            file = folder / name
            if listed:
                file.write_text("".join(f"{one}\n" for one in listed))
                arguments += [option, str(file)]
        try:
            self._uv.install(place, arguments, cancelled)
        except BuildFailed as exc:
            advice = "" if exc.may_pass else "; workers.overrides can name others"
            raise BuildFailed(
                f"the packages that the model needs can't be installed: {exc}{advice}", may_pass=exc.may_pass
            ) from exc
        installed = self._uv.installed(place, cancelled)
        (folder / _INSTALLED).write_text("".join(f"{one}\n" for one in installed))
        seconds = round(time.monotonic() - started, 3)
        _log.info("an environment was built", python=minor, packages=len(installed), seconds=seconds)

    def _make_environment(self, place: Path, minor: str, cancelled: Callable[[], bool]) -> None:
        ours = minor.split(".") == list(platform.python_version_tuple()[:2])
        try:
            self._uv.make_environment(place, sys.executable if ours else minor, cancelled)
        except BuildFailed as exc:
            if ours or exc.may_pass:
                raise
            advice = "" if self._python_downloads else "; workers.python_downloads lets uv download it"
            raise BuildFailed(
                f"the model wants Python {minor}, which is not found on this machine{advice} (uv: {exc})"
            ) from exc


def _python(entry: Path) -> Path:
    return entry / _VENV / "bin" / "python"
