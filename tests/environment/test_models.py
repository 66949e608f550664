"""What Prinz's own integration tests expected of its environment holds in this one."""

from __future__ import annotations

import pytest

from prinz_enricher.client import Client
from prinz_enricher.contract import model_pb2
from prinz_enricher.signature import Scalar, ScalarKind
from tests.environment.conftest import FRAUD_ROW, OLDER_MLFLOW, WINE_ROW, Before, newer_mlflow, scores
from tests.environment.whole_environment import WholeEnvironment

pytestmark = pytest.mark.timeout(900)


def test_an_upgrade_keeps_everything(upgraded: tuple[WholeEnvironment, Before]) -> None:
    """A newer MLflow takes over the older one's database, and every model answers as before."""
    environment, before = upgraded
    assert (before.mlflow, environment.mlflow_version()) == (OLDER_MLFLOW, newer_mlflow())
    assert scores(environment.address) == before.scores


def test_everything_was_healthy(upgraded: tuple[WholeEnvironment, Before]) -> None:
    """The script waits for each program, says which S3 server it is, and `status` agrees."""
    environment, before = upgraded
    assert "the S3 server is" in before.created
    assert before.created.count("is healthy") == 8
    assert "all healthy" in before.created
    status = environment.run("status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count(" healthy ") == 8


def test_models_are_listed(environment: WholeEnvironment) -> None:
    """At least two different models are listed, found through the proxy, with their artifacts in the bucket."""
    with Client(environment.address) as client:
        models = list(client.list_models(full=True))
    assert {model.name for model in models} >= {
        "MLF-ElasticnetWineModel-1", "MLF-ElasticnetWineModel-2", "MLF-FraudDetection-3"
    }  # fmt: skip
    for model in models:
        (version,) = model.versions
        assert version.state == model_pb2.ModelVersion.STATE_AVAILABLE, version.state_message


def test_the_wine_model_takes_eleven_doubles(environment: WholeEnvironment) -> None:
    """Wine model 1 has exactly the eleven double inputs and one double output `output_0`."""
    with Client(environment.address) as client:
        _, signature = client.signature("MLF-ElasticnetWineModel-1")
    assert [(field.name, field.type) for field in signature.inputs] == [
        (name, Scalar(ScalarKind.DOUBLE)) for name in WINE_ROW
    ]
    assert [(field.name, field.type) for field in signature.outputs] == [("output_0", Scalar(ScalarKind.DOUBLE))]


def test_the_fraud_model_takes_texts_and_an_amount(environment: WholeEnvironment) -> None:
    """The fraud model has age, gender and category as texts, amount as a double, and an integer output `output_0`."""
    with Client(environment.address) as client:
        _, signature = client.signature("MLF-FraudDetection-3")
    assert {field.name: field.type for field in signature.inputs} == {
        **{name: Scalar(ScalarKind.STRING) for name in ("age", "gender", "category")},
        "amount": Scalar(ScalarKind.DOUBLE),
    }
    assert [(field.name, field.type) for field in signature.outputs] == [("output_0", Scalar(ScalarKind.INTEGER))]


def test_two_models_answer_differently(environment: WholeEnvironment) -> None:
    """Wine models 1 and 2 give the row of 0.235s different scores."""
    with Client(environment.address) as client:
        first, second = (
            client.score(f"MLF-ElasticnetWineModel-{number}", [WINE_ROW]).to_rows()[0]["output_0"] for number in (1, 2)
        )
    assert first != second


def test_the_fraud_model_scores(environment: WholeEnvironment) -> None:
    """The fraud model scores ("4", "F", "es_transportation", 800.0)."""
    with Client(environment.address) as client:
        (score,) = client.score("MLF-FraudDetection-3", [FRAUD_ROW]).to_rows()
    assert score["output_0"] in {0, 1}
