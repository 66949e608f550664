"""Gets what a worker is started with: the model from its registry, checked, and the environment it runs in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from prinz_enricher.config import CacheSettings, WorkerSettings
from prinz_enricher.provision.environments import Environments, worker_code
from prinz_enricher.provision.errors import LoaderForbidden, ProvisionError
from prinz_enricher.provision.loaders import check_loader
from prinz_enricher.provision.model_cache import ModelCache, ModelSource
from prinz_enricher.provision.uv import Uv
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.scoring import LoaderRefused, LoadFailed, Provisions, RegistryAway, Target
from prinz_enricher.service.early import EarlyEnvironment


class Places(Protocol):
    """Knows the registries."""

    def locate(self, target: Target) -> tuple[str, str, str, str]:
        """Return a target's registry as MLflow's client calls it, its name and version there, and which registry it is.

        The last is the same for as long as the registry is the same, wherever it listens.
        """

    def observed(self, target: Target, outputs: str) -> None:
        """Have a target's version served with the outputs that it was seen to give, in MLflow's JSON of a schema."""

    def folder(self, target: Target) -> str:
        """Return the URI of the folder with a target's files; the registry is asked.

        Raises:
            RegistryAway: The registry does not tell it now.
            LoadFailed: They are nowhere that they may be downloaded from.
        """

    def download(
        self,
        target: Target,
        uri: str,
        folder: Path,
        max_bytes: int,
        watch: Callable[[int, int], object],
        begun: Callable[[Path], object],
    ) -> bool:
        """Download a target's files from its registry itself; see `RegistryClient.download`."""

    def fetch_variables(self, target: Target, folder: Path) -> Mapping[str, str] | None:
        """Return the environment variables by which a target's registry is reached; None where none were set for it.

        Raises:
            RegistryAway: Its credentials can't be had now.
            LoadFailed: Its certificates can't be used.
        """


class Provisioner:
    """Gets the provisions of a target; called by the thread that starts the worker."""

    def __init__(self, places: Places, cache: CacheSettings, workers: WorkerSettings) -> None:
        """Touch nothing yet.

        Args:
            places: Knows the registries.
            cache: Where things are kept.
            workers: What workers may do and need.

        Raises:
            ProvisionError: An override is no requirement.
        """
        folder = cache_folder(cache)
        self._places = places
        self._allowed = workers.allowed_loaders
        self._code = folder / "code"
        self._models = ModelCache(
            folder / "models",
            max_bytes=cache.max_models_bytes,
            max_model_bytes=cache.max_model_bytes,
            timeout=cache.fetch_timeout,
        )
        uv = Uv(
            index_url=workers.index_url.get_secret_value(),
            offline=workers.offline,
            python_downloads=workers.python_downloads,
            source_builds=workers.source_builds,
            timeout=workers.build_timeout,
        )
        self._environments = Environments(
            folder / "environments",
            uv,
            max_bytes=cache.max_environments_bytes,
            mode=workers.environment,
            overrides=workers.overrides,
        )

    def __call__(self, target: Target, cancelled: Callable[[], bool]) -> Provisions:
        """Get the provisions of a target; blocks.

        Raises:
            LoaderRefused: The model is loaded by code that is not allowed.
            RegistryAway: The registry, or an index, gives no answer now.
            LoadFailed: They can't be had.
        """
        try:
            with ExitStack() as held:
                provisions = self._get(target, cancelled, held)
                held.pop_all()
        except LoaderForbidden as error:
            raise LoaderRefused(error.loader) from error
        except ProvisionError as error:
            raise (RegistryAway if error.may_pass else LoadFailed)(str(error)) from error
        return provisions

    def _get(self, target: Target, cancelled: Callable[[], bool], held: ExitStack) -> Provisions:
        marks = [time.monotonic()]
        registry, name, version, origin = self._places.locate(target)
        fingerprint = f"{target.signature.digest} {target.fingerprint}"
        source = ModelSource(registry, name, version, fingerprint, origin)

        def variables(folder: Path) -> Mapping[str, str]:
            return fetch_variables(os.environ, folder, self._places.fetch_variables(target, folder))

        def download(uri: str, folder: Path, max_bytes: int, watch: Callable[[int, int], object]) -> bool:
            return self._places.download(target, uri, folder, max_bytes, watch, early.begin)

        with EarlyEnvironment(self._environments, self._allowed, target.environment, cancelled) as early:
            model = held.enter_context(
                self._models.get(
                    source, lambda: self._places.folder(target), variables, download=download, cancelled=cancelled
                )
            )
            # What was downloaded decides, whatever the registry told of it before.
            check_loader(model.path, self._allowed)
            marks.append(time.monotonic())
            early.wait()
            environment = self._environments.get(model.path, mode=target.environment, cancelled=cancelled)
            held.callback(environment.close)
            marks.append(time.monotonic())

        def close() -> None:
            environment.close()
            model.close()

        return Provisions(
            model.path,
            environment.python if environment.isolated else None,
            worker_code(self._code) if environment.isolated else None,
            {"fetch": marks[1] - marks[0], "environment": marks[2] - marks[1]},
            close,
        )


def cache_folder(settings: CacheSettings) -> Path:
    """Return the folder that models and environments are kept in."""
    if settings.folder is not None:
        return Path(settings.folder).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "prinz-enricher"
