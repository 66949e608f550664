"""The Python environments that models run in: the service's own, or one built for what a model and a worker need."""

import hashlib
import importlib.util
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from prinz_enricher.provision.disk_cache import DiskCache, Lease
from prinz_enricher.provision.progress import acquired, report_step
from prinz_enricher.provision.provision_errors import BuildFailed, ProvisionError
from prinz_enricher.provision.requirements import (
    ACCELERATORS,
    Requirements,
    located,
    normalise,
    overridden,
    read_requirements,
    unmet,
    with_worker_needs,
)
from prinz_enricher.provision.uv import Uv, uv_binary

_MAX_SHOWN = 3
_PACKAGE = "prinz_enricher"
_WORKER_PARTS = ("ipc", "worker")
_WORKER_INIT = '"""What a worker needs of prinz-enricher, and nothing else of it."""\n'
_MAX_CODE_BYTES = 64 * 1024 * 1024
_BUILD_SLOTS = threading.BoundedSemaphore(2)  # Environments that are built at once, in one process.
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter for a worker, `isolated` if built for the model; the lease keeps it."""

    python: Path
    lease: Lease | None
    isolated: bool

    def close(self) -> None:
        """Release it; a second time does nothing."""
        if self.lease is not None:
            self.lease.close()


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """An environment that is built for a model, since the service's own is `lacking` some requirements."""

    python: str
    requirements: Requirements
    lacking: tuple[str, ...]
    key: str


class Environments:
    """Chooses the environment of each model, and builds it if missing, for all processes of a machine.

    By the mode `current` all models run in the environment of this process, by `isolated` each in one that is built for
    it, by `auto` only those whose requirements this process does not meet. Overrides replace requirements of the same
    name, of models and of what they install; an invalid one raises RequirementsRefused. Beyond `max_bytes` of all
    together, files that uv shares with its cache by hard links counted in full, unused environments are removed.
    """

    def __init__(
        self,
        folder: Path,
        uv: Uv,
        *,
        max_bytes: int,
        mode: Literal["auto", "isolated", "current"],
        overrides: tuple[str, ...] = (),
    ) -> None:
        self._cache = DiskCache(folder, max_bytes=max_bytes)
        self._uv = uv
        self._mode = mode
        self._overrides = tuple(sorted(map(normalise, overrides)))

    def get(
        self,
        model_folder: Path,
        *,
        mode: str = "",
        accelerate: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Environment:
        """Return the environment of the model in a folder, which is built if missing; blocks.

        It is to be closed when its worker has ended; `mode` is the model's own, and one that is to be accelerated gets
        what that needs. Raises Cancelled, RequirementsRefused, BuildFailed or CacheUnusable.
        """
        plan = self.plan(model_folder, mode=mode, accelerate=accelerate)
        if plan is None:
            return Environment(Path(sys.executable), None, isolated=False)

        def fill(folder: Path) -> None:
            report_step("building its environment")
            with acquired(_BUILD_SLOTS, cancelled):
                started = time.monotonic()
                packages = self._build(folder, plan.python, plan.requirements, model_folder, cancelled)
            seconds = round(time.monotonic() - started, 3)
            shown = plan.lacking[:_MAX_SHOWN]
            _log.info("an environment was built", python=plan.python, packages=packages, seconds=seconds, lacking=shown)

        lease = self._cache.acquire(
            plan.key,
            fill,
            cancelled=cancelled,
            # A link to the interpreter that it was made from, which may have gone since.
            usable=lambda entry: _python(entry).exists(),
        )
        return Environment(_python(lease.path), lease, isolated=True)

    def plan(self, model_folder: Path, *, mode: str = "", accelerate: bool = False) -> EnvironmentPlan | None:
        """Return what is built for the model in a folder, of which the files that describe it suffice.

        None where the service's own environment will do. Raises RequirementsRefused or BuildFailed.
        """
        chosen = mode or self._mode
        if chosen == "current":
            return None
        needed = read_requirements(model_folder)
        if accelerate:
            needed = replace(needed, requirements=(*needed.requirements, *ACCELERATORS))
        needed = overridden(needed, self._overrides)
        lacking = unmet(needed) if chosen == "auto" else ()
        if chosen == "auto" and not lacking:
            return None
        minor = needed.python_minor or ".".join(platform.python_version_tuple()[:2])
        needed = with_worker_needs(needed, minor, self._overrides)
        return EnvironmentPlan(minor, needed, tuple(lacking), self._key(minor, needed))

    def can_build(self, plan: EnvironmentPlan) -> bool:
        """Return whether an environment is to be built; False if it is there. Installs nothing.

        Raises BuildFailed where there is no uv, or no Python of that version.
        """
        if self._cache.has(plan.key):
            return False
        uv_binary()
        if not self._uv.python_downloads:
            with tempfile.TemporaryDirectory() as folder:
                self._make_environment(Path(folder, "venv"), plan.python, lambda: False)
        return True

    def _key(self, minor: str, needed: Requirements) -> str:
        identity = {
            "python": minor,
            "requirements": needed.requirements,
            "constraints": needed.constraints,
            "overrides": self._overrides,
            "source_builds": self._uv.source_builds,
            "index": self._uv.index,
            "machine": (platform.machine(), *platform.libc_ver()),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _build(
        self, folder: Path, minor: str, needed: Requirements, model_folder: Path, cancelled: Callable[[], bool]
    ) -> int:
        """Build an environment; returns the number of its packages."""
        place, arguments = folder / "venv", []
        self._make_environment(place, minor, cancelled)
        for option, name, listed in (
            ("-r", "requirements.txt", [located(one, model_folder) for one in needed.requirements]),
            ("-c", "constraints.txt", needed.constraints),
            ("--override", "overrides.txt", self._overrides),
        ):
            if listed:
                (folder / name).write_text("".join(f"{one}\n" for one in listed))
                arguments += [option, str(folder / name)]
        try:
            self._uv.install(place, arguments, cancelled)
        except BuildFailed as exc:
            advice = "" if exc.may_pass else "; workers.overrides can name others"
            text = f"the packages that the model needs can't be installed: {exc}{advice}"
            raise BuildFailed(text, may_pass=exc.may_pass) from exc
        installed = self._uv.installed(place, cancelled)
        (folder / "installed.txt").write_text("".join(f"{one}\n" for one in installed))
        return len(installed)

    def _make_environment(self, place: Path, minor: str, cancelled: Callable[[], bool]) -> None:
        ours = minor.split(".") == list(platform.python_version_tuple()[:2])
        try:
            self._uv.make_environment(place, sys.executable if ours else minor, cancelled)
        except BuildFailed as exc:
            if ours or exc.may_pass:
                raise
            advice = "" if self._uv.python_downloads else "; workers.python_downloads lets uv download it"
            text = f"the model wants Python {minor}, which is not found on this machine{advice} (uv: {exc})"
            raise BuildFailed(text) from exc


def _python(entry: Path) -> Path:
    return entry / "venv" / "bin" / "python"


def worker_code(folder: Path) -> Path:
    """Return a folder with the worker's code alone, for another interpreter; may raise ProvisionError."""
    files = {"__init__.py": _WORKER_INIT.encode()}
    for part in _WORKER_PARTS:
        # Found without being imported: that would bring Arrow's libraries in.
        found = importlib.util.find_spec(f"{_PACKAGE}.{part}")
        if found is None or found.origin is None:
            raise ProvisionError("the sources of the worker are not installed")
        files |= {f"{part}/{path.name}": path.read_bytes() for path in sorted(Path(found.origin).parent.glob("*.py"))}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)

    def fill(entry: Path) -> None:
        for name, content in files.items():
            path = entry / _PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    with DiskCache(folder, max_bytes=_MAX_CODE_BYTES).acquire(digest.hexdigest()[:32], fill, check=True) as lease:
        return lease.path
