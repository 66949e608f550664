"""The whole service over a real registry, once for all tests of this folder."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from prinz_enricher.application import Application
from prinz_enricher.client import Client
from prinz_enricher.config import Settings
from prinz_enricher.contract import enricher_service_pb2
from tests.support.running_service import LONG, Service
from tests.support.typed_model import register_typed_model


@pytest.fixture(scope="session")
def service(sample_registry: Any) -> Iterator[Service]:
    """The service before the sample models' registry."""
    settings = Settings.load(
        {
            "registry": {"url": sample_registry.url, "refresh_interval": 0.5},
            "server": {"port": 0, "grace_period": 5.0},
            "api": {"port": 0},
            # On a busy machine a call waits, instead of being OVERLOADED.
            "scoring": {"preload": ["MLF-*"], "max_batch_rows": 10_000, "max_wait": 60.0},
        },
        environment={},
    )
    application = Application(settings)
    port = application.start()
    try:
        assert application.ready.wait(30)
        yield Service(application, f"127.0.0.1:{port}", sample_registry.url)
    finally:
        application.stop()


@pytest.fixture(scope="session")
def stub(service: Service) -> Any:
    """The generated stub of the service."""
    return service.stub()


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Client]:
    """A client of the service."""
    with Client(service.address, timeout=LONG) as client:
        yield client


@pytest.fixture(scope="session")
def service_channel(service: Service) -> Iterator[grpc.Channel]:
    """A channel to the service, for raw bytes."""
    with service.channel() as channel:
        yield channel


@pytest.fixture(scope="session")
def typed_model(service: Service) -> str:
    """The name of a model that takes one required integer `n`, and gives twice as much."""
    register_typed_model(service.registry)
    limit = time.monotonic() + 30
    stub = service.stub()
    while time.monotonic() < limit:
        found = stub.ListModels(enricher_service_pb2.ListModelsRequest(filter='name = "typed"')).models
        # The catalog may be of the moment between the two steps of a registration.
        if found and found[0].versions:
            return "typed"
    raise AssertionError("a new model was not found")
