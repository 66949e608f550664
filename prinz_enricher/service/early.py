"""Begins to make a model's environment while the model is still being downloaded."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from prinz_enricher.provision.environments import Environments
from prinz_enricher.provision.errors import BuildFailed, Cancelled
from prinz_enricher.provision.loaders import check_loader
from prinz_enricher.provision.progress import report_step

_POLL_SECONDS = 0.05

_log = structlog.stdlib.get_logger(__name__)


class EarlyEnvironment(ExitStack):
    """One try; where it was too early, what is asked for afterwards decides. It ends with its context."""

    def __init__(
        self, environments: Environments, allowed: tuple[str, ...], mode: str, cancelled: Callable[[], bool]
    ) -> None:
        """Begin nothing yet.

        Args:
            environments: Makes it.
            allowed: Modules that may load a model; with another one nothing is made.
            mode: As `Environments.get` takes it.
            cancelled: As there.
        """
        super().__init__()
        self._environments = environments
        self._allowed = allowed
        self._mode = mode
        self._cancelled = cancelled
        self._over = threading.Event()
        self._failed: BuildFailed | None = None
        self._thread = threading.Thread(target=lambda: None)

    def begin(self, folder: Path) -> None:
        """Begin, with the files of a model that tell its loader and what it needs.

        Raises:
            ProvisionError: Its loader is not allowed, or not told.
        """
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
        """Wait for its end.

        Raises:
            BuildFailed: It can't be built, and would not be after another time that it takes to find that out.
            Cancelled: The caller does not wait any more.
        """
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
            environment = self._environments.get(
                folder, mode=self._mode, cancelled=lambda: self._over.is_set() or self._cancelled()
            )
        except BuildFailed as error:
            self._failed = error
        except Exception as error:  # noqa: BLE001 - it is tried again, and told then
            _log.debug("an environment was not made early", why=str(error))
        else:
            self.callback(environment.close)
