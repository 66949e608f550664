"""The process that is fuzzed: the real service behind the real front, over models that echo.

Prints its port, and ends when its standard input does. Run as `python -m tests.fuzz.server FRONT`.
"""

from __future__ import annotations

import faulthandler
import logging
import resource
import sys
from typing import Any, cast

import click

from prinz_enricher.catalog import CatalogVersion, Snapshot, Union
from prinz_enricher.catalog.publisher import Listener, Watch
from prinz_enricher.cli.process_setup import block_imports, use_libc_allocator
from prinz_enricher.config import MIB, ServerSettings, Settings
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.fronts.grpc import open_front
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.service.targets import Targets
from prinz_enricher.telemetry.logs import configure_logging
from tests.fuzz.models import MAX_ROWS, REGISTRY, function_of, signatures, snapshot
from tests.support.inline_pool import InlinePool

MAX_MEMORY = 8 * 1024 * MIB
"""Bytes of address space: a request that takes more is a fault of the service, and should not take the machine too."""


class StillCatalog(Union):
    """A catalog that never changes."""

    def __init__(self, content: Snapshot) -> None:
        super().__init__([])
        self.publish(content)

    def url_of(self, version: CatalogVersion) -> str:
        """Return the one registry there is."""
        return REGISTRY

    def watch(self, token: str, listener: Listener) -> Watch:
        """Refuse: nothing changes, and nobody asks here."""
        raise RegistryUnavailable(REGISTRY, "nothing is watched here", 1.0)

    def age(self) -> float:
        """Return how old it is."""
        return 0.0


def main() -> None:
    """Serve until standard input ends."""
    # As `prinz-enricher serve` does.
    block_imports("pandas")
    use_libc_allocator()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    # Where native code crashes, the log tells under which line of Python.
    faulthandler.enable()
    configure_logging("error", "json")
    # One of the models raises all the time.
    logging.getLogger("tests.support.inline_pool").setLevel(logging.CRITICAL)
    pool = InlinePool(function_of, PoolSettings(max_workers=2 * len(signatures())))
    catalog = StillCatalog(snapshot())
    service = EnricherService(
        catalog, pool, Targets(catalog, pool, Settings.load({}, environment={})), Limits(MAX_ROWS, 128 * 1024 * 1024)
    )
    front = open_front(
        ServerSettings(front=cast("Any", sys.argv[1]), port=0, max_message_bytes=64 * MIB, max_calls=1000)
    )
    click.echo(front.start(service.handle, service.open_source))
    sys.stdin.read()
    front.drain(1.0)
    service.close()
    pool.close(1.0)


if __name__ == "__main__":
    main()
