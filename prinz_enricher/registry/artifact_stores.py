"""Reads MLmodel files from stores such as S3, where a server says that its models are, but does not hand them out.

That is done by a process that has the stores' clients and credentials.
"""

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

from prinz_enricher.registry.registry_errors import (
    MlmodelUnreadable,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
)

# Of the stores that are read; never local files, nor other hosts by HTTP: a registry is not trusted.
SCHEMES = frozenset({"s3", "gs", "abfss", "wasbs"})
_PAUSE_SECONDS = 5.0
_MAX_ANSWER_BYTES = 16 * 1024 * 1024


class StoreReader:
    """Reads MLmodel files one after the other; thread-safe.

    The process is started when it is first needed, with the variables of `environment`. One file may take `timeout`
    seconds, the start of the process included.
    """

    def __init__(self, environment: Callable[[], Mapping[str, str]], *, timeout: float = 20.0) -> None:
        self._environment = environment
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._paused_until = 0.0

    @staticmethod
    def reads(uri: str) -> bool:
        """Return whether a URI is in a store that is read."""
        try:
            return urlsplit(uri).scheme in SCHEMES
        except ValueError:
            return False

    def read(self, uri: str) -> bytes:
        """Read the MLmodel file of a folder.

        Raises RegistryUnreachable if the store gives no answer, RegistryRefused if it has no such file (404) or refuses
        it (403), and MlmodelUnreadable if this service can't read it.
        """
        with self._lock:
            answer = self._ask(uri)
        content = answer.get("content")
        if isinstance(content, str):
            return base64.b64decode(content)
        raise _error(uri, answer)

    def close(self) -> None:
        """Stop the process."""
        with self._lock:
            self._stop()

    def _ask(self, uri: str) -> Mapping[str, object]:
        if time.monotonic() < self._paused_until:
            raise RegistryUnreachable("the store of its files gave no answer just now")
        question = json.dumps({"uri": uri}).encode() + b"\n"
        # A process that was idle ends by itself; then another one is asked.
        for _ in range(2):
            process = self._start()
            if process.stdin is None or process.stdout is None:
                break
            try:
                process.stdin.write(question)
                process.stdin.flush()
            except OSError:
                self._stop()
                continue
            if not select.select([process.stdout], [], [], self._timeout)[0]:
                self._stop()
                # Those who waited for their turn meanwhile do not each wait as long again.
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                raise RegistryUnreachable(f"no answer of the store of its files within {self._timeout:g} s")
            if line := process.stdout.readline(_MAX_ANSWER_BYTES):
                answer = json.loads(line)
                return answer if isinstance(answer, dict) else {}
            self._stop()
        raise RegistryUnreachable("the process that reads the store of its files ends at once")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "prinz_enricher.provision.fetch", "mlmodels"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self._environment()),
                start_new_session=True,
            )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # Closes the pipes, too, and reaps it.
            process.communicate()


def _error(uri: str, answer: Mapping[str, object]) -> RegistryError:
    store = f"the store of its files ({urlsplit(uri).scheme})"
    why = str(answer.get("error", "no answer"))[:200]
    match answer.get("kind"):
        case "missing":
            return RegistryRefused(f"{store} does not have it", HTTPStatus.NOT_FOUND)
        case "refused":
            return RegistryRefused(f"{store} does not let us in", HTTPStatus.FORBIDDEN)
        case "unreadable":
            return MlmodelUnreadable(f"{store} can't be read by this service: {why}")
        case _:
            return RegistryUnreachable(f"{store} gives no answer: {why}")
