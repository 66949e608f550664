"""Which process gets which environment variables."""

from __future__ import annotations

from pathlib import Path

from prinz_enricher.provision.variables import fetch_variables, installer_variables, worker_variables

FOLDER = Path("/folder")
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "MLFLOW_TRACKING_TOKEN": "secret",
    "DATABRICKS_TOKEN": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AZURE_STORAGE_ACCESS_KEY": "secret",
    "GOOGLE_APPLICATION_CREDENTIALS": "secret",
    "PRINZ_REGISTRY__PASSWORD": "secret",
    "UV_DEFAULT_INDEX": "https://user:secret@index/simple",
    "UV_INDEX_INTERNAL_PASSWORD": "secret",
    "PIP_INDEX_URL": "https://user:secret@index/simple",
    "HTTPS_PROXY": "http://user:secret@proxy",
    "https_proxy": "http://user:secret@proxy",
    "SOMETHING_ELSE": "secret",
}
SERVICE = {
    **SECRETS,
    "PATH": "/bin",
    "HOME": "/home/prinz",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "2",
    "MLFLOW_TRACKING_URI": "http://mlflow",
    "MLFLOW_S3_ENDPOINT_URL": "http://store",
    "PYTHONPATH": "/more",
    "VIRTUAL_ENV": "/venv",
    "UV_CACHE_DIR": "/cache/uv",
    "ACME_FEATURES": "on",
}


def test_a_worker_gets_no_secret() -> None:
    """It gets what programs and their libraries need to run."""
    given = worker_variables(SERVICE, FOLDER, ())
    assert "secret" not in str(given)
    assert given["OMP_NUM_THREADS"] == "2"
    assert given["LC_ALL"] == "C"
    assert given["TMPDIR"] == "/folder"
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "UV_CACHE_DIR", "ACME_FEATURES"} & given.keys()
    assert given["PYTHONPATH"].endswith("/more")


def test_idle_threads_of_a_worker_sleep() -> None:
    """OpenBLAS's spin as long as an operator says, and by default hardly at all."""
    assert worker_variables(SERVICE, FOLDER, ())["OPENBLAS_THREAD_TIMEOUT"] == "16"
    chosen = SERVICE | {"OPENBLAS_THREAD_TIMEOUT": "26"}
    assert worker_variables(chosen, FOLDER, ())["OPENBLAS_THREAD_TIMEOUT"] == "26"


def test_what_an_operator_gives_a_worker() -> None:
    """A pattern gives no credentials; a name in full does, but none of what is the service's own."""
    assert worker_variables(SERVICE, FOLDER, ["ACME_*"])["ACME_FEATURES"] == "on"
    wide = worker_variables(SERVICE, FOLDER, ["*"])
    assert wide.keys() & SECRETS.keys() == {"SOMETHING_ELSE"}
    named = worker_variables(SERVICE, FOLDER, list(SECRETS))
    assert SECRETS.keys() - named.keys() == {name for name in SECRETS if name.startswith(("PRINZ_", "UV_", "PIP_"))}


def test_a_worker_of_another_interpreter() -> None:
    """It finds the worker's code, and nothing of the service's interpreter."""
    given = worker_variables(SERVICE, FOLDER, (), code=Path("/code"))
    assert given["PYTHONPATH"] == "/code"
    assert "VIRTUAL_ENV" not in given


def test_a_worker_leaves_no_bytecode_in_its_model() -> None:
    """It writes none, or into a place of its own."""
    assert worker_variables({}, FOLDER, ())["PYTHONDONTWRITEBYTECODE"] == "1"
    elsewhere = {"PYTHONPYCACHEPREFIX": "/bytecode"}
    assert "PYTHONDONTWRITEBYTECODE" not in worker_variables(elsewhere, FOLDER, ())


def test_a_fetch_gets_the_credentials_of_its_registry() -> None:
    """And those of stores; not those of another registry, nor what concerns others."""
    given = fetch_variables(SERVICE, FOLDER, None)
    assert given["MLFLOW_TRACKING_PASSWORD"] == "secret"  # noqa: S105 - made up
    assert given["AWS_SECRET_ACCESS_KEY"] == "secret"  # noqa: S105 - made up
    assert given["HTTPS_PROXY"]
    assert "MLFLOW_TRACKING_URI" not in given
    assert not [name for name in given if name.startswith(("PRINZ_", "UV_", "PIP_", "OMP_", "ACME_", "SOMETHING"))]
    own = fetch_variables(SERVICE, FOLDER, {"MLFLOW_TRACKING_TOKEN": "mine"})
    assert own["MLFLOW_TRACKING_TOKEN"] == "mine"  # noqa: S105 - made up
    assert not {"MLFLOW_TRACKING_PASSWORD", "DATABRICKS_TOKEN"} & own.keys()
    assert own["MLFLOW_S3_ENDPOINT_URL"] == "http://store"


def test_uv_gets_its_own_settings() -> None:
    """And nothing of registries and stores."""
    given = installer_variables(SERVICE)
    assert {"PATH", "HOME", "UV_CACHE_DIR", "UV_DEFAULT_INDEX", "HTTPS_PROXY"} <= given.keys()
    assert not [name for name in given if name.startswith(("PRINZ_", "PIP_", "MLFLOW_", "AWS_", "PYTHON", "VIRTUAL"))]
