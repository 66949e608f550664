"""Objects that lack optional properties, from each kind of caller to a model and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from prinz_enricher.cli import group
from prinz_enricher.client import Client
from tests.support.deadline import wait_until
from tests.support.own_service import register
from tests.support.running_service import LONG, Service

MODEL = "optional-properties"

_REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, Object, Property

mlflow.set_tracking_uri(sys.argv[1])
line = Object([Property("sku", "string"), Property("promo", "double", required=False)])
signature = ModelSignature(
    Schema([ColSpec(line, "o"), ColSpec(Array(line), "lines")]),
    Schema([ColSpec(line, "o"), ColSpec(Array(line), "lines"), ColSpec("string", "saw")]),
)

class Mirror(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        frame = model_input.copy()
        frame["saw"] = ["promo" in o and repr(o["promo"] is None) or "absent" for o in frame["o"]]
        return frame

mlflow.pyfunc.log_model(
    name=sys.argv[2], python_model=Mirror(), signature=signature, registered_model_name=sys.argv[2],
    pip_requirements=["mlflow"],
)
"""

OBJECTS: list[dict[str, Any]] = [{"sku": "a", "promo": 0.1}, {"sku": "b"}, {"sku": "c", "promo": None}]
SAW = ["False", "absent", "True"]
ROWS: list[dict[str, Any]] = [{"o": one, "lines": OBJECTS} for one in OBJECTS]
ANSWERS = [{**row, "saw": saw} for row, saw in zip(ROWS, SAW, strict=True)]

# As Arrow has them.
PLAIN = [{"sku": "a", "promo": 0.1}, {"sku": "b", "promo": None}, {"sku": "c", "promo": None}]
LINE = pa.struct([("sku", pa.utf8()), ("promo", pa.float64())])
TABLE = pa.table({"o": pa.array(PLAIN, LINE), "lines": pa.array([PLAIN] * 3, pa.list_(LINE))})


@pytest.fixture(scope="module", autouse=True)
def model(service: Service, client: Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model that gives back its inputs, and tells what it saw of one property."""
    register(service.registry, _REGISTER, tmp_path_factory.mktemp("optional"), MODEL)
    # A registration has two steps, and the catalog may be of the moment between them.
    wait_until(lambda: any(model.versions for model in client.list_models(f'name = "{MODEL}"')))


@pytest.fixture(params=[True, False], ids=["coalesced", "alone"])
def caller(request: pytest.FixtureRequest, service: Service) -> Iterator[Client]:
    """A client whose single rows travel with others, and one whose do not."""
    with Client(service.address, timeout=LONG, coalesce=request.param) as client:
        yield client


def test_rows_of_python(caller: Client) -> None:
    """One record, a few, more than travel in Arrow otherwise, columns, and a DataFrame."""
    assert [caller.score(MODEL, row).to_rows() for row in ROWS] == [[one] for one in ANSWERS]
    assert caller.score(MODEL, ROWS).to_rows() == ANSWERS
    assert caller.score(MODEL, ROWS * 100).to_rows() == ANSWERS * 100
    columns = {name: [row[name] for row in ROWS] for name in ("o", "lines")}
    assert caller.score(MODEL, columns).to_rows() == ANSWERS
    assert caller.score(MODEL, pd.DataFrame(ROWS)).to_rows() == ANSWERS
    assert caller.score(MODEL, ROWS).batch.column(0).to_pylist() == PLAIN


def test_rows_of_arrow(client: Client) -> None:
    """A null is an absent property, and the answer has the schema that the signature tells."""
    scores = client.score(MODEL, TABLE)
    assert scores.batch.column("saw").to_pylist() == ["False", "absent", "absent"]
    assert scores.batch.select(["o", "lines"]).to_pylist() == TABLE.to_pylist()
    assert scores.batch.schema.field("o").type == client.score(MODEL, ROWS).batch.schema.field("o").type


def test_a_file_without_rows(service: Service, tmp_path: Path) -> None:
    """Its columns are checked, and an empty file is written."""
    (tmp_path / "rows.csv").write_text("o,lines\n")
    paths = ["--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "scored.parquet")]
    result = CliRunner().invoke(group, ["score", MODEL, *paths, "--address", service.address])
    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "scored.parquet").to_pylist() == []


@pytest.mark.parametrize("source", ["rows.json", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("target", ["scored.json", "scored.parquet"])
def test_files(service: Service, tmp_path: Path, source: str, target: str) -> None:
    """JSON, in a file or in the cells of one, tells absent from null on both ways; Parquet on neither."""
    if source == "rows.json":
        (tmp_path / source).write_text(json.dumps([{**row, "id": place} for place, row in enumerate(ROWS)]))
    elif source == "rows.csv":
        pd.DataFrame([{name: json.dumps(value) for name, value in row.items()} for row in ROWS]).to_csv(
            tmp_path / source, index=False
        )
    else:
        pq.write_table(TABLE, tmp_path / source)
    paths = ["--input", str(tmp_path / source), "--output", str(tmp_path / target)]
    result = CliRunner().invoke(group, ["score", MODEL, *paths, "--address", service.address])
    assert result.exit_code == 0, result.output
    if target == "scored.parquet":
        scored = pq.read_table(tmp_path / target).to_pylist()
        assert [row["o"] for row in scored] == PLAIN
    else:
        scored = [json.loads(line) for line in (tmp_path / target).read_text().splitlines()]
        assert [row["o"] for row in scored] == (PLAIN if source == "rows.parquet" else OBJECTS)
    assert [row["saw"] for row in scored] == (["False", "absent", "absent"] if source == "rows.parquet" else SAW)
