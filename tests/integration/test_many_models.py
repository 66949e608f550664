"""What the front holds of many models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prinz_enricher.client import Client
from prinz_enricher.contract import model_pb2
from tests.support.deadline import wait_until
from tests.support.own_service import register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG
from tests.support.serve_process import serve
from tests.support.worker_processes import workers_of

pytestmark = pytest.mark.slow

KNOWN, LOADED = 50, 5
MOST_MB = 150

REGISTER = f"""
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])


class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["c0"] * 2


columns = Schema([ColSpec("double", f"c{{i}}") for i in range(20)])
mlflow.pyfunc.log_model(
    name="many", python_model=Twice(), signature=ModelSignature(columns, Schema([ColSpec("double", "y")])),
    registered_model_name="many-0", pip_requirements=["mlflow"],
)
client = mlflow.MlflowClient()
for number in range(1, {KNOWN}):
    client.copy_model_version("models:/many-0/1", f"many-{{number}}")
"""


@pytest.mark.timeout(200)
def test_memory_with_many_models(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """With 50 models known, 5 of them loaded and called, the front stays below 150 MB."""
    register(scratch_registry.url, REGISTER, tmp_path)
    flags = [flag for number in range(LOADED) for flag in ("--preload", f"many-{number}")]
    with (
        serve("--registry", scratch_registry.url, *flags, variables={"PRINZ_REGISTRY__INCLUDE": "many-*"}) as running,
        Client(running.address, timeout=LONG) as client,
    ):
        wait_until(lambda: len(list(client.list_models())) == KNOWN)

        def loaded() -> int:
            models = client.list_models()
            states = [model.versions[0].state for model in models]
            return states.count(model_pb2.ModelVersion.STATE_AVAILABLE)

        wait_until(lambda: loaded() == LOADED, 120)
        assert len(workers_of(running.process.pid)) == LOADED
        row = {f"c{i}": float(i) for i in range(20)}
        for number in range(1000):
            assert client.score(f"many-{number % LOADED}", [{**row, "c0": float(number)}]).to_rows() == [
                {"y": 2.0 * number}
            ]
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        assert int(found[1]) / 1024 < MOST_MB
