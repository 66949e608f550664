"""A real registry of a thousand models, some of them broken."""

import subprocess
import sys
from pathlib import Path

import pytest

from prinz_enricher.catalog import Catalog, resolve, scorable
from prinz_enricher.registry import RegistryClient
from tests.conftest import ROOT
from tests.support.mlflow_server import MlflowServer
from tests.support.registry_writer import RegistryWriter, mlmodel_text

pytestmark = pytest.mark.slow

COUNT = 1000


def test_five_broken_models_of_a_thousand(tmp_path: Path, unused_tcp_port: int) -> None:
    """995 are served without a fault, and each of the five others is listed with its own."""
    mlmodel = tmp_path / "MLmodel"
    mlmodel.write_text(mlmodel_text())
    command = [sys.executable, "-m", "tests.support.fill_registry", str(tmp_path), str(COUNT), str(mlmodel)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    broken = {
        "model-0000": ("has no signature", mlmodel_text(signed=False)),
        "model-0123": ("can't be read: its MLmodel file can't be read as YAML", "{["),
        "model-0500": ("quaternion", mlmodel_text([{"type": "quaternion", "name": "q"}])),
        "model-0777": ("is PENDING_REGISTRATION in the registry", None),
        "model-0999": ("has no MLmodel file where the registry says that it is", None),
    }
    for name, (_, content) in broken.items():
        file = tmp_path / "mlartifacts" / name / "MLmodel"
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
    with (
        MlflowServer(tmp_path, unused_tcp_port) as server,
        RegistryWriter(server.url, server.database, server.artifacts) as writer,
        RegistryClient(server.url, models_per_page=300, versions_per_page=300) as client,
    ):
        writer.set_status("model-0777", "1", "PENDING_REGISTRATION")
        snapshot = Catalog(client).refresh()
    assert list(snapshot.models) == [f"model-{number:04}" for number in range(COUNT)]
    assert snapshot.faults == ()
    faults = {name: model.versions[0].fault for name, model in snapshot.models.items() if model.versions[0].fault}
    assert faults.keys() == broken.keys()
    assert all(said in faults[name] for name, (said, _) in broken.items())
    served = [name for name in snapshot.models if name not in broken]
    assert len(served) == COUNT - 5
    assert all(scorable(resolve(snapshot, name)).signature is not None for name in served)
