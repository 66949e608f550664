"""Model servers, and clients with them."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from prinz_enricher.config import EndpointSettings
from prinz_enricher.registry.auth import Access
from prinz_enricher.scoring.remote.endpoint_client import EndpointClient
from tests.support.model_server import ModelServer

Open = Callable[..., EndpointClient]


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A model server that answers as a test tells it to."""
    with ModelServer() as server:
        yield server


@pytest.fixture
def other_server() -> Iterator[ModelServer]:
    """Another one."""
    with ModelServer() as server:
        yield server


@pytest.fixture
def open_client() -> Iterator[Open]:
    """Opens clients with servers, and closes them in the end."""
    with ExitStack() as opened:

        def open_one(*servers: ModelServer | str, access: Access | None = None, **keys: object) -> EndpointClient:
            urls = tuple(server if isinstance(server, str) else server.url for server in servers)
            # Unchecked: some limits are beyond what the settings allow.
            endpoint = EndpointSettings.model_construct(urls=urls, **keys)  # type: ignore[arg-type]
            client = EndpointClient(endpoint, access or Access(urls[0]), chance=lambda: 0.0)
            return opened.enter_context(closing(client))

        yield open_one


def ask(client: EndpointClient, seconds: float = 20.0, path: str = "/invocations", content: bytes = b"{}") -> bytes:
    """Ask for predictions within so many seconds."""
    return client.post(path, content, "application/json", deadline=time.monotonic() + seconds)
