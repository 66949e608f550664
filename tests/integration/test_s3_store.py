"""Models in an S3 store that the MLflow server knows of and can't read: clients read it themselves."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import httpx
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
NAMES = ("typed", "run-source", "run-folder")
SEE = "see its address and credentials in the service's environment"
DENIED = f"the store of its files (s3) does not let us in; {SEE}"
AWAY = f"the store of its files (s3) gives no answer: EndpointConnectionError; {SEE}"


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
    """They are listed with their signatures, and scored, by a service that has the store's credentials.

    `prinz-enricher check` says whether that is so, and never shows them.
    """
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
                for name in NAMES:
                    assert client.score(name, [{"n": 21}]).to_rows() == [{"output_0": 42}]
        finally:
            application.stop()
        code, lines = check(server.url, "--models", "run-*", "--no-score")
        assert code == 0, lines
        assert lines["store"] == [("ok", f"s3://{BUCKET}", "the files of run-folder, run-source can be read")]
        # Keys are asked for from now on, and there are none.
        httpx.post(f"{s3}/moto-api/reset-auth", content=b"0")
        code, lines = check(server.url)
        assert (code, failures(lines)) == (
            1,
            {f"Version 1 of model \"{name}\" can't be loaded: it can't be read: {DENIED}." for name in NAMES},
        )
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        code, lines = check(server.url)
        assert (code, failures(lines)) == (
            1,
            {
                f'Version 1 of model "{name}" is to be loaded again: it can\'t be read now: {AWAY}; try again.'
                for name in NAMES
            },
        )
        assert {(level, message) for level, _, message in lines["registry"]} == {
            ("ok", "answers: 3 models, 3 versions, 3 faults"),
            *(("warn", f"{name}/1 can't be read now: {AWAY}") for name in NAMES),
        }


def failures(lines: Mapping[str, Sequence[tuple[str, str, str]]]) -> set[str]:
    """Return the messages of what fails."""
    return {message for found in lines.values() for level, _, message in found if level == "FAIL"}


def check(registry: str, *flags: str) -> tuple[int, dict[str, list[tuple[str, str, str]]]]:
    """Run `prinz-enricher check`; return its exit code, and level, place and message by what was checked."""
    command = [sys.executable, "-m", "prinz_enricher.cli", "check", "--registry", registry, "--port", "0", "--json"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, timeout=100)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
    lines: dict[str, list[tuple[str, str, str]]] = {}
    for one in json.loads(done.stdout)["checks"]:
        lines.setdefault(one["what"], []).append((one["level"], one["where"], one["message"]))
    return done.returncode, lines


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
