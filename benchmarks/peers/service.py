"""Our service as its users start it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from benchmarks.peers.models import NAMES
from benchmarks.peers.processes import free_port
from benchmarks.peers.roster import Place, Running


@contextlib.contextmanager
def service(place: Place, registry: str, front: Literal["rust", "grpcio"], **variables: str) -> Iterator[Running]:
    """Run `prinz-enricher serve` until the end of the block, with settings as they are by default.

    Args:
        place: Where it runs.
        registry: URL of the MLflow server with the models.
        front: What speaks gRPC.
        variables: More environment variables.
    """
    port = free_port()
    # Its workers' environment is its own here; uv's cache stays where it is for whatever it has to build.
    uv_cache = os.environ.get("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser()))
    environment = {
        "XDG_CACHE_HOME": str(place.folder / "cache"),
        "UV_CACHE_DIR": uv_cache,
        "PRINZ_SERVER__FRONT": front,
    }
    command = [
        *(sys.executable, "-m", "prinz_enricher.cli", "serve", "--registry", registry),
        *("--port", str(port), "--log-format", "json"),
    ]
    with place.server(command, variables=environment | variables) as server:
        yield Running((server,), dict.fromkeys(NAMES, f"127.0.0.1:{port}"))
