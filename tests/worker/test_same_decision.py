"""The golden vectors, decided once and seen alike by a model in a worker and behind MLflow's own `/invocations`.

Our decode alone accepts or refuses. What it refuses reaches no model, here or elsewhere; what it accepts is scored by a
model that answers with what it was given, whole and row by row. Where MLflow's server can't take what is accepted, or
changes it, the table `DIFFERS` says so, and the test fails as soon as that is not so any more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from prinz_enricher.batch import decode_columns
from prinz_enricher.contract import signature_pb2, value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.signature import Signature, from_wire, input_schema
from prinz_enricher.worker.loaded_model import LoadedModel
from tests.golden.write_vectors import PATH
from tests.support.invocations import request_of
from tests.support.scoring_server import ScoringServer

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

VECTORS: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))
ACCEPTED = [one for one in VECTORS if one["accepted"]]
# MLflow reads it; importing it here would be of no use.
ECHO = Path(__file__).parent.parent / "support" / "echo_model.py"
ANSWER = pa.schema([pa.field("output_0", pa.utf8(), nullable=False)])

Decision = list[str] | str
"""What a model saw in each row, or `REFUSED`."""

REFUSED = "refused"
WHOLE = -1
"""Stands for all rows in one request, where a number is one row alone."""

# What the libraries of models can't hold is the caller's fault on both sides.
NEITHER = (REFUSED, REFUSED)

# What differs, by vector and row: what a model in a worker sees, and what one behind `/invocations` does.
DIFFERS: dict[tuple[str, int], tuple[Decision, Decision]] = {
    # The server makes False of a missing boolean: pandas' astype(bool) of None.
    ("boolean, optional", WHOLE): (
        ["'x' object bool True", "'x' object NoneType None"],
        ["'x' bool bool True", "'x' bool bool False"],
    ),
    ("boolean, optional", 1): (["'x' object NoneType None"], ["'x' bool bool False"]),
    # The server's astype(int32) knows no missing value.
    ("integer, optional", WHOLE): (["'x' Int32 int 1", "'x' Int32 NAType <NA>"], REFUSED),
    ("integer, optional", 1): (["'x' Int32 NAType <NA>"], REFUSED),
    # pandas, given nothing but nulls, can't guess text: the same null of another spelling.
    ("string", 3): (["'x' str float nan"], ["'x' object NoneType None"]),
    # A day of the year 1: MLflow's datetime is nanoseconds since 1970 in 64 bits, which end at 1677 and 2262.
    ("datetime", WHOLE): NEITHER,
    ("datetime", 3): NEITHER,
    # In a list the server takes text for text, and JSON has no instants.
    ("array of datetimes", WHOLE): (["'x' object datetime64[ns] (2,) [int 5000, int 1795392000000000000]"], REFUSED),
    ("array of datetimes", 0): (["'x' object datetime64[ns] (2,) [int 5000, int 1795392000000000000]"], REFUSED),
    # JSON has no NaN; only where a number is declared does the server read null as one.
    ("any", 6): (["'x' object {'k': {'n': float nan}}"], ["'x' object {'k': {'n': NoneType None}}"]),
    # Lists of several lengths within one row are no array of any dtype.
    ("tensor of images", WHOLE): NEITHER,
    ("tensor of images", 0): NEITHER,
}


def signature_of(vector: dict[str, Any]) -> Signature:
    """Read the signature of a vector."""
    return from_wire(signature_pb2.Signature.FromString(bytes.fromhex(vector["signature"])))


def decoded(vector: dict[str, Any]) -> pa.RecordBatch:
    """Decode the columns of a vector."""
    message = value_pb2.ColumnBatch.FromString(bytes.fromhex(vector["column_batch"]))
    return decode_columns(message, signature_of(vector))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same model under the signature of each accepted vector."""
    import mlflow

    root = tmp_path_factory.mktemp("echo")
    mlflow.pyfunc.save_model(path=root / "plain", python_model=str(ECHO), pip_requirements=["mlflow"])
    for vector in ACCEPTED:
        folder = root / "models" / vector["digest"]
        if folder.exists():
            continue
        shutil.copytree(root / "plain", folder)
        written = yaml.safe_load((folder / "MLmodel").read_text())
        written["signature"] = {"inputs": json.dumps(vector["mlflow_inputs"]), "outputs": '[{"type": "string"}]'}
        (folder / "MLmodel").write_text(yaml.safe_dump(written))
    return root / "models"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ScoringServer]:
    """MLflow's scoring server with each of the models."""
    with ScoringServer(models) as running:
        yield running


def here(model: LoadedModel, batch: pa.RecordBatch) -> Decision:
    """Score as a worker does; only a fault of the rows counts as refusal."""
    try:
        return list(model.score(batch, None).column(0).to_pylist())
    except InvalidRows:
        return REFUSED


def there(server: ScoringServer, model: str, batch: pa.RecordBatch) -> Decision:
    """Score by `/invocations`; only a fault of the request counts as refusal."""
    answer = server.invoke(model, request_of(batch))
    if answer.status_code == 200:
        return list(answer.json()["predictions"])
    told = answer.json()
    assert answer.status_code == 400, answer.text
    # The model itself never raises, which would be a 400 too.
    assert "unexpected error while evaluating the model" not in told["message"]
    return REFUSED


@pytest.mark.parametrize("vector", VECTORS, ids=[one["name"] for one in VECTORS])
def test_one_decode_decides_for_every_road(vector: dict[str, Any]) -> None:
    """What is refused never becomes a batch, so there is nothing that could be sent to a model anywhere."""
    if vector["accepted"]:
        assert decoded(vector).num_rows == len(vector["rows"])
    else:
        with pytest.raises(InvalidInput):
            decoded(vector)


@pytest.mark.parametrize("vector", ACCEPTED, ids=[one["name"] for one in ACCEPTED])
def test_what_is_accepted_is_seen_alike_here_and_behind_invocations(
    vector: dict[str, Any], models: Path, server: ScoringServer
) -> None:
    """The model gets the same columns, dtypes and values, save where the table says what MLflow makes of them."""
    model = LoadedModel(str(models / vector["digest"]), input_schema(signature_of(vector)), ANSWER)
    batch = decoded(vector)
    found = {
        (vector["name"], row): (here(model, part), there(server, vector["digest"], part))
        for row, part in [(WHOLE, batch), *((row, batch.slice(row, 1)) for row in range(batch.num_rows))]
    }
    whole, _ = found[vector["name"], WHOLE]
    assert whole == REFUSED or len(whole) == batch.num_rows
    differing = {key: both for key, both in found.items() if both[0] != both[1] or REFUSED in both}
    known = {key: both for key, both in DIFFERS.items() if key[0] == vector["name"]}
    if vector["name"] == "any":
        # The whole batch has the nested NaN too.
        here_all, there_all = differing.pop((vector["name"], WHOLE))
        assert [pair for pair in zip(here_all, there_all, strict=True) if pair[0] != pair[1]] == [
            (known["any", 6][0][0], known["any", 6][1][0])
        ]
    assert differing == known


def test_the_table_names_vectors_that_are() -> None:
    """A difference of a vector that was renamed would never be looked at."""
    assert {name for name, _ in DIFFERS} <= {one["name"] for one in ACCEPTED}
