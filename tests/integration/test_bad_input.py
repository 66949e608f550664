"""Whatever a caller sends, it is told all that is wrong, and the service goes on."""

from collections.abc import Iterator

import grpc
import pyarrow as pa
import pytest
from google.protobuf import json_format

from prinz_enricher.batch import encode_stream
from prinz_enricher.cli.demo import EXAMPLES, WINE_COLUMNS
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2, value_pb2
from tests.support.running_service import refused

WINE = "MLF-ElasticnetWineModel-1"
FRAUD = "MLF-FraudDetection-3"
Stub = enricher_service_pb2_grpc.EnricherServiceStub


@pytest.fixture(autouse=True)
def _goes_on(client: Client) -> Iterator[None]:
    """After each test, the service still scores."""
    yield
    assert client.score(FRAUD, EXAMPLES[FRAUD]).batch.num_rows == 1


def doubles(name: str, *values: float) -> value_pb2.Column:
    """Return a column of doubles."""
    return value_pb2.Column(name=name, doubles=value_pb2.DoubleValues(values=values))


def strings(name: str, *values: str) -> value_pb2.Column:
    """Return a column of text."""
    return value_pb2.Column(name=name, strings=value_pb2.StringValues(values=values))


def score(name: str, *columns: value_pb2.Column, rows: int = 1) -> pb.ScoreRequest:
    """Return a request to score these columns."""
    return pb.ScoreRequest(
        model=model_pb2.ModelRef(name=name), columns=value_pb2.ColumnBatch(num_rows=rows, columns=columns)
    )


def wine(*but: value_pb2.Column) -> pb.ScoreRequest:
    """Return a request with a row of the wine model, but for these columns."""
    given = {column.name: column for column in but}
    return score(WINE, *(given.get(name, doubles(name, 1.0)) for name in WINE_COLUMNS))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"name": "nosuch"}, "MODEL_NOT_FOUND"),
        ({"name": WINE, "version": "99"}, "VERSION_NOT_FOUND"),
        ({"name": WINE, "version": "one"}, "VERSION_NOT_FOUND"),
        ({"name": WINE, "alias": "nosuch"}, "ALIAS_NOT_FOUND"),
    ],
)
def test_unknown_model_version_alias(stub: Stub, model: dict[str, str], reason: str) -> None:
    """An unknown model, version or alias is NOT_FOUND, for each RPC that names one."""
    reference = model_pb2.ModelRef(**model)
    for method, request in (
        (stub.Score, pb.ScoreRequest(model=reference, columns=value_pb2.ColumnBatch())),
        (stub.GetSignature, pb.GetSignatureRequest(model=reference)),
    ):
        refusal = refused(method, request)

        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, reason)
        assert "google.rpc.ResourceInfo" in refusal.details
        assert refusal.metadata["model"] == model["name"]


def test_every_fault_at_once(stub: Stub) -> None:
    """Missing and unknown columns, a wrong type, a null and ragged columns are reported together."""
    columns = [doubles(name, 1.0, 2.0) for name in WINE_COLUMNS[3:]]
    columns += [strings(WINE_COLUMNS[1], "a", "b"), doubles(WINE_COLUMNS[2], 1.0), doubles("colour", 1.0, 2.0)]

    refusal = refused(stub.Score, score(WINE, *columns, rows=2))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    told = " ".join(refusal.violations)
    for name in (*WINE_COLUMNS[:3], "colour"):
        assert f'columns["{name}"]' in told
    assert int(refusal.metadata["faults"]) >= 4


def test_null_where_it_is_not_allowed(stub: Stub, typed_model: str) -> None:
    """A null in a required integer is refused with its row."""
    column = value_pb2.Column(name="n", validity=b"\x05", int32s=value_pb2.Int32Values(values=[1, 2, 3]))

    refusal = refused(stub.Score, score(typed_model, column, rows=3))

    assert (refusal.reason, refusal.violations) == ("INVALID_INPUT", ['columns["n"][1]'])


@pytest.mark.parametrize("value", [3.7, 3e9, float("nan"), float("inf")])
def test_number_that_does_not_fit(stub: Stub, typed_model: str, value: float) -> None:
    """3.7, 3e9, NaN and infinity are refused in an integer column."""
    refusal = refused(stub.Score, score(typed_model, doubles("n", 3.0, value), rows=2))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert refusal.violations == ['columns["n"][1]']


def test_number_that_fits(client: Client, typed_model: str) -> None:
    """3.0 is taken for the integer 3."""
    assert client.score(typed_model, {"n": [3.0]}).to_rows() == [{"output_0": 6}]


WINE_STREAM = encode_stream(pa.record_batch({name: [1.0] for name in WINE_COLUMNS})).to_pybytes()


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"\xff" * 64, WINE_STREAM[:-200]], ids=["empty", "text", "ones", "cut"]
)
def test_garbage_arrow_stream(stub: Stub, data: bytes) -> None:
    """What is no Arrow stream, or only a part of one, is refused as such."""
    refusal = refused(stub.Score, pb.ScoreRequest(model=model_pb2.ModelRef(name=WINE), arrow_stream=data))

    assert (refusal.reason, refusal.violations) == ("INVALID_INPUT", ["arrow_stream"])


def test_stream_that_is_a_bomb(stub: Stub) -> None:
    """A small stream that would become larger than a message may be is refused before it is decompressed."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([pa.array([bytes(200 << 20)])], names=["fixed acidity"])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    bomb = sink.getvalue().to_pybytes()
    assert len(bomb) < 100_000

    refusal = refused(stub.Score, pb.ScoreRequest(model=model_pb2.ModelRef(name=WINE), arrow_stream=bomb))

    assert (refusal.reason, refusal.violations) == ("INVALID_INPUT", ["arrow_stream"])


@pytest.mark.parametrize("token", ["nowhere", "AAAA", "eyJvZmZzZXQiOiAxfQ==", "\N{SNOWMAN}"])
def test_page_token_from_nowhere(stub: Stub, token: str) -> None:
    """A page token that this service did not give is refused."""
    refusal = refused(stub.ListModels, pb.ListModelsRequest(page_token=token))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    assert refusal.violations == ["page_token"]


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.ListModelsRequest(page_size=-1), "INVALID_REQUEST", "page_size"),
        (pb.ListModelsRequest(filter="name ="), "INVALID_FILTER", "filter"),
        (pb.ListModelsRequest(view=7), "INVALID_REQUEST", "view"),  # type: ignore[arg-type]  # what a hostile caller sends
    ],
)
def test_list_that_can_not_be(stub: Stub, request_: pb.ListModelsRequest, reason: str, field: str) -> None:
    """A page size, a filter or a view out of its range is refused."""
    refusal = refused(stub.ListModels, request_)

    assert (refusal.reason, refusal.violations) == (reason, [field])


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"model": {"name": WINE}}, "INVALID_REQUEST", "input"),
        ({"columns": {}}, "INVALID_REQUEST", "model.name"),
        ({"model": {"name": WINE, "version": ""}, "columns": {}}, "INVALID_REQUEST", "model.version"),
        ({"model": {"name": WINE}, "dense": {}}, "INVALID_REQUEST", "signature_digest"),
        ({"model": {"name": WINE}, "columns": {}, "requestId": "x" * 257}, "INVALID_REQUEST", "request_id"),
        ({"model": {"name": WINE}, "columns": {"numRows": "10001"}}, "BATCH_TOO_LARGE", "input"),
    ],
)
def test_request_that_can_not_be(stub: Stub, fields: dict[str, object], reason: str, field: str) -> None:
    """A request that lacks something, or is too large, is refused by the name of the field."""
    refusal = refused(stub.Score, json_format.ParseDict(fields, pb.ScoreRequest()))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refusal.violations == [field]


def test_unknown_outputs_and_params_with_bad_rows(stub: Stub) -> None:
    """Violations of the rows, the wanted outputs and the parameters are reported together."""
    request = wine(strings("alcohol", "strong"))
    request.outputs.append("nosuch")
    request.params["nosuch"].double_value = 1.0

    refusal = refused(stub.Score, request)

    assert refusal.reason == "INVALID_INPUT"
    assert sorted(field.partition("[")[0] for field in refusal.violations) == ["columns", "outputs", "params"]


def test_other_digest(stub: Stub) -> None:
    """A digest that is not the version's is SIGNATURE_CHANGED."""
    request = wine()
    request.signature_digest = "0" * 32

    refusal = refused(stub.Score, request)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SIGNATURE_CHANGED")


def test_bytes_that_are_no_message(service_channel: grpc.Channel) -> None:
    """Bytes that are no message at all are refused, not a fault of the service."""
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = service_channel.unary_unary(
        "/prinz.enricher.v1.EnricherService/Score"
    )

    refusal = refused(method, b"\xff\xff\xff\xff")

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize("rows", ["columns", "arrow"])
def test_zero_rows(stub: Stub, client: Client, rows: str) -> None:
    """Zero rows in gives zero rows of the declared outputs."""
    if rows == "arrow":
        schema = pa.schema([(name, pa.float64()) for name in WINE_COLUMNS])
        answer = client.score(WINE, pa.RecordBatch.from_pylist([], schema)).batch
        assert (answer.num_rows, answer.schema.names) == (0, ["output_0"])
        return
    response = stub.Score(score(WINE, *(doubles(name) for name in WINE_COLUMNS), rows=0), timeout=60)
    assert response.columns.num_rows == 0
    assert [column.name for column in response.columns.columns] == ["output_0"]
