"""Models as other people write them, over a real registry: each row is right, or refused by name and visibly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from prinz_enricher.batch import (
    batch_from_rows,
    batch_to_rows,
    caller_batch,
    decode_columns,
    encode_columns,
    encode_dense,
    encode_stream,
)
from prinz_enricher.cli import group
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Origin, Scalar, ScalarKind, Signature
from tests.support.deadline import wait_until
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG, Service

pytestmark = pytest.mark.slow

CALLERS = 64

# Importing it would import MLflow here, where the front is.
REGISTER = (Path(__file__).parents[1] / "support" / "models_of_others.py").read_text(encoding="utf-8")

X = [{"x": 3.0}, {"x": 1.0}, {"x": 2.0}, {"x": 7.0}]

RIGHT: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "ranked": (X, [{"y": row["x"] + 0.5} for row in X]),
    "polars": (X, [{"same": row["x"], "twice": row["x"] * 2} for row in X]),
    "pair": (X[:2], [{"plus": row["x"], "minus": -row["x"]} for row in X[:2]]),
    "noted": (
        [{"note": {"text": "a", "lang": "en"}}, {"note": {"text": "b"}}, {"note": {"text": "c", "lang": None}}],
        [{"y": "en"}, {"y": "absent"}, {"y": "null"}],
    ),
    "one-answer": (X, [{"reply": str(row["x"]), "sources": ["a"]} for row in X]),
    "shouting": ([{"input_0": "hey"}, {"input_0": "you"}], [{"output_0": "HEY"}, {"output_0": "YOU"}]),
    "scaled": (X, [{"y": row["x"] * 2} for row in X]),
    "by-run": (X, [{"y": row["x"] * 2} for row in X]),
    "halved-observed": (X, [{"half": row["x"] / 2} for row in X]),
}

REFUSED = {
    "halved": '"y" has a number that is not whole',
    "mixed-up": "it gives rows the answers of other rows",
    "fussy": "it fails on its input example: KeyError: 2.0",
}


@pytest.fixture(scope="module")
def others(scratch_registry: RegistryWriter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service before a registry with the models."""
    register(scratch_registry.url, REGISTER, tmp_path_factory.mktemp("others"))
    with own_service(scratch_registry.url, scoring={"allow_observed_outputs": True}, api={"port": 0}) as service:
        yield service


@pytest.fixture(scope="module")
def http(others: Service) -> Iterator[httpx.Client]:
    """A client of its HTTP API."""
    assert others.application._api is not None
    port = others.application._api._listener.getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LONG) as client:
        yield client


@pytest.fixture(scope="module")
def caller(others: Service) -> Iterator[Client]:
    """A client of it, which knows the outputs that were observed."""
    with Client(others.address, timeout=LONG) as client:
        wait_until(lambda: _is_observed(client), LONG)
        yield client


def _is_observed(client: Client) -> bool:
    try:
        client.score("halved-observed", X[:1])
    except ServiceError as error:
        if error.reason != "MODEL_LOADING":
            raise
        return False
    return True


def in_form(service: Service, client: Client, name: str, rows: list[dict[str, Any]], form: str) -> list[Any]:
    """Score rows in one of the forms of the contract."""
    resolved, signature = client.signature(name)
    batch = batch_from_rows(rows, signature.inputs)
    request = pb.ScoreRequest(
        model=model_pb2.ModelRef(name=name, version=resolved.version), signature_digest=signature.digest
    )
    if form == "columns":
        request.columns.CopyFrom(encode_columns(batch, signature.inputs))
    elif form == "arrow":
        request.arrow_stream = encode_stream(caller_batch(batch)).to_pybytes()
    else:
        dense = encode_dense(batch)
        assert dense is not None
        request.dense.CopyFrom(dense)
    response = service.stub().Score(request, timeout=LONG)
    if form == "columns":
        return list(batch_to_rows(decode_columns(response.columns, Signature(inputs=signature.outputs, outputs=()))))
    if form == "arrow":
        return list(pa.ipc.open_stream(response.arrow_stream).read_all().to_pylist())
    names = [field.name for field in signature.outputs]
    values = np.frombuffer(response.dense.values).reshape(len(rows), len(names)).tolist()
    return [dict(zip(names, row, strict=True)) for row in values]


@pytest.mark.parametrize("form", ["columns", "arrow"])
@pytest.mark.parametrize("name", RIGHT)
def test_each_row_is_right(others: Service, caller: Client, name: str, form: str) -> None:
    """Together, alone, and in another order."""
    rows, wanted = RIGHT[name]
    if (name, form) == ("noted", "arrow"):
        # A struct does not tell a null from what is absent: of an optional property it means absent.
        wanted = [wanted[0], wanted[1], wanted[1]]
    assert in_form(others, caller, name, rows, form) == wanted
    assert in_form(others, caller, name, rows[::-1], form) == wanted[::-1]
    assert [in_form(others, caller, name, [row], form) for row in rows] == [[row] for row in wanted]


def over_http(http: httpx.Client, name: str, rows: list[dict[str, Any]], road: str) -> list[Any]:
    """Score rows by one of the roads of HTTP."""
    if road == "v1":
        return list(http.post(f"/v1/models/{name}:score", json={"rows": rows}).json()["rows"])
    if road == "invocations":
        answer = http.post(f"/model/{name}/invocations", json={"dataframe_records": rows}).json()
        # A model with one output and no name for it answers with bare values.
        return [row if isinstance(row, dict) else {"output_0": row} for row in answer["predictions"]]
    paths = http.get("/nussknacker/openapi.json").json()["paths"]
    [path] = [path for path, item in paths.items() if item["post"]["operationId"] == f"score-{name}-many"]
    return [{key: row[key] for key in row if key != "modelVersion"} for row in http.post(path, json=rows).json()]


@pytest.mark.parametrize("road", ["v1", "invocations", "nussknacker"])
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.usefixtures("caller")
def test_each_row_is_right_over_http(http: httpx.Client, name: str, road: str) -> None:
    """Together, and alone."""
    rows, wanted = RIGHT[name]
    assert over_http(http, name, rows, road) == wanted
    assert [over_http(http, name, [row], road) for row in rows] == [[row] for row in wanted]


@pytest.mark.parametrize("name", ["ranked", "polars", "pair", "scaled", "by-run", "halved-observed"])
def test_each_dense_row_is_right(others: Service, caller: Client, name: str) -> None:
    """Where inputs and outputs are all numbers."""
    rows, wanted = RIGHT[name]
    assert in_form(others, caller, name, rows, "dense") == wanted


@pytest.mark.parametrize("name", RIGHT)
def test_each_caller_gets_what_is_its_own(caller: Client, name: str) -> None:
    """Among others whose rows share the model's calls, in batches of any size."""
    rows, wanted = RIGHT[name]

    def ask(place: int) -> bool:
        return bool(caller.score(name, rows[place % len(rows)]).to_rows() == [wanted[place % len(rows)]])

    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(ask, range(4 * CALLERS)))


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.usefixtures("caller")
def test_the_command_line_gets_the_same_of_json(others: Service, name: str, tmp_path: Path) -> None:
    """A record a line in, a record a line out."""
    rows, wanted = RIGHT[name]
    source, target = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", name, "--input", str(source), "--output", str(target), "--address", others.address]
    done = CliRunner().invoke(group, command)
    assert done.exit_code == 0, done.output
    outputs = list(wanted[0])
    scored = [json.loads(line) for line in target.read_text().splitlines()]
    assert [{key: row[key] for key in outputs} for row in scored] == wanted


def version_of(client: Client, name: str) -> model_pb2.ModelVersion:
    """Give the one version of a model, as it is listed."""
    [model] = client.list_models(f'name = "{name}"')
    return model.versions[0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_wrong_is_refused_and_seen_in_the_list(
    others: Service, caller: Client, http: httpx.Client, name: str
) -> None:
    """The caller and whoever lists the models get the same reason."""
    with pytest.raises(ServiceError) as caught:
        caller.score(name, X)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert REFUSED[name] in str(caught.value)
    listed = version_of(caller, name)
    assert listed.state == model_pb2.ModelVersion.STATE_FAILED
    assert REFUSED[name] in listed.state_message
    problem = http.post(f"/v1/models/{name}:score", json={"rows": X}).json()
    assert (problem["status"], problem["reason"]) == (409, "MODEL_LOAD_FAILED")
    assert REFUSED[name] in problem["detail"]
    assert (
        REFUSED[name]
        in CliRunner(env={"COLUMNS": "2000"}).invoke(group, ["models", "--address", others.address]).output
    )


def test_a_model_that_is_scored_row_by_row_says_so(caller: Client) -> None:
    """In the list, with the reason."""
    caller.score("one-answer", X)
    listed = version_of(caller, "one-answer")
    assert (listed.state, listed.batching) == (
        model_pb2.ModelVersion.STATE_AVAILABLE,
        model_pb2.ModelVersion.BATCHING_OFF,
    )
    assert listed.state_message.startswith('rows are scored one at a time: "reply" is one value')


def test_outputs_that_were_observed_are_in_the_signature(caller: Client) -> None:
    """With another digest than the declared ones; the inputs are the declared ones."""
    _, observed = caller.signature("halved-observed")
    _, declared = caller.signature("halved")
    assert (observed.origin, declared.origin) == (Origin.OBSERVED, Origin.DECLARED)
    assert [(field.name, field.type) for field in observed.outputs] == [("half", Scalar(ScalarKind.DOUBLE))]
    assert observed.inputs == declared.inputs
    assert observed.digest != declared.digest


def test_outputs_are_not_observed_where_the_settings_do_not_allow_it(others: Service) -> None:
    """Whoever may write tags may not change the types of a contract."""
    with own_service(others.registry) as service, Client(service.address, timeout=LONG) as client:
        with pytest.raises(ServiceError, match=r"scoring\.allow_observed_outputs") as caught:
            client.score("halved-observed", X)
        assert caught.value.reason == "MODEL_LOAD_FAILED"
        assert client.signature("halved-observed")[1].origin is Origin.DECLARED


def test_a_null_parameter_is_refused_by_its_name(caller: Client) -> None:
    """A double has no null that a model would survive."""
    with pytest.raises(InvalidInput) as caught:
        caller.score("scaled", X, params={"k": None})
    assert [fault.field for fault in caught.value.violations] == ['params["k"]']
