"""The models of registries on disk: downloaded once, from the registry itself or by a short-lived process.

The process has MLflow's clients of all stores, and the credentials. To import the clients takes seconds, so that it is
forked from one that has done so and stays for a while; that one has no credentials.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from prinz_enricher.provision.errors import Cancelled, FetchFailed
from prinz_enricher.provision.forks import ForkServer, can_fork
from prinz_enricher.provision.local_copy import copy_local
from prinz_enricher.provision.program import Ended, run_program
from prinz_enricher.provision.shelf import Lease, Shelf, never, remove_tree
from prinz_enricher.provision.steps import tell_step
from prinz_enricher.provision.turns import Turns
from prinz_enricher.provision.variables import worker_variables
from prinz_enricher.registry.errors import RegistryError
from prinz_enricher.registry.words import hidden

MOST_FETCHES = 2
"""Downloads at once by processes of this one."""

MOST_DIRECT_FETCHES = 4
"""Downloads at once by this process itself."""

_IMPORTS = (
    *("mlflow.artifacts", "mlflow.store.artifact.s3_artifact_repo", "boto3"),
    *("mlflow.store.artifact.models_artifact_repo", "mlflow.store.artifact.databricks_models_artifact_repo"),
)
_IDLE_SECONDS = 120.0
"""After how long without a download the process ends that they are forked from."""

_PERCENT_STEP = 5
_MODEL = "model"
_DOWNLOAD = "download"
_TEMPORARY = "tmp"

_TURNS = Turns(MOST_FETCHES)
_DIRECT_TURNS = Turns(MOST_DIRECT_FETCHES)

Download = Callable[[str, Path, int, Callable[[int, int], object]], bool]
"""Downloads the folder of a URI into another one that it makes, where that may have so many bytes; and calls the last
argument again and again with the bytes that it has and all of them, which raises once it is to end. False, with nothing
made, where it can't, and the process is to."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model version it is.

    Attributes:
        registry: The registry's tracking URI, as MLflow's client takes it.
        name: The registered model's name.
        version: Its version.
        fingerprint: Differs where another model has come to be under the same name and version.
        origin: Which registry it is, the same wherever it listens; `registry` by default.
    """

    registry: str
    name: str
    version: str
    fingerprint: str
    origin: str = ""

    @property
    def key(self) -> str:
        """The digest of all that tells it from others."""
        told = (self.origin or self.registry, self.name, self.version, self.fingerprint)
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


class ModelCache:
    """Model versions on disk, for all processes of a machine."""

    def __init__(self, folder: Path, *, max_bytes: int, max_model_bytes: int, timeout: float) -> None:
        """Touch nothing yet.

        Args:
            folder: Where they are.
            max_bytes: How large all may be together before those that nobody uses are removed.
            max_model_bytes: How large one may be.
            timeout: Seconds that one download may take.
        """
        self._shelf = Shelf(folder, max_bytes=max_bytes)
        self._max_model_bytes = max_model_bytes
        self._timeout = timeout
        self._server = (
            ForkServer("fetcher", _IMPORTS, lambda place: worker_variables(os.environ, place, ()), idle=_IDLE_SECONDS)
            if can_fork()
            else None
        )

    def get(
        self,
        source: ModelSource,
        uri: Callable[[], str],
        variables: Callable[[Path], Mapping[str, str]],
        *,
        download: Download = lambda *_: False,
        cancelled: Callable[[], bool] = never,
    ) -> Lease:
        """Get a model version, and download it where it is not there; blocks.

        Args:
            source: Which.
            uri: Gives the URI of the folder with its files, where no other server than the registry gets credentials.
                It is called once; what it raises is raised.
            variables: Gives all environment variables of the process that downloads it, credentials among them. It is
                called just before that, since a token does not live long, with the process's own temporary folder,
                which is gone afterwards; and not at all where there is no need of a process. What it raises is raised.
            download: Tried first. What it raises is raised; a RegistryError as FetchFailed.
            cancelled: Asked again and again while that lasts.

        Returns:
            A lease, to be closed, whose path is the folder with the MLmodel file.

        Raises:
            Cancelled: The caller cancelled.
            FetchFailed: It can't be downloaded.
            ShelfFault: The folder can't be used, or the disk is full.
        """

        def fill(folder: Path) -> None:
            tell_step("downloading the model")
            with _DIRECT_TURNS.take(cancelled):
                place = uri()
                if self._fetched_directly(source, place, download, folder, cancelled):
                    return
            with _TURNS.take(cancelled):
                self._fetch(source, place, variables, folder, cancelled)

        return self._shelf.acquire(source.key, fill, cancelled=cancelled, check=True).at(_MODEL)

    def _fetched_directly(
        self, source: ModelSource, uri: str, download: Download, folder: Path, cancelled: Callable[[], bool]
    ) -> bool:
        """Download a model without a process, where that can be done."""
        started, told = time.monotonic(), 0

        def watch(done: int, total: int) -> None:
            nonlocal told
            if cancelled():
                raise Cancelled
            if time.monotonic() - started > self._timeout:
                raise self._too_slow()
            percent = min(100 * done // total, 100) if total else 0
            if percent >= told + _PERCENT_STEP:
                told = percent - percent % _PERCENT_STEP
                tell_step(f"downloading the model: {told} %")

        try:
            made = folder / _MODEL
            if not (
                download(uri, made, self._max_model_bytes, watch) or copy_local(uri, made, self._max_model_bytes, watch)
            ):
                return False
        except RegistryError as exc:
            raise FetchFailed(f"the download failed: {exc}", may_pass=exc.transient) from exc
        _tell_end(source, time.monotonic() - started)
        return True

    def _too_slow(self) -> FetchFailed:
        return FetchFailed(f"the download took longer than {self._timeout:g} s", may_pass=True)

    def _fetch(
        self,
        source: ModelSource,
        uri: str,
        variables: Callable[[Path], Mapping[str, str]],
        folder: Path,
        cancelled: Callable[[], bool],
    ) -> None:
        download, temporary = folder / _DOWNLOAD, folder / _TEMPORARY
        download.mkdir()
        temporary.mkdir()
        environment = {**variables(temporary), "TMPDIR": str(temporary)}
        asked = {
            "registry": source.registry,
            "uri": uri,
            "folder": str(download),
            "max_bytes": self._max_model_bytes,
        }
        try:
            ended = run_program(
                [sys.executable, "-P", "-m", "prinz_enricher.provision.fetch.download", "--parent", str(os.getpid())],
                environment,
                temporary,
                what="fetch",
                input=json.dumps(asked).encode() + b"\n",
                server=self._server,
                timeout=self._timeout,
                cancelled=cancelled,
            )
        except TimeoutError as exc:
            raise self._too_slow() from exc
        found = (download / _path(ended)).resolve()
        if not found.is_relative_to(download.resolve()):
            raise FetchFailed("the model was not downloaded into the folder for it")
        found.rename(folder / _MODEL)
        remove_tree(download)
        remove_tree(temporary)
        _tell_end(source, ended.seconds)


def _tell_end(source: ModelSource, seconds: float) -> None:
    _log.info("a model was downloaded", model=source.name, version=source.version, seconds=round(seconds, 3))


def _path(ended: Ended) -> str:
    """Read where the model is from what the process answered."""
    try:
        answer = json.loads(ended.output)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("path"), str):
        return str(answer["path"])
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        raise FetchFailed(f"the download failed: {hidden(answer['error'])}", may_pass=answer.get("may_pass") is True)
    how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    raise FetchFailed(f"the process that downloads models ended without an answer ({how})", may_pass=True)
