"""The golden vectors by each road of HTTP: a model sees what it sees by gRPC, bit for bit, or the same is refused."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pyarrow as pa
import pytest
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import signature_pb2, value_pb2
from prinz_enricher.fronts.http.score_exchange import DIGEST
from prinz_enricher.scoring.ports import Target
from prinz_enricher.signature import Micros, Signature, Tensor, from_wire, output_schema
from tests.golden.write_vectors import CASES, PATH
from tests.support.guarded_service import GuardedService, model_of
from tests.support.http_api import RunningApi, running_api

PINNED: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))
ROWS: dict[str, list[Any]] = {case[0]: case[-1] for case in CASES}

TEXTS = "binary and instants are texts in JSON, and texts are taken as they are"
BASE64 = "text is how JSON has binary"
NAN_TEXT = "the text NaN is a number only where one with a fraction is declared"
OTHERWISE = {
    ("any, refused", "v1"): TEXTS,
    ("any, refused", "nussknacker"): TEXTS,
    ("any, refused", "invocations"): TEXTS,
    ("binary of text", "v1"): BASE64,
    ("binary of text", "nussknacker"): BASE64,
    ("binary of text", "invocations"): BASE64,
    ("any", "v1"): NAN_TEXT,
    ("any", "nussknacker"): NAN_TEXT,
}
"""Where a road differs from gRPC, and why. A test fails as soon as it does not."""


class GoldenService(GuardedService):
    """A service with a model of each vector, which gives back its input; `seen` has what they got."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[pa.RecordBatch] = []
        self.signatures = [
            from_wire(signature_pb2.Signature.FromString(bytes.fromhex(one["signature"]))) for one in PINNED
        ]
        for place, signature in enumerate(self.signatures):
            model = model_of(f"v{place}")
            echoing = Signature(signature.inputs, signature.inputs)
            self.catalog.change(replace(model, versions=(replace(model.versions[0], signature=echoing),)))

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, _: object) -> pa.RecordBatch:
            self.seen.append(batch)
            return pa.RecordBatch.from_arrays(batch.columns, schema=output_schema(target.signature))

        return score


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API over the models."""
    with GoldenService() as service, running_api(service) as running:
        yield running


def in_json(value: Any, *, tokens: bool) -> Any:
    """Write a value as `docs/http-api.md` says; `tokens` keeps NaN and infinities for Python's own JSON."""
    match value:
        case Micros():
            return value.datetime().isoformat(timespec="microseconds") + "Z"
        case bytes():
            return base64.b64encode(value).decode()
        case float() if not math.isfinite(value) and not tokens:
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case float() if 2**53 < abs(value) < 2**63:
            # Python writes the shortest digits that lead to the double, which for a whole number are another number.
            return int(value)
        case list():
            return [in_json(one, tokens=tokens) for one in value]
        case dict():
            return {key: in_json(one, tokens=tokens) for key, one in value.items()}
    return value


def instants(kind: str, rows: list[Any]) -> list[Any]:
    """Return the rows of a column as values: instants are whole numbers in it."""
    return [None if value is None else Micros(value) for value in rows] if kind == "timestamps" else rows


def by_v1(place: int, rows: list[Any], _: Signature) -> tuple[str, Any]:
    """Return the path and the body of `/v1`."""
    return f"/v1/models/v{place}:score", {"rows": [{"x": in_json(row, tokens=False)} for row in rows]}


def by_nussknacker(place: int, rows: list[Any], signature: Signature) -> tuple[str, Any]:
    """Return the path and the body of Nussknacker's list."""
    digest = Signature(signature.inputs, signature.inputs).digest[:DIGEST]
    return f"/nussknacker/v1/score-many/v{place}/{digest}", [{"x": in_json(row, tokens=False)} for row in rows]


def by_invocations(place: int, rows: list[Any], signature: Signature) -> tuple[str, Any]:
    """Return the path and the body of MLflow's protocol."""
    values = [in_json(row, tokens=True) for row in rows]
    path = f"/model/v{place}/invocations"
    if isinstance(signature.inputs[0].type, Tensor):
        return path, {"inputs": {"x": values}}
    return path, {"dataframe_split": {"columns": ["x"], "data": [[value] for value in values]}}


ROADS: dict[str, Callable[[int, list[Any], Signature], tuple[str, Any]]] = {
    "v1": by_v1, "nussknacker": by_nussknacker, "invocations": by_invocations,
}  # fmt: skip


def bits(batch: pa.RecordBatch) -> bytes:
    """Return a batch as bytes: NaN equals itself, and 0.0 is not -0.0."""
    return bytes(
        pa.RecordBatch.from_arrays([pa.concat_arrays([one]) for one in batch.columns], batch.schema.names).serialize()
    )


def violated(status: status_pb2.Status) -> list[str]:
    """Return the fields that an error of gRPC names."""
    details = error_details_pb2.BadRequest()
    return [one.field for detail in status.details if detail.Unpack(details) for one in details.field_violations]


def by_grpc(service: GoldenService, place: int) -> bytes | list[str]:
    """Return what the model sees of a vector by gRPC, or the fields that are refused."""
    message = value_pb2.ColumnBatch.FromString(bytes.fromhex(PINNED[place]["column_batch"]))
    service.seen.clear()
    answer = service.one(None, pb.ScoreRequest(model={"name": f"v{place}"}, columns=message))
    if isinstance(answer, status_pb2.Status):
        assert not service.seen
        return violated(answer)
    return bits(service.seen[0])


def by_http(service: GoldenService, answer: httpx.Response) -> bytes | list[str]:
    """Return what the model has seen of a request, or the fields that were refused."""
    if answer.status_code == 200:
        return bits(service.seen[0])
    assert (answer.status_code, bool(service.seen)) == (422, False), answer.text
    told = answer.json()
    if "violations" in told:
        return [one["field"] for one in told["violations"]]
    # Nussknacker's sentence names the first ones.
    return [told["message"].partition(":")[0]]


def _as_author(field: str) -> str:
    """Return a field as an author of scenarios reads it."""
    return field.replace('columns["x"]', "x").replace("x[0]", "x")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("place", range(len(PINNED)), ids=[one["name"] for one in PINNED])
def test_as_by_grpc(api: RunningApi, place: int, road: str) -> None:
    """The rows of a vector come to the model as they come by gRPC, or the same fields are refused."""
    service, pinned = api.service, PINNED[place]
    assert isinstance(service, GoldenService)
    expected = by_grpc(service, place)
    assert isinstance(expected, bytes) == pinned["accepted"]
    rows = instants(pinned["sent"]["kind"], ROWS[pinned["name"]])
    path, body = ROADS[road](place, rows, service.signatures[place])
    service.seen.clear()

    answer = api.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    found = by_http(service, answer)
    if isinstance(expected, list) and isinstance(found, list):
        # Each road has an order of its own, and Nussknacker's sentence names the first field.
        expected = [field for field in expected if road != "nussknacker" or _as_author(field) == found[0]]
        found = expected if road == "nussknacker" and expected else found
        expected, found = sorted(expected), sorted(found)
    assert (found != expected) == ((pinned["name"], road) in OTHERWISE)


@pytest.mark.parametrize("place", [n for n, one in enumerate(PINNED) if one["accepted"]])
def test_there_and_back(api: RunningApi, place: int) -> None:
    """The answer of `/v1`, sent again as rows, is the same batch to the model."""
    service, pinned = api.service, PINNED[place]
    assert isinstance(service, GoldenService)
    rows = instants(pinned["sent"]["kind"], ROWS[pinned["name"]])
    path, body = by_v1(place, rows, service.signatures[place])
    service.seen.clear()

    first = api.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    again = json.dumps({"rows": json.loads(first.content)["rows"]})
    second = api.client.post(path, content=again, headers={"Content-Type": "application/json"})

    assert (first.status_code, second.status_code) == (200, 200)
    assert bits(service.seen[0]) == bits(service.seen[1])
