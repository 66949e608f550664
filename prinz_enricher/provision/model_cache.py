"""The models of registries on disk: downloaded once, by this process where it can, else by a short-lived one.

That one runs `fetch` with the credentials, and is forked by a server without any, which has imported MLflow's clients.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from prinz_enricher.provision.child_process import ForkServer, ProgramResult, can_fork, run_program
from prinz_enricher.provision.disk_cache import DiskCache, Lease, remove_tree
from prinz_enricher.provision.progress import acquired, report_step
from prinz_enricher.provision.provision_errors import Cancelled, DownloadFailed
from prinz_enricher.provision.variables import worker_variables
from prinz_enricher.registry.registry_errors import RegistryError, redact

_IMPORTS = (
    *("mlflow.artifacts", "mlflow.store.artifact.s3_artifact_repo", "boto3"),
    *("mlflow.store.artifact.models_artifact_repo", "mlflow.store.artifact.databricks_models_artifact_repo"),
)
_IDLE_SECONDS = 120.0
_PERCENT_STEP = 5
_MODEL = "model"
# Downloads at once.
_PROCESS_SLOTS = threading.BoundedSemaphore(2)
_DIRECT_SLOTS = threading.BoundedSemaphore(4)
# Called again and again with the bytes that are there and those of all files; what it raises ends the download.
Watch = Callable[[int, int], object]
# Downloads the folder of a URI into one that it makes, of a limited number of bytes. Returns False, with nothing made,
# where it can't, and the short-lived process is to.
Download = Callable[[str, Path, int, Watch], bool]
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model version of a registry, by its tracking URI; `origin` identifies that wherever it listens.

    The fingerprint differs where another model has come to be under the same name and version.
    """

    registry: str
    name: str
    version: str
    fingerprint: str
    origin: str = ""

    @property
    def key(self) -> str:
        """The digest of all that distinguishes it."""
        identity = (self.origin or self.registry, self.name, self.version, self.fingerprint)
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


class ModelCache:
    """Model versions on disk, for all processes of a machine; one download may take `timeout` seconds.

    One model may have `max_model_bytes`; beyond `max_bytes` of all together unused ones are removed.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_model_bytes: int, timeout: float) -> None:
        self._cache = DiskCache(folder, max_bytes=max_bytes)
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
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Lease:
        """Return a lease on the folder with the MLmodel file of a version, which is downloaded if missing; blocks.

        `uri` is called once for the URI of the folder with its files, where no other server than the registry gets
        credentials. `download` is tried first. If a process is needed, `variables` returns all its environment
        variables, for its temporary folder, just before it starts, since a token does not live long. Raises Cancelled,
        DownloadFailed, also for a RegistryError of `download`, CacheUnusable, and what else these three raise.
        """

        def fill(folder: Path) -> None:
            report_step("downloading the model")
            with acquired(_DIRECT_SLOTS, cancelled):
                place, started = uri(), time.monotonic()
                done = self._download_directly(place, download, folder / _MODEL, cancelled)
            if not done:
                with acquired(_PROCESS_SLOTS, cancelled):
                    started = time.monotonic()
                    self._download_by_process(source.registry, place, variables, folder, cancelled)
            seconds = round(time.monotonic() - started, 3)
            _log.info("a model was downloaded", model=source.name, version=source.version, seconds=seconds)

        lease = self._cache.acquire(source.key, fill, cancelled=cancelled, check=True)
        return dataclasses.replace(lease, path=lease.path / _MODEL)

    def _download_directly(self, uri: str, download: Download, folder: Path, cancelled: Callable[[], bool]) -> bool:
        started, reported = time.monotonic(), 0

        def watch(done: int, total: int) -> None:
            nonlocal reported
            if cancelled():
                raise Cancelled
            if time.monotonic() - started > self._timeout:
                raise self._timed_out()
            percent = min(100 * done // total, 100) if total else 0
            if percent >= reported + _PERCENT_STEP:
                reported = percent - percent % _PERCENT_STEP
                report_step(f"downloading the model: {reported} %")

        try:
            limit = self._max_model_bytes
            return download(uri, folder, limit, watch) or copy_local(uri, folder, limit, watch)
        except RegistryError as exc:
            raise DownloadFailed(f"the download failed: {exc}", may_pass=exc.transient) from exc

    def _timed_out(self) -> DownloadFailed:
        return DownloadFailed(f"the download took longer than {self._timeout:g} s", may_pass=True)

    def _download_by_process(
        self,
        registry: str,
        uri: str,
        variables: Callable[[Path], Mapping[str, str]],
        folder: Path,
        cancelled: Callable[[], bool],
    ) -> None:
        target, temporary = folder / "download", folder / "tmp"
        target.mkdir()
        temporary.mkdir()
        request = {"registry": registry, "uri": uri, "folder": str(target), "max_bytes": self._max_model_bytes}
        command = [sys.executable, "-P", "-m", "prinz_enricher.provision.fetch", "download"]
        try:
            result = run_program(
                [*command, "--parent", str(os.getpid())],
                {**variables(temporary), "TMPDIR": str(temporary)},
                temporary,
                what="fetch",
                input=json.dumps(request).encode() + b"\n",
                server=self._server,
                timeout=self._timeout,
                cancelled=cancelled,
            )
        except TimeoutError as exc:
            raise self._timed_out() from exc
        found = (target / _read_path(result)).resolve()
        if not found.is_relative_to(target.resolve()):
            raise DownloadFailed("the model was not downloaded into the folder for it")
        found.rename(folder / _MODEL)
        remove_tree(target)
        remove_tree(temporary)


def _read_path(result: ProgramResult) -> str:
    """Read from the answer of the process where the model is."""
    try:
        answer = json.loads(result.output)
    except ValueError:
        answer = None
    match answer:
        case {"path": str(path)}:
            return path
        case {"error": str(error), **more}:
            raise DownloadFailed(f"the download failed: {redact(error)}", may_pass=more.get("may_pass") is True)
    how = f"signal {-result.code}" if result.code < 0 else f"exit code {result.code}"
    raise DownloadFailed(f"the process that downloads models ended without an answer ({how})", may_pass=True)


def copy_local(uri: str, target: Path, max_bytes: int, watch: Watch) -> bool:
    """Copy a model's folder on this machine, given as a path or by the scheme `file`; see `Download`.

    Left to MLflow's client: what is not a model, can't be read, or holds anything but files and folders.
    Raises DownloadFailed where it is too large.
    """
    source = local_path(uri)
    if source is None or not (source / "MLmodel").is_file():
        return False
    sizes: dict[Path, int] = {}
    folders: list[Path] = []
    for root, inner, files in os.walk(source):
        folders.append(Path(root).relative_to(source))
        for path in (Path(root) / name for name in (*inner, *files)):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
                sizes[path.relative_to(source)] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                return False
    total, done = sum(sizes.values()), 0
    if total > max_bytes:
        limit = f"{max_bytes} bytes of cache.max_model_bytes"
        raise DownloadFailed(f"the download failed: the model is larger than the {limit}")
    for folder in folders:
        (target / folder).mkdir(mode=0o700)
    for relative, size in sizes.items():
        watch(done, total)
        shutil.copyfile(source / relative, target / relative, follow_symlinks=False)
        done += size
    return True


def local_path(uri: str) -> Path | None:
    """Return the path of a folder on this machine, given as such or by the scheme `file`; else None."""
    if not uri.startswith("/"):
        parts = urlsplit(uri)
        uri = unquote(parts.path) if parts.scheme == "file" and parts.netloc in ("", "localhost") else ""
    return Path(uri) if uri.startswith("/") else None
