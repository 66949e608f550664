"""Model servers, and exchanges with them."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from prinz_enricher.registry.auth import Access
from prinz_enricher.scoring.remote import Answer, Endpoint, Exchange
from tests.support.model_server import ModelServer

Open = Callable[..., Exchange]


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
def open_exchange() -> Iterator[Open]:
    """Opens exchanges with servers, and closes them in the end."""
    with ExitStack() as opened:

        def open_one(*servers: ModelServer | str, access: Access | None = None, **keys: object) -> Exchange:
            urls = tuple(server if isinstance(server, str) else server.url for server in servers)
            endpoint = Endpoint(urls, **keys)  # type: ignore[arg-type]
            return opened.enter_context(Exchange(endpoint, access or Access(urls[0]), chance=lambda: 0.0))

        yield open_one


def ask(exchange: Exchange, seconds: float = 20.0, path: str = "/invocations", content: bytes = b"{}") -> Answer:
    """Ask for predictions within so many seconds."""
    return exchange.post(path, content, "application/json", deadline=time.monotonic() + seconds)
