"""Python environments for models."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from prinz_enricher.provision.environments import Environments, worker_code
from prinz_enricher.provision.progress import steps_reported_to
from prinz_enricher.provision.provision_errors import BuildFailed, Cancelled, RequirementsRefused
from prinz_enricher.provision.uv import Uv
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer
from tests.support.processes import mentioning

pytestmark = pytest.mark.slow

MLFLOW = importlib.metadata.version("mlflow-skinny")
OTHER_SKLEARN = "1.7.2"
HERE = ".".join(map(str, sys.version_info[:2]))


def environments(
    folder: Path, mode: Any = "isolated", *, overrides: tuple[str, ...] = (), **options: Any
) -> Environments:
    """Make environments in a folder."""
    uv = Uv(timeout=280.0, **options)
    return Environments(folder / "environments", uv, max_bytes=20 << 30, mode=mode, overrides=overrides)


def model(folder: Path, *requirements: str, python: str = HERE) -> Path:
    """Make a model's folder."""
    place = folder / "model"
    place.mkdir(exist_ok=True)
    (place / "python_env.yaml").write_text(f"python: {python}\ndependencies: [-r requirements.txt]\n")
    (place / "requirements.txt").write_text("\n".join(requirements))
    return place


def left(folder: Path) -> list[str]:
    """List what is in the folder of environments."""
    place = folder / "environments"
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def test_a_model_that_needs_other_packages_gets_its_own(tmp_path: Path) -> None:
    """They are built once, with what a worker needs, work where they end up, and obey constraints and overrides."""
    place = model(tmp_path, "mlflow-skinny==0.0.1", f"scikit-learn=={OTHER_SKLEARN}", "-c limits.txt")
    (place / "limits.txt").write_text("joblib<1.5")
    built = environments(tmp_path, "auto", overrides=(f"MLflow_skinny=={MLFLOW}",))
    with capture_logs() as logs:
        found = built.get(place)
    assert found.isolated
    assert found.lease is not None
    assert found.lease.fresh
    program = (
        "import mlflow.pyfunc, sklearn, joblib; print(sklearn.__version__, joblib.__version__, mlflow.__version__)"
    )
    ran = subprocess.run([found.python, "-P", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    versions = ran.stdout.split()
    assert versions[::2] == [OTHER_SKLEARN, MLFLOW]
    assert versions[1].startswith("1.4.")
    installed = (found.lease.path / "installed.txt").read_text().splitlines()
    assert {f"scikit-learn=={OTHER_SKLEARN}", f"mlflow-skinny=={MLFLOW}"} <= set(installed)
    (told,) = (line for line in logs if line["event"] == "an environment was built")
    assert told["packages"] == len(installed) > 20
    assert told["seconds"] > 0
    assert any(f"scikit-learn=={OTHER_SKLEARN} (" in one for one in told["lacking"])
    assert "mlflow-skinny" not in str(told["lacking"])
    # The worker's own code runs in it, though nothing of the front is there.
    code = worker_code(tmp_path / "code")
    ran = subprocess.run(
        [found.python, "-P", "-m", "prinz_enricher.worker", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "Runs one model for a front" in ran.stdout
    assert worker_code(tmp_path / "code") == code
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [found.python, "-P", "-c", "import prinz_enricher"], check=True, cwd=tmp_path, stderr=subprocess.DEVNULL
        )
    found.close()
    found.close()
    again = built.get(place)
    assert again.lease is not None
    assert not again.lease.fresh
    again.close()


def test_the_service_s_own_environment(tmp_path: Path) -> None:
    """It is used where it has what a model needs, or where it is to be used for all or for this one."""
    place = model(tmp_path, f"mlflow-skinny=={MLFLOW}", "numpy")
    found = environments(tmp_path, "auto").get(place)
    assert (found.python, found.lease, found.isolated) == (Path(sys.executable), None, False)
    found.close()
    place = model(tmp_path, "--index-url https://example.org", python="2.7")
    assert not environments(tmp_path, "current").get(place).isolated
    for mode in ("auto", "isolated"):
        with pytest.raises(RequirementsRefused):
            environments(tmp_path, mode).get(place)
        assert not environments(tmp_path, mode).get(place, mode="current").isolated
    with pytest.raises(RequirementsRefused):
        environments(tmp_path, "current").get(place, mode="isolated")
    assert not left(tmp_path)


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    """The sentence says which, and what to do about it."""
    with pytest.raises(BuildFailed, match=r"wants Python 3\.99, which is not found on this machine; .*_downloads lets"):
        environments(tmp_path).get(model(tmp_path, python="3.99"))
    with pytest.raises(BuildFailed, match=r"wants Python 3\.7, and workers run on 3\.10 or newer"):
        environments(tmp_path).get(model(tmp_path, python="3.7.2"))
    assert not left(tmp_path)


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    """The sentence has uv's reason, and nothing is left behind."""
    place = model(tmp_path, "mlflow-skinny==99.0")
    told: list[str] = []
    with pytest.raises(BuildFailed) as failed, steps_reported_to(told.append):
        environments(tmp_path).get(place)
    assert told == ["building its environment"]
    assert "Because there is no version of mlflow-skinny==99.0 and you require" in str(failed.value)
    assert str(failed.value).endswith("; workers.overrides can name others")
    assert "\n" not in str(failed.value)
    assert not failed.value.may_pass
    assert not left(tmp_path)


def test_packages_without_wheels_are_not_built(tmp_path: Path) -> None:
    """Building one would run its code."""
    with pytest.raises(BuildFailed, match=r"numpy==1\.21\.0 has no usable wheels"):
        environments(tmp_path).get(model(tmp_path, "mlflow-skinny", "numpy==1.21.0"))


def test_an_index_that_is_away(tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be back; its password is shown nowhere."""
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    url = f"http://user:pass%40word@127.0.0.1:{unused_tcp_port}/simple"
    with capture_logs() as logs, pytest.raises(BuildFailed, match=r"can't be installed: .*Failed to fetch") as failed:
        environments(tmp_path, index_url=url).get(model(tmp_path, "mlflow-skinny"))
    assert failed.value.may_pass
    assert logs
    assert "word" not in f"{failed.value} {logs}"
    assert not left(tmp_path)


def test_an_index_with_a_password(
    hostile_server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the index that was set, and no other; offline, none is asked."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/other")
    hostile_server.respond = lambda _: Answer(status=404)
    url = hostile_server.url.replace("://", "://user:secret@") + "/simple"
    place = model(tmp_path, "never-published-anywhere")
    with pytest.raises(BuildFailed):
        environments(tmp_path, index_url=url, offline=True).get(place)
    assert not hostile_server.requests
    with pytest.raises(BuildFailed, match="was not found in the package registry"):
        environments(tmp_path, index_url=url).get(place)
    asked = {request.path: request.headers.get("authorization") for request in hostile_server.requests}
    assert asked["/simple/never-published-anywhere/"] == "Basic dXNlcjpzZWNyZXQ="


def test_a_cancelled_build_ends(hostile_server: HostileServer, tmp_path: Path) -> None:
    """And uv with it."""
    go, cancel = threading.Event(), threading.Event()

    def respond(_: object) -> Answer:
        go.wait(60)
        return Answer(status=404)

    hostile_server.respond = respond
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(
            environments(tmp_path, index_url=f"{hostile_server.url}/simple").get,
            model(tmp_path, "any"),
            cancelled=cancel.is_set,
        )
        wait_until(lambda: bool(hostile_server.requests))
        cancel.set()
        with pytest.raises(Cancelled):
            asked.result(30)
        go.set()
    assert not mentioning(str(tmp_path / "environments"))
    assert not left(tmp_path)


def test_an_mlflow_that_is_too_old_is_told_before_a_build(tmp_path: Path) -> None:
    """In either mode that builds, and nothing is left behind; an override that replaces it wins."""
    place = model(tmp_path, "mlflow<2", "scikit-learn==1.2")
    for mode in ("auto", "isolated"):
        with (
            capture_logs() as logs,
            pytest.raises(RequirementsRefused, match=r"no MLflow 2\.9 or newer.*: .mlflow<2.;"),
        ):
            environments(tmp_path, mode).get(place)
        assert not logs
    assert not left(tmp_path)
    place = model(tmp_path, "mlflow<2")
    assert not environments(tmp_path, "auto", overrides=("mlflow>=2.9",)).get(place).isolated


def test_requirements_that_are_refused(tmp_path: Path) -> None:
    """Nothing is built for them; a wrong override is told before any model."""
    with pytest.raises(RequirementsRefused, match="--index-url"):
        environments(tmp_path, "auto").get(model(tmp_path, "--index-url https://example.org"))
    with pytest.raises(RequirementsRefused):
        environments(tmp_path, overrides=("mlflow @ https://example.org/",))
    assert not left(tmp_path)
