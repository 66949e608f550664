"""The models of the fuzzed service: inputs of every type that the golden vectors pin, answered by an echo."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pyarrow as pa

from prinz_enricher.catalog import Snapshot
from prinz_enricher.catalog.snapshot import Assembler, ModelFile
from prinz_enricher.contract import signature_pb2
from prinz_enricher.registry.entities import READY, ModelVersion, RegisteredModel
from prinz_enricher.scoring.ports import Target
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    Origin,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    from_wire,
)
from prinz_enricher.signature.arrow import output_schema
from tests.support.inline_pool import ScoreFunction

VECTORS = Path(__file__).parents[1] / "golden" / "vectors.json"
REGISTRY = "http://registry.invalid"

MAX_ROWS = 100_000
"""Rows of a request at most."""

RAISES = "raises"
"""A model that raises an exception which tells its input."""

UNREADABLE = "unreadable"
"""A model of which the signature can't be read."""

PENDING = "pending"
"""A model that the registry does not offer yet."""


@cache
def signatures() -> Mapping[str, Signature]:
    """Give the signatures of the models that can be scored, by name."""
    inputs: dict[str, Field] = {}
    for vector in json.loads(VECTORS.read_text(encoding="utf-8")):
        (field,) = from_wire(signature_pb2.Signature.FromString(bytes.fromhex(vector["signature"]))).inputs
        inputs.setdefault(repr(field), field)
    models = {f"golden-{place}": _echoing((field,), ()) for place, field in enumerate(inputs.values())}
    every = tuple(Field(f"x{place}", field.type, required=False) for place, field in enumerate(inputs.values()))
    numbers = (ScalarKind.DOUBLE, ScalarKind.LONG, ScalarKind.INTEGER, ScalarKind.FLOAT, ScalarKind.BOOLEAN)
    dense = tuple(Field(kind.value, Scalar(kind), required=place < 3) for place, kind in enumerate(numbers))
    doubles = tuple(Field(name, Scalar(ScalarKind.DOUBLE)) for name in ("a", "b", "c"))
    return models | {
        "wide": _echoing(every, _params()),
        "numbers": _echoing(dense, ()),
        "doubles": _echoing(doubles, ()),
        "missing": Signature((), (Field("output_0", AnyValue()),), (), Origin.MISSING),
        RAISES: _echoing((Field("x", AnyValue()),), ()),
    }


def _echoing(inputs: tuple[Field, ...], params: tuple[Param, ...]) -> Signature:
    # Outputs are those inputs again, so that each type is written as an answer too.
    return Signature(inputs, tuple(Field(field.name, field.type, required=False) for field in inputs), params)


def _params() -> tuple[Param, ...]:
    long, text = Scalar(ScalarKind.LONG), Scalar(ScalarKind.STRING)
    scalars = tuple(Param(kind.value, Scalar(kind), None) for kind in ScalarKind)
    return (
        *scalars,
        Param("longs", long, [1], (-1,)),
        Param("record", Record((Field("a", long), Field("b", text, required=False))), {"a": 1}),
        Param("lists", ListOf(text), None),
    )


def snapshot() -> Snapshot:
    """Put together what a catalog would have read of these models, and of two that can't be scored."""
    files = {(name, "1"): ModelFile(signature, ("python_function",)) for name, signature in signatures().items()}
    files[UNREADABLE, "1"] = ModelFile(None, (), "has a signature that can't be read")
    names = [*signatures(), UNREADABLE, PENDING]
    models = [RegisteredModel(name, "", {"team": "fuzz"}, {"champion": "1"}, 0, 0) for name in names]
    versions = [
        ModelVersion(name, "1", "", {}, "PENDING_REGISTRATION" if name == PENDING else READY, "", "", "", 0, 0)
        for name in names
    ]
    return Assembler().assemble(models, versions, files)


def function_of(target: Target) -> ScoreFunction:
    """Give the function that scores with a model."""
    return _raise if target.name == RAISES else _echo(output_schema(target.signature))


def _echo(schema: pa.Schema) -> Callable[[pa.RecordBatch, Mapping[str, object]], pa.RecordBatch]:
    def score(batch: pa.RecordBatch, _: Mapping[str, object]) -> pa.RecordBatch:
        given = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns = [
            given[field.name] if field.name in given else pa.nulls(batch.num_rows, field.type) for field in schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return score


def _raise(batch: pa.RecordBatch, _: Mapping[str, object]) -> pa.RecordBatch:
    raise ValueError(f"can't score {batch.slice(0, 10).to_pydict()}")
