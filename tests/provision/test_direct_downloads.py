"""Models that the registry itself hands out: downloaded without a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from prinz_enricher.provision.model_cache import Download, ModelCache, ModelSource
from prinz_enricher.provision.progress import steps_reported_to
from prinz_enricher.provision.provision_errors import CacheUnusable, Cancelled, DownloadFailed
from prinz_enricher.registry import ArtifactsRefused, RegistryClient, RegistryUnreachable
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, answer_json
from tests.support.registry_writer import RegistryWriter, mlmodel_text

ANY = ModelSource("http://nowhere", "any", "1", "one")
Watch = Callable[[int, int], object]


def cache(folder: Path, *, max_model_bytes: int = 1 << 30, timeout: float = 90) -> ModelCache:
    """Make a cache."""
    return ModelCache(folder / "models", max_bytes=1 << 30, max_model_bytes=max_model_bytes, timeout=timeout)


def unwanted(_: Path) -> Mapping[str, str]:
    """Return no environment: there must be no process."""
    raise AssertionError("a process was to be started")


def get(models: ModelCache, download: Download, source: ModelSource = ANY) -> None:
    """Get a model, and let go of it."""
    models.get(source, lambda: "mlflow-artifacts:/any", unwanted, download=download).close()


def left(folder: Path) -> list[Path]:
    """List what is in the folder of models."""
    return list((folder / "models").iterdir())


def of(client: RegistryClient) -> Download:
    """Return what downloads from a server."""
    return lambda uri, folder, size, watch: client.download(uri, folder, max_bytes=size, watch=watch)


def test_a_model_is_downloaded_once(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """From the registry itself, by this process; later it is there, checked."""
    scratch_registry.create_model("direct once")
    version = scratch_registry.create_version("direct once")
    models = cache(tmp_path)
    wanted = ModelSource(scratch_registry.url, "direct once", version, "one")
    with RegistryClient(scratch_registry.url) as client, capture_logs() as logs:
        uri = client.folder_uri("direct once", version)
        for fresh in (True, False):
            with models.get(wanted, lambda: uri, unwanted, download=of(client)) as lease:
                assert lease.fresh == fresh
                assert [(path.name, path.read_text()) for path in lease.path.iterdir()] == [("MLmodel", mlmodel_text())]
    assert [path.name for path in lease.path.parent.iterdir()] == ["model"]
    assert [line["model"] for line in logs if line["event"] == "a model was downloaded"] == ["direct once"]


def test_what_the_registry_does_not_hand_out(tmp_path: Path) -> None:
    """It is for the process; where its files are is asked once."""
    asked: list[str] = []

    def uri() -> str:
        asked.append("")
        return "s3://bucket/model"

    with RegistryClient("http://127.0.0.1:9") as client, pytest.raises(AssertionError, match="was to be started"):
        cache(tmp_path).get(ANY, uri, unwanted, download=of(client))
    assert asked == [""]
    assert left(tmp_path) == []


def test_progress_is_told(tmp_path: Path) -> None:
    """In steps of five percent, each once, by the thread that asked; none where no lengths are known."""
    told: list[str] = []

    def download(_uri: str, folder: Path, _size: int, watch: Watch) -> bool:
        for done, total in ((0, 0), (7, 0), (0, 1000), (49, 1000), (50, 1000), (99, 1000), (420, 1000), (300, 1000)):
            watch(done, total)
        watch(444, 1000)
        watch(2000, 1000)
        folder.mkdir()
        return True

    with steps_reported_to(told.append):
        get(cache(tmp_path), download)
    assert told == ["downloading the model", *(f"downloading the model: {percent} %" for percent in (5, 40, 100))]


@pytest.mark.parametrize(
    ("error", "passes"), [(RegistryUnreachable("no answer"), True), (ArtifactsRefused("it lies"), False)]
)
def test_failures(tmp_path: Path, error: Exception, passes: bool) -> None:
    """They say why, whether they may pass, and leave nothing behind."""

    def download(_uri: str, folder: Path, _size: int, _watch: Watch) -> bool:
        folder.mkdir()
        (folder / "half").write_text("")
        raise error

    with pytest.raises(DownloadFailed, match=f"^the download failed: {error}$") as failed:
        get(cache(tmp_path), download)
    assert failed.value.may_pass == passes
    assert left(tmp_path) == []


def test_a_model_that_is_too_large(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """It is refused for good, in the same words as by the process."""
    scratch_registry.create_model("direct large")
    version = scratch_registry.create_version("direct large")
    with RegistryClient(scratch_registry.url) as client:
        uri = client.folder_uri("direct large", version)
        with pytest.raises(DownloadFailed, match="download failed: the model is larger than the 10 bytes") as failed:
            cache(tmp_path, max_model_bytes=10).get(ANY, lambda: uri, unwanted, download=of(client))
    assert not failed.value.may_pass


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """It may have room later."""

    def download(_uri: str, _folder: Path, _size: int, _watch: Watch) -> bool:
        raise OSError(28, "No space left on device")

    with pytest.raises(CacheUnusable, match="No space left") as failed:
        get(cache(tmp_path), download)
    assert failed.value.may_pass


def test_a_download_that_takes_too_long_or_is_cancelled(hostile_server: HostileServer, tmp_path: Path) -> None:
    """It ends, whatever the server does; and no more than four are there at once."""
    go, cancel = threading.Event(), threading.Event()

    def respond(_: object) -> Answer:
        go.wait(60)
        return answer_json({})

    hostile_server.respond = respond
    try:
        with RegistryClient(hostile_server.url) as client, ThreadPoolExecutor(6) as threads:
            with pytest.raises(DownloadFailed, match=r"the download took longer than 0\.2 s") as failed:
                get(cache(tmp_path, timeout=0.2), of(client))
            assert failed.value.may_pass
            before = len(hostile_server.requests)
            asked = [
                threads.submit(
                    cache(tmp_path).get,
                    ModelSource("http://nowhere", "any", str(number), ""),
                    lambda: "mlflow-artifacts:/any",
                    unwanted,
                    download=of(client),
                    cancelled=cancel.is_set,
                )
                for number in range(6)
            ]
            wait_until(lambda: len(hostile_server.requests) == before + 4, 60)
            cancel.set()
            for one in asked:
                with pytest.raises(Cancelled):
                    one.result(30)
            assert len(hostile_server.requests) == before + 4
            go.set()
            wait_until(lambda: not [one for one in threading.enumerate() if one.name == "artifacts"], 30)
    finally:
        go.set()
    assert left(tmp_path) == []


def test_credentials_stay_with_the_download(hostile_server: HostileServer, tmp_path: Path) -> None:
    """They reach the registry, and neither the error, the log nor the disk."""
    hostile_server.respond = lambda _: answer_json({"error_code": "X", "message": "no, hunter2"}, 401)
    with capture_logs() as logs, RegistryClient(hostile_server.url.replace("//", "//user:hunter2@")) as client:
        with pytest.raises(DownloadFailed, match="HTTP 401 X: no, …; the credentials are missing or wrong") as failed:
            get(cache(tmp_path), of(client))
        assert failed.value.may_pass
    assert hostile_server.requests[-1].headers["authorization"].startswith("Basic ")
    assert "hunter2" not in f"{failed.value} {logs}"
    assert left(tmp_path) == []
