"""The MLmodel files of the versions: read once each, several at a time, and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog

from prinz_enricher.catalog.snapshot import ModelFile
from prinz_enricher.registry.client import RegistryClient
from prinz_enricher.registry.entities import READY, ModelVersion
from prinz_enricher.registry.errors import RegistryError, RegistryRefused, RegistryUnreachable
from prinz_enricher.signature.mlflow_json import read_signature
from prinz_enricher.signature.types import Origin, SignatureError

MAX_UNREACHABLE = 8
"""After how many requests without an answer, one after the other, the others wait for the next refresh."""

_log = structlog.get_logger(__name__)

_Key = tuple[str, str, str]


class ModelFiles:
    """Reads MLmodel files and keeps what they hold, by name, number and source of the version."""

    def __init__(self, client: RegistryClient, threads: int = 8) -> None:
        """Read nothing yet.

        Args:
            client: Where to read them.
            threads: How many to read at once.
        """
        self._client = client
        self._threads = threads
        self._kept: dict[_Key, ModelFile] = {}

    def read(
        self, versions: Iterable[ModelVersion], stopped: Callable[[], bool] = lambda: False
    ) -> Mapping[tuple[str, str], ModelFile]:
        """Read the files that are not known yet, and forget those of versions that are gone.

        A file that can't be read for a passing reason is a fault of its version now, and is tried again next time.

        Args:
            versions: All versions of the registry; only those that are READY are looked at.
            stopped: Whether to read no more.

        Returns:
            What each READY version's file holds, by name and number.
        """
        ready = {
            (version.name, version.version, version.source): version for version in versions if version.status == READY
        }
        kept = {key: file for key, file in self._kept.items() if key in ready}
        wanted = [(key, version) for key, version in ready.items() if key not in kept]
        passing: dict[_Key, ModelFile] = {}
        breaker = _Breaker(MAX_UNREACHABLE)

        def read_one(key: _Key, version: ModelVersion) -> None:
            if stopped() or breaker.open:
                passing[key] = ModelFile(None, fault="was not read yet")
                return
            try:
                kept[key] = self._read_file(version)
                breaker.record(reached=True)
            except RegistryError as error:
                breaker.record(reached=not isinstance(error, RegistryUnreachable))
                fault = _fault(error)
                (passing if error.transient else kept)[key] = ModelFile(None, fault=fault)
                _log.warning("version can't be read", model=version.name, version=version.version, fault=fault)

        if wanted:
            with ThreadPoolExecutor(min(self._threads, len(wanted)), thread_name_prefix="mlmodel") as pool:
                # The list asks each for its result, so that an error of ours is not lost.
                list(pool.map(lambda pair: read_one(*pair), wanted))
        self._kept = kept
        return {(name, number): file for (name, number, _), file in (kept | passing).items()}

    def _read_file(self, version: ModelVersion) -> ModelFile:
        mlmodel = self._client.mlmodel(version)
        listed = mlmodel.get("flavors")
        flavors = tuple(sorted(str(flavor) for flavor in listed)) if isinstance(listed, Mapping) else ()
        try:
            signature = read_signature(mlmodel)
        except SignatureError as error:
            return ModelFile(None, flavors, f"has a signature that can't be read: {error}")
        fault = "has no signature" if signature.origin is Origin.MISSING else ""
        return ModelFile(signature, flavors, fault)


class _Breaker:
    """Opens when a registry has given no answer several times in a row, so that a frozen one holds no refresh long."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        return self._failures >= self._limit

    def record(self, *, reached: bool) -> None:
        with self._lock:
            self._failures = 0 if reached else self._failures + 1


def _fault(error: RegistryError) -> str:
    if isinstance(error, RegistryRefused) and error.missing:
        return "has no MLmodel file where the registry says that it is"
    return f"can't be read{' now' if error.transient else ''}: {error}"
