"""Reads MLmodel files from stores such as S3, through a process that has the stores' clients and credentials.

It is asked only where the registry itself does not hand a file out: many a server knows where its models are, but lets
its clients read them there.
"""

from __future__ import annotations

import base64
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from prinz_enricher.registry.errors import MlmodelUnreadable, RegistryError, RegistryRefused, RegistryUnreachable

SCHEMES = frozenset({"s3", "gs", "abfss", "wasbs"})
"""Stores that are read; never local files, nor other hosts by HTTP: a registry can lie."""

_SILENCE_SECONDS = 5.0
_MAX_ANSWER = 16 * 1024 * 1024


class StoreReader:
    """Reads MLmodel files, one after the other; any thread may ask. The process is started when it is first needed."""

    def __init__(self, environment: Callable[[], Mapping[str, str]], *, timeout: float = 20.0) -> None:
        """Start nothing yet.

        Args:
            environment: Gives the environment variables of the process, with the stores' credentials.
            timeout: Seconds that one file may take, the start of the process included.
        """
        self._environment = environment
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._silent_until = 0.0

    @staticmethod
    def reads(uri: str) -> bool:
        """Tell whether a place is in a store that is read."""
        try:
            return urlsplit(uri).scheme in SCHEMES
        except ValueError:
            return False

    def read(self, uri: str) -> bytes:
        """Read the MLmodel file of a folder.

        Args:
            uri: Of the folder.

        Raises:
            RegistryUnreachable: The store gives no answer.
            RegistryRefused: It has no such file (404), or does not hand it out (403).
            MlmodelUnreadable: It can't be read by this service.
        """
        with self._lock:
            answer = self._ask(uri)
        content = answer.get("content")
        if isinstance(content, str):
            return base64.b64decode(content)
        raise _fault(uri, answer)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, uri: str) -> Mapping[str, object]:
        if time.monotonic() < self._silent_until:
            raise RegistryUnreachable("the store of its files gave no answer just now")
        question = json.dumps({"uri": uri}).encode() + b"\n"
        # It ends by itself when it was idle; then another one is asked.
        for _ in range(2):
            process = self._running()
            try:
                process.stdin.write(question)  # type: ignore[union-attr]  # there are pipes
                process.stdin.flush()  # type: ignore[union-attr]
            except OSError:
                self._end()
                continue
            line = self._line(process)
            if line:
                answer = json.loads(line)
                return answer if isinstance(answer, dict) else {}
            self._end()
        raise RegistryUnreachable("the process that reads the store of its files ends at once")

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """Return the next line; empty where the process has ended."""
        if process.stdout is None or not select.select([process.stdout], [], [], self._timeout)[0]:
            self._end()
            # Those who waited for their turn meanwhile do not each wait as long again.
            self._silent_until = time.monotonic() + _SILENCE_SECONDS
            raise RegistryUnreachable(f"no answer of the store of its files within {self._timeout:g} s")
        return process.stdout.readline(_MAX_ANSWER)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "prinz_enricher.provision.fetch", "mlmodels"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self._environment()),
                start_new_session=True,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # Closes the pipes, too, and reaps it.
            process.communicate()


def _fault(uri: str, answer: Mapping[str, object]) -> RegistryError:
    scheme = urlsplit(uri).scheme
    why = str(answer.get("error", "no answer"))[:200]
    match answer.get("kind"):
        case "missing":
            return RegistryRefused(f"the store of its files ({scheme}) does not have it", HTTPStatus.NOT_FOUND)
        case "refused":
            return RegistryRefused(f"the store of its files ({scheme}) does not let us in", HTTPStatus.FORBIDDEN)
        case "unreadable":
            return MlmodelUnreadable(f"the store of its files ({scheme}) can't be read by this service: {why}")
        case _:
            return RegistryUnreachable(f"the store of its files ({scheme}) gives no answer: {why}")
