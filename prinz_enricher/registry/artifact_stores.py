"""Reads MLmodel files from stores such as S3, where a server says that its models are, but does not hand them out.

That is done by a process that has the stores' clients and credentials.
"""

import base64
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from prinz_enricher.registry.line_process import LineProcess
from prinz_enricher.registry.registry_errors import (
    MlmodelUnreadable,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
)

# Of the stores that are read; never local files, nor other hosts by HTTP: a registry is not trusted.
SCHEMES = frozenset({"s3", "gs", "abfss", "wasbs"})
_SEE = "see its address and credentials in the service's environment"


class StoreReader:
    """Reads MLmodel files one after the other; thread-safe.

    The process is started when it is first needed, with the variables of `environment`. One file may take `timeout`
    seconds, the start of the process included.
    """

    def __init__(self, environment: Callable[[], Mapping[str, str]], *, timeout: float = 20.0) -> None:
        module = ("prinz_enricher.provision.fetch", "mlmodels")
        self._process = LineProcess(module, environment, what="the store of its files", timeout=timeout)

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
        answer = self._process.ask({"uri": uri})
        content = answer.get("content")
        if isinstance(content, str):
            return base64.b64decode(content)
        raise _error(uri, answer)

    def close(self) -> None:
        """Stop the process."""
        self._process.close()


def _error(uri: str, answer: Mapping[str, object]) -> RegistryError:
    store = f"the store of its files ({urlsplit(uri).scheme})"
    why = str(answer.get("error", "no answer"))[:200]
    match answer.get("kind"):
        case "missing":
            return RegistryRefused(f"{store} does not have it", HTTPStatus.NOT_FOUND)
        case "refused":
            return RegistryRefused(f"{store} does not let us in; {_SEE}", HTTPStatus.FORBIDDEN)
        case "unreadable":
            return MlmodelUnreadable(f"{store} can't be read by this service: {why}")
        case _:
            return RegistryUnreachable(f"{store} gives no answer: {why}; {_SEE}")
