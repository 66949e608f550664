"""A run with models of every age: logged by MLflow 3, and written among the run's artifacts as before it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.registry_writer import mlmodel_text
from tests.support.script import run_script
from tests.support.typed_model import save_typed_model

_LOG = """
import json, pathlib, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
saved = pathlib.Path(sys.argv[2])
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    logged = {}
    for name in ("deep", "both"):
        model = mlflow.initialize_logged_model(name=name, source_run_id=run.info.run_id)
        client.log_model_artifacts(model.model_id, str(saved))
        mlflow.finalize_logged_model(model.model_id, "READY")
        logged[name] = model.model_id
    mlflow.initialize_logged_model(name="empty", source_run_id=run.info.run_id)
    other = saved.parent / "other"
    other.mkdir()
    (other / "MLmodel").write_text(sys.argv[3])
    mlflow.log_artifacts(str(other), "both")
    for folder in ("old", "empty", "a folder/of 100%"):
        mlflow.log_artifacts(str(saved), folder)
print(json.dumps({"run": run.info.run_id, "artifacts": run.info.artifact_uri, "logged": logged}))
"""


@dataclass(frozen=True)
class LoggedModels:
    """What a run has logged: the typed model as `deep`, `both`, and in the folders `old`, `empty`, `a folder/of 100%`.

    The run has a folder `both` with another model, and a logged model `empty` without files.

    Attributes:
        url: The registry's.
        run: The run's id.
        artifacts: Where the run's artifacts are.
        logged: The ids of the logged models.
    """

    url: str
    run: str
    artifacts: str
    logged: dict[str, str]

    def register(self, name: str, source: str, **ids: str) -> None:
        """Register a model of one version, as a client does."""
        self._post("registered-models/create", name=name)
        self._post("model-versions/create", name=name, source=source, **ids)

    def _post(self, path: str, **content: Any) -> None:
        answer = httpx.post(f"{self.url}/api/2.0/mlflow/{path}", json=content, trust_env=False, timeout=30.0)
        assert answer.status_code == httpx.codes.OK, answer.text


def log_models(url: str, folder: Path, variables: dict[str, str] | None = None) -> LoggedModels:
    """Log them; `folder` is for files that the models are made of."""
    saved = folder / "saved"
    other = mlmodel_text([{"type": "string", "name": "other", "required": True}])
    save_typed_model(saved)
    told = run_script(_LOG, url, str(saved), other, variables=variables)
    (line,) = [line for line in told.splitlines() if line.startswith("{")]
    return LoggedModels(url=url, **json.loads(line))
