"""Waiting for a model that is being loaded, and saying meanwhile what is being done."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

import click
import grpc

from prinz_enricher.cli.tables import printable
from prinz_enricher.client import Client, ModelReference, ServiceError
from prinz_enricher.contract import model_pb2

_POLL_SECONDS: Final = 1.0
_LOADING: Final = frozenset({model_pb2.ModelVersion.STATE_DISCOVERED, model_pb2.ModelVersion.STATE_LOADING})

NEXT_STEP: Final = (
    "  Name another version (NAME/version, NAME@alias), or mend what is told and call again after a while. "
    "`prinz-enricher models` shows the state of each version."
)

_R = TypeVar("_R")

wait_option = click.option(
    "--wait",
    default=1200.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds to wait while the model is being downloaded, gets its environment, and is loaded.",
)


class Patience:
    """Waits for one model.

    Attributes:
        model: Which version.

    Args:
        client: Asks the service.
        model: Which version, as the client takes it.
        seconds: How long to wait in all while it is being loaded.
        tell: Prints a line.
    """

    def __init__(self, client: Client, model: ModelReference | str, seconds: float, tell: Callable[[str], Any]) -> None:
        self._client = client
        self.model = model
        self._end = time.monotonic() + seconds
        self._tell = tell
        self._told = ""
        # A call that ends late is ended by the client's end.
        self._threads = ThreadPoolExecutor(1, "call")

    def call(self, ask: Callable[[], _R]) -> _R:
        """Make a call, and again for as long as the model is being loaded.

        Raises:
            ServiceError: It failed otherwise.
            click.ClickException: The model can't be loaded, or not in time.
        """
        while True:
            was_loading = False
            asked = self._threads.submit(ask)
            while not asked.done():
                wait([asked], _POLL_SECONDS)
                was_loading |= not asked.done() and self._is_loading()
            try:
                return asked.result()
            except ServiceError as error:
                says_so = error.reason == "MODEL_LOADING"
                if not says_so and error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                # Of a call that began before the model was loaded the time says nothing.
                if not self._is_loading() | was_loading | says_so:
                    raise
            time.sleep(_POLL_SECONDS)

    def _is_loading(self) -> bool:
        """Ask whether the version is being loaded, and tell what is new; a failed or late one ends the command."""
        found = self._version()
        if found is None:
            return False
        model, version = found
        name = printable(f"{model}/{version.version}")
        why = printable(version.state_message)
        if version.state == model_pb2.ModelVersion.STATE_FAILED:
            raise click.ClickException(f"{name} can't be served: {why}\n{NEXT_STEP}")
        if version.state not in _LOADING:
            return False
        line = f"{name}: {why or 'waiting until it is loaded'}"
        if time.monotonic() > self._end:
            raise click.ClickException(f"{line}. It was not loaded in time; --wait gives it more")
        if line != self._told:
            self._told = line
            self._tell(line)
        return True

    def _version(self) -> tuple[str, model_pb2.ModelVersion] | None:
        """Find the version in the list, with the name of its model."""
        for named in ModelReference.candidates(self.model) if isinstance(self.model, str) else (self.model,):
            quoted = named.name.replace("\\", "\\\\").replace('"', '\\"')
            for model in self._client.list_models(f'name = "{quoted}"'):
                wanted = named.version or (model.aliases.get(named.alias) if named.alias else model.default_version)
                return next(((model.name, version) for version in model.versions if version.version == wanted), None)
        return None
