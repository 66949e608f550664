"""The HTTP API: what it answers is what gRPC answers, by the same rules."""

from __future__ import annotations

import io
import json
import math
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from prinz_enricher.config import AuditSettings, AuthSettings, QuotaSettings, TlsSettings
from prinz_enricher.fronts.admin.http_tls import HttpTls
from prinz_enricher.fronts.grpc import Callers, FrontLimits
from prinz_enricher.fronts.http.api import ApiLimits
from prinz_enricher.scoring.ports import Target
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.certificates import CertificateFiles
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.accounting import Accounting
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    output_schema,
)
from prinz_enricher.telemetry.audit import AuditLog
from tests.support.call_log import Log
from tests.support.certificates import Authority
from tests.support.deadline import wait_until
from tests.support.guarded_service import WAIT, GuardedService, halve, model_of, reason_of, rule, score_request
from tests.support.http_api import RunningApi, running_api

RULES = (rule("nk", "fraud-*"), rule("ops", "*"), rule("reader", "fraud-a", "list"))
NAMES = ("nk", "ops", "reader")


class FailingService(GuardedService):
    """A service whose model `fraud-bad` raises."""

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, params: object) -> pa.RecordBatch:
            if target.name == "fraud-bad":
                raise ValueError("4711.25")
            return halve(batch, params)

        return score


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API, without tokens."""
    with FailingService("wine", "fraud-bad", "größe") as service, running_api(service) as running:
        yield running


@contextmanager
def guarded(
    folder: Path, quota: QuotaSettings | None = None, audit: AuditLog | None = None, **options: Any
) -> Iterator[RunningApi]:
    """Run the API for callers with tokens, by rules."""
    tokens = folder / "tokens.toml"
    tokens.write_text(
        "".join(
            f'[[token]]\nname = "{name}"\nsha256 = "{sha256(f"token-of-{name}".encode()).hexdigest()}"\n'
            for name in NAMES
        )
    )
    authenticator = Authenticator(AuthSettings(tokens_file=str(tokens)))
    callers = Callers(authenticator, tokens=True, certificates=False)
    quotas = Quotas(quota or QuotaSettings())
    try:
        with (
            FailingService("fraud-a", "fraud-bad", "geheim", rules=RULES, quotas=quotas) as service,
            running_api(service, callers=callers, log=Accounting(quotas, audit), **options) as running,
        ):
            yield running
    finally:
        callers.close()
        authenticator.close()
        if audit is not None:
            audit.close()


LONG, DATETIME = Scalar(ScalarKind.LONG), Scalar(ScalarKind.DATETIME)
TYPED = (
    Field("long", LONG), Field("integer", Scalar(ScalarKind.INTEGER)), Field("double", Scalar(ScalarKind.DOUBLE)),
    Field("float", Scalar(ScalarKind.FLOAT)), Field("text", Scalar(ScalarKind.STRING)), Field("at", DATETIME),
    Field("flag", Scalar(ScalarKind.BOOLEAN), required=False), Field("bytes", Scalar(ScalarKind.BINARY)),
    Field("list", ListOf(LONG)), Field("map", MapOf(DATETIME)), Field("any", AnyValue(), required=False),
    Field("record", Record((Field("a", Scalar(ScalarKind.BINARY)), Field("b", LONG, required=False)))),
)  # fmt: skip


class EchoService(GuardedService):
    """A service whose model `echo` answers with its inputs, of every type."""

    def __init__(self) -> None:
        super().__init__("wine")
        model = model_of("echo")
        [version] = model.versions
        signature = Signature(TYPED, TYPED)
        self.catalog.change(replace(model, versions=(replace(version, signature=signature),)))

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""
        return lambda batch, _: pa.RecordBatch.from_arrays(batch.columns, schema=output_schema(target.signature))


def test_every_type() -> None:
    """Rows of every type come to a model, and back, as they are written."""
    row: dict[str, Any] = {
        "long": 2**53 + 1, "integer": -(2**31), "double": 0.1, "float": 0.5, "text": 'a\\ß\u2028\U0001f600"',
        "at": "2024-02-29T23:59:59.123456Z", "flag": None, "bytes": "AP8=", "list": [-(2**63), 2**63 - 1],
        "map": {"a": "1969-07-20T20:17:40Z"}, "any": {"b": [1, 1.5, None, "x"]}, "record": {"a": "/w==", "b": None},
    }  # fmt: skip
    same = {**row, "at": "2024-03-01T01:59:59.123456+02:00", "integer": -2147483648.0}
    with EchoService() as service, running_api(service) as api:
        answer = api.score([row, same], "echo")

    assert answer.json()["rows"] == [row, row]


def bearer(name: str) -> dict[str, str]:
    """Return the header of a caller."""
    return {"Authorization": f"Bearer token-of-{name}"}


@pytest.mark.parametrize("path", ["wine", "wine/versions/1", "wine/aliases/champion"])
def test_scores_are_those_of_grpc(api: RunningApi, path: str) -> None:
    """The default, a version and an alias score rows as by gRPC, bit for bit."""
    values = [3.0, 0.1, 1e308, 5e-324, math.inf, -math.inf, -0.0]
    written = [{math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, value) for value in values]

    answer = api.client.post(f"/v1/models/{path}:score", json={"rows": [{"x": value} for value in written]})

    assert answer.status_code == 200
    by_grpc = api.service.one(None, score_request("wine", *values)).columns.columns[0].doubles.values
    scores = [float(row["y"]) for row in answer.json()["rows"]]
    assert [value.hex() for value in scores] == [value.hex() for value in by_grpc]
    assert answer.json()["model"] == {"name": "wine", "version": "1"}
    assert answer.json()["timing"]["batchRows"] >= len(values)


def test_arrow(api: RunningApi) -> None:
    """An Arrow stream is answered by one; parameters and outputs are in the query."""
    rows = pa.record_batch({"x": [1.0, None, 3.0]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    media = {"Content-Type": "application/vnd.apache.arrow.stream"}

    answer = api.client.post("/v1/models/wine:score?outputs=y", content=sink.getvalue(), headers=media)

    assert (answer.status_code, answer.headers["content-type"]) == (200, media["Content-Type"])
    assert answer.headers["prinz-model-version"] == "1"
    assert pa.ipc.open_stream(answer.content).read_all().column("y").to_pylist()[::2] == [0.5, 1.5]
    for query, reason in (
        ("outputs=z", "INVALID_INPUT"),
        ("params=[]", "INVALID_REQUEST"),
        ("params={", "INVALID_REQUEST"),
    ):
        wrong = api.client.post(f"/v1/models/wine:score?{query}", content=sink.getvalue(), headers=media)
        assert wrong.json()["reason"] == reason
    assert api.client.post("/v1/models/wine:score", content=b"no stream", headers=media).status_code == 422


@pytest.mark.parametrize(
    ("model", "body", "status", "reason"),
    [
        ("wine", '{"rows": [{"x": "a"}]}', 422, "INVALID_INPUT"),
        ("wine", '{"rows": [{"x": 9007199254740993}]}', 422, "INVALID_INPUT"),
        ("wine", '{"rows": [{"y": 1}]}', 422, "INVALID_INPUT"),
        ("wine", '{"rows": [{"x": 1}], "outputs": ["z"]}', 422, "INVALID_INPUT"),
        ("wine", '{"rows": [{"x": 1}], "params": {"p": 1}}', 422, "INVALID_INPUT"),
        ("wine", '{"rows": [{"x": 1}], "more": 1}', 400, "INVALID_REQUEST"),
        ("wine", '{"rows": [{"x": 1}], "outputs": [1]}', 400, "INVALID_REQUEST"),
        ("wine", '{"rows": {"x": 1}}', 400, "INVALID_REQUEST"),
        ("wine", '{"rows": [1]}', 400, "INVALID_REQUEST"),
        ("wine", "[]", 400, "INVALID_REQUEST"),
        ("wine", '{"rows": [{"x": NaN}]}', 400, "INVALID_REQUEST"),
        ("wine", '{"rows": [' + ",".join(['{"x":1}'] * 10_001) + "]}", 413, "BATCH_TOO_LARGE"),
        ("nothing", '{"rows": []}', 404, "MODEL_NOT_FOUND"),
        ("wine/versions/2", '{"rows": []}', 404, "VERSION_NOT_FOUND"),
        ("wine/aliases/none", '{"rows": []}', 404, "ALIAS_NOT_FOUND"),
        ("fraud-bad", '{"rows": [{"x": 4711.25}]}', 500, "MODEL_ERROR"),
    ],
)
def test_refusals(api: RunningApi, model: str, body: str, status: int, reason: str) -> None:
    """A refusal is a problem with a reason, faults, and an id that leads to the log; it repeats no value."""
    answer = api.client.post(
        f"/v1/models/{model}:score", content=body, headers={"Content-Type": "application/json", "X-Request-Id": "id-1"}
    )

    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["correlation_id"]
    assert "4711" not in answer.text
    if status == 422:
        assert all(one["field"] and one["description"] for one in problem["violations"])


def test_same_violations_as_grpc(api: RunningApi) -> None:
    """What is wrong with rows is told in the words of gRPC."""
    request = score_request("wine", 1.0)
    request.columns.columns[0].name = "z"
    refused = api.service.ask(None, request)[0]

    problem = api.score([{"z": 1.0}]).json()

    assert reason_of(refused) == problem["reason"]
    assert problem["detail"] == refused.message


def test_models(api: RunningApi) -> None:
    """Models are listed in the proto's JSON names, by pages and filters, with signatures if asked for."""
    listed = api.client.get("/v1/models").json()
    assert [model["name"] for model in listed["models"]] == ["fraud-bad", "größe", "wine"]
    assert listed["catalogRevision"]
    page = api.client.get("/v1/models", params={"page_size": 2}).json()
    rest = api.client.get("/v1/models", params={"page_size": 2, "page_token": page["nextPageToken"]}).json()
    assert [model["name"] for model in page["models"] + rest["models"]] == ["fraud-bad", "größe", "wine"]
    assert len(api.client.get("/v1/models", params={"filter": 'name = "wine"'}).json()["models"]) == 1
    wine = api.client.get("/v1/models/gr%C3%B6%C3%9Fe?view=full").json()
    assert wine["versions"][0]["signature"]["inputs"][0]["name"] == "x"
    assert wine["aliases"] == {"champion": "1"}
    for path, status in (
        ("/v1/models/nothing", 404), ('/v1/models/w"%5C', 404), ("/v1/models?view=all", 400), ("/v1/models?x=1", 400),
        ("/v1/models?page_size=-1", 400), ("/v1/models?page_token=x", 400), ("/v1/models/%ff", 400), ("/v1", 404),
    ):  # fmt: skip
        assert api.client.get(path).status_code == status
    assert api.client.head("/v1/models").content == b""


def test_methods_and_media(api: RunningApi) -> None:
    """A path tells its methods, and which bodies it takes."""
    answer = api.client.delete("/v1/models")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert api.client.get("/v1/models/wine:score").status_code in {404, 405}
    assert api.client.options("/v1/models/wine:score").headers["allow"] == "POST"
    answer = api.client.post("/v1/models/wine:score", content="x", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["reason"]) == (415, "MEDIA_TYPE_NOT_SUPPORTED")


def test_many_rows(api: RunningApi) -> None:
    """A large body, which other threads read, has the same scores."""
    rows = [{"x": number / 8} for number in range(9_000)]

    assert [row["y"] for row in api.score(rows).json()["rows"]] == [number / 16 for number in range(9_000)]


def test_concurrent_rows_share_model_calls(api: RunningApi) -> None:
    """Single rows of requests at the same time are scored together, and each gets its own score."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda x: api.score([{"x": x}]).json(), range(300)))

    assert [answer["rows"][0]["y"] for answer in answers] == [x / 2 for x in range(300)]
    assert max(answer["timing"]["batchRows"] for answer in answers) > 1


def test_requests_are_counted(api: RunningApi) -> None:
    """Requests are counted by route and status, and calls by version and outcome."""
    api.score([{"x": 1}])
    api.score([{"x": "a"}])
    api.client.get("/made/up")

    routes = {(route, status) for _, route, status in api.service.series.requests}
    assert {("/v1/models/{name}:score", "200"), ("/v1/models/{name}:score", "422"), ("_OTHER", "404")} <= routes
    calls = api.service.series.version("wine", "1").calls
    assert calls["ok"] > 0
    assert calls["INVALID_INPUT"] > 0


def test_tokens_and_rules(tmp_path: Path) -> None:
    """A token is needed; a model that a caller may not list does not exist, one that it may not score is forbidden."""
    with guarded(tmp_path) as api:
        rows = [{"x": 1}]
        missing, wrong = api.score(rows, "fraud-a"), api.score(rows, "fraud-a", headers={"Authorization": "Bearer no"})
        assert (missing.status_code, missing.json()["reason"]) == (401, "TOKEN_MISSING")
        assert missing.headers["www-authenticate"] == "Bearer"
        assert (wrong.status_code, wrong.json()["reason"]) == (401, "TOKEN_INVALID")
        assert api.client.get("/v1/models").status_code == 401
        assert api.score(rows, "fraud-a", headers=bearer("nk")).json()["rows"] == [{"y": 0.5}]
        forbidden = api.score(rows, "fraud-a", headers=bearer("reader"))
        assert (forbidden.status_code, forbidden.json()["reason"]) == (403, "MODEL_FORBIDDEN")

        def heard(method: str, path: str, **more: Any) -> str:
            answer = api.client.request(method, path, headers=bearer("nk"), **more)
            problem = answer.json()
            problem.pop("correlation_id", None)
            return f"{answer.status_code} {json.dumps(problem)}"

        for name in ("geheim", "fehlt!"):
            assert name not in heard("GET", "/v1/models?view=full")
        for method, path, more in (
            ("GET", "/v1/models/{}", {}),
            ("POST", "/v1/models/{}:score", {"json": {"rows": [{"x": "a"}]}}),
            ("POST", "/v1/models/{}/versions/7:score", {"json": {}}),
        ):
            hidden, fehlt = (heard(method, path.format(name), **more) for name in ("geheim", "fehlt!"))
            assert hidden.replace("geheim", "fehlt!") == fehlt


def test_quotas(tmp_path: Path) -> None:
    """Rows over a caller's quota are refused, with the time to wait; others go on."""
    with guarded(tmp_path, QuotaSettings(rows_per_second=1)) as api:
        rows = [{"x": 1}]
        answers = [api.score(rows, "fraud-a", headers=bearer("nk")) for _ in range(3)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {(one.status_code, one.json()["reason"]) for one in refused} <= {(429, "QUOTA_EXCEEDED")}
        big = api.score(rows * 50, "fraud-a", headers=bearer("nk"))
        assert big.status_code == 429 or api.score(rows, "fraud-a", headers=bearer("nk")).status_code == 429
        assert api.score(rows, "fraud-a", headers=bearer("ops")).status_code == 200
        late = api.score(rows, "fraud-a", headers=bearer("nk"))
        assert int(late.headers["retry-after"]) >= 1


def test_calls_in_flight_and_audit(tmp_path: Path) -> None:
    """Each request has its line, without a value or a token, and leaves no place taken."""
    path = tmp_path / "audit.log"
    audit = AuditLog(AuditSettings(output=str(path)))
    with guarded(tmp_path, QuotaSettings(calls_in_flight=1), audit) as api:
        for model, rows in (("fraud-a", [{"x": 4711.25}] * 3), ("fraud-bad", [{"x": 4711.25}]), ("geheim", [])):
            api.score(rows, model, headers=bearer("nk"))
        api.score([{"x": "4711"}], "fraud-a", headers=bearer("nk"))
        api.client.get("/v1/models", headers=bearer("ops"))
        api.score([], "fraud-a")
        assert api.score([{"x": 1}], "fraud-a", headers=bearer("nk")).status_code == 200
        wait_until(lambda: api.front.api.admission.in_flight == 0, WAIT)
    text = path.read_text()
    assert "4711" not in text
    assert "token-of" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    keys = ("principal", "method", "model", "version", "rows", "reason")
    found = [tuple(line.get(key) for key in keys) for line in lines if "reason" in line]
    assert ("nk", "Score", "fraud-a", "1", 3, "") in found
    assert ("nk", "Score", "fraud-bad", "1", 1, "MODEL_ERROR") in found
    assert ("nk", "Score", "geheim", "", 0, "MODEL_NOT_FOUND") in found
    assert ("nk", "Score", "fraud-a", "1", 1, "INVALID_INPUT") in found
    assert ("ops", "ListModels", "", "", 0, "") in found
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines if "peer" in line)


def test_tls(tmp_path: Path) -> None:
    """With TLS and a CA of clients, a certificate is required, and names the caller; a new one is used at once."""
    authority = Authority(tmp_path)
    pair, client = authority.server(), authority.sign("nk")
    settings = TlsSettings(
        certificate=str(pair.certificate), key=str(pair.key), client_ca=str(authority.file)
    )  # fmt: skip
    files = CertificateFiles(settings)
    authenticator = Authenticator(AuthSettings(), client_certificates=True)
    callers = Callers(authenticator, tokens=False, certificates=True)
    tls = HttpTls(settings, files, required=True)
    try:
        with (
            GuardedService("fraud-a", "geheim", rules=RULES) as service,
            running_api(service, callers=callers, tls=tls) as api,
        ):
            context = ssl.create_default_context(cafile=str(authority.file))
            with pytest.raises((httpx.HTTPError, ssl.SSLError)):
                httpx.get(f"https://localhost:{api.port}/v1/models", verify=context, trust_env=False)
            context.load_cert_chain(client.certificate, client.key)
            with httpx.Client(base_url=f"https://localhost:{api.port}", verify=context, trust_env=False) as https:
                listed = https.get("/v1/models").json()
                assert [model["name"] for model in listed["models"]] == ["fraud-a"]
                for rows in (1, 5_000):
                    content = {"rows": [{"x": 3}] * rows}
                    answer = https.post("/v1/models/fraud-a:score", json=content, timeout=60)
                    assert answer.json()["rows"] == [{"y": 1.5}] * rows
    finally:
        files.stop()
        callers.close()
        authenticator.close()


def test_overload() -> None:
    """Requests over the limits of the front are refused with a time to come back, and leave nothing taken."""
    with GuardedService("wine") as service, running_api(service, calls=1) as api:
        admission = api.front.api.admission
        for place in range(2):
            admission.enter(place, place)
        answer = api.score([{"x": 1}])
        assert (answer.status_code, answer.json()["reason"]) == (429, "OVERLOADED")
        assert answer.headers["retry-after"] == "1"
        for place in range(2):
            admission.leave(place)
        assert api.score([{"x": 1}]).status_code == 200
        wait_until(lambda: admission.in_flight == 0, WAIT)


def test_another_log_and_other_bounds() -> None:
    """Both are changed while connections are open: for their next requests."""
    with FailingService("wine") as service, running_api(service) as running:
        assert running.score([{"x": 1}] * 2).status_code == 200
        log = Log()
        running.front.change(FrontLimits(1 << 20, 10, 1 << 20), ApiLimits(1 << 20, 1, 30.0), log)
        assert running.score([{"x": 1}]).status_code == 200
        refused = running.score([{"x": 1}] * 2)
        assert (refused.status_code, refused.json()["reason"]) == (413, "BATCH_TOO_LARGE")
        wait_until(lambda: [record.ends for record in log.records] == [[0], [3]])
