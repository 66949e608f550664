"""Models that can't live in one process are served side by side, each right."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import mlflow.version
import pytest
import uv

from prinz_enricher.client import Client, ServiceError
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG, Service

pytestmark = pytest.mark.slow

OLD = "1.7.2"
"""A scikit-learn that is not the one of this environment."""

CLASHING = """
import pathlib, sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])
signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")]))
for name, factor in (("clash-two", 2), ("clash-three", 3)):
    folder = pathlib.Path(name)
    folder.mkdir()
    (folder / "rules.py").write_text(f"def rule(x): return x * {factor}")
    (folder / "model.py").write_text('''
import mlflow
from mlflow.pyfunc import PythonModel


class Model(PythonModel):
    def predict(self, context, model_input, params=None):
        from rules import rule
        return rule(model_input["x"])


mlflow.models.set_model(Model())
''')
    mlflow.pyfunc.log_model(
        name=name, python_model=str(folder / "model.py"), code_paths=[str(folder / "rules.py")], signature=signature,
        registered_model_name=name, pip_requirements=["mlflow"],
    )
"""

PINNED = """
import sys
import mlflow, numpy, pandas, sklearn
from mlflow.models import infer_signature
from sklearn.ensemble import RandomForestClassifier

mlflow.set_tracking_uri(sys.argv[1])
x = pandas.DataFrame({"a": numpy.arange(40.0), "b": numpy.arange(40.0) % 7})
y = (x["a"] > 20).astype("int64")
model = RandomForestClassifier(n_estimators=5, random_state=0).fit(x, y)
mlflow.sklearn.log_model(
    model, name="pinned", signature=infer_signature(x, model.predict(x)), registered_model_name=sys.argv[2],
    serialization_format="cloudpickle",
)
print(sklearn.__version__)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a data scientist who has an older scikit-learn."""
    folder = tmp_path_factory.mktemp("old") / "venv"
    tool = uv.find_uv_bin()
    python = folder / "bin" / "python"
    wanted = [f"mlflow=={mlflow.version.VERSION}", f"scikit-learn=={OLD}"]
    for command in (
        [tool, "venv", "--quiet", folder],
        [tool, "pip", "install", "--quiet", "--python", python, *wanted],
    ):
        subprocess.run([str(part) for part in command], check=True, timeout=110)
    return python


@pytest.fixture(scope="module")
def service(
    scratch_registry: RegistryWriter, tmp_path_factory: pytest.TempPathFactory, old_python: Path
) -> Iterator[Service]:
    """A service that serves them all."""
    folder = tmp_path_factory.mktemp("isolation")
    register(scratch_registry.url, CLASHING, folder)
    register(scratch_registry.url, PINNED, folder, "pinned-old", python=old_python)
    register(scratch_registry.url, PINNED, folder, "pinned-new")
    with own_service(scratch_registry.url, registry={"include": ["clash-*", "pinned-*"]}) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    """A client of the service."""
    with Client(service.address, timeout=LONG) as client:
        yield client


@pytest.mark.timeout(300)
def test_modules_of_the_same_name(client: Client) -> None:
    """Two models that bring a module `rules` each use their own."""
    for _ in range(3):
        assert client.score("clash-two", [{"x": 1.0}]).to_rows() == [{"y": 2.0}]
        assert client.score("clash-three", [{"x": 1.0}]).to_rows() == [{"y": 3.0}]


@pytest.mark.timeout(300)
def test_other_versions_of_a_library(client: Client) -> None:
    """A model of an older scikit-learn runs in an environment of its own, beside one of the service's."""
    rows = [{"a": 3.0, "b": 3.0}, {"a": 30.0, "b": 2.0}]
    for name in ("pinned-old", "pinned-new"):
        for _ in range(20):
            try:
                scores = client.score(name, rows)
                break
            except ServiceError as error:
                # It may take longer than a call; where all processors are taken, the caller's own clock may be first.
                assert error.reason == "MODEL_LOADING" or error.code is grpc.StatusCode.DEADLINE_EXCEEDED, error  # noqa: PT017
        assert [row["output_0"] for row in scores.to_rows()] == [0, 1]
