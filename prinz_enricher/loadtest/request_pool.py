"""What is prepared before a test: the model, the rows of its calls, and the correct answer to each of them."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
import pyarrow as pa

from prinz_enricher.batch import Violations, conform, decode_columns, dense_inputs, encode_columns, encode_dense
from prinz_enricher.batch.arrow_stream import caller_batch, encode_stream
from prinz_enricher.client.connection import SERVICE, BearerToken, examine
from prinz_enricher.client.service_error import ServiceError, service_error
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.ipc.fields import is_any
from prinz_enricher.loadtest.callers import Form, LoadTestError, Prepared, ServerUnderTest
from prinz_enricher.loadtest.comparison import same_response
from prinz_enricher.loadtest.report import Arguments
from prinz_enricher.signature import Signature, from_wire, input_schema

_LOADING_SECONDS: Final = 120.0
"""How long a call before the test may take: the model may have to be loaded for it."""
_TENSOR_SIZE: Final = 3
"""The size of a tensor's free dimensions: the same in all rows, so that they stack."""


class ModelUnderTest(NamedTuple):
    """The version that was meant when the test began, which all calls name, and its signature."""

    reference: model_pb2.ModelRef
    signature: Signature


def generate_rows(signature: Signature, count: int, seed: int) -> pa.RecordBatch:
    """Generate random rows, the same for the same seed, with the types of `input_schema`.

    Numbers are from 0 to 100, texts and lists are short, and nothing is null. A model that needs more of its inputs
    than their types, such as one of several texts, has to be tested with rows of a file. Raises LoadTestError where the
    signature declares no inputs.
    """
    if not signature.inputs:
        raise LoadTestError("the model has no signature to generate rows from; --input names a file of rows")
    schema = input_schema(signature)
    chance = random.Random(seed)  # noqa: S311 - no secret
    return pa.RecordBatch.from_arrays([_column(field, count, chance) for field in schema], schema=schema)


def _column(field: pa.Field, count: int, chance: random.Random) -> pa.Array:
    kind = field.type
    # Many numbers at once, which is quick; Arrow gives no numpy dtype of a type without importing pandas.
    if pa.types.is_integer(kind):
        return pa.array(np.random.default_rng(chance.getrandbits(64)).integers(0, 101, count)).cast(kind)
    if kind in {pa.float64(), pa.float32()}:
        return pa.array(np.random.default_rng(chance.getrandbits(64)).uniform(0, 100, count)).cast(kind)
    is_tensor = not is_any(field) and field.metadata is not None
    return pa.array([_value(field, chance, is_tensor) for _ in range(count)], kind)


def _value(field: pa.Field, chance: random.Random, is_tensor: bool) -> object:
    kind = field.type
    if is_any(field):
        return json.dumps(chance.choice([chance.randint(0, 100), chance.uniform(0, 100), "text", True]))
    if pa.types.is_boolean(kind):
        return chance.random() < 0.5
    if pa.types.is_integer(kind):
        return chance.randint(0, 100)
    if pa.types.is_floating(kind):
        number = chance.uniform(0, 100)
        return np.float16(number) if kind == pa.float16() else number
    if pa.types.is_timestamp(kind):
        # Whole days are exact in each unit.
        return datetime(2020, 1, 1) + timedelta(days=chance.randrange(3650))
    if pa.types.is_string(kind):
        return "".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 8)))
    if pa.types.is_binary(kind):
        return chance.randbytes(chance.randint(1, 16))
    if pa.types.is_struct(kind):
        return {child.name: _value(child, chance, is_tensor) for child in kind}
    if pa.types.is_map(kind):
        keys = sorted(chance.sample("abcdef", chance.randint(1, 3)))
        return [(key, _value(kind.item_field, chance, is_tensor)) for key in keys]
    size = _TENSOR_SIZE if is_tensor else chance.randint(1, 4)
    size = kind.list_size if pa.types.is_fixed_size_list(kind) else size
    return [_value(kind.value_field, chance, is_tensor) for _ in range(size)]


def pool_size(rows: int) -> int:
    """Return the number of different calls of `rows` rows, which distinguish answers: at most 65,536 rows or two."""
    return max(2, min(128, 65_536 // rows))


def generated_pool(signature: Signature, rows: int, seed: int) -> list[pa.RecordBatch]:
    """Generate the rows of a pool's calls, `rows` each; raises LoadTestError where the signature declares no inputs."""
    return split_rows(generate_rows(signature, pool_size(rows) * rows, seed), rows)


def read_pool(batches: Iterable[pa.RecordBatch], signature: Signature, rows: int) -> list[pa.RecordBatch]:
    """Read the rows of a pool's calls from the parts of a file, and no more of it than needed.

    Columns that are not inputs are left out. A file of fewer rows than a call has is repeated. Raises LoadTestError if
    it has no rows, and InvalidInput if they do not fit the signature.
    """
    missing = pool_size(rows) * rows
    parts: list[pa.RecordBatch] = []
    for batch in batches:
        parts.append(batch)
        missing -= batch.num_rows
        if missing <= 0:
            break
    if not sum(part.num_rows for part in parts):
        raise LoadTestError("the file has no rows")
    table = pa.Table.from_batches(parts)
    if not signature.inputs:
        return split_rows(table.combine_chunks().to_batches()[0], rows)
    faults = Violations()
    inputs = [field.name for field in signature.inputs if field.name in table.schema.names]
    fitting = conform(table.select(inputs), signature.inputs, faults)
    faults.raise_any()
    return split_rows(fitting, rows)


def split_rows(batch: pa.RecordBatch, rows: int) -> list[pa.RecordBatch]:
    """Split at least one row into 1 to `pool_size(rows)` calls of `rows` rows; the last is filled up from the start."""
    calls = min(pool_size(rows), math.ceil(batch.num_rows / rows))
    if calls * rows > batch.num_rows:
        batch = batch.take(pa.array(np.arange(calls * rows) % batch.num_rows))
    return [batch.slice(start, rows) for start in range(0, calls * rows, rows)]


def encode_request(batch: pa.RecordBatch, model: ModelUnderTest, form: Form) -> bytes:
    """Encode rows, which have the types of `input_schema`; raises LoadTestError if the form can't hold them."""
    signature = model.signature
    request = pb.ScoreRequest(model=model.reference, signature_digest=signature.digest)
    match form:
        case "columns":
            request.columns.CopyFrom(encode_columns(batch, signature.inputs))
        case "arrow":
            request.arrow_stream = encode_stream(caller_batch(batch)).to_pybytes()
        case "dense":
            fits = dense_inputs(signature) and batch.num_columns == len(signature.inputs)
            dense = encode_dense(batch) if fits else None
            if dense is None:
                raise LoadTestError("--form dense holds numbers and booleans only; use --form columns")
            request.dense.CopyFrom(dense)
    return request.SerializeToString()


def find_model(server: ServerUnderTest, reference: model_pb2.ModelRef) -> ModelUnderTest:
    """Ask every address for the version and the signature of a model; raises LoadTestError if they fail or disagree."""
    found: dict[str, ModelUnderTest] = {}
    for address in server.addresses:
        with server.open(grpc, address) as channel:
            method = channel.unary_unary(f"/{SERVICE}/GetSignature", None, pb.GetSignatureResponse.FromString)
            request = pb.GetSignatureRequest(model=reference).SerializeToString()
            response = _call(method, request, server, address)
        version = model_pb2.ModelRef(name=response.model.name, version=response.model.version)
        found[address] = ModelUnderTest(version, from_wire(response.signature))
    if len({(model.reference.version, model.signature.digest) for model in found.values()}) > 1:
        versions = ", ".join(f"{address}: version {model.reference.version}" for address, model in found.items())
        raise LoadTestError(f"the servers do not have the same model ({versions})")
    return found[server.addresses[0]]


def record_baseline(
    server: ServerUnderTest, model: ModelUnderTest, rows: Sequence[pa.RecordBatch], arguments: Arguments
) -> list[Prepared]:
    """Score each call of the pool by itself at the first address, so that its correct answer is known.

    Raises LoadTestError if a call is refused, or if scores are to be checked and those of the first calls are not the
    same when they are scored again.
    """
    address, check_scores = server.addresses[0], arguments.check == "scores"
    outputs = Signature(inputs=model.signature.outputs, outputs=())
    pool = []
    with server.open(grpc, address) as channel:
        method = channel.unary_unary(f"/{SERVICE}/Score", None, pb.ScoreResponse.FromString)
        for place, batch in enumerate(rows):
            request = encode_request(batch, model, arguments.form)
            response = _call(method, request, server, address)
            if place < 2 and check_scores and not same_response(response, _call(method, request, server, address)):
                text = "the model is not deterministic: the same rows had other scores the second time"
                raise LoadTestError(f"{text}; use --check rows")
            if arguments.mode == "coalesced":
                pool.append(Prepared(batch, decode_columns(response.columns, outputs)))
            else:
                pool.append(Prepared(request, output_only(response)))
    return pool


def output_only(response: pb.ScoreResponse) -> bytes:
    """Serialise the scores of an answer; all else is removed from it."""
    for field, _ in response.ListFields():
        if field.name != response.WhichOneof("output"):
            response.ClearField(field.name)
    return response.SerializeToString(deterministic=True)


def _call(method: Any, request: bytes, server: ServerUnderTest, address: str) -> Any:
    try:
        metadata = BearerToken(server.token).metadata()
        return method(request, timeout=max(server.timeout, _LOADING_SECONDS), metadata=metadata)
    except grpc.RpcError as error:
        failure = examine(service_error(error, server.encryption), address, server.tls)
    except ServiceError as error:
        failure = error
    hint = ""
    if failure.reason in {"MODEL_ERROR", "OUTPUT_MISMATCH"}:
        hint = "\n  Rows generated from the signature may not suit the model: --input names a file of rows."
    raise LoadTestError(f"{address}: {failure}{hint}") from failure
