"""The document for Nussknacker's stock OpenAPI enricher, and the paths in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prinz_enricher.catalog import CatalogModel, Snapshot
from prinz_enricher.errors import EnricherError
from prinz_enricher.fronts.http.nussknacker_document import schema_of, write_document
from prinz_enricher.fronts.http.problems import NUSSKNACKER, problem_of, write_problem
from prinz_enricher.fronts.http.routes import ROUTES
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Origin,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
)
from tests.fronts.test_http_api import EchoService, bearer, guarded
from tests.service.test_status import EVERY
from tests.support.guarded_service import SIGNATURE, GuardedService, model_of
from tests.support.http_api import RunningApi, running_api

STATUSES = {
    400: ("INVALID_REQUEST", "INVALID_FILTER", "INVALID_PAGE_TOKEN"),
    401: ("TOKEN_MISSING", "TOKEN_INVALID"),
    403: ("MODEL_FORBIDDEN",),
    409: (
        "MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "ALIAS_NOT_FOUND", "SIGNATURE_CHANGED", "MODEL_LOAD_FAILED",
        "LOADER_NOT_ALLOWED", "RESYNC_REQUIRED",
    ),
    413: ("BATCH_TOO_LARGE", "MESSAGE_TOO_LARGE", "DECODED_TOO_LARGE"),
    422: ("INVALID_INPUT",),
    429: ("OVERLOADED", "QUOTA_EXCEEDED"),
    500: ("MODEL_ERROR", "OUTPUT_MISMATCH", "INTERNAL"),
    501: ("UNIMPLEMENTED",),
    503: ("MODEL_LOADING", "REGISTRY_UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "SHUTTING_DOWN", "AUDIT_UNAVAILABLE"),
    504: ("DEADLINE_EXCEEDED",),
}  # fmt: skip
"""The reasons of each status that Nussknacker sees."""

DIGEST = SIGNATURE.digest[:8]
INT32 = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API, without tokens."""
    with GuardedService("wine", "a/b ü") as service, running_api(service) as running:
        # The first batch of a process makes pyarrow import pandas, which may take longer than Nussknacker waits.
        running.score([{"x": 1}])
        yield running


def named(name: str, signature: Signature | None = SIGNATURE, **aliases: str) -> CatalogModel:
    """Return a model of one version."""
    model = model_of(name)
    [version] = model.versions
    return replace(model, versions=(replace(version, signature=signature, fault="is odd"),), aliases=aliases)


def document_of(*models: CatalogModel, **options: Any) -> Any:
    """Return the document of some models."""
    found = Snapshot("1", {model.name: model for model in models})
    return json.loads(
        write_document(
            found.models,
            lambda model: model.versions[0],
            options.get("may_score", lambda _: True),
            secured=options.get("secured", False),
        )
    )


@pytest.mark.parametrize(
    ("type", "schema"),
    [
        (Scalar(ScalarKind.LONG), {"type": "number"}),
        (Scalar(ScalarKind.INTEGER), INT32),
        (Scalar(ScalarKind.FLOAT), {"type": "number", "format": "float"}),
        (Scalar(ScalarKind.BINARY), {"type": "string", "format": "byte"}),
        (Scalar(ScalarKind.DATETIME), {"type": "string", "format": "date-time"}),
        (ListOf(Scalar(ScalarKind.STRING)), {"type": "array", "items": {"type": "string"}}),
        (MapOf(Scalar(ScalarKind.BOOLEAN)), {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (Record((Field("a", AnyValue(), required=False),)), {"type": "object", "properties": {"a": {}}}),
        (Tensor("uint64", (-1,)), {"type": "number"}),
        (Tensor("uint8", (-1, 2)), {"type": "array", "items": INT32}),
        (Tensor("float64", (-1, -1)), {"type": "array", "items": {"type": "number", "format": "double"}}),
        (Tensor("str", (-1,)), {"type": "string"}),
        (Tensor("datetime64[ns]", (-1,)), {"type": "string", "format": "date-time"}),
    ],
)  # fmt: skip
def test_types(type: Any, schema: dict[str, Any]) -> None:
    """Each type has the schema by which Nussknacker loses nothing of it."""
    assert schema_of(type) == schema


def test_operations() -> None:
    """There is an operation for each default and alias, for a row and for many, with the digest in its path."""
    document = document_of(named("wine", champion="1"))

    assert {path: one["post"]["operationId"] for path, one in document["paths"].items()} == {
        f"/nussknacker/v1/score/wine/{DIGEST}": "score-wine",
        f"/nussknacker/v1/score/wine/champion/{DIGEST}": "score-wine-champion",
        f"/nussknacker/v1/score-many/wine/{DIGEST}": "score-wine-many",
        f"/nussknacker/v1/score-many/wine/champion/{DIGEST}": "score-wine-champion-many",
    }
    one = document["paths"][f"/nussknacker/v1/score/wine/{DIGEST}"]["post"]
    body = one["requestBody"]["content"]["application/json"]["schema"]
    shown = {"title": "x (double)", "description": "double, required"}
    field = {**shown, "type": "number", "format": "double"}
    assert body == {"type": "object", "properties": {"x": field}, "required": ["x"]}
    answers = [code for code, answer in one["responses"].items() if "content" in answer]
    assert answers == ["200"]
    assert document["openapi"] == "3.0.3"
    text = json.dumps(document)
    assert not any(word in text for word in ("nullable", "enum", "allOf", 'default":', "cookie"))
    assert "security" not in document
    assert document_of(named("wine"), secured=True)["security"] == [{"bearer": []}]


def test_ids_are_unique() -> None:
    """No id is there twice, whatever the names are: Nussknacker would refuse all of its models."""
    models = [
        named("wine", champion="1", many="1"), named("wine-champion"), named("wine-many"), named("wine-champion-many"),
        named("größe"), named("gr__e"), named("a/b"), replace(named("a_b"), aliases={"x y": "1", "x_y": "1"}),
    ]  # fmt: skip
    document = document_of(*models)

    ids = [one["post"]["operationId"] for one in document["paths"].values()]
    assert len(ids) == len(set(ids)) == 2 * (len(models) + 4)
    assert "score-wine-champion" in ids
    assert all(id.isascii() and id.replace("-", "").replace("_", "").isalnum() for id in ids)


def test_what_is_left_out() -> None:
    """What can't be scored by a document is left out, and listed with its reason."""
    missing = Signature((), (Field("output_0", AnyValue()),), origin=Origin.MISSING)
    document = document_of(
        named("none", missing), named("odd", None), named("alien", champion="7"), named("hidden"),
        may_score=lambda name: name != "hidden",
    )  # fmt: skip

    assert len(document["paths"]) == 2
    assert document["x-left-out"] == [
        {"model": "alien", "alias": "champion", "reason": "there is no version that is ready"},
        {"model": "hidden", "alias": "", "reason": "the caller has no right to score it"},
        {"model": "none", "alias": "", "reason": "it has no signature"},
        {"model": "odd", "alias": "", "reason": "its signature is not known: is odd"},
    ]


def test_the_document_stays(api: RunningApi) -> None:
    """It is the same to the byte while nothing changes, which its tag says, and describes what scores."""
    first, again = (api.client.get("/nussknacker/openapi.json") for _ in range(2))
    assert first.content == again.content
    assert (first.headers["content-type"], first.headers["cache-control"]) == ("application/json", "no-cache")
    tag = first.headers["etag"]
    same = api.client.get("/nussknacker/openapi.json", headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    for path in first.json()["paths"]:
        many = "/score-many/" in path
        answer = api.client.post(path, json=[{"x": 3}, {"x": None}] if many else {"x": 3})
        one = {"y": 1.5, "modelVersion": "1"}
        assert answer.json() == ([one, {"y": None, "modelVersion": "1"}] if many else one)
    api.service.catalog.change(model_of("new"))
    assert api.client.get("/nussknacker/openapi.json", headers={"If-None-Match": tag}).status_code == 200
    api.service.catalog.change(removed=["new"])
    assert api.client.get("/nussknacker/openapi.json").content == first.content


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (f"wine/{DIGEST}", {"x": "a"}, 422, "INVALID_INPUT"),
        (f"wine/{DIGEST}", [], 400, "INVALID_REQUEST"),
        ("wine/00000000", {"x": 1}, 409, "SIGNATURE_CHANGED"),
        (f"wine/{DIGEST[:4]}", {"x": 1}, 409, "SIGNATURE_CHANGED"),
        (f"nothing/{DIGEST}", {"x": 1}, 409, "MODEL_NOT_FOUND"),
        (f"wine/none/{DIGEST}", {"x": 1}, 409, "ALIAS_NOT_FOUND"),
        ("wine", {"x": 1}, 409, "PATH_NOT_FOUND"),
    ],
)
def test_faults(api: RunningApi, path: str, body: Any, status: int, error: str) -> None:
    """A fault is a short sentence, and never 404, of which Nussknacker would make a null in silence."""
    answer = api.client.post(f"/nussknacker/v1/score/{path}", json=body)

    fault = answer.json()
    assert (answer.status_code, fault["error"]) == (status, error)
    assert fault.keys() == {"error", "message", "correlationId"}
    if error == "INVALID_INPUT":
        assert fault["message"] == "x: is text; wanted double"


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.reason)
def test_the_status_of_each_reason(error: EnricherError) -> None:
    """Each reason has its status, and never 404; where a retry makes sense it is said when."""
    status, headers, body = write_problem(problem_of(to_status(error)), NUSSKNACKER)

    assert error.reason in STATUSES[status]
    fault = json.loads(body)
    assert (fault["error"], fault.keys()) == (error.reason, {"error", "message", "correlationId"})
    assert (b"Retry-After: " in headers) == (status in {429, 503})


def test_few_faults_are_told() -> None:
    """An author sees three faults, and how many more there are."""
    with EchoService() as service, running_api(service) as api:
        document = api.client.get("/nussknacker/openapi.json").json()
        [path] = [
            path
            for path in document["paths"]
            if path.startswith("/nussknacker/v1/score/echo/") and path.count("/") == 5
        ]
        fault = api.client.post(path, json={}).json()

    assert fault["message"].endswith("; and 7 more")
    assert fault["message"].count("is missing") == 3


def test_who_sees_what(tmp_path: Path) -> None:
    """A document has the models that its caller may list; without a token there is none, unless that is configured."""
    path = "/nussknacker/openapi.json"
    with guarded(tmp_path) as api:
        assert api.client.get(path).status_code == 401
        seen = {name: api.client.get(path, headers=bearer(name)).text for name in ("nk", "ops", "reader")}
        assert "geheim" in seen["ops"]
        assert "geheim" not in seen["nk"] + seen["reader"]
        assert json.loads(seen["reader"])["paths"] == {}
        assert "fraud-a" in seen["reader"]
    with guarded(tmp_path, document_principal="nk") as api:
        assert api.client.get(path).text == api.client.get(path, headers=bearer("nk")).text == seen["nk"]
        assert api.client.get(path, headers={"Authorization": "Bearer no"}).status_code == 401
        assert api.client.post(f"/nussknacker/v1/score/fraud-a/{DIGEST}", json={"x": 1}).status_code == 401


def test_the_document_of_the_api(api: RunningApi) -> None:
    """/openapi.json has each route with its method but the pages for people, and no other."""
    document = api.client.get("/openapi.json").json()

    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    routes = {(route.template, route.method) for route in ROUTES if route.does != "file"}
    assert described == routes | {("/openapi.json", "GET")}
