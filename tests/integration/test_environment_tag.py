"""The tag `prinz.environment`: one model runs in the service's own environment, where the operator lets tags say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from prinz_enricher.client import Client, ServiceError
from tests.support.deadline import wait_until
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG

pytestmark = pytest.mark.slow

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"].to_numpy() * 2

mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.log_model(
    name="picky", python_model=Double(), registered_model_name="picky", pip_requirements=["never-published-anywhere"],
    signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")])),
)
mlflow.MlflowClient().copy_model_version("models:/picky/1", "other")
"""


def message_of(client: Client, name: str) -> str:
    """Return the state message of a model's only version."""
    return next(model.versions[0].state_message for model in client.list_models() if model.name == name)


def test_one_model_runs_in_the_service_s_own(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """Where the setting allows it; elsewhere the version is served by its requirements, and its state says why."""
    register(scratch_registry.url, REGISTER, tmp_path)
    cache = {"folder": str(tmp_path / "cache")}
    scratch_registry.set_version_tag("picky", "1", "prinz.environment", "current")
    told = "its tag prinz.environment = current counts only with workers.allow_environment_tag"
    with (
        own_service(scratch_registry.url, cache=cache, workers={"offline": True}) as service,
        Client(service.address) as client,
    ):
        # Until the registry was asked, the service may serve what it knew before.
        wait_until(lambda: {"picky", "other"} <= {model.name for model in client.list_models()})
        assert message_of(client, "picky") == told
        assert not message_of(client, "other")
        with pytest.raises(ServiceError, match=r"packages that the model needs can.t be installed") as failed:
            client.score("picky", {"x": 2.0}, timeout=LONG)
        assert failed.value.reason == "MODEL_LOAD_FAILED"
        assert "be installed" in message_of(client, "picky")
        assert message_of(client, "picky").endswith(f"; {told}")
    workers = {"offline": True, "allow_environment_tag": True}
    with (
        own_service(scratch_registry.url, cache=cache, workers=workers) as service,
        Client(service.address) as client,
    ):
        assert client.score("picky", {"x": 2.0}, timeout=LONG).to_rows() == [{"y": 4.0}]
        assert not message_of(client, "picky")
        with pytest.raises(ServiceError, match=r"packages that the model needs can.t be installed"):
            client.score("other", {"x": 2.0}, timeout=LONG)
        # A tag that comes later counts as well.
        scratch_registry.set_tag("other", "prinz.environment", "current")
        wait_until(lambda: "prinz.environment" in next(m.tags for m in client.list_models() if m.name == "other"))
        assert client.score("other", {"x": 3.0}, timeout=LONG).to_rows() == [{"y": 6.0}]
