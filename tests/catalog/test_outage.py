"""A real MLflow server that is killed, frozen and started again: what is known goes on, and the catalog recovers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prinz_enricher.catalog import Catalog, paginate, resolve, scorable
from prinz_enricher.registry import RegistryClient
from tests.support.deadline import wait_until
from tests.support.mlflow_server import MlflowServer
from tests.support.registry_writer import RegistryWriter

pytestmark = pytest.mark.slow


@contextmanager
def calling_all_the_time(catalog: Catalog) -> Iterator[list[str]]:
    """Ask for lists and signatures all the time; give what failed."""
    assert catalog.ready.wait(30)
    ended = threading.Event()
    failed: list[str] = []
    asked = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                page = paginate(catalog.snapshot(), find=catalog.find)
                assert "steady" in {model.name for model in page.models}
                assert scorable(resolve(catalog.snapshot(), "steady", alias="champion")).signature is not None
                asked.set()
            except Exception as error:  # noqa: BLE001 - whatever it is, a caller would have seen it
                failed.append(repr(error))
            ended.wait(0.005)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(20)
    try:
        yield failed
    finally:
        ended.set()
        thread.join()


def test_outages(tmp_path: Path, unused_tcp_port: int) -> None:
    """Killed, started again, frozen: no call fails, the state says so, and what is new shows without a restart."""
    with (
        MlflowServer(tmp_path, unused_tcp_port) as server,
        RegistryWriter(server.url, server.database, server.artifacts) as writer,
        RegistryClient(server.url, timeout=1.0) as client,
    ):
        writer.create_model("steady")
        writer.create_version("steady")
        writer.set_alias("steady", "champion", "1")
        with Catalog(client, refresh_interval=0.1) as catalog, calling_all_the_time(catalog) as failed:
            server.kill()
            wait_until(lambda: catalog.state().failures_in_row >= 2)
            assert catalog.stale
            server.start()
            writer.create_model("after the kill")
            wait_until(lambda: "after the kill" in catalog.snapshot().models, 100)

            looks = catalog.state().refreshes
            server.freeze()
            wait_until(lambda: catalog.stale and catalog.state().refreshes > looks + 1)
            server.thaw()
            writer.create_model("after the frost")
            wait_until(lambda: "after the frost" in catalog.snapshot().models and not catalog.stale, 100)
            assert catalog.age() < 60
        assert failed == []
