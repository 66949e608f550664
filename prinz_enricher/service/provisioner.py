"""Gets what a worker is started with: the model from its registry, checked, and the environment it runs in."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from prinz_enricher.config import CacheSettings, WorkerSettings
from prinz_enricher.provision.environments import Environment, EnvironmentPlan, Environments, worker_code
from prinz_enricher.provision.loaders import check_loader
from prinz_enricher.provision.model_cache import ModelCache, ModelSource, local_path
from prinz_enricher.provision.progress import report_step
from prinz_enricher.provision.provision_errors import BuildFailed, Cancelled, LoaderForbidden, ProvisionError
from prinz_enricher.provision.uv import Uv
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.registry import StoreReader
from prinz_enricher.scoring.ports import LoaderRefused, LoadFailed, Provisions, RegistryAway, Target
from prinz_enricher.service.registries import Registries

_POLL_SECONDS = 0.05

_log = structlog.stdlib.get_logger(__name__)


class _Described(Exception):
    """What describes a model was read."""


class Provisioner:
    """Gets provisions, on the thread that starts the worker; raises ProvisionError for bad overrides."""

    def __init__(self, registries: Registries, cache: CacheSettings, workers: WorkerSettings) -> None:
        folder = cache_folder(cache)
        self._registries = registries
        self._allowed = workers.allowed_loaders
        self._code = folder / "code"
        self._max_model_bytes = cache.max_model_bytes
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
        self.environments = Environments(
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
                return self._get(target, cancelled, held)
        except LoaderForbidden as error:
            raise LoaderRefused(error.loader) from error
        except ProvisionError as error:
            raise (RegistryAway if error.may_pass else LoadFailed)(str(error)) from error

    def describe(self, target: Target) -> tuple[str, list[EnvironmentPlan | None]]:
        """Return where a target's files were read, as a URL without a path, and the plan of its environment.

        Each is empty where only a download shows it. Nothing is kept. Raises RegistryError, LoadFailed or
        ProvisionError.
        """
        registry = self._registries.of(target)
        uri = registry.folder(target)
        parts = urlsplit(uri)
        plans: list[EnvironmentPlan | None] = []

        def read(folder: Path) -> None:
            check_loader(folder, self._allowed)
            plans.append(self.environments.plan(folder, mode=target.environment, accelerate=target.accelerate))
            # The other files are not needed.
            raise _Described

        with tempfile.TemporaryDirectory() as place, suppress(_Described):
            registry.client.download(
                uri, Path(place, "model"), max_bytes=self._max_model_bytes, watch=lambda *_: None, begun=read
            )
            if (folder := local_path(uri)) is not None:
                read(folder)
            if not StoreReader.reads(uri):
                return "", plans
            registry.stores.read(uri)
        proxied = parts.scheme == "mlflow-artifacts"
        return registry.client.url if proxied else f"{parts.scheme or 'file'}://{parts.hostname or ''}", plans

    def _get(self, target: Target, cancelled: Callable[[], bool], held: ExitStack) -> Provisions:
        registry = self._registries.of(target)
        fingerprint = f"{target.signature.digest} {target.fingerprint}"
        source = ModelSource(
            registry.access.tracking_uri, target.registered_name, target.version, fingerprint, registry.origin
        )
        began = time.monotonic()

        def variables(folder: Path) -> Mapping[str, str]:
            return fetch_variables(os.environ, folder, registry.fetch_variables(folder))

        def download(uri: str, folder: Path, max_bytes: int, watch: Callable[[int, int], object]) -> bool:
            return registry.client.download(uri, folder, max_bytes=max_bytes, watch=watch, begun=early.begin)

        get = partial(self.environments.get, mode=target.environment, accelerate=target.accelerate)
        with EarlyEnvironment(get, self._allowed, cancelled) as early:
            model = held.enter_context(
                self._models.get(
                    source, lambda: registry.folder(target), variables, download=download, cancelled=cancelled
                )
            )
            # What was downloaded decides, whatever the registry said before.
            check_loader(model.path, self._allowed)
            fetched = time.monotonic()
            early.wait()
            environment = get(model.path, cancelled=cancelled)
            held.callback(environment.close)
            made = time.monotonic()
        return Provisions(
            model.path,
            environment.python if environment.isolated else None,
            worker_code(self._code) if environment.isolated else None,
            {"fetch": fetched - began, "environment": made - fetched},
            held.pop_all().close,
        )


class EarlyEnvironment(ExitStack):
    """Begins to make a model's environment while the model is still being downloaded; ends with its context.

    One try: where it was too early, what is asked for afterwards decides. Nothing is made for a loader that is not
    allowed`; `get` is `Environments.get` of a model, and `cancelled` as there.
    """

    def __init__(
        self, get: Callable[..., Environment], allowed: tuple[str, ...], cancelled: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._get = get
        self._allowed = allowed
        self._cancelled = cancelled
        self._over = threading.Event()
        self._failed: BuildFailed | None = None
        self._thread = threading.Thread(target=lambda: None)

    def begin(self, folder: Path) -> None:
        """Begin, with the files that name loader and requirements; raises ProvisionError for a forbidden loader."""
        check_loader(folder, self._allowed)
        with suppress(OSError):
            # The folder gets another name when the download ends, with the wheels that may be being installed.
            copy = Path(self.enter_context(tempfile.TemporaryDirectory())) / "model"
            shutil.copytree(folder, copy)
            self._thread = threading.Thread(target=self._make, args=(copy,), name="early-environment")
            self._thread.start()
            self.callback(self._thread.join)
            self.callback(self._over.set)

    def wait(self) -> None:
        """Wait for its end; raises Cancelled, or BuildFailed where to try again would take long and fail as well."""
        if self._thread.is_alive():
            report_step("building its environment")
        while self._thread.is_alive():
            if self._cancelled():
                raise Cancelled
            self._thread.join(_POLL_SECONDS)
        if self._failed is not None:
            raise self._failed

    def _make(self, folder: Path) -> None:
        try:
            environment = self._get(folder, cancelled=lambda: self._over.is_set() or self._cancelled())
        except BuildFailed as error:
            self._failed = error
        except Exception as error:  # noqa: BLE001 - it is tried again, and reported then
            _log.debug("an environment was not made early", why=str(error))
        else:
            self.callback(environment.close)


def cache_folder(settings: CacheSettings) -> Path:
    """Return the folder of models and environments."""
    if settings.folder is not None:
        return Path(settings.folder).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "prinz-enricher"
