"""One answer by every road: columns, Arrow, dense rows, and the model's own predict."""

import json
from collections.abc import Iterable

import httpx
import pyarrow as pa
import pytest

from prinz_enricher.batch import batch_to_rows, encode_dense
from prinz_enricher.cli.demo import EXAMPLES, WINE_COLUMNS
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from prinz_enricher.signature import Field, type_text
from tests.support.running_service import LONG, Service
from tests.support.script import run_script

ROWS: dict[str, list[dict[str, object]]] = {
    "MLF-ElasticnetWineModel-1": [
        {name: (7 * i + 3 * j) % 11 / 7 for j, name in enumerate(WINE_COLUMNS)} for i in range(250)
    ],
    "MLF-FraudDetection-3": [
        {"age": str(i % 7), "gender": "FMEU"[i % 4], "category": category, "amount": 3.1 * i}
        for i, category in enumerate(["es_transportation", "es_travel", "unheard of", ""] * 62)
    ],
}
ROWS["MLF-ElasticnetWineModel-2"] = ROWS["MLF-ElasticnetWineModel-1"]

# mlflow stays out of this process too: a model is scored by mlflow alone, in one of its own.
PREDICT = """
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
answers = {}
for name, rows in json.load(open(sys.argv[2])).items():
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion", dst_path=sys.argv[3])
    frame = pd.DataFrame(rows)
    alone = [model.predict(frame.iloc[[i]])[0] for i in range(20)]
    answers[name] = [[float(value).hex() for value in values] for values in (model.predict(frame), alone)]
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def by_mlflow(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """Scores by `mlflow.pyfunc`, all rows together and the first ones alone, as exact hexadecimal text."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    told = run_script(PREDICT, service.registry, str(folder / "rows.json"), str(folder))
    return json.loads(told.splitlines()[-1])  # type: ignore[no-any-return]  # json is untyped


def exact(batch: pa.RecordBatch) -> list[str]:
    """Return the scores as exact hexadecimal text."""
    return [float(str(row["output_0"])).hex() for row in batch_to_rows(batch)]


def typed(fields: Iterable[Field]) -> list[tuple[str, str]]:
    """Return names and types as text."""
    return [(field.name, type_text(field.type)) for field in fields]


@pytest.mark.parametrize("name", ROWS)
def test_columns_arrow_and_pyfunc_agree(client: Client, by_mlflow: dict[str, list[list[str]]], name: str) -> None:
    """Scores by columns, by Arrow and by mlflow.pyfunc are equal to the last bit, together and row by row."""
    rows = ROWS[name]
    together, alone = by_mlflow[name]

    assert exact(client.score(name, rows).batch) == together
    assert exact(client.score(name, pa.RecordBatch.from_pylist(rows)).batch) == together
    assert [exact(client.score(name, [row]).batch)[0] for row in rows[:20]] == alone
    assert [exact(client.score(name, pa.RecordBatch.from_pylist([row])).batch)[0] for row in rows[:20]] == alone


@pytest.mark.parametrize("name", ROWS)
def test_http_agrees(service: Service, client: Client, by_mlflow: dict[str, list[list[str]]], name: str) -> None:
    """Scores over each road of HTTP are equal to the last bit, too."""
    api, rows = service.application._api, ROWS[name]
    assert api is not None
    digest = client.signature(name)[1].digest[:8]
    with httpx.Client(base_url=f"http://127.0.0.1:{api._listener.getsockname()[1]}", trust_env=False) as http:
        by_v1 = http.post(f"/v1/models/{name}:score", json={"rows": rows}, timeout=LONG).json()["rows"]
        many = http.post(f"/nussknacker/v1/score-many/{name}/{digest}", json=rows, timeout=LONG).json()
        body = {"dataframe_records": rows}
        predictions = http.post(f"/model/{name}/invocations", json=body, timeout=LONG).json()["predictions"]

    scores = [[row["output_0"] for row in by_v1], [row["output_0"] for row in many], predictions]
    assert [[float(value).hex() for value in some] for some in scores] == [by_mlflow[name][0]] * 3


def test_dense_agrees(
    client: Client, stub: enricher_service_pb2_grpc.EnricherServiceStub, by_mlflow: dict[str, list[list[str]]]
) -> None:
    """Dense rows have the same scores, and are answered densely."""
    name = "MLF-ElasticnetWineModel-1"
    _, signature = client.signature(name)
    dense = encode_dense(pa.RecordBatch.from_pylist(ROWS[name]).select([f.name for f in signature.inputs]))
    request = pb.ScoreRequest(
        model=model_pb2.ModelRef(name=name), dense=dense, signature_digest=signature.digest, request_id="r-1"
    )

    response = stub.Score(request, timeout=60)

    values = memoryview(response.dense.values).cast("d")
    assert [value.hex() for value in values] == by_mlflow[name][0]
    assert (response.request_id, response.model.version) == ("r-1", "1")
    assert response.timing.batch_rows == 250
    assert response.timing.total.ToNanoseconds() >= response.timing.compute.ToNanoseconds() > 0


def test_the_samples_are_what_they_are(client: Client) -> None:
    """The expectations of Prinz's own integration tests hold."""
    wine = [client.score(f"MLF-ElasticnetWineModel-{i}", EXAMPLES["MLF-ElasticnetWineModel-1"]) for i in (1, 2)]
    _, wine_signature = client.signature("MLF-ElasticnetWineModel-1")
    _, fraud_signature = client.signature("MLF-FraudDetection-3")

    assert wine[0].to_rows() != wine[1].to_rows()
    assert typed(wine_signature.inputs) == [(name, "double") for name in WINE_COLUMNS]
    assert typed(wine_signature.outputs) == [("output_0", "double")]
    texts = [(name, "string") for name in ("age", "gender", "category")]
    assert typed(fraud_signature.inputs) == [*texts, ("amount", "double")]
    assert typed(fraud_signature.outputs) == [("output_0", "integer")]
    fraud = client.score("MLF-FraudDetection-3", EXAMPLES["MLF-FraudDetection-3"])
    assert fraud.batch.schema.field("output_0").type == pa.int32()


def test_each_sample_has_an_example() -> None:
    """The demo has an example row for each model that it trains."""
    assert set(EXAMPLES) == set(ROWS)
