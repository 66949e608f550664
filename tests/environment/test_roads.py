"""By whatever road a model is scored, in whatever state the rest of the environment is, it gives the same answers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import httpx
import pytest
from botocore.config import Config
from mlflow import MlflowClient

from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import model_pb2
from tests.environment.conftest import ROWS, WINE_ROW, scores
from tests.environment.whole_environment import WholeEnvironment
from tests.support.deadline import wait_until

pytestmark = pytest.mark.timeout(600)

WINE = "MLF-ElasticnetWineModel-1"
ROUTE = "prinz.route"


@pytest.fixture
def mlflow_client(environment: WholeEnvironment, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """MLflow's own client, through the proxy."""
    for name, value in environment.client_variables().items():
        monkeypatch.setenv(name, value)
    return MlflowClient(tracking_uri=environment.registry, registry_uri=environment.registry)


@contextmanager
def routed(environment: WholeEnvironment, registry: MlflowClient, route: str) -> Iterator[None]:
    """Have all sample models scored elsewhere, as their owner would: by a tag."""

    def all_are(remote: bool) -> bool:
        wanted = model_pb2.ModelVersion.ROUTE_REMOTE if remote else model_pb2.ModelVersion.ROUTE_LOCAL
        with Client(environment.address) as client:
            return all(model.versions[0].route == wanted for model in client.list_models() if model.name in ROWS)

    for name in ROWS:
        registry.set_registered_model_tag(name, ROUTE, route)
    try:
        wait_until(lambda: all_are(True))
        yield
    finally:
        for name in ROWS:
            registry.delete_registered_model_tag(name, ROUTE)
        wait_until(lambda: all_are(False))


@contextmanager
def scored_all_the_while(environment: WholeEnvironment) -> Iterator[list[float]]:
    """Score a wine from two threads until the end of the block; whatever fails, fails there."""
    answers: list[float] = []
    faults: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        with Client(environment.address, timeout=30.0) as client:
            while not ended.is_set():
                try:
                    answers.append(client.score(WINE, [WINE_ROW]).to_rows()[0]["output_0"])
                except ServiceError as error:
                    faults.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answers) > 5)
        yield answers
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 5 or bool(faults))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not faults, faults[0]
    assert len(set(answers)) == 1


def test_artifacts_are_in_the_bucket(environment: WholeEnvironment, mlflow_client: MlflowClient) -> None:
    """A version's files are objects of the S3 server, read through the proxy with the bucket's own credentials."""
    version = mlflow_client.get_model_version(WINE, "1")
    uri = mlflow_client.get_model_version_download_uri(WINE, "1")
    assert version.source
    assert uri.startswith("s3://mlflow/")
    bucket = boto3.client("s3", endpoint_url=environment.bucket, config=Config(s3={"addressing_style": "path"}))
    prefix = uri.removeprefix("s3://mlflow/")
    names = {
        one["Key"].removeprefix(f"{prefix}/") for one in bucket.list_objects(Bucket="mlflow", Prefix=prefix)["Contents"]
    }
    assert {"MLmodel", "requirements.txt"} <= names


@pytest.mark.parametrize("route", ["remote:prinz", "remote:databricks"])
def test_every_road_gives_the_same_scores(
    environment: WholeEnvironment, mlflow_client: MlflowClient, route: str
) -> None:
    """A worker here that fetched from S3, and a server behind nginx under either convention, agree to the last bit."""
    here = scores(environment.address)
    with routed(environment, mlflow_client, route):
        there = scores(environment.address)
    assert {name: [float(one).hex() for one in some] for name, some in there.items()} == {
        name: [float(one).hex() for one in some] for name, some in here.items()
    }
    assert scores(environment.address) == here


def test_the_http_api(environment: WholeEnvironment) -> None:
    """Through the proxy the HTTP API answers as gRPC does, and its document for Nussknacker has paths that score."""
    expected, _ = scores(environment.address)[WINE]
    with httpx.Client(base_url=environment.api, trust_env=False, timeout=60) as api:
        answer = api.post(f"/v1/models/{WINE}:score", json={"rows": [WINE_ROW]})
        assert answer.json()["rows"] == [{"output_0": expected}]
        paths = api.get("/nussknacker/openapi.json").json()["paths"]
        [path] = [path for path, one in paths.items() if one["post"]["operationId"] == f"score-{WINE}-champion"]
        assert api.post(path, json=WINE_ROW).json() == {"modelVersion": "1", "output_0": expected}


def test_a_path_of_no_served_model_is_not_found(environment: WholeEnvironment) -> None:
    """The proxy does not let MLflow's pages answer for a model that nobody serves."""
    for path in ("nobody/invocations", "model/nobody/1/invocations", f"model/{WINE}/2/invocations"):
        assert httpx.post(f"{environment.registry}/{path}", json={}, trust_env=False).status_code == 404


def test_postgresql_restarts(environment: WholeEnvironment, mlflow_client: MlflowClient) -> None:
    """While PostgreSQL is restarted every call is answered, and what changes afterwards is noticed."""
    with scored_all_the_while(environment):
        before = environment.process("postgres")
        environment.supervise("restart", "postgres")
        assert environment.process("postgres") not in {0, before}

        def is_back() -> bool:
            return httpx.get(f"{environment.registry}/health", trust_env=False).is_success and bool(
                mlflow_client.search_registered_models()
            )

        wait_until(is_back, 60.0)
        mlflow_client.set_registered_model_tag(WINE, "restarted", "yes")

        def is_noticed() -> bool:
            with Client(environment.address) as client:
                return any(model.tags.get("restarted") == "yes" for model in client.list_models(full=True))

        wait_until(is_noticed, 60.0)
    mlflow_client.delete_registered_model_tag(WINE, "restarted")


def test_the_bucket_stops_and_starts(environment: WholeEnvironment, mlflow_client: MlflowClient) -> None:
    """Without S3 loaded models go on; a new version waits for its files, and is scored once they can be had."""
    source = mlflow_client.get_model_version_download_uri("MLF-ElasticnetWineModel-2", "1")
    with scored_all_the_while(environment), Client(environment.address, timeout=60.0) as client:
        environment.supervise("stop", "bucket")
        number = mlflow_client.create_model_version(WINE, source).version
        try:

            def why() -> str:
                try:
                    client.score(f"{WINE}/{number}", [WINE_ROW])
                except ServiceError as error:
                    return error.reason
                return ""

            wait_until(lambda: why() in {"MODEL_LOAD_FAILED", "MODEL_LOADING"}, 60.0)
            environment.supervise("start", "bucket")
            wait_until(lambda: not why(), 120.0)
            other = client.score("MLF-ElasticnetWineModel-2", [WINE_ROW]).to_rows()
            assert client.score(f"{WINE}/{number}", [WINE_ROW]).to_rows() == other
        finally:
            mlflow_client.delete_model_version(WINE, number)
            environment.supervise("start", "bucket")


def test_the_proxy_reloads(environment: WholeEnvironment, mlflow_client: MlflowClient) -> None:
    """Calls to served models are answered while nginx reads its rules anew."""
    with routed(environment, mlflow_client, "remote:prinz"), scored_all_the_while(environment) as answers:
        for _ in range(3):
            seen = len(answers)
            os.kill(environment.process("proxy"), signal.SIGHUP)
            wait_until(lambda: len(answers) > seen + 5)  # noqa: B023 - waited for in this turn
