"""Downloading a version from a real registry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prinz_enricher.worker.fetch import RegistryUnreachable, fetch_model, prepare_environment
from tests.support.hostile_server import Answer, HostileServer
from tests.support.registry_writer import RegistryWriter, mlmodel_text

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave MLflow's global state as it was; a registry that is not there is to show at once."""
    import mlflow

    with monkeypatch.context() as patched:
        patched.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        yield
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


@pytest.mark.parametrize("name", ["plain", "what? a@b 100%41 #1;x", "żółw, 亀"])
def test_a_version_of_any_name_is_downloaded(scratch_registry: RegistryWriter, tmp_path: Path, name: str) -> None:
    """Names that a URI would read in another way are fetched as they are."""
    scratch_registry.create_model(f"fetch {name}")
    scratch_registry.create_version(f"fetch {name}")
    version = scratch_registry.create_version(f"fetch {name}", mlmodel_text(signed=False))
    path = fetch_model(scratch_registry.url, f"fetch {name}", version, str(tmp_path / "model"))
    assert Path(path).is_relative_to(tmp_path)
    assert (Path(path) / "MLmodel").read_text() == mlmodel_text(signed=False)


def test_a_version_that_is_not_there_is_told(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """MLflow's own error says which."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="not found"):
        fetch_model(scratch_registry.url, "never registered", "1", str(tmp_path / "model"))


def test_a_registry_that_is_not_there_is_told(unused_tcp_port: int, tmp_path: Path) -> None:
    """It ends with an error that says that it may pass, shows no address, and does not hang."""
    with pytest.raises(RegistryUnreachable, match="the registry gives no answer"):
        fetch_model(f"http://127.0.0.1:{unused_tcp_port}", "any", "1", str(tmp_path / "model"))


def test_credentials_that_are_not_accepted_may_be_later(hostile_server: HostileServer, tmp_path: Path) -> None:
    """A token that ended is no fault of the model; nothing of the registry's words is told."""
    hostile_server.respond = lambda _: Answer(b"you are nobody", 401)
    with pytest.raises(RegistryUnreachable, match="does not accept our credentials") as refused:
        fetch_model(hostile_server.url, "any", "1", str(tmp_path / "model"))
    assert "nobody" not in str(refused.value)


def test_the_operator_s_settings_win_over_the_worker_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries can be set; telemetry can't be turned on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    prepare_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
