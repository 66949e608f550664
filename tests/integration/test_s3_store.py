"""Models in an S3 store that the MLflow server knows of and can't read: clients read it themselves."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from prinz_enricher.application import Application
from prinz_enricher.client import Client
from prinz_enricher.config import Settings
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.registry import MlmodelUnreadable, RegistryRefused, RegistryUnreachable, StoreReader
from tests.support.deadline import wait_until
from tests.support.logged_models import log_models
from tests.support.mlflow_server import MlflowServer
from tests.support.running_service import LONG
from tests.support.typed_model import register_typed_model

pytestmark = pytest.mark.slow

BUCKET = "models"
REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "made-up", "AWS_DEFAULT_REGION": REGION}


def client_of(url: str) -> Any:
    """Return a client of an S3 server."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an S3 server with one bucket."""
    # Nobody is asked for the credentials that a machine in a cloud has.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "s3.log"
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", "0"]
    with file.open("w") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: "http://127.0.0.1:" in file.read_text())
            url = next(word for word in file.read_text().split() if word.startswith("http://127.0.0.1:"))
            client_of(url).create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
            yield url
        finally:
            process.kill()


def test_models_in_s3(s3: str, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are listed with their signatures, and scored, by a service that has the store's credentials."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    access = {**CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": s3}
    with MlflowServer(folder, unused_tcp_port, artifact_root=f"s3://{BUCKET}/root") as server:
        register_typed_model(server.url, access)
        models = log_models(server.url, tmp_path, access)
        models.register("run-source", f"runs:/{models.run}/deep", run_id=models.run)
        models.register("run-folder", f"runs:/{models.run}/old", run_id=models.run)
        for name, value in access.items():
            monkeypatch.setenv(name, value)
        settings = Settings.load(
            {"registry": {"url": server.url, "refresh_interval": 0.5}, "server": {"port": 0}}, environment={}
        )
        application = Application(settings)
        port = application.start()
        try:
            assert application.ready.wait(60)
            with Client(f"127.0.0.1:{port}", timeout=LONG) as client:
                wait_until(lambda: all(m.versions[0].HasField("signature") for m in client.list_models(full=True)), 60)
                assert [field.name for field in client.signature("typed")[1].inputs] == ["n"]
                for name in ("typed", "run-source", "run-folder"):
                    assert client.score(name, [{"n": 21}]).to_rows() == [{"output_0": 42}]
        finally:
            application.stop()


def test_what_a_store_refuses(s3: str) -> None:
    """What is not there is missing, what is too large a fault; a store that is away may come back."""
    access = {**CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": s3, "PATH": "/usr/bin:/bin"}
    reader = StoreReader(lambda: fetch_variables(access, Path("/tmp"), None))  # noqa: S108 - where the service has it too
    client = client_of(s3)
    try:
        with pytest.raises(RegistryRefused) as refusal:
            reader.read(f"s3://{BUCKET}/nothing")
        assert refusal.value.missing
        client.put_object(Bucket=BUCKET, Key="one/MLmodel", Body=b"flavors: {}")
        assert reader.read(f"s3://{BUCKET}/one") == b"flavors: {}"
        process = reader._process._process
        assert process is not None
        process.kill()
        process.wait()
        assert reader.read(f"s3://{BUCKET}/one/") == b"flavors: {}"
        client.put_object(Bucket=BUCKET, Key="large/MLmodel", Body=b"x" * (10 * 1024 * 1024 + 10))
        with pytest.raises(MlmodelUnreadable):
            reader.read(f"s3://{BUCKET}/large")
        assert reader.read(f"s3://{BUCKET}/one") == b"flavors: {}"
        access["MLFLOW_S3_ENDPOINT_URL"] = "http://127.0.0.1:9"
        access["AWS_MAX_ATTEMPTS"] = "1"
        reader.close()
        with pytest.raises(RegistryUnreachable):
            reader.read(f"s3://{BUCKET}/one")
    finally:
        reader.close()


def test_which_places_are_read() -> None:
    """Only stores that are asked with credentials of their own: never this machine's files, nor any host by HTTP."""
    for uri in ("file:///etc", "/etc", "etc", "http://127.0.0.1/x", "ftp://x/y", "runs:/1/m", "dbfs:/x", "//[", ""):
        assert not StoreReader.reads(uri)
    assert all(StoreReader.reads(uri) for uri in ("s3://b/p", "gs://b/p", "abfss://c@a.dfs.core.windows.net/p"))
