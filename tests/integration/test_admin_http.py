"""The admin HTTP server of a running service: its probes from start to end, and a real MLflow's webhooks."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prinz_enricher.application import Application
from prinz_enricher.client import Client
from prinz_enricher.config import ServerSettings, Settings
from prinz_enricher.security.access import AccessRules
from prinz_enricher.service.calls import CallHandler, CallLog, SourceOpener
from tests.conftest import RunningRegistry
from tests.support.deadline import wait_until
from tests.support.mlflow_server import MlflowServer
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import Service
from tests.support.serve_process import Serve, serve

pytestmark = pytest.mark.slow

WEBHOOK_VARIABLES = {
    # The webhook of these tests is on loopback, which MLflow would refuse by default.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
}
SECRET = "the secret of these tests"  # noqa: S105 - it is


def door_of(front: Serve) -> httpx.Client:
    """Return a client of the admin HTTP server of a service."""
    port = next(
        event["port"] for event in map(json.loads, front.lines) if event["event"] == "admin http server started"
    )
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)


def catalog_metrics(door: httpx.Client) -> dict[str, float]:
    """Scrape; return the metrics of the catalog."""
    families = text_string_to_metric_families(door.get("/metrics").text)
    return {s.name: s.value for family in families for s in family.samples if s.labels.get("registry") == "default"}


def test_probes_and_metrics_through_an_outage(tmp_path: Path, unused_tcp_port: int) -> None:
    """Without a registry it is alive and not ready; then ready, and it stays so while the registry is down again."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    fast = {"PRINZ_REGISTRY__REFRESH_INTERVAL": "0.1", "PRINZ_REGISTRY__SNAPSHOT_FOLDER": ""}
    with (
        serve("--registry", url, "--http-port", "0", until="listening", variables=fast) as front,
        door_of(front) as door,
    ):
        assert door.get("/healthz").status_code == 200
        assert door.get("/readyz").status_code == 503
        before = catalog_metrics(door)
        assert before["prinz_enricher_catalog_stale"] == 1
        assert "prinz_enricher_catalog_age_seconds" not in before

        with (
            MlflowServer(tmp_path, unused_tcp_port) as server,
            RegistryWriter(server.url, server.database, server.artifacts) as writer,
        ):
            writer.create_model("seen")
            writer.create_version("seen")
            wait_until(lambda: door.get("/readyz").status_code == 200)
            wait_until(lambda: catalog_metrics(door)["prinz_enricher_catalog_versions"] == 1)
            up = catalog_metrics(door)
            assert up["prinz_enricher_catalog_stale"] == 0
            assert up["prinz_enricher_catalog_models"] == 1
            assert up["prinz_enricher_catalog_failures_in_row"] == 0

        wait_until(lambda: catalog_metrics(door)["prinz_enricher_catalog_stale"] == 1)
        down = catalog_metrics(door)
        wait_until(
            lambda: (
                catalog_metrics(door)["prinz_enricher_catalog_age_seconds"]
                > down["prinz_enricher_catalog_age_seconds"] + 1
            )
        )
        later = catalog_metrics(door)
        assert later["prinz_enricher_catalog_models"] == 1
        assert later["prinz_enricher_catalog_refreshes_total"] > up["prinz_enricher_catalog_refreshes_total"]
        assert later["prinz_enricher_catalog_failures_in_row"] > 0
        ready = door.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["registries"]["default"]["stale"]
        assert front.end() == 0


class AskedFront:
    """A front that tells, while it drains, what is asked of it then; it takes no calls."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen nowhere."""
        return 0

    def set_health(self, services: dict[str, bool]) -> None:
        """Tell nobody."""

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Change nothing."""

    def refusals(self) -> dict[str, int]:
        """Return none."""
        return {}

    def drain(self, grace: float) -> None:
        """Ask."""
        self._ask()


def test_not_ready_while_draining(sample_registry: RunningRegistry, unused_tcp_port: int) -> None:
    """From the beginning of the drain to its end the door is open, and says that the service is not ready."""
    told: list[tuple[int, str]] = []

    def ask() -> None:
        answer = httpx.get(f"http://127.0.0.1:{unused_tcp_port}/readyz", trust_env=False)
        told.append((answer.status_code, answer.json()["why"]))

    settings = Settings.load(
        {"registry": {"url": sample_registry.url}, "http": {"port": unused_tcp_port}}, environment={}
    )
    application = Application(settings, front=AskedFront(ask))
    application.start()
    try:
        assert application.ready.wait(30)
        ask()
    finally:
        application.stop()

    assert told == [(200, ""), (503, "the service is draining")]
    with pytest.raises(httpx.ConnectError):
        ask()


def test_http_port_that_is_taken(service: Service) -> None:
    """A port that is taken is refused with one sentence, and the service does not stay."""
    port = service.address.rpartition(":")[2]
    result = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", "serve", "--registry", service.registry,
         "--port", "0", "--http-port", port],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert result.returncode == 1
    assert f"can't listen on 127.0.0.1:{port} for HTTP: " in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_of_the_door_without_a_port() -> None:
    """Where no port is set, what the door needs is not even imported."""
    program = """
import sys
import prinz_enricher.service, prinz_enricher.cli.serve
found = sorted({"waitress", "prometheus_client", "httptools", "prinz_enricher.fronts.http"} & sys.modules.keys())
sys.exit(f"imported: {found}" if found else 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_real_webhook(tmp_path: Path, unused_tcp_port: int) -> None:
    """What a real MLflow delivers has its new model listed at once, where a look is due in an hour."""
    variables = {
        "PRINZ_REGISTRY__REFRESH_INTERVAL": "3600",
        "PRINZ_REGISTRY__SNAPSHOT_FOLDER": "",
        "PRINZ_HTTP__WEBHOOK_SECRET": SECRET,
    }
    with (
        MlflowServer(tmp_path, unused_tcp_port, WEBHOOK_VARIABLES) as server,
        RegistryWriter(server.url, server.database, server.artifacts) as writer,
        serve("--registry", server.url, "--http-port", "0", variables=variables) as front,
        door_of(front) as door,
    ):
        assert catalog_metrics(door)["prinz_enricher_catalog_models"] == 0
        webhook = {
            "name": "prinz",
            "url": str(door.base_url.join("/webhook")),
            "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
            "secret": SECRET,
        }
        created = httpx.post(f"{server.url}/api/2.0/mlflow/webhooks", json=webhook, trust_env=False, timeout=30)
        assert created.status_code == 200, created.text

        writer.create_model("delivered")

        wait_until(lambda: catalog_metrics(door)["prinz_enricher_catalog_models"] == 1)
        with Client(front.address) as client:
            assert [model.name for model in client.list_models()] == ["delivered"]
        identity = created.json()["webhook"]["webhook_id"]
        tested = httpx.post(
            f"{server.url}/api/2.0/mlflow/webhooks/{identity}/test", json={}, trust_env=False, timeout=30
        )
        assert tested.json()["result"] == {"success": True, "response_status": 204, "response_body": ""}
        assert front.end() == 0
        assert SECRET not in "".join(front.lines)
