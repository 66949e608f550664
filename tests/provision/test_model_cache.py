"""Models of a registry on disk."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from prinz_enricher.provision.model_cache import ModelCache, ModelSource
from prinz_enricher.provision.progress import steps_reported_to
from prinz_enricher.provision.provision_errors import Cancelled, DownloadFailed
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.registry import RegistryClient, RegistryRefused
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer
from tests.support.processes import memory_of, named
from tests.support.registry_writer import RegistryWriter, mlmodel_text


def cache(folder: Path, *, max_model_bytes: int = 1 << 30, timeout: float = 90) -> ModelCache:
    """Make a cache."""
    return ModelCache(folder / "models", max_bytes=1 << 30, max_model_bytes=max_model_bytes, timeout=timeout)


def variables(folder: Path) -> dict[str, str]:
    """Return the environment of a download; a registry that is away shows at once."""
    return {**fetch_variables(os.environ, folder, None), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def unwanted(_: Path) -> dict[str, str]:
    """Return no environment: there must be no download."""
    raise AssertionError("it was downloaded again")


def nowhere() -> str:
    """Return no folder: nobody is asked for one."""
    raise AssertionError("the registry was asked again")


def source(registry: RegistryWriter, name: str) -> ModelSource:
    """Register a model with one version."""
    registry.create_model(name)
    version = registry.create_version(name)
    return ModelSource(registry.url, name, version, "one")


def folder(wanted: ModelSource) -> str:
    """Ask the registry where the files of a version are."""
    with RegistryClient(wanted.registry) as client:
        return client.folder_uri(wanted.name, wanted.version)


def anywhere() -> str:
    """Return a folder of any registry's artifacts."""
    return "mlflow-artifacts:/any"


def fetching() -> list[int]:
    """Return the processes that this one downloads with."""
    return named("prinz-fetch")


def test_a_model_is_downloaded_once(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """By two that want it at the same time, too; later nobody is asked, until it is another model."""
    models = cache(tmp_path)
    wanted = source(scratch_registry, "provision once")
    with capture_logs() as logs, ThreadPoolExecutor(2) as threads:
        leases = list(threads.map(lambda _: models.get(wanted, lambda: folder(wanted), variables), range(2)))
    assert sorted(lease.fresh for lease in leases) == [False, True]
    for lease in leases:
        assert (lease.path / "MLmodel").read_text() == mlmodel_text()
        assert lease.path.is_relative_to(tmp_path / "models" / wanted.key)
        lease.close()
    assert [line["model"] for line in logs if line["event"] == "a model was downloaded"] == ["provision once"]
    # Nothing but the model is kept: neither temporary files nor what else was downloaded.
    assert sorted(path.name for path in lease.path.parent.iterdir()) == ["model"]
    told: list[str] = []
    with steps_reported_to(told.append), models.get(wanted, nowhere, unwanted) as again:
        assert not again.fresh
    assert told == []
    with (
        steps_reported_to(told.append),
        models.get(replace(wanted, fingerprint="two"), lambda: folder(wanted), variables) as other,
    ):
        assert other.fresh
    assert told == ["downloading the model"]


def test_a_model_that_was_changed_is_downloaded_again(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """What runs is what the registry has."""
    models = cache(tmp_path)
    wanted = source(scratch_registry, "provision changed")
    with models.get(wanted, lambda: folder(wanted), variables) as lease:
        (lease.path / "MLmodel").write_text("flavors: {python_function: {loader_module: evil}}")
    with capture_logs() as logs, models.get(wanted, lambda: folder(wanted), variables) as lease:
        assert (lease.path / "MLmodel").read_text() == mlmodel_text()
    assert [line["fault"] for line in logs if line["log_level"] == "warning"] == ["model/MLmodel has changed"]


@pytest.mark.parametrize("name", ["what? a@b 100%41 #1;x", "żółw, 亀"])
def test_a_model_of_any_name_is_downloaded(scratch_registry: RegistryWriter, tmp_path: Path, name: str) -> None:
    """Names that a URI would read in another way are fetched as they are."""
    wanted = source(scratch_registry, f"fetch {name}")
    with cache(tmp_path).get(wanted, lambda: folder(wanted), variables) as lease:
        assert (lease.path / "MLmodel").read_text() == mlmodel_text()


def test_what_can_t_be_downloaded(scratch_registry: RegistryWriter, unused_tcp_port: int, tmp_path: Path) -> None:
    """It says why, whether it may pass, and leaves nothing behind."""
    models = cache(tmp_path)
    wanted = source(scratch_registry, "provision failing")
    away = replace(wanted, registry=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(DownloadFailed, match="the download failed: the registry gives no answer") as failed:
        models.get(away, anywhere, variables)
    assert failed.value.may_pass
    with pytest.raises(RegistryRefused, match="not found"):
        models.get(wanted, lambda: folder(replace(wanted, version="99")), variables)
    with pytest.raises(DownloadFailed, match=r"the download failed: .*No such artifact") as failed:
        models.get(wanted, anywhere, variables)
    assert not failed.value.may_pass
    with pytest.raises(DownloadFailed, match="larger than the 10 bytes") as failed:
        cache(tmp_path, max_model_bytes=10).get(wanted, lambda: folder(wanted), variables)
    assert not failed.value.may_pass
    assert list((tmp_path / "models").iterdir()) == []


def test_a_cancelled_download_ends(hostile_server: HostileServer, tmp_path: Path) -> None:
    """Its process too, and so do those who wait for their turn; no more than two have it."""
    go, cancel = threading.Event(), threading.Event()

    def respond(_: object) -> Answer:
        go.wait(60)
        return Answer()

    hostile_server.respond = respond
    models = cache(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        asked = [
            threads.submit(
                models.get,
                ModelSource(hostile_server.url, "any", str(number), ""),
                anywhere,
                variables,
                cancelled=cancel.is_set,
            )
            for number in range(4)
        ]
        wait_until(lambda: len(hostile_server.requests) == 2, 60)
        assert len(fetching()) == 2
        cancel.set()
        for one in asked:
            with pytest.raises(Cancelled):
                one.result(30)
        assert not fetching()
        go.set()
    assert len(hostile_server.requests) == 2
    assert list((tmp_path / "models").iterdir()) == []


def test_a_download_whose_process_is_killed_may_be_tried_again(hostile_server: HostileServer, tmp_path: Path) -> None:
    """It says how the process ended, and leaves nothing behind."""
    go = threading.Event()

    def respond(_: object) -> Answer:
        go.wait(60)
        return Answer()

    hostile_server.respond = respond
    models = cache(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(models.get, ModelSource(hostile_server.url, "any", "1", ""), anywhere, variables)
        try:
            wait_until(lambda: bool(hostile_server.requests), 60)
            os.kill(fetching()[0], signal.SIGKILL)
            with pytest.raises(DownloadFailed, match=r"ended without an answer \(signal 9\)") as failed:
                asked.result(30)
        finally:
            go.set()
    assert failed.value.may_pass
    assert list((tmp_path / "models").iterdir()) == []


def test_downloads_share_what_is_imported_and_nothing_else(hostile_server: HostileServer, tmp_path: Path) -> None:
    """The process that they are forked from never has credentials, neither its own nor those of a download."""
    hostile_server.respond = lambda _: Answer(b"no", 401)
    models = cache(tmp_path)
    secrets = ["first-secret-of-all", "second-secret-of-all"]
    for number, secret in enumerate(secrets):
        with pytest.raises(DownloadFailed):
            models.get(
                ModelSource(hostile_server.url, "any", str(number), ""),
                anywhere,
                lambda folder, secret=secret: {**variables(folder), "MLFLOW_TRACKING_TOKEN": secret},  # type: ignore[misc]
            )
    assert models._server is not None
    assert models._server._running is not None
    spare = models._server._running[0].pid
    assert spare in named("prinz-fetcher")
    assert {request.headers.get("authorization") for request in hostile_server.requests} == {
        f"Bearer {secret}" for secret in secrets
    }
    assert not any(secret.encode() in memory_of(spare) for secret in secrets)


def test_a_download_that_takes_too_long_ends(hostile_server: HostileServer, tmp_path: Path) -> None:
    """It may be quicker another time."""
    go = threading.Event()

    def respond(_: object) -> Answer:
        go.wait(60)
        return Answer()

    hostile_server.respond = respond
    try:
        with pytest.raises(DownloadFailed, match=r"the download took longer than 0\.5 s") as failed:
            cache(tmp_path, timeout=0.5).get(ModelSource(hostile_server.url, "any", "1", ""), anywhere, variables)
    finally:
        go.set()
    assert failed.value.may_pass
    assert not fetching()


def test_credentials_stay_with_the_download(hostile_server: HostileServer, tmp_path: Path) -> None:
    """They reach the registry, and neither the error nor the log."""
    hostile_server.respond = lambda _: Answer(b"no, super-secret", 401)

    def given(folder: Path) -> dict[str, str]:
        (folder / "key.pem").write_text("super-secret")
        return {**variables(folder), "MLFLOW_TRACKING_TOKEN": "super-secret"}

    with capture_logs() as logs, pytest.raises(DownloadFailed, match="does not accept our credentials") as failed:
        cache(tmp_path).get(ModelSource(hostile_server.url, "any", "1", ""), anywhere, given)
    assert hostile_server.requests[-1].headers["authorization"] == "Bearer super-secret"
    assert "super-secret" not in f"{failed.value} {logs}"
    assert list((tmp_path / "models").iterdir()) == []


def test_secrets_in_the_words_of_a_registry_stay_there(hostile_server: HostileServer, tmp_path: Path) -> None:
    """What the process tells of its failure is told on without addresses and what looks like a secret."""
    said = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no user:hunter2@host with sig=hunter2"}'
    hostile_server.respond = lambda _: Answer(said, 400)
    with pytest.raises(DownloadFailed, match=r"the download failed: HTTPError: 400 .*no … with …$"):
        cache(tmp_path).get(ModelSource(hostile_server.url, "any", "1", ""), anywhere, variables)


def test_a_registry_that_listens_elsewhere_is_the_same() -> None:
    """Where it is known to be; else its address tells it from others."""
    one = ModelSource("http://127.0.0.1:1", "any", "1", "x", "store")
    assert replace(one, registry="http://127.0.0.1:2").key == one.key
    assert replace(one, origin="other").key != one.key
    here = replace(one, origin="")
    others = [replace(here, registry="y"), replace(here, name="y"), replace(here, version="y")]
    assert len({here.key, *(other.key for other in others)}) == 4
